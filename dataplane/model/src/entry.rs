//! A connection entry or template as listings show it.

use alloc::boxed::Box;
use core::net::SocketAddr;

use crate::extra::Pe;
use crate::flags::ConnFlags;

/// One connection or template, a copy taken at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct ConnEntry {
    /// IP protocol number; 0 for a template of a fwmark service.
    pub protocol: u8,
    pub client: SocketAddr,
    /// Of a template of a fwmark service: the mark as an address (IPv6: in the first 32 bits), port 0.
    pub virt: SocketAddr,
    pub dest: SocketAddr,
    pub flags: ConnFlags,
    /// State number of the protocol, see [`crate::state::state_name`].
    pub state: u8,
    /// Whole seconds until it expires.
    pub expires_secs: u32,
    /// Packets received from the client.
    pub in_pkts: u32,
    /// Connections a template controls.
    pub controls: u32,
    pub fwmark: u32,
    /// Whether a real server is bound.
    pub bound: bool,
    /// What a persistence engine stored with a template.
    pub pe: Option<Box<Pe>>,
}
