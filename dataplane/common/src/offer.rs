//! What the programs tell user space about a connection the backup should hear of.

use crate::key::{Addr6, Address, Be16, Be32, FlowKey};

/// Kernel memory of the ring `OFFERS`, in bytes; a power of two.
pub const RING_BYTES: u32 = 1 << 22;

/// One record of the ring: a connection as it was when it was offered. Its length tells the family.
///
/// | offset | bytes | field |
/// | --- | --- | --- |
/// | 0 | 16 or 40 | key: client → virtual service |
/// | 16 or 40 | 4 or 16 | address of the real server |
/// | 20 or 56 | 2 | port of the real server |
/// | 22 or 58 | 2 | connection flags as on the wire, low 16 bits, HASHED never |
/// | 24 or 60 | 4 | fwmark |
/// | 28 or 64 | 4 | timeout in seconds |
/// | 32 or 72 | 8 | CLOCK_MONOTONIC (coarse) nanoseconds of the offer |
/// | 40 or 80 | 1 | state |
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer<A: Address> {
    pub key: FlowKey<A>,
    pub daddr: A,
    pub dport: Be16,
    pub conn_flags: u16,
    pub fwmark: u32,
    pub timeout_secs: u32,
    pub align: A::Align,
    pub at_ns: u64,
    pub state: u8,
    pub reserved: [u8; 7],
}

pub type Offer4 = Offer<Be32>;
pub type Offer6 = Offer<Addr6>;

impl<A: Address> Offer<A> {
    /// As records for both families hold it.
    pub fn to_words(self) -> Offer6 {
        Offer {
            key: self.key.to_words(),
            daddr: self.daddr.to_words(),
            dport: self.dport,
            conn_flags: self.conn_flags,
            fwmark: self.fwmark,
            timeout_secs: self.timeout_secs,
            align: Default::default(),
            at_ns: self.at_ns,
            state: self.state,
            reserved: self.reserved,
        }
    }
}

const _: () = {
    assert!(size_of::<Offer4>() == 48);
    assert!(size_of::<Offer6>() == 88);
    assert!(core::mem::offset_of!(Offer6, at_ns) == 72);
};
