//! How user space hands work to the *apply* and *expire* programs: regions of a mapped array.
//!
//! A run names its region and the number of items in `__sk_buff.mark`; a region has one caller at a
//! time.

use crate::key::{Addr6, Be16, FlowKey6};

/// Items in a region, and the most one run takes.
pub const REGION_ITEMS: u32 = 256;
/// Regions in the map `BATCH`.
pub const REGIONS: u32 = 16;

/// `__sk_buff.mark` of a run.
pub const fn mark(region: u32, items: u32) -> u32 {
    region << 16 | items
}

/// Bits of [`BatchItem::says`].
pub mod says {
    /// The entry counts as inactive.
    pub const INACTIVE: u8 = 1;
    /// A new entry counts as inactive, whatever the bit above says.
    pub const NEW_INACTIVE: u8 = 2;
    /// No replies come by.
    pub const NOOUTPUT: u8 = 4;
    /// Connections without a port of their client may be there.
    pub const NO_CPORT: u8 = 8;
}

/// No free place is known.
pub const NO_HINT: u32 = u32::MAX;

/// One item, of either family: IPv4 addresses stand in the first word. *apply* uses all of it,
/// *expire* the family, the place, the operation and the result.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchItem {
    pub key: FlowKey6,
    pub daddr: Addr6,
    pub dport: Be16,
    /// As [`crate::entry::Conn4::conn_flags`].
    pub conn_flags: u16,
    /// Place in `SERVERS`, or [`crate::entry::NO_SERVER`], and its generation.
    pub server: u32,
    pub server_generation: u32,
    pub timeout_secs: u32,
    pub fwmark: u32,
    /// Place in the connection table, and its generation: given to *expire*, and given back by
    /// *apply*, when the entry was made or refreshed. To *apply* the place is a hint where there
    /// was room; [`NO_HINT`].
    pub index: u32,
    pub generation: u32,
    pub state: u8,
    /// A number of [`ExpireOp`] (*expire*).
    pub op: u8,
    /// See [`says`] (*apply*).
    pub says: u8,
    /// A number of [`BatchResult`], written by the program.
    pub result: u8,
    /// 2 or 10 (`AF_INET`, `AF_INET6`): which table is meant.
    pub family: u8,
    pub reserved: [u8; 7],
}

macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $number:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $number,)* }

        impl $name {
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

numbered! {
    /// What the *expire* program does to an entry.
    ExpireOp {
        /// Mark it if its deadline has passed. One that controls others gets another minute instead.
        MarkIfDue = 1,
        /// Mark it whatever its deadline.
        Mark = 2,
        /// Free a place that was marked at least one grace period ago.
        Sweep = 3,
        /// Offer it to the backup, whatever the rules say.
        Offer = 4,
    }
}

numbered! {
    /// What became of an item.
    BatchResult {
        /// The program did not get to it.
        Untouched = 0,
        /// *apply*: a new connection was made.
        Created = 1,
        /// *apply*: a known connection was refreshed.
        Updated = 2,
        /// *expire*: marked.
        Marked = 3,
        /// *expire*: freed.
        Swept = 4,
        /// *expire*: not due.
        Kept = 5,
        /// Another hand was faster, or the place holds another incarnation.
        Missed = 6,
        /// *apply*: the table is full.
        TableFull = 7,
        /// *apply*: the way back belongs to another connection.
        ReplyCollision = 8,
        /// *apply*: this node directs and saw a packet of that connection just now.
        Guarded = 9,
        /// *apply*: the end of a connection that another one has replaced.
        Late = 10,
        /// *apply*: a connection whose real server has changed was replaced.
        Replaced = 11,
        /// *expire*: offered.
        Offered = 12,
        /// *expire*: nobody takes offers fast enough; the entry is marked.
        RingFull = 13,
        /// *expire*: it controls connections, and was given another minute.
        Postponed = 14,
        /// *apply*: synchronisation has had its share of the table.
        NoShare = 15,
    }
}

const _: () = assert!(size_of::<BatchItem>() == 96);
