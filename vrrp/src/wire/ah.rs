//! The authentication header between the IP header and a message of version 2 (RFC 2402,
//! RFC 2338 §5.3.6.3).
//!
//! ```text
//!  0        1        2                 4                 8                 12                24
//!  +--------+--------+-----------------+-----------------+-----------------+-----------------+
//!  | 112    | 4      | 0               | sender          | sequence        | sum             |
//!  +--------+--------+-----------------+-----------------+-----------------+-----------------+
//! ```
//!
//! The length is in words of four bytes, less two. The sender stands where an index of security
//! parameters would, as its IPv4 address. The sum is the first twelve bytes of HMAC-MD5 (RFC 2403)
//! over the IP header, this header and the message, where what may change on the way is taken as
//! zero: type of service, flags and fragment offset, the header's checksum, the sum itself, and for
//! one router's address, which may be some hops away, the time to live.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::PROTOCOL;
use super::ipv4::HEADER_LEN as IPV4_LEN;
use crate::config::PASSWORD_LEN;

/// Length of the header. Unit: bytes.
pub const LEN: usize = 24;
/// Length of the sum. Unit: bytes.
pub const SUM_LEN: usize = 12;

/// [`LEN`] in words, less two.
const PAYLOAD_LEN: u8 = 4;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthHeader {
    /// Whether it is one of VRRP: of this length, and followed by this protocol.
    pub is_usual: bool,
    pub sender: Ipv4Addr,
    pub sequence: u32,
    pub sum: [u8; SUM_LEN],
}

impl AuthHeader {
    /// Reads the header and what follows it; `None` when it is not there whole.
    pub fn parse(payload: &[u8]) -> Option<(AuthHeader, &[u8])> {
        let (&[next, len, _, _, s1, s2, s3, s4, q1, q2, q3, q4], rest) =
            payload.split_first_chunk()?;
        let (sum, message) = rest.split_first_chunk::<SUM_LEN>()?;
        let header = AuthHeader {
            is_usual: next == PROTOCOL && len == PAYLOAD_LEN,
            sender: Ipv4Addr::new(s1, s2, s3, s4),
            sequence: u32::from_be_bytes([q1, q2, q3, q4]),
            sum: *sum,
        };
        Some((header, message))
    }

    /// The bytes of the header.
    pub fn to_bytes(&self) -> [u8; LEN] {
        let [s1, s2, s3, s4] = self.sender.octets();
        let [q1, q2, q3, q4] = self.sequence.to_be_bytes();
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.sum;
        [
            PROTOCOL,
            PAYLOAD_LEN,
            0,
            0,
            s1,
            s2,
            s3,
            s4,
            q1,
            q2,
            q3,
            q4,
            a,
            b,
            c,
            d,
            e,
            f,
            g,
            h,
            i,
            j,
            k,
            l,
        ]
    }
}

/// The sum of a packet in parts: the IP header with its options, and what follows it with whatever
/// sum is in it.
#[derive(Clone, Copy, Debug)]
pub struct Covered<'a> {
    pub ip_header: &'a [u8],
    pub payload: &'a [u8],
    /// Whether the time to live is covered: it is in what goes to the group.
    pub covers_ttl: bool,
}

impl Covered<'_> {
    /// The sum with this key; `None` when a part is too short to have one.
    pub fn sum(&self, key: &[u8; PASSWORD_LEN]) -> Option<[u8; SUM_LEN]> {
        let digest = self.mac(key)?.finalize().into_bytes();
        digest.first_chunk().copied()
    }

    /// Whether the sum is right, compared in the same time wherever it differs.
    pub fn is(&self, key: &[u8; PASSWORD_LEN], sum: &[u8; SUM_LEN]) -> bool {
        let mac = self.mac(key);
        mac.is_some_and(|mac| mac.verify_truncated_left(sum).is_ok())
    }

    fn mac(&self, key: &[u8; PASSWORD_LEN]) -> Option<Hmac<Md5>> {
        let (fixed, options) = self.ip_header.split_first_chunk::<IPV4_LEN>()?;
        let (before_sum, rest) = self.payload.split_first_chunk::<{ LEN - SUM_LEN }>()?;
        let (_, message) = rest.split_first_chunk::<SUM_LEN>()?;
        let mut fixed = *fixed;
        // Type of service, flags and offset, checksum.
        for at in [1, 6, 7, 10, 11] {
            if let Some(byte) = fixed.get_mut(at) {
                *byte = 0;
            }
        }
        if !self.covers_ttl {
            fixed[8] = 0;
        }
        // Keys of any length are allowed.
        let mut mac = Hmac::<Md5>::new_from_slice(key).ok()?;
        for part in [&fixed, options, before_sum, &[0; SUM_LEN], message] {
            mac.update(part);
        }
        Some(mac)
    }
}

/// Whether two passwords are the same, in the same time wherever they differ.
pub fn same_password(one: &[u8; PASSWORD_LEN], other: &[u8; PASSWORD_LEN]) -> bool {
    let difference = one
        .iter()
        .zip(other)
        .fold(0, |difference, (one, other)| difference | (one ^ other));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test ends there")]
mod tests {
    use super::*;

    const KEY: [u8; 8] = *b"secret12";
    /// The first advertisement of the worked example: its IP header, then what follows.
    const IP_HEADER: [u8; 20] = [
        0x45, 0xc0, 0, 0x40, 0, 1, 0, 0, 0xff, 0x33, 0x18, 0xb6, 192, 0, 2, 1, 224, 0, 0, 18,
    ];
    const SUM: [u8; SUM_LEN] = [
        0x35, 0x79, 0x13, 0xb0, 0x5e, 0x26, 0x6b, 0xc7, 0xcf, 0xfd, 0xf4, 0xb5,
    ];
    const HEADER: AuthHeader = AuthHeader {
        is_usual: true,
        sender: Ipv4Addr::new(192, 0, 2, 1),
        sequence: 1,
        sum: SUM,
    };
    const MESSAGE: [u8; 20] = [
        0x21, 0x33, 0x96, 1, 2, 1, 0x84, 0x65, 192, 0, 2, 100, 0, 0, 0, 0, 0, 0, 0, 0,
    ];

    fn payload() -> Vec<u8> {
        [HEADER.to_bytes().as_slice(), &MESSAGE].concat()
    }

    #[test]
    fn the_worked_example_has_this_sum() {
        let payload = payload();
        let covered = Covered {
            ip_header: &IP_HEADER,
            payload: &payload,
            covers_ttl: true,
        };
        assert_eq!(covered.sum(&KEY), Some(SUM));
        assert!(covered.is(&KEY, &SUM));
        assert!(!covered.is(b"secret13", &SUM));
        let mut other = SUM;
        other[11] ^= 1;
        assert!(!covered.is(&KEY, &other));
    }

    #[test]
    fn what_changes_on_the_way_is_not_covered() {
        let payload = payload();
        let sum = |ip_header: [u8; 20], covers_ttl| {
            let covered = Covered {
                ip_header: &ip_header,
                payload: &payload,
                covers_ttl,
            };
            covered.sum(&KEY).unwrap()
        };
        let changed = |at: usize| {
            let mut header = IP_HEADER;
            header[at] ^= 0xff;
            header
        };
        for at in 0..20 {
            for covers_ttl in [true, false] {
                let is_free = [1, 6, 7, 10, 11].contains(&at) || (at == 8 && !covers_ttl);
                let is_same = sum(changed(at), covers_ttl) == sum(IP_HEADER, covers_ttl);
                assert_eq!(is_same, is_free, "byte {at}");
            }
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let payload = payload();
        assert_eq!(
            AuthHeader::parse(&payload),
            Some((HEADER, MESSAGE.as_slice()))
        );
        assert_eq!(AuthHeader::parse(&payload[..23]), None);
        for (at, value) in [(0, 17), (1, 5)] {
            let mut other = payload.clone();
            other[at] = value;
            assert!(!AuthHeader::parse(&other).unwrap().0.is_usual);
        }
    }

    #[test]
    fn passwords_are_compared_whole() {
        assert!(same_password(&KEY, &KEY));
        for at in 0..8 {
            let mut other = KEY;
            other[at] ^= 1;
            assert!(!same_password(&KEY, &other));
        }
    }
}
