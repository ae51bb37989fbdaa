//! ICMP of both families, ARP, and neighbour solicitations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::check::{checksum, transport};
use super::{ICMPV6, Ip};

/// Bytes of an IPv4 error at most (RFC 1812 §4.3.2.3), and of an IPv6 error (RFC 4443 §2.4).
const IPV4_ERROR_MAX: usize = 576;
const IPV6_ERROR_MAX: usize = 1280;

/// An echo request or its reply as a whole packet; `kind` is that of ICMP for IPv4 (8 or 0), and
/// stands for its like (128 or 129) in IPv6.
pub fn icmp_echo(src: &str, dst: &str, kind: u8, sequence: u16) -> Vec<u8> {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let v6_kind = if kind == 8 { 128 } else { 129 };
    let kind = if dst.is_ipv6() { v6_kind } else { kind };
    let mut body = vec![kind, 0, 0, 0, 0x54, 0x44];
    body.extend_from_slice(&sequence.to_be_bytes());
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ipv4(src, dst, 0, [0, 1], 0x4000, body),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ipv6(src, dst, 0, 64, body),
        mixed => panic!("{mixed:?}"),
    }
}

/// The error that a director sends about a packet, from the address it was sent to, quoting as much
/// as an error may have. Numbers are those of ICMP for IPv4: 3/3 and 11/0 stand for 1/4 and 3/0.
pub fn icmp_error(about: &Ip, kind: u8, code: u8) -> Vec<u8> {
    let mut quote = about.bytes();
    let (kind, code) = match (about.is_ipv6(), kind, code) {
        (true, 3, 3) => (1, 4),
        (true, 11, 0) => (3, 0),
        (true, kind, code) => panic!("ICMP {kind}/{code}"),
        (false, kind, code) => (kind, code),
    };
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    match (about.dst.ip(), about.src.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            quote.truncate(IPV4_ERROR_MAX - 28);
            body.extend_from_slice(&quote);
            ipv4(src, dst, about.tos & 0x1e | 0xc0, [0, 0], 0, body)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            quote.truncate(IPV6_ERROR_MAX - 48);
            body.extend_from_slice(&quote);
            ipv6(src, dst, 0, 64, body)
        }
        mixed => panic!("{mixed:?}"),
    }
}

/// A neighbour solicitation for `target` (RFC 4861 §4.3) as a whole packet.
pub fn neighbour_solicitation(target: Ipv6Addr) -> Vec<u8> {
    let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&target.octets());
    body.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 9]);
    let low = target.octets();
    let mut group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0];
    group[13..].copy_from_slice(&low[13..]);
    let asker: Ipv6Addr = "fd00:1::2".parse().unwrap();
    ipv6(asker, Ipv6Addr::from(group), 0, 255, body)
}

/// A message of ICMPv6 with as much of a body as a neighbour solicitation has; `extended` behind a
/// header of destination options.
pub fn icmpv6(src: &str, dst: &str, kind: u8, extended: bool) -> Vec<u8> {
    let mut body = vec![kind];
    body.resize(24, 0);
    let mut packet = ipv6(src.parse().unwrap(), dst.parse().unwrap(), 0, 255, body);
    if extended {
        packet.splice(40..40, [ICMPV6, 0, 1, 4, 0, 0, 0, 0]);
        packet[5] += 8;
        packet[6] = 60;
    }
    packet
}

fn ipv4(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    tos: u8,
    id: [u8; 2],
    fragment: u16,
    mut body: Vec<u8>,
) -> Vec<u8> {
    let check = checksum(&[&body]);
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let mut packet = vec![0x45, tos];
    packet.extend_from_slice(&(20 + body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&id);
    packet.extend_from_slice(&fragment.to_be_bytes());
    packet.extend_from_slice(&[64, 1, 0, 0]);
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    let check = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend_from_slice(&body);
    packet
}

fn ipv6(src: Ipv6Addr, dst: Ipv6Addr, class: u8, hop_limit: u8, mut body: Vec<u8>) -> Vec<u8> {
    let check = transport(&src.octets(), &dst.octets(), ICMPV6, &body);
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let mut packet = vec![0x60 | class >> 4, class << 4, 0, 0];
    packet.extend_from_slice(&(body.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[ICMPV6, hop_limit]);
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    packet.extend_from_slice(&body);
    packet
}

/// An ARP packet over Ethernet about `target`: operation 1 asks, 2 answers.
pub fn arp(operation: u8, target: &str) -> Vec<u8> {
    let target: Ipv4Addr = target.parse().unwrap();
    let mut body = vec![
        0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 9, 10, 1, 0, 2,
    ];
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&target.octets());
    body
}
