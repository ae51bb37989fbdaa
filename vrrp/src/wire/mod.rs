//! Bytes as they are sent.
//!
//! Encoders fill arrays of a fixed length and write every byte of them. Nothing here indexes a
//! slice or calculates unchecked; each file has the compiler see to that.

pub mod arp;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
}
