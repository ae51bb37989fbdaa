//! The IPv4 header around an advertisement.
//!
//! ```text
//!  0            1            2                         4                         6
//!  +------------+------------+-------------------------+-------------------------+---------------+
//!  | 4 |  IHL   | 0xc0       | total length            | identification          | flags, offset |
//!  +------------+------------+-------------------------+-------------------------+---------------+
//!  8            9            10                        12                        16              20
//!  | TTL        | protocol   | header checksum         | source                  | destination   |
//!  +------------+------------+-------------------------+-------------------------+---------------+
//! ```
//!
//! Sent without options, with type of service 0xc0 (internetwork control, RFC 791) and free to be
//! fragmented, as keepalived does.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use super::Refusal;
use super::checksum::{Sum, internet};

/// Length of a header without options. Unit: bytes.
pub const HEADER_LEN: usize = 20;

const VERSION_AND_IHL: u8 = 0x45;
const TOS: u8 = 0xc0;
/// More fragments, and the offset of this one (RFC 791).
const FRAGMENT: u16 = 0x3fff;
/// A header's length is given in words of this many bytes.
const WORD_LEN: usize = 4;

/// The fields of a header that an advertisement is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Unit: bytes.
    pub header_len: usize,
    /// Header and payload. Unit: bytes.
    pub total_len: usize,
    pub ttl: u8,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub is_fragment: bool,
}

/// Numbers the packets of one router: from 1, one step each, never 0, as keepalived does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identification(u16);

impl Identification {
    pub const FIRST: Identification = Identification(1);

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Identification {
        Identification(self.0.checked_add(1).unwrap_or(1))
    }
}

impl From<u16> for Identification {
    fn from(identification: u16) -> Identification {
        Identification(identification)
    }
}

impl Header {
    /// Reads the header of a packet.
    ///
    /// # Errors
    /// [`Refusal::Short`] and [`Refusal::IpHeader`].
    pub fn parse(packet: &[u8]) -> Result<Header, Refusal> {
        let Some((fixed, _)) = packet.split_first_chunk::<HEADER_LEN>() else {
            return Err(Refusal::Short);
        };
        let [
            first,
            _,
            l1,
            l2,
            _,
            _,
            f1,
            f2,
            ttl,
            protocol,
            _,
            _,
            s1,
            s2,
            s3,
            s4,
            d1,
            d2,
            d3,
            d4,
        ] = *fixed;
        let header_len = usize::from(first & 0x0f).saturating_mul(WORD_LEN);
        let total_len = usize::from(u16::from_be_bytes([l1, l2]));
        if first >> 4 != 4 || header_len < HEADER_LEN || total_len < header_len {
            return Err(Refusal::IpHeader);
        }
        Ok(Header {
            header_len,
            total_len,
            ttl,
            protocol,
            source: Ipv4Addr::new(s1, s2, s3, s4),
            destination: Ipv4Addr::new(d1, d2, d3, d4),
            is_fragment: u16::from_be_bytes([f1, f2]) & FRAGMENT != 0,
        })
    }
}

/// Where a packet goes, and what its header says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub ttl: u8,
    pub identification: Identification,
}

/// The header of a packet with this payload. The kernel fills in the checksum of a packet sent with
/// its header; it is right here all the same, so that the bytes are complete.
pub fn header(route: &Route, protocol: u8, payload_len: usize) -> [u8; HEADER_LEN] {
    let total_len = HEADER_LEN.saturating_add(payload_len);
    let [l1, l2] = u16::try_from(total_len).unwrap_or(u16::MAX).to_be_bytes();
    let [i1, i2] = route.identification.0.to_be_bytes();
    let [s1, s2, s3, s4] = route.source.octets();
    let [d1, d2, d3, d4] = route.destination.octets();
    let with_checksum = |[c1, c2]: [u8; 2]| {
        [
            VERSION_AND_IHL,
            TOS,
            l1,
            l2,
            i1,
            i2,
            0,
            0,
            route.ttl,
            protocol,
            c1,
            c2,
            s1,
            s2,
            s3,
            s4,
            d1,
            d2,
            d3,
            d4,
        ]
    };
    let checksum = internet(Sum::default().bytes(&with_checksum([0, 0])));
    with_checksum(checksum.to_be_bytes())
}
