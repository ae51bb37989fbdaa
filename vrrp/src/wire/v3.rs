//! Messages of version 3 (RFC 5798 §5.2, RFC 9568 §5.2).
//!
//! ```text
//!  0        1        2        3        4                6                8
//!  +--------+--------+--------+--------+----------------+----------------+------------------------
//!  | 3 | 1  |  VRID  |priority| count  | 0 | centisecs  |    checksum    | addresses, 4 or 16 each
//!  +--------+--------+--------+--------+----------------+----------------+------------------------
//! ```
//!
//! The first byte holds version and type. Four bits before the interval are zero when sent and
//! ignored when received.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{Ipv4Addr, Ipv6Addr};

use super::advert::{Advert, sign};
use super::checksum::{self, ChecksumForm};
use crate::config::Interval;

/// Version 3, type 1.
const VERSION_AND_TYPE: u8 = 0x31;
/// The twelve bits of the interval.
const INTERVAL_MASK: u16 = 0x0fff;

/// A message over IPv4, with this form of the checksum.
pub fn message(
    advert: &Advert<'_>,
    form: ChecksumForm,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> Vec<u8> {
    let mut message = unsigned(advert);
    let checksum = checksum::over_ipv4(form, &message, source, destination);
    sign(&mut message, checksum);
    message
}

/// A message over IPv6. The kernel writes the same checksum again when it sends it.
pub fn message_v6(advert: &Advert<'_>, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    let mut message = unsigned(advert);
    let checksum = checksum::over_ipv6(&message, source, destination);
    sign(&mut message, checksum);
    message
}

fn unsigned(advert: &Advert<'_>) -> Vec<u8> {
    // An interval of version 2 alone is cut to the longest there is.
    let interval = advert.interval.min(Interval::MAX_V3);
    advert.unsigned(VERSION_AND_TYPE, interval.centis().to_be_bytes())
}

/// The interval in bytes 4 and 5. Unit: centiseconds.
pub(crate) fn centis(field: [u8; 2]) -> u16 {
    u16::from_be_bytes(field) & INTERVAL_MASK
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test ends there")]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::config::Priority;
    use crate::wire::Identification;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));

    const ADVERT: Advert<'_> = Advert {
        vrid: 51,
        priority: Priority(150),
        interval: Interval::DEFAULT,
        addresses: &[VIP],
    };

    #[test]
    fn the_worked_examples_are_met_to_the_byte() {
        let packet = ADVERT.to_packet(SOURCE, Identification::FIRST);
        let expected = [
            0x45, 0xc0, 0, 0x20, 0, 1, 0, 0, 0xff, 0x70, 0x18, 0x99, 192, 0, 2, 1, 224, 0, 0, 18,
            0x31, 0x33, 0x96, 1, 0, 0x64, 0xd3, 0x71, 192, 0, 2, 100,
        ];
        assert_eq!(packet, expected);
        let owner = Advert {
            priority: Priority::OWNER,
            interval: Interval::MAX_V3,
            ..ADVERT
        };
        let packet = owner.to_packet(SOURCE, Identification::FIRST);
        let message = [0x31, 0x33, 0xff, 1, 0x0f, 0xff, 0x5a, 0xd6, 192, 0, 2, 100];
        assert_eq!(packet[20..], message);
    }

    #[test]
    fn an_interval_too_long_is_the_longest() {
        let long = Advert {
            interval: Interval::MAX_V2,
            ..ADVERT
        };
        let message = message(&long, ChecksumForm::Rfc9568, SOURCE, SOURCE);
        assert_eq!(message[4..6], [0x0f, 0xff]);
    }

    #[test]
    fn of_too_many_addresses_the_count_is_kept() {
        let many = Advert {
            addresses: &[VIP; 300],
            ..ADVERT
        };
        let message = message(&many, ChecksumForm::Rfc9568, SOURCE, SOURCE);
        assert_eq!((message[3], message.len()), (255, 8 + 255 * 4));
    }
}
