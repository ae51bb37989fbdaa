//! The addresses of the lab, of both families.
//!
//! | segment | IPv4 | IPv6 |
//! | --- | --- | --- |
//! | outside | 192.0.2.0/24 | 2001:db8:2::/64 |
//! | inside | 10.0.0.0/24 | 2001:db8:10::/64 |
//! | sync | 10.9.9.0/24 | |
//!
//! A host has the same last number in both, as it is read: 192.0.2.100 and 2001:db8:2::100.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The client's own address; it has [`SOURCES`] more.
const CLIENT_NUMBER: u8 = 10;
/// Addresses of the client from which loads can come that ask for several.
pub(crate) const SOURCES: u8 = 16;
const FIRST_SOURCE: u8 = 201;
/// The inside servers' gateway in a lab with a pair.
const INSIDE_VIRTUAL_NUMBER: u8 = 254;
/// The virtual address outside that the second group has.
const SECOND_NUMBER: u8 = 101;

/// A network of the lab that clients or servers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    Outside,
    Inside,
}

impl Net {
    /// An address there.
    pub(crate) fn host(self, number: u8, ipv6: bool) -> IpAddr {
        if ipv6 {
            let segment = match self {
                Net::Outside => 0x2,
                Net::Inside => 0x10,
            };
            let number = spelled(number);
            Ipv6Addr::new(0x2001, 0xdb8, segment, 0, 0, 0, 0, number).into()
        } else {
            match self {
                Net::Outside => Ipv4Addr::new(192, 0, 2, number),
                Net::Inside => Ipv4Addr::new(10, 0, 0, number),
            }
            .into()
        }
    }
}

/// The client's address that loads come from.
pub(crate) fn client(ipv6: bool) -> IpAddr {
    Net::Outside.host(CLIENT_NUMBER, ipv6)
}

/// One of the client's further addresses.
pub(crate) fn source(index: u8, ipv6: bool) -> IpAddr {
    Net::Outside.host(FIRST_SOURCE + index % SOURCES, ipv6)
}

/// The inside servers' gateway in a lab with a pair, of the first group of addresses.
pub(crate) fn inside_virtual(ipv6: bool) -> IpAddr {
    inside_virtual_of(0, ipv6)
}

/// The gateway of the servers of a group: 10.0.0.254, 10.0.0.253.
pub(crate) fn inside_virtual_of(group: u8, ipv6: bool) -> IpAddr {
    Net::Inside.host(INSIDE_VIRTUAL_NUMBER - group, ipv6)
}

/// The group of a virtual address outside: 192.0.2.100 and 192.0.2.101 are of the first and the second.
pub(crate) fn group_of(address: IpAddr) -> u8 {
    u8::from(address == Net::Outside.host(SECOND_NUMBER, address.is_ipv6()))
}

/// Length of the networks' prefixes.
pub(crate) const fn prefix_len(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 24,
        IpAddr::V6(_) => 64,
    }
}

/// Length of a prefix that is one address.
pub(crate) const fn whole(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// A number whose hexadecimal digits read as those of `number`.
fn spelled(number: u8) -> u16 {
    let (hundreds, tens, ones) = (number / 100, number / 10 % 10, number % 10);
    u16::from(hundreds) << 8 | u16::from(tens) << 4 | u16::from(ones)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_the_same_in_both_families() {
        assert_eq!(Net::Outside.host(100, true).to_string(), "2001:db8:2::100");
        assert_eq!(inside_virtual(true).to_string(), "2001:db8:10::254");
        assert_eq!(inside_virtual(false).to_string(), "10.0.0.254");
        assert_eq!(client(true).to_string(), "2001:db8:2::10");
        assert_eq!(inside_virtual_of(1, false).to_string(), "10.0.0.253");
        assert_eq!(group_of(Net::Outside.host(100, true)), 0);
        assert_eq!(group_of(Net::Outside.host(101, true)), 1);
        let last = source(SOURCES - 1, false).to_string();
        assert_eq!(last, "192.0.2.216");
    }
}
