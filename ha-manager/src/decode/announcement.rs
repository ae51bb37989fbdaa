//! Announcements of addresses: gratuitous ARP and unsolicited neighbour advertisements.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrrp::wire::MacAddr;

use super::frame::{ICMPV6, Packet};

/// Ethernet, IPv4, and the lengths of their addresses in bytes (RFC 826).
const ETHERNET_AND_IPV4: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
/// Type and code (RFC 4861 §4.4).
const NEIGHBOUR_ADVERTISEMENT: [u8; 2] = [136, 0];
/// The flag S in the byte of flags.
const SOLICITED: u8 = 0x40;
/// What was routed has less (RFC 4861 §7.1.2).
const HOP_LIMIT: u8 = 255;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// An address and where it is from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announcement {
    pub(super) addr: IpAddr,
    pub(super) mac: MacAddr,
}

/// Reads a gratuitous ARP (RFC 5227 §3): sender and target address are one, and it is a request, or
/// a reply to everybody. A reply to one host is an answer to somebody else's announcement.
pub(super) fn gratuitous_arp(arp: &[u8], to: MacAddr) -> Option<Announcement> {
    let (types, rest) = arp.split_first_chunk()?;
    let (operation, rest) = rest.split_first_chunk()?;
    let (mac, rest) = rest.split_first_chunk()?;
    let (sender, rest): (&[u8; 4], _) = rest.split_first_chunk()?;
    let (_target_mac, rest): (&[u8; 6], _) = rest.split_first_chunk()?;
    let target: &[u8; 4] = rest.first_chunk()?;
    let announces = match *operation {
        REQUEST => true,
        REPLY => to == MacAddr::BROADCAST,
        _ => false,
    };
    let addr = Ipv4Addr::from(*sender);
    if *types != ETHERNET_AND_IPV4 || !announces || sender != target || addr.is_unspecified() {
        return None;
    }
    Some(Announcement {
        addr: addr.into(),
        mac: MacAddr(*mac),
    })
}

/// Reads an unsolicited neighbour advertisement (RFC 4861 §7.2.6). Without the option that names it
/// the link-layer address is that of the frame.
///
/// ```text
/// 0        1        2        4                 8                                 24
/// |  136   |   0    | sum    |R S O  reserved  | the address                     | options
/// ```
pub(super) fn unsolicited_na(packet: &Packet<'_>, from: MacAddr) -> Option<Announcement> {
    let header: (&[u8; 24], &[u8]) = packet.payload.bytes.split_first_chunk()?;
    let ([kind, code, _, _, flags, _, _, _, address @ ..], mut options) = header;
    let is_advertisement = packet.protocol == ICMPV6
        && packet.ttl == HOP_LIMIT
        && [*kind, *code] == NEIGHBOUR_ADVERTISEMENT;
    if !is_advertisement || flags & SOLICITED != 0 {
        return None;
    }
    let mut mac = from;
    while let Some(([option, units], _)) = options.split_first_chunk() {
        // Units of eight bytes; none would never end.
        let length = usize::from(*units)
            .checked_mul(8)
            .filter(|length| *length > 0)?;
        let (this, rest) = options.split_at_checked(length)?;
        if let (TARGET_LINK_LAYER_ADDRESS, [_, _, address @ ..]) = (*option, this) {
            mac = MacAddr(*address.first_chunk()?);
        }
        options = rest;
    }
    Some(Announcement {
        addr: Ipv6Addr::from(*address).into(),
        mac,
    })
}
