//! Every reason for which a receiver does not do as a message says.

/// What a refusal costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consequence {
    /// The message has no effect.
    Message,
    /// This entry and the rest of the message have none; entries before it stay applied.
    Stop,
    /// This entry has none, the walk goes on.
    Skip,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $consequence:ident, $name:literal, $text:literal;)*) => {
        /// Why a message, the rest of one, or an entry was refused.
        ///
        /// In the order of the checks. Source: `ip_vs_sync.c: ip_vs_process_message`,
        /// `ip_vs_proc_sync_conn`, `ip_vs_process_message_v0`, `ip_vs_proc_seqopt`,
        /// `ip_vs_proc_str`, `ip_vs_conn_fill_param_sync`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Refusal { $($(#[$doc])* $variant,)* }

        impl Refusal {
            pub const ALL: &[Refusal] = &[$(Refusal::$variant),*];

            /// Stable name, as shown by `directord decode`.
            pub const fn name(self) -> &'static str {
                match self { $(Refusal::$variant => $name,)* }
            }

            /// Name of the counter: `refused_` and the name.
            pub const fn counter(self) -> &'static str {
                match self { $(Refusal::$variant => concat!("refused_", $name),)* }
            }

            pub const fn consequence(self) -> Consequence {
                match self { $(Refusal::$variant => Consequence::$consequence,)* }
            }

            const fn text(self) -> &'static str {
                match self { $(Refusal::$variant => $text,)* }
            }
        }
    };
}

refusals! {
    /// Fewer than four bytes.
    MessageShort = Message, "message_short", "message shorter than a header";
    /// The length is not what the header says; a datagram cut by a too small buffer is among them.
    MessageSize = Message, "message_size", "size field differs from the length of the message";
    /// Another sync id, and ours is not 0.
    MessageSyncId = Message, "message_sync_id", "other sync id";
    /// Fewer bytes left than the fixed part of an entry.
    EntryNoRoom = Stop, "entry_no_room", "no room for an entry";
    /// Version 0: the flags announce a sequence block, and the message ends before it.
    EntryNoSeqBlock = Stop, "entry_no_seq_block", "no room for the sequence block";
    /// The entry's length reaches past the message.
    EntryPastEnd = Stop, "entry_past_end", "entry runs past the message";
    /// The upper four bits of `ver_size` are not 0.
    EntryVersion = Stop, "entry_version", "unknown version of the entry";
    /// Neither 0 (IPv4) nor bit 0 set (IPv6). The kernel's -10.
    EntryType = Stop, "entry_type", "unknown type of the entry";
    /// The entry's length is less than its fixed part. The kernel's -20.
    EntryShort = Stop, "entry_short", "entry shorter than its fixed part";
    /// One byte where an option has two before its data. The kernel's -30.
    OptionStrayByte = Stop, "option_stray_byte", "a stray byte in place of an option";
    /// An option without data, or with data past the end of the entry. The kernel's -40.
    OptionLength = Stop, "option_length", "option empty or longer than the entry";
    /// Sequence records of a length that is not 24, or a second time. The kernel's -50.
    OptionSeq = Stop, "option_seq", "sequence option of wrong length or repeated";
    /// Engine data a second time. The kernel's -60.
    OptionPeData = Stop, "option_pe_data", "repeated engine data";
    /// An engine name longer than 16 bytes, or a second time. The kernel's -70.
    OptionPeName = Stop, "option_pe_name", "engine name too long or repeated";
    /// An option we do not know, without the bit that lets us ignore it.
    OptionUnknown = Skip, "option_unknown", "unknown mandatory option";
    /// ONE_PACKET, or NO_CPORT with TEMPLATE.
    Flags = Skip, "flags", "forbidden flags";
    /// Connections of this protocol are not known.
    Protocol = Skip, "protocol", "unknown protocol";
    /// The protocol has no such state.
    State = Skip, "state", "unknown state";
    /// A template's state is neither 0 nor 1.
    TemplateState = Skip, "template_state", "unknown state of a template";
    /// Engine data without the name of the engine.
    PeNameMissing = Skip, "pe_name_missing", "engine data without a name";
    /// Engine data of an engine we do not have.
    PeEngine = Skip, "pe_engine", "unknown persistence engine";
    /// An IPv6 entry, and we keep no IPv6 connections.
    Ipv6 = Skip, "ipv6", "IPv6 is not supported here";
}

impl Refusal {
    pub const COUNT: usize = Self::ALL.len();
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Refusal {}

/// One count per [`Refusal`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusalCounts([u64; Refusal::COUNT]);

impl Default for RefusalCounts {
    fn default() -> Self {
        RefusalCounts([0; Refusal::COUNT])
    }
}

impl RefusalCounts {
    pub(crate) fn add(&mut self, refusal: Refusal) {
        if let Some(count) = self.0.get_mut(refusal as usize) {
            *count = count.wrapping_add(1);
        }
    }

    pub fn of(&self, refusal: Refusal) -> u64 {
        self.0.get(refusal as usize).copied().unwrap_or_default()
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_stable_words_and_each_its_own() {
        let names: BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
        assert_eq!(names.len(), Refusal::COUNT);
        for refusal in Refusal::ALL {
            let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            assert!(refusal.name().chars().all(word), "{refusal:?}");
            assert_eq!(refusal.counter(), format!("refused_{}", refusal.name()));
        }
    }

    #[test]
    fn each_refusal_has_a_count_of_its_own() {
        let mut counts = RefusalCounts::default();
        for (index, refusal) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*refusal as usize, index);
            assert_eq!(counts.of(*refusal), 0);
            counts.add(*refusal);
            assert_eq!(counts.of(*refusal), 1);
        }
        assert_eq!(counts.total(), Refusal::COUNT as u64);
    }
}
