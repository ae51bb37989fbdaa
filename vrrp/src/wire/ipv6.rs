//! The IPv6 header around an advertisement, as a capture shows it.
//!
//! ```text
//!  0           4           6     7     8                       24                      40
//!  +-----------+-----------+-----+-----+-----------------------+-----------------------+
//!  | 6, c0, .. | length    | 112 | 255 | source                | destination           |
//!  +-----------+-----------+-----+-----+-----------------------+-----------------------+
//! ```
//!
//! A raw socket of IPv6 hands out and takes messages without it: the kernel writes it.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv6Addr;

/// Length of the header. Unit: bytes.
pub const HEADER_LEN: usize = 40;

/// The fields of a header that an advertisement is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What follows the header. Unit: bytes.
    pub payload_len: usize,
    /// The protocol of what follows, unless there are extension headers.
    pub next_header: u8,
    pub hop_limit: u8,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
}

impl Header {
    /// Reads the header of a packet and what follows it; `None` when it is not one.
    pub fn parse(packet: &[u8]) -> Option<(Header, &[u8])> {
        let (&[first, _, _, _, l1, l2, next_header, hop_limit], rest) =
            packet.split_first_chunk()?;
        if first >> 4 != 6 {
            return None;
        }
        let (source, rest) = rest.split_first_chunk::<16>()?;
        let (destination, rest) = rest.split_first_chunk::<16>()?;
        let header = Header {
            payload_len: usize::from(u16::from_be_bytes([l1, l2])),
            next_header,
            hop_limit,
            source: Ipv6Addr::from(*source),
            destination: Ipv6Addr::from(*destination),
        };
        Some((header, rest))
    }
}
