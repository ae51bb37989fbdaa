//! The checksum of an advertisement and the forms it is met in.
//!
//! The sixteen-bit one's complement of the one's complement sum (RFC 1071). Routers disagree on
//! what version 3 covers in IPv4, so that a receiver tries the forms one after the other.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{GROUP, PROTOCOL};

/// What the checksum of an advertisement was calculated over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChecksumForm {
    /// Version 3 with the IPv4 pseudo-header (RFC 5798 §5.2.8). What keepalived and this crate
    /// send.
    Rfc5798,
    /// Version 3 without pseudo-header (RFC 9568 §5.2.8).
    Rfc9568,
    /// Version 3 with a pseudo-header that names the group, though the packet went to one router
    /// (keepalived before 1.3.7, and its `old_unicast_checksum`).
    OldUnicast,
    /// Version 2: no pseudo-header (RFC 3768 §5.3.8).
    Rfc3768,
    /// Over IPv6, whatever the version: its pseudo-header (RFC 8200 §8.1).
    Ipv6,
}

impl ChecksumForm {
    /// Its stable name.
    pub const fn name(self) -> &'static str {
        match self {
            ChecksumForm::Rfc5798 => "rfc5798",
            ChecksumForm::Rfc9568 => "rfc9568",
            ChecksumForm::OldUnicast => "old_unicast",
            ChecksumForm::Rfc3768 => "rfc3768",
            ChecksumForm::Ipv6 => "ipv6",
        }
    }
}

/// The form that fits a message of version 3 with its checksum in it.
pub fn form_v3(message: &[u8], source: Ipv4Addr, destination: Ipv4Addr) -> Option<ChecksumForm> {
    let plain = Sum::default().bytes(message);
    let with = |to| plain.pseudo_header(source, to, message.len());
    [
        (ChecksumForm::Rfc5798, with(destination)),
        (ChecksumForm::Rfc9568, plain),
        (ChecksumForm::OldUnicast, with(GROUP)),
    ]
    .into_iter()
    .find_map(|(form, sum)| fits(sum).then_some(form))
}

/// The form of a message of version 3 to one router, if it is the old one.
pub(crate) fn form_old_unicast(message: &[u8], source: Ipv4Addr) -> Option<ChecksumForm> {
    let sum = Sum::default().bytes(message);
    let sum = sum.pseudo_header(source, GROUP, message.len());
    fits(sum).then_some(ChecksumForm::OldUnicast)
}

/// The form that fits a message of version 2 with its checksum in it.
pub fn form_v2(message: &[u8]) -> Option<ChecksumForm> {
    fits(Sum::default().bytes(message)).then_some(ChecksumForm::Rfc3768)
}

/// The form that fits a message over IPv6 with its checksum in it.
pub fn form_v6(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> Option<ChecksumForm> {
    let sum = Sum::default().bytes(message);
    let sum = sum.pseudo_header_v6(source, destination, message.len());
    fits(sum).then_some(ChecksumForm::Ipv6)
}

/// The form of the checksum that fits a message of this version.
pub(crate) fn form(version: u8, message: &[u8], src: IpAddr, dst: IpAddr) -> Option<ChecksumForm> {
    match (version, src, dst) {
        (2, IpAddr::V4(_), _) => form_v2(message),
        (3, IpAddr::V4(src), IpAddr::V4(dst)) => form_v3(message, src, dst),
        (2 | 3, IpAddr::V6(src), IpAddr::V6(dst)) => form_v6(message, src, dst),
        _ => None,
    }
}

/// The checksum of a message over IPv4 whose checksum field is zero.
pub(crate) fn over_ipv4(
    form: ChecksumForm,
    message: &[u8],
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> u16 {
    let sum = Sum::default().bytes(message);
    let with = |to| sum.pseudo_header(source, to, message.len());
    internet(match form {
        ChecksumForm::Rfc5798 => with(destination),
        ChecksumForm::OldUnicast => with(GROUP),
        // IPv6 has no form over IPv4; version 2 and RFC 9568 take the message alone.
        ChecksumForm::Rfc9568 | ChecksumForm::Rfc3768 | ChecksumForm::Ipv6 => sum,
    })
}

/// The checksum of a message over IPv6 whose checksum field is zero.
pub(crate) fn over_ipv6(message: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> u16 {
    let sum = Sum::default().bytes(message);
    internet(sum.pseudo_header_v6(source, destination, message.len()))
}

/// A sum of sixteen-bit words, not yet folded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last one counts as the high half of a word.
    pub(super) fn bytes(self, bytes: &[u8]) -> Sum {
        let words = bytes.chunks(2).map(|word| match *word {
            [high, low] => u16::from_be_bytes([high, low]),
            [high] => u16::from_be_bytes([high, 0]),
            _ => 0,
        });
        words.fold(self, Sum::word)
    }

    fn pseudo_header(self, source: Ipv4Addr, destination: Ipv4Addr, len: usize) -> Sum {
        // A message longer than an IP packet does not exist.
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.bytes(&source.octets())
            .bytes(&destination.octets())
            .word(u16::from(PROTOCOL))
            .word(len)
    }

    fn pseudo_header_v6(self, source: Ipv6Addr, destination: Ipv6Addr, len: usize) -> Sum {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.bytes(&source.octets())
            .bytes(&destination.octets())
            .bytes(&len.to_be_bytes())
            .word(u16::from(PROTOCOL))
    }

    fn word(self, word: u16) -> Sum {
        Sum(self.0.saturating_add(u64::from(word)))
    }

    fn folded(self) -> u16 {
        let mut sum = self.0;
        while let carry @ 1.. = sum >> 16 {
            sum = (sum & 0xffff).saturating_add(carry);
        }
        // Sixteen bits are left.
        u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

/// What goes into the checksum field that was zero in `sum`.
pub(super) fn internet(sum: Sum) -> u16 {
    !sum.folded()
}

/// Whether a sum with the checksum in it is right.
fn fits(sum: Sum) -> bool {
    sum.folded() == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    /// VRID 51, priority 150, 1 s, 192.0.2.100, with this checksum.
    fn message(checksum: u16) -> [u8; 12] {
        let [c1, c2] = checksum.to_be_bytes();
        [0x31, 51, 150, 1, 0, 100, c1, c2, 192, 0, 2, 100]
    }

    #[test]
    fn each_form_of_version_3_is_told_apart() {
        let form = |checksum, to| form_v3(&message(checksum), SOURCE, to);
        assert_eq!(form(0xd371, GROUP), Some(ChecksumForm::Rfc5798));
        assert_eq!(form(0x7602, GROUP), Some(ChecksumForm::Rfc9568));
        assert_eq!(form(0xf181, PEER), Some(ChecksumForm::Rfc5798));
        assert_eq!(form(0x7602, PEER), Some(ChecksumForm::Rfc9568));
        assert_eq!(form(0xd371, PEER), Some(ChecksumForm::OldUnicast));
        assert_eq!(form(0xd370, GROUP), None);
        assert_eq!(form(0xf181, GROUP), None);
    }

    #[test]
    fn each_form_can_be_sent() {
        let sum = |form, to| over_ipv4(form, &message(0), SOURCE, to);
        assert_eq!(sum(ChecksumForm::Rfc5798, GROUP), 0xd371);
        assert_eq!(sum(ChecksumForm::Rfc5798, PEER), 0xf181);
        assert_eq!(sum(ChecksumForm::Rfc9568, PEER), 0x7602);
        assert_eq!(sum(ChecksumForm::OldUnicast, PEER), 0xd371);
    }

    #[test]
    fn ipv6_has_one_form() {
        let source = "fe80::ff:fe00:101".parse().unwrap();
        let group = "ff02::12".parse().unwrap();
        let vips: [Ipv6Addr; 2] = ["fe80::100", "2001:db8:1::100"].map(|vip| vip.parse().unwrap());
        let message = |checksum: [u8; 2]| {
            let header = [&[0x31, 0x33, 0x96, 2, 0, 0x64], checksum.as_slice()].concat();
            let vips = vips.map(|vip| vip.octets());
            [header.as_slice(), &vips[0], &vips[1]].concat()
        };
        assert_eq!(over_ipv6(&message([0, 0]), source, group), 0x0bfc);
        let form = |checksum| form_v6(&message(checksum), source, group);
        assert_eq!(form([0x0b, 0xfc]), Some(ChecksumForm::Ipv6));
        assert_eq!(form([0x0b, 0xfd]), None);
    }

    #[test]
    fn version_2_has_one_form() {
        let message = [
            0x21, 51, 150, 1, 0, 1, 0x86, 0x65, 192, 0, 2, 100, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(form_v2(&message), Some(ChecksumForm::Rfc3768));
        assert_eq!(form_v2(message.split_at(1).1), None);
    }

    #[test]
    fn carries_are_added_until_none_is_left() {
        assert_eq!(Sum(0x1_ffff).folded(), 1);
        assert_eq!(Sum(u64::MAX).folded(), 0xffff);
        assert_eq!(Sum::default().bytes(&[0xab]).folded(), 0xab00);
    }
}
