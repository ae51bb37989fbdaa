//! Bytes as they are sent.
//!
//! Encoders write every byte of what they claim. Decoders take any bytes: they never panic and
//! allocate at most what 255 addresses take. Nothing here indexes a slice or calculates unchecked;
//! each file has the compiler see to that.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`v3`] | advertisements of version 3: written, and checked as a router has to |
//! | [`mod@inspect`] | any advertisement in a capture, of either version, as far as it can be read |
//! | [`ipv4`] | the IPv4 header around them |
//! | [`checksum`] | the checksum and its forms |
//! | [`refusal`] | why an advertisement is not taken |
//! | [`arp`] | gratuitous ARP |
//! | [`ndp`] | unsolicited neighbour advertisements |

use std::net::Ipv4Addr;

pub mod arp;
pub mod checksum;
pub mod inspect;
pub mod ipv4;
pub mod ndp;
pub mod refusal;
pub mod v3;

pub use inspect::{Inspection, inspect};
pub use refusal::Refusal;

/// The IP protocol of advertisements (RFC 5798 §5.1.1.4).
pub const PROTOCOL: u8 = 112;
/// The group of IPv4 advertisements (RFC 5798 §5.1.1.2).
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Time to live of an advertisement: it cannot have been forwarded (RFC 5798 §5.1.1.3).
pub const TTL: u8 = 255;
/// Length of the header that both versions begin with. Unit: bytes.
pub const HEADER_LEN: usize = 8;
/// The one type of message there is (RFC 5798 §5.2.2).
pub const TYPE_ADVERTISEMENT: u8 = 1;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
}

impl std::fmt::Display for MacAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}
