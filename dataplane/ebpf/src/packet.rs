//! Reads and writes headers: the only file with raw packet pointers.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_pull_data;
use aya_ebpf::programs::TcContext;
use dataplane_common::{Be16, Be32, FlowKey4};

pub const ETH_HLEN: u32 = 14;
pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
const IP_HLEN_MIN: u32 = 20;
/// TCP header without options, and UDP header.
const TCP_HLEN: u32 = 20;
const UDP_HLEN: u32 = 8;
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

/// What TCP and UDP have in common.
#[repr(C)]
pub struct Ports {
    pub sport: u16,
    pub dport: u16,
}

/// First bytes of an ARP packet for IPv4 over Ethernet (RFC 826).
#[repr(C)]
struct Arp {
    fixed: [u16; 3],
    operation: u16,
    sender_mac: [u16; 3],
    sender: [u16; 2],
    target_mac: [u16; 3],
    target: [u16; 2],
}

/// What the director needs of an IPv4 packet.
pub struct Packet {
    /// The packet's own addresses.
    pub key: FlowKey4,
    /// Offset in bytes of the transport header from the start of the frame.
    pub l4: u32,
    /// Length of the IP packet in bytes.
    pub len: u64,
    pub ttl: u8,
    pub tcp_flags: u8,
}

/// Why a packet has no [`Packet`].
pub enum Unparsed {
    BadHeader,
    OtherProtocol,
    Fragment { dst: Be32 },
    TooShort { dst: Be32 },
}

/// Joins two halves of an address as they stand in the packet.
#[inline(always)]
pub fn join(halves: [u16; 2]) -> u32 {
    halves[0] as u32 | (halves[1] as u32) << 16
}

/// Splits an address for writing.
#[inline(always)]
pub fn halves(addr: u32) -> [u16; 2] {
    [addr as u16, (addr >> 16) as u16]
}

/// A header at `offset`, if the frame's linear part holds it whole.
#[inline(always)]
pub fn at<T>(ctx: &TcContext, offset: u32) -> Option<*mut T> {
    let (data, data_end) = linear_part(ctx);
    let start = data + offset as usize;
    if start + size_of::<T>() > data_end {
        return None;
    }
    Some(start as *mut T)
}

/// Start and end of the linear part.
///
/// The context declares both as 32-bit fields. Read as such, the compiler may copy them with 32-bit
/// moves, which the verifier does not take for pointers any more; so they are read as what they
/// become.
#[inline(always)]
fn linear_part(ctx: &TcContext) -> (usize, usize) {
    let (data, data_end): (usize, usize);
    let skb = ctx.skb.skb;
    // SAFETY: the context is the program's own; the offsets are those of `data` and `data_end`.
    unsafe {
        asm!("{0} = *(u32 *)({1} + 76)", out(reg) data, in(reg) skb);
        asm!("{0} = *(u32 *)({1} + 80)", out(reg) data_end, in(reg) skb);
    }
    (data, data_end)
}

const _: () = {
    assert!(core::mem::offset_of!(__sk_buff, data) == 76);
    assert!(core::mem::offset_of!(__sk_buff, data_end) == 80);
};

/// As [`at`], after pulling the header into the linear part if it is not there.
#[inline(always)]
fn pulled<T>(ctx: &TcContext, offset: u32) -> Option<*mut T> {
    if let Some(header) = at(ctx, offset) {
        return Some(header);
    }
    // SAFETY: the helper gets the program's own context.
    let failed = unsafe { bpf_skb_pull_data(ctx.skb.skb, offset + size_of::<T>() as u32) };
    if failed != 0 {
        return None;
    }
    at(ctx, offset)
}

/// Target of an ARP request, if the frame is one.
#[inline(always)]
pub fn arp_request_target(ctx: &TcContext) -> Option<u32> {
    let arp: *const Arp = pulled(ctx, ETH_HLEN)?;
    // SAFETY: `pulled` checked the bounds.
    unsafe {
        if (*arp).operation != 1u16.to_be() {
            return None;
        }
        Some(join((*arp).target))
    }
}

/// Reads the headers of an IPv4 frame.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Result<Packet, Unparsed> {
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
    let len = if total_len == 0 {
        frame_len
    } else {
        total_len as u32
    };
    if version_ihl >> 4 != 4 || header_len < IP_HLEN_MIN || len < header_len || len > frame_len {
        return Err(Unparsed::BadHeader);
    }
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return Err(Unparsed::OtherProtocol);
    }
    if fragment & FRAGMENT_BITS.to_be() != 0 {
        return Err(Unparsed::Fragment { dst: Be32(dst) });
    }
    let l4 = ETH_HLEN + header_len;
    let too_short = Unparsed::TooShort { dst: Be32(dst) };
    let transport_len = if protocol == IPPROTO_TCP {
        TCP_HLEN
    } else {
        UDP_HLEN
    };
    if len < header_len + transport_len {
        return Err(too_short);
    }
    let (ports, tcp_flags): (*const Ports, u8) = if protocol == IPPROTO_TCP {
        let Some(tcp) = pulled::<[u8; 20]>(ctx, l4) else {
            return Err(too_short);
        };
        // SAFETY: `pulled` checked the bounds.
        (tcp.cast(), unsafe { (*tcp)[13] })
    } else {
        let Some(udp) = pulled::<[u8; 8]>(ctx, l4) else {
            return Err(too_short);
        };
        (udp.cast(), 0)
    };
    // SAFETY: inside the header checked above.
    let (sport, dport) = unsafe { ((*ports).sport, (*ports).dport) };
    let key = FlowKey4::flow(Be32(src), Be16(sport), Be32(dst), Be16(dport), protocol);
    Ok(Packet {
        key,
        l4,
        len: len as u64,
        ttl,
        tcp_flags,
    })
}
