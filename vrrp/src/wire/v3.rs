//! Advertisements of version 3 over IPv4 (RFC 5798 §5.2).
//!
//! ```text
//!  0        1        2        3        4                 6                 8
//!  +--------+--------+--------+--------+-----------------+-----------------+------------------
//!  | 3 | 1  |  VRID  |priority| count  | 0 | centisecs   |    checksum     | addresses, 4 each
//!  +--------+--------+--------+--------+-----------------+-----------------+------------------
//! ```
//!
//! The first byte holds version and type. Four bits before the interval are zero when sent and
//! ignored when received.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use super::checksum::{self, ChecksumForm};
use super::ipv4::{self, Header};
use super::{GROUP, HEADER_LEN, PROTOCOL, Refusal, TTL, TYPE_ADVERTISEMENT};
use crate::config::{Interval, Priority};
use crate::fsm::Heard;

/// Length of an address. Unit: bytes.
pub const ADDRESS_LEN: usize = 4;
/// The largest packet that can be an advertisement: IP options, and 255 addresses. Unit: bytes.
pub const PACKET_MAX: usize = 60 + HEADER_LEN + 255 * ADDRESS_LEN;

/// Version 3, type 1.
const VERSION_AND_TYPE: u8 = 0x31;
/// The twelve bits of the interval.
const INTERVAL_MASK: u16 = 0x0fff;

/// What an advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert<'a> {
    pub vrid: u8,
    pub priority: Priority,
    pub interval: Interval,
    /// The virtual addresses, at most 255.
    pub addresses: &'a [Ipv4Addr],
}

impl Advert<'_> {
    /// The whole packet to the group, from its IP header on.
    pub fn to_packet(&self, source: Ipv4Addr, identification: Identification) -> Vec<u8> {
        let unsigned = self.message(0);
        let checksum = checksum::rfc5798(&unsigned, source, GROUP);
        let message = self.message(checksum);
        let header = ipv4::header(source, GROUP, identification.0, message.len());
        [header.as_slice(), &message].concat()
    }

    fn message(&self, checksum: u16) -> Vec<u8> {
        let count = u8::try_from(self.addresses.len()).unwrap_or(u8::MAX);
        let [i1, i2] = self.interval.centis().to_be_bytes();
        let [c1, c2] = checksum.to_be_bytes();
        let header = [
            VERSION_AND_TYPE,
            self.vrid,
            self.priority.0,
            count,
            i1,
            i2,
            c1,
            c2,
        ];
        let addresses = self.addresses.iter().take(usize::from(count));
        let addresses = addresses.flat_map(Ipv4Addr::octets);
        header.into_iter().chain(addresses).collect()
    }
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

/// What the advertisements of a virtual router have to be like.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    pub vrid: u8,
    /// The configured addresses; an advertisement has the same ones in any order.
    pub addresses: &'a [Ipv4Addr],
    /// Whether the router takes part at the moment.
    pub running: bool,
}

/// An advertisement that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub heard: Heard,
    pub form: ChecksumForm,
}

/// Checks a packet as received, from its IP header on.
///
/// `received_len` is the length of the datagram, of which `packet` is as much as fitted.
///
/// # Errors
/// The first [`Refusal`] that applies.
pub fn receive(
    packet: &[u8],
    received_len: usize,
    expected: &Expected<'_>,
) -> Result<Accepted, Refusal> {
    if received_len > packet.len() {
        return Err(Refusal::Truncated);
    }
    let ip = Header::parse(packet)?;
    if ip.protocol != PROTOCOL || ip.is_fragment {
        return Err(Refusal::IpHeader);
    }
    let message = packet.get(ip.header_len..).ok_or(Refusal::Short)?;
    let Some((&[version_and_type, vrid, priority, count, i1, i2, _, _], addresses)) =
        message.split_first_chunk::<HEADER_LEN>()
    else {
        return Err(Refusal::Short);
    };
    if vrid != expected.vrid {
        return Err(Refusal::UnknownVrid);
    }
    if !expected.running {
        return Err(Refusal::NotRunning);
    }
    if !lengths_fit(version_and_type >> 4, count, addresses.len()) {
        return Err(Refusal::Length);
    }
    if ip.ttl != TTL {
        return Err(Refusal::Ttl);
    }
    if version_and_type >> 4 != 3 {
        return Err(Refusal::Version);
    }
    if version_and_type & 0x0f != TYPE_ADVERTISEMENT {
        return Err(Refusal::Type);
    }
    if usize::from(count) != expected.addresses.len() {
        return Err(Refusal::AddressCount);
    }
    if ip.total_len != packet.len() {
        return Err(Refusal::TotalLength);
    }
    let Some(form) = checksum::form_v3(message, ip.source, ip.destination) else {
        return Err(Refusal::Checksum);
    };
    if ip.destination != GROUP {
        return Err(Refusal::Destination);
    }
    if !names_all(addresses, expected.addresses) {
        return Err(Refusal::AddressList);
    }
    let centis = u16::from_be_bytes([i1, i2]) & INTERVAL_MASK;
    let interval = Interval::from_centis(centis).ok_or(Refusal::IntervalZero)?;
    Ok(Accepted {
        heard: Heard {
            source: ip.source,
            priority: Priority(priority),
            interval,
        },
        form,
    })
}

/// Whether what follows the header has the length its version and count call for.
pub(super) fn lengths_fit(version: u8, count: u8, rest_len: usize) -> bool {
    let addresses_len = usize::from(count).saturating_mul(ADDRESS_LEN);
    let authentication_len = if version == 2 { 8 } else { 0 };
    rest_len == addresses_len.saturating_add(authentication_len)
}

/// Whether each of `wanted` is among the advertised addresses.
fn names_all(addresses: &[u8], wanted: &[Ipv4Addr]) -> bool {
    let (advertised, _) = addresses.as_chunks::<ADDRESS_LEN>();
    wanted
        .iter()
        .all(|addr| advertised.contains(&addr.octets()))
}

#[cfg(test)]
mod tests;
