//! The fourteen schedulers by name.

/// Longest scheduler name (`IP_VS_SCHEDNAME_MAXLEN` without the terminating zero).
pub const SCHEDULER_NAME_MAX: usize = 15;

macro_rules! schedulers {
    ($($variant:ident = $id:tt, $name:tt;)*) => {
        /// A scheduler. The number is kept in pinned maps and never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
        #[repr(u8)]
        pub enum Scheduler { $($variant = $id,)* }

        impl Scheduler {
            pub const ALL: &'static [Scheduler] = &[$(Scheduler::$variant,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Scheduler::$variant => $name,)* }
            }

            pub const fn from_number(number: u8) -> Option<Scheduler> {
                match number { $($id => Some(Scheduler::$variant),)* _ => None }
            }

            pub fn from_name(name: &str) -> Option<Scheduler> {
                match name { $($name => Some(Scheduler::$variant),)* _ => None }
            }
        }
    };
}

schedulers! {
    Rr = 1, "rr";
    Wrr = 2, "wrr";
    Lc = 3, "lc";
    Wlc = 4, "wlc";
    Fo = 5, "fo";
    Ovf = 6, "ovf";
    Lblc = 7, "lblc";
    Lblcr = 8, "lblcr";
    Dh = 9, "dh";
    Sh = 10, "sh";
    Mh = 11, "mh";
    Sed = 12, "sed";
    Nq = 13, "nq";
    Twos = 14, "twos";
}
