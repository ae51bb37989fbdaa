//! Packets of both families, and access to their bytes: this file and its siblings `packet4` and
//! `packet6` are the only ones with raw packet pointers.

use core::arch::asm;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
pub use dataplane_common::passing::Packet;
use dataplane_common::rules::crc32c;
use dataplane_common::rules::sctp::SctpEvent;
use dataplane_common::{Address, FlowKey};

pub const ETH_HLEN: u32 = 14;
pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_ARP: u16 = 0x0806;
pub const IPPROTO_ICMP: u8 = 1;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_ICMPV6: u8 = 58;
pub const IPPROTO_SCTP: u8 = 132;
/// TCP header without options, UDP header, SCTP header with the header of its first chunk.
const TCP_HLEN: u32 = 20;
const UDP_HLEN: u32 = 8;
const SCTP_HLEN: u32 = 16;
/// Offset of the checksum in a TCP, UDP and SCTP header.
const TCP_CHECK: u32 = 16;
const UDP_CHECK: u32 = 6;
const SCTP_CHECK: u32 = 8;
/// SCTP header without a chunk.
const SCTP_COMMON: u32 = 12;

/// What TCP, UDP and SCTP have in common.
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

/// Why a packet has no [`Packet`].
pub enum Unparsed<A> {
    BadHeader,
    OtherProtocol {
        dst: A,
    },
    /// A message of neighbour discovery other than a solicitation.
    NeighbourDiscovery,
    Fragment {
        dst: A,
    },
    TooShort {
        dst: A,
    },
    TooManyHeaders {
        dst: A,
    },
    /// A neighbour solicitation for this address.
    Solicitation {
        target: A,
    },
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
pub fn pulled<T>(ctx: &TcContext, offset: u32) -> Option<*mut T> {
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

/// Joins two halves of an IPv4 address as they stand in the packet.
#[inline(always)]
pub fn join(halves: [u16; 2]) -> u32 {
    halves[0] as u32 | (halves[1] as u32) << 16
}

/// Splits an IPv4 address for writing.
#[inline(always)]
pub fn halves(addr: u32) -> [u16; 2] {
    [addr as u16, (addr >> 16) as u16]
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

/// Whether connections of this protocol are followed.
#[inline(always)]
pub fn is_followed(protocol: u8) -> bool {
    protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP
}

/// Reads the transport header at `l4`, of which the packet has `left` bytes; `None` when that is too
/// short.
#[inline(always)]
pub fn transport<A: Address>(
    ctx: &TcContext,
    (src, dst): (A, A),
    protocol: u8,
    l4: u32,
    left: u32,
) -> Option<Packet<A>> {
    let (ports, flags, event): (*const Ports, u8, u8) = match protocol {
        IPPROTO_TCP if left >= TCP_HLEN => {
            let tcp = pulled::<[u8; TCP_HLEN as usize]>(ctx, l4)?;
            // SAFETY: `pulled` checked the bounds.
            (tcp.cast(), unsafe { (*tcp)[13] }, 0)
        }
        IPPROTO_UDP if left >= UDP_HLEN => {
            (pulled::<[u8; UDP_HLEN as usize]>(ctx, l4)?.cast(), 0, 0)
        }
        IPPROTO_SCTP if left >= SCTP_HLEN => {
            let sctp = pulled::<[u8; SCTP_HLEN as usize]>(ctx, l4)?;
            // SAFETY: `pulled` checked the bounds.
            let (first, length) =
                unsafe { ((*sctp)[12], u16::from_be_bytes([(*sctp)[14], (*sctp)[15]])) };
            let second = if SctpEvent::needs_second(first) {
                second_chunk(ctx, l4, length as u32, left)
            } else {
                None
            };
            let event = SctpEvent::from_chunks(first, second);
            (at::<Ports>(ctx, l4)?.cast_const(), first, event as u8)
        }
        _ => return None,
    };
    // SAFETY: inside the header checked above.
    let (sport, dport) = unsafe { ((*ports).sport, (*ports).dport) };
    let (sport, dport) = (dataplane_common::Be16(sport), dataplane_common::Be16(dport));
    Some(Packet {
        key: FlowKey::flow(src, sport, dst, dport, protocol),
        l4,
        len: 0,
        ttl: 0,
        flags,
        event,
        reserved: 0,
    })
}

/// Type of the chunk behind the first one, whose length in bytes is `length`.
#[inline(never)]
fn second_chunk(ctx: &TcContext, l4: u32, length: u32, left: u32) -> Option<u8> {
    const CHUNK_HLEN: u32 = 4;
    if length < CHUNK_HLEN {
        return None;
    }
    let offset = SCTP_COMMON + (length.wrapping_add(3) & 0x1_fffc);
    if offset + CHUNK_HLEN > left {
        return None;
    }
    let mut kind = 0u8;
    // SAFETY: the helper gets the program's own context and writes one byte.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), l4 + offset, (&raw mut kind).cast(), 1) };
    (failed == 0).then_some(kind)
}

/// What a rewritten address adds to the sum over the pseudo header.
#[derive(Clone, Copy)]
pub struct AddressChange {
    pub from: u64,
    pub to: u64,
    /// Bytes of the change, or 0 when `to` is a sum of differences.
    pub size: u64,
}

/// Mends the checksum of a transport header whose port changed from `old` to `new` and whose
/// pseudo header changed. `after_ports` is the number of bytes that follow the ports.
///
/// TCP and UDP are left to the helper, which knows of checksums that a device fills in. SCTP's
/// CRC32c does not cover addresses; one that a device fills in is computed anew there.
#[inline(always)]
pub fn mend_checksum(
    ctx: &TcContext,
    protocol: u8,
    l4: u32,
    change: AddressChange,
    (old, new): (u32, u32),
    after_ports: u32,
) -> bool {
    if protocol == IPPROTO_SCTP {
        return old == new || mend_crc(ctx, l4, old ^ new, after_ports);
    }
    let (check, mangled) = if protocol == IPPROTO_TCP {
        (l4 + TCP_CHECK, 0)
    } else {
        (l4 + UDP_CHECK, BPF_F_MARK_MANGLED_0 as u64)
    };
    let pseudo = BPF_F_PSEUDO_HDR as u64 | mangled | change.size;
    // SAFETY: the helper gets the program's own context.
    unsafe {
        if bpf_l4_csum_replace(ctx.skb.skb, check, change.from, change.to, pseudo) != 0 {
            return false;
        }
        old == new
            || bpf_l4_csum_replace(ctx.skb.skb, check, old as u64, new as u64, mangled | 4) == 0
    }
}

/// Mends the CRC32c of an SCTP packet of whose first four bytes the bits in `diff` changed.
#[inline(never)]
fn mend_crc(ctx: &TcContext, l4: u32, diff: u32, after_ports: u32) -> bool {
    let l4 = l4 & 0x1ff;
    let Some(check) = at::<[u32; 3]>(ctx, l4) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    unsafe {
        let old = u32::from_le((*check)[(SCTP_CHECK / 4) as usize]);
        let new = crc32c::replace(old, diff, after_ports & 0xffff);
        (*check)[(SCTP_CHECK / 4) as usize] = new.to_le();
    }
    true
}
