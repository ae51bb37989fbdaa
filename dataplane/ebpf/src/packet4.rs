//! IPv4 packets (RFC 791).

use aya_ebpf::bindings::bpf_redir_neigh;
use aya_ebpf::helpers::bpf_redirect_neigh;
use aya_ebpf::programs::TcContext;
use dataplane_common::Be32;
use dataplane_common::csum::{replace16, replace32};

use crate::emit4;
use crate::packet::{
    AddressChange, ETH_HLEN, IPPROTO_UDP, Packet, Unparsed, at, halves, is_followed, join,
    mend_checksum, pulled, transport,
};

const AF_INET: u32 = 2;
const IP_HLEN_MIN: u32 = 20;
/// More-fragments flag and offset (RFC 791 §3.1).
const FRAGMENT_BITS: u16 = 0x3fff;

/// IPv4 header without options (RFC 791 §3.1). Halves of addresses, because an Ethernet frame
/// leaves them on two-byte boundaries.
#[repr(C)]
pub struct Ip4 {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub check: u16,
    pub src: [u16; 2],
    pub dst: [u16; 2],
}

/// Reads the headers of an IPv4 frame.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Result<Packet<Be32>, Unparsed<Be32>> {
    let ip: *const Ip4 = pulled(ctx, ETH_HLEN).ok_or(Unparsed::BadHeader)?;
    // SAFETY: `pulled` checked the bounds; nothing below moves the packet before the last read.
    let (version_ihl, protocol, fragment, ttl, total_len, src, dst) = unsafe {
        (
            (*ip).version_ihl,
            (*ip).protocol,
            (*ip).fragment,
            (*ip).ttl,
            u16::from_be((*ip).total_len),
            join((*ip).src),
            join((*ip).dst),
        )
    };
    let header_len = (version_ihl & 0xf) as u32 * 4;
    let frame_len = ctx.len() - ETH_HLEN;
    // A packet joined by the network card from several can be longer than its header can say.
    // SAFETY: the context is the program's own.
    let len = if total_len == 0 && unsafe { (*ctx.skb.skb).gso_size } != 0 {
        frame_len
    } else {
        total_len as u32
    };
    if version_ihl >> 4 != 4 || header_len < IP_HLEN_MIN || len < header_len || len > frame_len {
        return Err(Unparsed::BadHeader);
    }
    if !is_followed(protocol) {
        return Err(Unparsed::OtherProtocol { dst: Be32(dst) });
    }
    if fragment & FRAGMENT_BITS.to_be() != 0 {
        return Err(Unparsed::Fragment { dst: Be32(dst) });
    }
    let addresses = (Be32(src), Be32(dst));
    let l4 = ETH_HLEN + header_len;
    match transport(ctx, addresses, protocol, l4, len - header_len) {
        Some(packet) => Ok(Packet { len, ttl, ..packet }),
        None => Err(Unparsed::TooShort { dst: Be32(dst) }),
    }
}

/// Where a frame of IPv4 goes, without a look at what it carries.
#[inline(always)]
pub fn destination(ctx: &TcContext) -> Option<Be32> {
    let ip: *const Ip4 = pulled(ctx, ETH_HLEN)?;
    // SAFETY: `pulled` checked the bounds.
    Some(Be32(join(unsafe { (*ip).dst })))
}

/// Takes one off the TTL.
///
/// # Safety
/// `ip` points to a checked header.
#[inline(always)]
unsafe fn ttl_less_one(ip: *mut Ip4) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let old = u16::from_ne_bytes([(*ip).ttl, (*ip).protocol]);
        let ttl = (*ip).ttl - 1;
        (*ip).ttl = ttl;
        (*ip).check = replace16((*ip).check, old, u16::from_ne_bytes([ttl, (*ip).protocol]));
    }
}

#[inline(always)]
pub fn decrement_ttl(ctx: &TcContext) -> bool {
    let Some(ip) = at::<Ip4>(ctx, ETH_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    unsafe { ttl_less_one(ip) }
    true
}

/// Replaces source or destination, takes one off the TTL, and mends the checksums.
#[inline(always)]
pub fn rewrite<const SOURCE: bool>(
    ctx: &TcContext,
    packet: &Packet<Be32>,
    addr: u32,
    port: u16,
) -> bool {
    let protocol = packet.key.protocol;
    // Always true; it tells the verifier the bound.
    let l4 = packet.l4 & 0x7f;
    let Some(ip) = at::<Ip4>(ctx, ETH_HLEN) else {
        return false;
    };
    let Some(header) = at::<[u16; 4]>(ctx, l4) else {
        return false;
    };
    let (old_addr, ports, udp_check);
    // SAFETY: `at` checked the bounds, and nothing moves the packet before the last access.
    unsafe {
        let old_ports = join([(*header)[0], (*header)[1]]);
        if SOURCE {
            old_addr = packet.key.src.0;
            (*ip).src = halves(addr);
            (*header)[0] = port;
        } else {
            old_addr = packet.key.dst.0;
            (*ip).dst = halves(addr);
            (*header)[1] = port;
        }
        ports = (old_ports, join([(*header)[0], (*header)[1]]));
        (*ip).check = replace32((*ip).check, old_addr, addr);
        ttl_less_one(ip);
        udp_check = (*header)[3];
    }
    if protocol == IPPROTO_UDP && udp_check == 0 {
        // As the kernel does it: a datagram without a checksum leaves with one.
        return emit4::fill_udp_checksum(ctx, l4, packet.len);
    }
    let change = AddressChange {
        from: old_addr as u64,
        to: addr as u64,
        size: 4,
    };
    let after_ports = packet.len.wrapping_sub(l4 - ETH_HLEN).wrapping_sub(4);
    mend_checksum(ctx, protocol, l4, change, ports, after_ports)
}

/// Hands the packet to an IPv4 neighbour.
#[inline(always)]
pub fn redirect(ifindex: u32, via: u32) -> i32 {
    // SAFETY: an all-zero value of this plain structure is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET;
    neighbour.__bindgen_anon_1.ipv4_nh = via;
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
