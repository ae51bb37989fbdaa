//! What an advertisement says, whatever its version.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::ChecksumForm;
use super::ipv4::{self, Identification, Route};
use super::{GROUP, HEADER_LEN, PROTOCOL, TTL, v2, v3};
use crate::config::{Family, Interval, Priority};

/// What an advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert<'a> {
    pub vrid: u8,
    pub priority: Priority,
    pub interval: Interval,
    /// The virtual addresses; of more than 255 the first 255 are sent.
    pub addresses: &'a [IpAddr],
}

impl Advert<'_> {
    /// The usual packet, from its IP header on: version 3 over IPv4, to the group, checksum by
    /// RFC 5798.
    pub fn to_packet(&self, source: Ipv4Addr, identification: Identification) -> Vec<u8> {
        let message = v3::message(self, ChecksumForm::Rfc5798, source, GROUP);
        let route = Route {
            source,
            destination: GROUP,
            ttl: TTL,
            identification,
        };
        let header = ipv4::header(&route, PROTOCOL, message.len());
        [header.as_slice(), &message].concat()
    }

    /// The message with the two bytes that the versions differ in, and a checksum of zero.
    pub(super) fn unsigned(&self, version_and_type: u8, differing: [u8; 2]) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        let [b4, b5] = differing;
        let header: [u8; HEADER_LEN] = [
            version_and_type,
            self.vrid,
            self.priority.0,
            count,
            b4,
            b5,
            0,
            0,
        ];
        let mut message = header.to_vec();
        for address in self.addresses.iter().take(usize::from(count)) {
            match address {
                IpAddr::V4(address) => message.extend(address.octets()),
                IpAddr::V6(address) => message.extend(address.octets()),
            }
        }
        message
    }
}

/// Puts the checksum into its field.
pub(super) fn sign(message: &mut [u8], checksum: u16) {
    if let Some((header, _)) = message.split_first_chunk_mut::<HEADER_LEN>() {
        let [.., c1, c2] = header;
        [*c1, *c2] = checksum.to_be_bytes();
    }
}

/// Whether what follows the header has the length its version and count call for.
pub(crate) fn lengths_fit(version: u8, family: Family, count: u8, rest_len: usize) -> bool {
    let addresses_len = usize::from(count).saturating_mul(family.address_len());
    let authentication_len = match (version, family) {
        (2, Family::V4) => v2::AUTHENTICATION_LEN,
        _ => 0,
    };
    rest_len == addresses_len.saturating_add(authentication_len)
}

/// The whole addresses among these bytes, at most `count`.
pub(crate) fn addresses(family: Family, bytes: &[u8], count: u8) -> Vec<IpAddr> {
    let count = usize::from(count);
    match family {
        Family::V4 => {
            let (addresses, _) = bytes.as_chunks::<4>();
            let addresses = addresses.iter().take(count).copied();
            addresses.map(Ipv4Addr::from).map(IpAddr::from).collect()
        }
        Family::V6 => {
            let (addresses, _) = bytes.as_chunks::<16>();
            let addresses = addresses.iter().take(count).copied();
            addresses.map(Ipv6Addr::from).map(IpAddr::from).collect()
        }
    }
}

/// Whether each of `wanted` is among the advertised addresses.
pub(crate) fn names_all(bytes: &[u8], wanted: &[IpAddr]) -> bool {
    let (of_4, _) = bytes.as_chunks::<4>();
    let (of_16, _) = bytes.as_chunks::<16>();
    wanted.iter().all(|address| match address {
        IpAddr::V4(address) => of_4.contains(&address.octets()),
        IpAddr::V6(address) => of_16.contains(&address.octets()),
    })
}
