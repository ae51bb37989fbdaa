//! When a real server is overloaded: its connections against its two thresholds.
//!
//! Connections are all of a server, active and inactive; templates do not count. Who changes their
//! number asks [`after_increment`] or [`before_decrement`] and stores what they say. Two processors
//! can store in the wrong order; asking [`settle`] once more after a store, with the number as it is
//! by then, puts that right. It matters: an overloaded server gets nobody, so with both thresholds
//! equal nothing else would ever clear the flag.
//!
//! Source: `ip_vs_conn.c: ip_vs_dest_update_overload`.

/// The thresholds of a server, as they were given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections at which the server is overloaded; 0 is never.
    pub upper: u32,
    /// Connections below which it is no longer; 0 is the default, see [`Thresholds::lower_limit`].
    pub lower: u32,
}

impl Thresholds {
    /// The lower threshold in force: as given, or the upper one less a quarter of it.
    #[inline(always)]
    pub const fn lower_limit(self) -> u32 {
        if self.lower != 0 {
            self.lower
        } else {
            self.upper - self.upper / 4
        }
    }
}

/// What happens to the flag OVERLOAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overload {
    Keep,
    Set,
    Clear,
}

/// After a connection more, the server's `reached`-th. `now` is their number as it is read when the
/// flag is about to be stored; when nobody else is at work, `reached`.
#[inline(always)]
pub const fn after_increment(thresholds: Thresholds, reached: u32, now: u32) -> Overload {
    if thresholds.upper != 0 && reached == thresholds.upper && now >= thresholds.lower_limit() {
        Overload::Set
    } else {
        Overload::Keep
    }
}

/// For a connection less than `from`. `now` is their number without it as it is read when the flag is
/// about to be stored; when nobody else is at work, `from` − 1.
#[inline(always)]
pub const fn before_decrement(thresholds: Thresholds, from: u32, now: u32) -> Overload {
    if thresholds.upper != 0 && from == thresholds.lower_limit() && now < thresholds.upper {
        Overload::Clear
    } else {
        Overload::Keep
    }
}

/// After the thresholds were edited, or a server with connections was added again. Asked at any other
/// time it says nothing new.
#[inline(always)]
pub const fn settle(thresholds: Thresholds, connections: u32) -> Overload {
    if thresholds.upper == 0 {
        Overload::Clear
    } else if connections >= thresholds.upper {
        Overload::Set
    } else if connections < thresholds.lower_limit() {
        Overload::Clear
    } else {
        Overload::Keep
    }
}

#[cfg(test)]
mod tests;
