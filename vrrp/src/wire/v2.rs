//! Messages of version 2 (RFC 3768 §5.3, authentication by RFC 2338 §5.3.6).
//!
//! ```text
//!  0        1        2        3        4        5        6                8
//!  +--------+--------+--------+--------+--------+--------+----------------+--------------+---------
//!  | 2 | 1  |  VRID  |priority| count  | auth   |seconds |    checksum    | addresses, 4 | data, 8
//!  +--------+--------+--------+--------+--------+--------+----------------+--------------+---------
//! ```
//!
//! The type of the authentication is 0 for none, 1 for a password in the eight bytes of data, and 2
//! for an authentication header before the message ([`ah`](super::ah)). The data are there always,
//! as zeros. Over IPv6, of which the standard knows nothing but keepalived does, addresses have
//! sixteen bytes and there are no data.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::advert::{Advert, sign};
use super::checksum::{self, ChecksumForm};
use crate::config::{Authentication, PASSWORD_LEN};

/// Length of the authentication data. Unit: bytes.
pub const AUTHENTICATION_LEN: usize = PASSWORD_LEN;

/// Version 2, type 1.
const VERSION_AND_TYPE: u8 = 0x21;
const CENTIS_PER_SECOND: u16 = 100;

/// A message over IPv4.
pub fn message(advert: &Advert<'_>, authentication: &Authentication) -> Vec<u8> {
    let mut message = unsigned(advert, authentication.number());
    message.extend(match authentication {
        Authentication::Simple(password) => *password,
        Authentication::None | Authentication::Header(_) => [0; AUTHENTICATION_LEN],
    });
    // No pseudo-header: the addresses are not looked at.
    let nobody = Ipv4Addr::UNSPECIFIED;
    let checksum = checksum::over_ipv4(ChecksumForm::Rfc3768, &message, nobody, nobody);
    sign(&mut message, checksum);
    message
}

/// A message over IPv6. The kernel writes the same checksum again when it sends it.
pub fn message_v6(advert: &Advert<'_>, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut message = unsigned(advert, Authentication::None.number());
    let checksum = checksum::over_ipv6(&message, source, destination);
    sign(&mut message, checksum);
    message
}

fn unsigned(advert: &Advert<'_>, authentication: u8) -> Vec<u8> {
    let secs = advert.interval.centis() / CENTIS_PER_SECOND;
    // At least a second, as zero would have every router be master.
    let secs = u8::try_from(secs).unwrap_or(u8::MAX).max(1);
    advert.unsigned(VERSION_AND_TYPE, [authentication, secs])
}

/// The interval in byte 5. Unit: centiseconds.
pub(crate) fn centis(secs: u8) -> u16 {
    u16::from(secs).saturating_mul(CENTIS_PER_SECOND)
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test ends there")]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::{Interval, Priority};

    const VIPS: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 101)),
    ];

    fn sent(vips: usize, priority: u8, authentication: &Authentication) -> Vec<u8> {
        let advert = Advert {
            vrid: 51,
            priority: Priority(priority),
            interval: Interval::DEFAULT,
            addresses: &VIPS[..vips],
        };
        message(&advert, authentication)
    }

    #[test]
    fn the_worked_examples_are_met_to_the_byte() {
        let none = [
            0x21, 0x33, 0x96, 1, 0, 1, 0x86, 0x65, 192, 0, 2, 100, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(sent(1, 150, &Authentication::None), none);
        let given_up = sent(1, 0, &Authentication::None);
        assert_eq!(given_up[6..8], [0x1c, 0x66]);
        let password = Authentication::Simple(Authentication::password("1111"));
        let simple = [
            0x21, 0x33, 0x96, 2, 1, 1, 0x60, 0x9c, 192, 0, 2, 100, 192, 0, 2, 101, 0x31, 0x31,
            0x31, 0x31, 0, 0, 0, 0,
        ];
        assert_eq!(sent(2, 150, &password), simple);
        assert_eq!(sent(2, 0, &password)[6..8], [0xf6, 0x9c]);
        let header = sent(1, 150, &Authentication::Header(*b"secret12"));
        let expected = [
            0x21, 0x33, 0x96, 1, 2, 1, 0x84, 0x65, 192, 0, 2, 100, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(header, expected);
    }

    #[test]
    fn an_interval_is_whole_seconds_and_at_least_one() {
        let advert = |centis| Advert {
            vrid: 51,
            priority: Priority(150),
            interval: Interval::from_centis(centis).unwrap(),
            addresses: &VIPS,
        };
        for (centis, secs) in [(1, 1), (100, 1), (250, 2), (25_500, 255)] {
            assert_eq!(message(&advert(centis), &Authentication::None)[5], secs);
        }
    }
}
