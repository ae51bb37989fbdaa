//! What the programs tell user space about a connection the backup should hear of.

use crate::key::{Be16, Be32, FlowKey4};

/// Kernel memory of the ring `OFFERS`, in bytes; a power of two.
pub const RING_BYTES: u32 = 1 << 22;

/// One record of the ring: a connection as it was when it was offered.
///
/// | offset | bytes | field |
/// | --- | --- | --- |
/// | 0 | 16 | key: client → virtual service |
/// | 16 | 4 | address of the real server |
/// | 20 | 2 | port of the real server |
/// | 22 | 2 | connection flags as on the wire, low 16 bits, HASHED never |
/// | 24 | 4 | fwmark |
/// | 28 | 4 | timeout in seconds |
/// | 32 | 8 | CLOCK_MONOTONIC (coarse) nanoseconds of the offer |
/// | 40 | 1 | state |
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    pub key: FlowKey4,
    pub daddr: Be32,
    pub dport: Be16,
    pub conn_flags: u16,
    pub fwmark: u32,
    pub timeout_secs: u32,
    pub at_ns: u64,
    pub state: u8,
    pub reserved: [u8; 7],
}

const _: () = assert!(size_of::<Offer>() == 48);
