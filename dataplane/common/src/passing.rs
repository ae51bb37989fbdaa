//! What one program hands to the next in a tail call.
//!
//! Each start of the daemon has its own: its programs never jump into those of another start.

use crate::entry::NO_CONTROLLER;
use crate::key::{Addr6, Address, Be32, FlowKey};

/// What the director needs of a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet<A> {
    /// The packet's own addresses.
    pub key: FlowKey<A>,
    /// Offset in bytes of the transport header from the start of the frame.
    pub l4: u32,
    /// Length of the IP packet in bytes.
    pub len: u32,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP flags, or the type of the first SCTP chunk.
    pub flags: u8,
    /// Number of the [`crate::rules::sctp::SctpEvent`].
    pub event: u8,
    pub reserved: u8,
}

/// A template with one more connection under it: whoever holds it makes that, or takes it off again.
///
/// A plain structure with a value for "none": what an `Option` leaves undefined the compiler copies
/// all the same, and the verifier refuses that.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Place of the template, or [`NO_CONTROLLER`].
    pub index: u32,
    pub generation: u32,
    /// Place of its real server in `SERVERS`.
    pub server: u32,
}

impl Held {
    pub const NONE: Held = Held {
        index: NO_CONTROLLER,
        generation: 0,
        server: u32::MAX,
    };

    #[inline(always)]
    pub const fn is_none(&self) -> bool {
        self.index == NO_CONTROLLER
    }
}

impl Default for Held {
    fn default() -> Held {
        Held::NONE
    }
}

/// A packet on its way to the program that makes connections: one element of `PASSING4` or
/// `PASSING6`, one per processor.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passing<A: Address> {
    pub packet: Packet<A>,
    /// Key of the template above the connection.
    pub template: FlowKey<A>,
    pub held: Held,
    /// Place in `SERVICES`.
    pub service: u32,
    /// `IP_VS_SVC_F_*` as they were when the server was chosen.
    pub service_flags: u32,
    /// Place of the real server in `SERVERS`, or `u32::MAX`.
    pub slot: u32,
    /// CLOCK_MONOTONIC (coarse) nanoseconds.
    pub now_ns: u64,
}

pub type Passing4 = Passing<Be32>;
pub type Passing6 = Passing<Addr6>;

const _: () = {
    assert!(size_of::<Passing4>() == 80);
    assert!(size_of::<Passing6>() == 128);
};
