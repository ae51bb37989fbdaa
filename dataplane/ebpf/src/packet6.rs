//! IPv6 packets (RFC 8200).

use aya_ebpf::bindings::{__sk_buff, bpf_redir_neigh};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use dataplane_common::{Addr6, Be32};

use crate::emit6;
use crate::packet::{
    AddressChange, ETH_HLEN, IPPROTO_ICMPV6, IPPROTO_UDP, Packet, Unparsed, at, is_followed, join,
    mend_checksum, pulled, transport,
};

const AF_INET6: u32 = 10;
pub const IP6_HLEN: u32 = 40;
/// Extension headers looked at before a packet is given up.
const EXTENSIONS_MAX: u32 = 6;
/// Next-header numbers (RFC 8200 §4, RFC 4302).
pub const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
/// ICMPv6 types of neighbour discovery, router solicitation to redirect, and of a neighbour
/// solicitation (RFC 4861 §4).
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// IPv6 header (RFC 8200 §3). Behind an Ethernet header its words lie as IPv4's do.
#[repr(C)]
pub struct Ip6 {
    pub version_class_label: u32,
    pub payload_len: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub src: [u32; 4],
    pub dst: [u32; 4],
}

/// Start of a neighbour solicitation.
#[repr(C)]
struct Solicitation {
    kind: u8,
    code: u8,
    check: u16,
    reserved: u32,
    target: [u32; 4],
}

#[inline(always)]
pub fn address(words: [u32; 4]) -> Addr6 {
    [
        Be32(words[0]),
        Be32(words[1]),
        Be32(words[2]),
        Be32(words[3]),
    ]
}

/// What lies between the fixed header and the transport header.
struct Extensions {
    protocol: u8,
    /// Bytes.
    len: u32,
    end: End,
}

enum End {
    Transport,
    Fragment,
    TooMany,
    Unreadable,
}

/// Reads the headers of an IPv6 frame.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Result<Packet<Addr6>, Unparsed<Addr6>> {
    let ip: *const Ip6 = pulled(ctx, ETH_HLEN).ok_or(Unparsed::BadHeader)?;
    // SAFETY: `pulled` checked the bounds; nothing below moves the packet before the last read.
    let (version, next, ttl, payload_len, src, dst) = unsafe {
        (
            u32::from_be((*ip).version_class_label) >> 28,
            (*ip).next_header,
            (*ip).hop_limit,
            u16::from_be((*ip).payload_len),
            address((*ip).src),
            address((*ip).dst),
        )
    };
    let frame_len = ctx.len() - ETH_HLEN;
    // A packet joined by the network card from several can be longer than its header can say.
    // A larger one yet carries its length in a hop-by-hop option (RFC 2675).
    let len = if payload_len == 0 {
        frame_len
    } else {
        payload_len as u32 + IP6_HLEN
    };
    if version != 6 || len > frame_len || len < IP6_HLEN {
        return Err(Unparsed::BadHeader);
    }
    let (protocol, extensions) = if is_followed(next) {
        (next, 0)
    } else if next == IPPROTO_ICMPV6 {
        return Err(control_message(ctx, dst, 0));
    } else {
        match skip_extensions(ctx.skb.skb, next) {
            Extensions {
                end: End::Fragment, ..
            } => return Err(Unparsed::Fragment { dst }),
            Extensions {
                end: End::TooMany, ..
            } => return Err(Unparsed::TooManyHeaders { dst }),
            Extensions {
                end: End::Unreadable,
                ..
            } => return Err(Unparsed::TooShort { dst }),
            found if found.protocol == IPPROTO_ICMPV6 => {
                return Err(control_message(ctx, dst, found.len & 0xff));
            }
            found if !is_followed(found.protocol) => return Err(Unparsed::OtherProtocol { dst }),
            found => (found.protocol, found.len & 0xff),
        }
    };
    let header_len = IP6_HLEN + extensions;
    if len < header_len {
        return Err(Unparsed::TooShort { dst });
    }
    let l4 = ETH_HLEN + header_len;
    match transport(ctx, (src, dst), protocol, l4, len - header_len) {
        Some(packet) => Ok(Packet { len, ttl, ..packet }),
        None => Err(Unparsed::TooShort { dst }),
    }
}

/// An ICMPv6 message behind so many bytes of extension headers: it is nobody's but the stack's,
/// unless it asks for a virtual address.
#[inline(always)]
fn control_message(ctx: &TcContext, dst: Addr6, extensions: u32) -> Unparsed<Addr6> {
    let offset = ETH_HLEN + IP6_HLEN + extensions;
    let mut kind = 0u8;
    // SAFETY: the helper gets the program's own context and writes one byte.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut kind).cast(), 1) };
    if failed != 0 || !NEIGHBOUR_DISCOVERY.contains(&kind) {
        return Unparsed::OtherProtocol { dst };
    }
    if kind != NEIGHBOUR_SOLICITATION {
        return Unparsed::NeighbourDiscovery;
    }
    let Some(message) = pulled::<Solicitation>(ctx, offset) else {
        return Unparsed::NeighbourDiscovery;
    };
    // SAFETY: `pulled` checked the bounds.
    unsafe {
        Unparsed::Solicitation {
            target: address((*message).target),
        }
    }
}

/// Walks over extension headers, up to 255 bytes of them (RFC 8200 §4).
#[inline(never)]
fn skip_extensions(skb: *mut __sk_buff, first: u8) -> Extensions {
    let mut found = Extensions {
        protocol: first,
        len: 0,
        end: End::Transport,
    };
    for _ in 0..=EXTENSIONS_MAX {
        let units = match found.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY => 8,
            AUTHENTICATION => 4,
            FRAGMENT => {
                found.end = End::Fragment;
                return found;
            }
            _ => return found,
        };
        let mut header = [0u8; 2];
        let offset = ETH_HLEN + IP6_HLEN + found.len;
        // SAFETY: the helper gets the program's own context and writes two bytes.
        let failed = unsafe { bpf_skb_load_bytes(skb.cast(), offset, (&raw mut header).cast(), 2) };
        if failed != 0 {
            found.end = End::Unreadable;
            return found;
        }
        found.protocol = header[0];
        found.len += if units == 8 {
            (header[1] as u32 + 1) * 8
        } else {
            (header[1] as u32 + 2) * 4
        };
        if found.len > 0xff {
            break;
        }
    }
    found.end = End::TooMany;
    found
}

#[inline(always)]
pub fn decrement_hop_limit(ctx: &TcContext) -> bool {
    let Some(ip) = at::<Ip6>(ctx, ETH_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    unsafe { (*ip).hop_limit -= 1 }
    true
}

/// Replaces source or destination, takes one off the hop limit, and mends the checksum.
#[inline(always)]
pub fn rewrite<const SOURCE: bool>(
    ctx: &TcContext,
    packet: &Packet<Addr6>,
    addr: Addr6,
    port: u16,
) -> bool {
    let protocol = packet.key.protocol;
    // Always true; it tells the verifier the bound.
    let l4 = packet.l4 & 0x1ff;
    let Some(ip) = at::<Ip6>(ctx, ETH_HLEN) else {
        return false;
    };
    let Some(header) = at::<[u16; 4]>(ctx, l4) else {
        return false;
    };
    let (old_addr, ports, udp_check);
    // SAFETY: `at` checked the bounds, and nothing moves the packet before the last access.
    unsafe {
        let words = [addr[0].0, addr[1].0, addr[2].0, addr[3].0];
        let old_ports = join([(*header)[0], (*header)[1]]);
        if SOURCE {
            old_addr = packet.key.src;
            (*ip).src = words;
            (*header)[0] = port;
        } else {
            old_addr = packet.key.dst;
            (*ip).dst = words;
            (*header)[1] = port;
        }
        ports = (old_ports, join([(*header)[0], (*header)[1]]));
        (*ip).hop_limit -= 1;
        udp_check = (*header)[3];
    }
    if protocol == IPPROTO_UDP && udp_check == 0 {
        // As the kernel does it: a datagram without a checksum leaves with one.
        return emit6::fill_udp_checksum(ctx, l4, packet.len);
    }
    let change = AddressChange {
        from: 0,
        to: difference(old_addr, addr),
        size: 0,
    };
    let after_ports = packet.len.wrapping_sub(l4 - ETH_HLEN).wrapping_sub(4);
    mend_checksum(ctx, protocol, l4, change, ports, after_ports)
}

/// What one address in place of another adds to a sum of 32-bit words.
#[inline(always)]
fn difference(old: Addr6, new: Addr6) -> u64 {
    let gone = (!old[0].0) as u64 + (!old[1].0) as u64 + (!old[2].0) as u64 + (!old[3].0) as u64;
    let come = new[0].0 as u64 + new[1].0 as u64 + new[2].0 as u64 + new[3].0 as u64;
    let sum = gone + come;
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// Hands the packet to an IPv6 neighbour.
#[inline(always)]
pub fn redirect(ifindex: u32, via: Addr6) -> i32 {
    // SAFETY: an all-zero value of this plain structure is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET6;
    neighbour.__bindgen_anon_1.ipv6_nh = [via[0].0, via[1].0, via[2].0, via[3].0];
    // SAFETY: the structure lives during the call and its size is given.
    unsafe {
        bpf_redirect_neigh(
            ifindex,
            &raw mut neighbour,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        ) as i32
    }
}
