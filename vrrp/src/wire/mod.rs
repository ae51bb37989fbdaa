//! Bytes as they are sent.
//!
//! Encoders write every byte of what they claim. Decoders take any bytes: they never panic and
//! allocate at most what 255 addresses take. Nothing here indexes a slice or calculates unchecked;
//! each file has the compiler see to that.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`advert`] | what an advertisement says, whatever its version |
//! | [`v2`], [`v3`] | its message in each version, complete with authentication and checksum |
//! | [`ah`] | the authentication header of version 2 |
//! | [`checksum`] | the checksum and its forms |
//! | [`ipv4`], [`ipv6`] | the headers around messages |
//! | [`mod@inspect`] | any advertisement in a capture, as far as it can be read |
//! | [`refusal`] | why an advertisement is not taken |
//! | [`arp`] | gratuitous ARP |
//! | [`ndp`] | unsolicited neighbour advertisements |
//!
//! What a router sends and accepts, in which order it looks at things, and what counts up, is
//! [`AdvertCodec`](crate::AdvertCodec)'s.

use std::net::Ipv4Addr;

pub mod advert;
pub mod ah;
pub mod arp;
pub mod checksum;
pub mod inspect;
pub mod ipv4;
pub mod ipv6;
pub mod ndp;
pub mod refusal;
pub mod v2;
pub mod v3;

pub use advert::Advert;
pub use inspect::{Inspection, inspect, inspect_v6};
pub use ipv4::Identification;
pub use refusal::Refusal;

/// The IP protocol of advertisements (RFC 5798 §5.1.1.4).
pub const PROTOCOL: u8 = 112;
/// The IP protocol of an authentication header (RFC 2402), which version 2 may have.
pub const PROTOCOL_AH: u8 = 51;
/// The group of IPv4 advertisements (RFC 5798 §5.1.1.2).
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Length of the longest datagram that can be an advertisement: an IP header with options, the
/// authentication header, and a message with 255 IPv4 addresses and authentication data; or the
/// message alone, with 255 IPv6 addresses. Unit: bytes.
pub const DATAGRAM_MAX: usize = {
    let ipv4 = 60 + ah::LEN + HEADER_LEN + 255 * 4 + v2::AUTHENTICATION_LEN;
    let ipv6 = HEADER_LEN + 255 * 16;
    if ipv4 > ipv6 { ipv4 } else { ipv6 }
};
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
