//! From an Ethernet frame to what it carries for a director.
//!
//! ```text
//! 0            6            12          14
//! | to         | from       | ethertype | ...        802.1Q: 0x8100, tag, then the ethertype
//! ```
//!
//! Nothing here indexes or calculates unchecked; a frame that makes no sense carries nothing.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrrp::wire::MacAddr;

pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Outer tag of two (802.1ad).
pub(super) const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
/// Most tags that are skipped: one of each kind.
const TAGS_MAX: usize = 2;

const HOP_BY_HOP: u8 = 0;
pub(super) const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
pub(super) const AUTHENTICATION: u8 = 51;
pub(super) const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
pub(super) const VRRP: u8 = 112;
/// Most extension headers that are followed; more is no packet anybody sends.
const EXTENSIONS_MAX: usize = 8;

/// The Ethernet header, tags skipped, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ethernet<'f> {
    pub(super) to: MacAddr,
    pub(super) from: MacAddr,
    pub(super) content: Content<'f>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'f> {
    /// From the hardware type on.
    Arp(&'f [u8]),
    Ip(Packet<'f>),
}

/// An IP packet of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'f> {
    /// From the IP header on, padding of the frame included.
    pub(super) bytes: &'f [u8],
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// TTL or hop limit.
    pub(super) ttl: u8,
    /// Of the first header that is no extension of IPv6.
    pub(super) protocol: u8,
    pub(super) payload: Payload<'f>,
}

/// Bytes above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload<'f> {
    pub(super) bytes: &'f [u8],
    pub(super) extent: Extent,
}

/// Whether the bytes are all that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// The first of several fragments.
    FirstFragment,
    /// The capture has fewer bytes than the frame had.
    CutByCapture,
}

/// A UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram<'f> {
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) payload: Payload<'f>,
}

/// Reads a frame; `None` if it carries neither ARP nor IP, or is not the first fragment.
pub(super) fn ethernet(frame: &[u8]) -> Option<Ethernet<'_>> {
    let (to, rest) = frame.split_first_chunk()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (mut ethertype, mut rest) = be16(rest)?;
    for _ in 0..TAGS_MAX {
        if !matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_SERVICE_VLAN) {
            break;
        }
        let (_tag, inner) = be16(rest)?;
        (ethertype, rest) = be16(inner)?;
    }
    let content = match ethertype {
        ETHERTYPE_ARP => Content::Arp(rest),
        ETHERTYPE_IPV4 => Content::Ip(ipv4(rest)?),
        ETHERTYPE_IPV6 => Content::Ip(ipv6(rest)?),
        _ => return None,
    };
    Some(Ethernet {
        to: MacAddr(*to),
        from: MacAddr(*from),
        content,
    })
}

/// RFC 791 §3.1.
fn ipv4(bytes: &[u8]) -> Option<Packet<'_>> {
    let header: &[u8; 20] = bytes.first_chunk()?;
    let [
        version_ihl,
        _tos,
        len_high,
        len_low,
        _,
        _,
        frag_high,
        frag_low,
        ttl,
        protocol,
        _,
        _,
        addresses @ ..,
    ] = *header;
    let header_len = usize::from(version_ihl & 0xf).checked_mul(4)?;
    let total_len = usize::from(u16::from_be_bytes([len_high, len_low]));
    let fragment = u16::from_be_bytes([frag_high, frag_low]);
    let (more_fragments, offset) = (fragment & 0x2000 != 0, fragment & 0x1fff);
    if version_ihl >> 4 != 4 || header_len < header.len() || offset != 0 {
        return None;
    }
    let payload_len = total_len.checked_sub(header_len)?;
    let [from @ .., a, b, c, d] = addresses;
    Some(Packet {
        bytes,
        from: Ipv4Addr::from(from).into(),
        to: Ipv4Addr::new(a, b, c, d).into(),
        ttl,
        protocol,
        payload: payload(bytes.get(header_len..)?, payload_len, more_fragments),
    })
}

/// RFC 8200 §3 and §4.
fn ipv6(bytes: &[u8]) -> Option<Packet<'_>> {
    let (header, mut rest): (&[u8; 40], _) = bytes.split_first_chunk()?;
    let [
        version,
        _,
        _,
        _,
        len_high,
        len_low,
        next,
        ttl,
        addresses @ ..,
    ] = *header;
    if version >> 4 != 6 {
        return None;
    }
    let (from, to) = addresses.split_first_chunk::<16>()?;
    let mut payload_len = usize::from(u16::from_be_bytes([len_high, len_low]));
    let mut protocol = next;
    let mut more_fragments = false;
    for _ in 0..EXTENSIONS_MAX {
        let [next, units, offset_high, offset_low] = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => *rest.first_chunk()?,
            _ => break,
        };
        let mut length = usize::from(units).checked_add(1)?.checked_mul(8)?;
        if protocol == FRAGMENT {
            let fragment = u16::from_be_bytes([offset_high, offset_low]);
            if fragment & 0xfff8 != 0 {
                return None;
            }
            more_fragments = fragment & 1 != 0;
            length = 8;
        }
        rest = rest.get(length..)?;
        payload_len = payload_len.checked_sub(length)?;
        protocol = next;
    }
    Some(Packet {
        bytes,
        from: Ipv6Addr::from(*from).into(),
        to: Ipv6Addr::from(*to.first_chunk::<16>()?).into(),
        ttl,
        protocol,
        payload: payload(rest, payload_len, more_fragments),
    })
}

/// Leaves out the padding of short frames.
fn payload(bytes: &[u8], sent_len: usize, more_fragments: bool) -> Payload<'_> {
    let (bytes, extent) = match bytes.get(..sent_len) {
        Some(bytes) if more_fragments => (bytes, Extent::FirstFragment),
        Some(bytes) => (bytes, Extent::Whole),
        None => (bytes, Extent::CutByCapture),
    };
    Payload { bytes, extent }
}

/// RFC 768; `None` if not even the header is there.
pub(super) fn udp<'f>(packet: &Packet<'f>) -> Option<Datagram<'f>> {
    if packet.protocol != UDP {
        return None;
    }
    let (header, rest): (&[u8; 8], _) = packet.payload.bytes.split_first_chunk()?;
    let [
        from_high,
        from_low,
        to_high,
        to_low,
        len_high,
        len_low,
        _,
        _,
    ] = *header;
    let length = usize::from(u16::from_be_bytes([len_high, len_low]));
    let payload_len = length.checked_sub(header.len())?;
    let payload = match packet.payload.extent {
        Extent::Whole => payload(rest, payload_len, false),
        extent @ (Extent::FirstFragment | Extent::CutByCapture) => Payload {
            bytes: rest,
            extent,
        },
    };
    Some(Datagram {
        from: u16::from_be_bytes([from_high, from_low]),
        to: u16::from_be_bytes([to_high, to_low]),
        payload,
    })
}

fn be16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (value, rest) = bytes.split_first_chunk()?;
    Some((u16::from_be_bytes(*value), rest))
}
