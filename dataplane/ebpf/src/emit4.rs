//! ICMP errors (RFC 792), and UDP checksums over IPv4.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::Be32;
use dataplane_common::csum::fold;
use dataplane_common::verdict::Verdict;

use crate::Outcome;
use crate::emit::{DEFAULT_TTL, ICMP_HLEN, error, make_room, sum_of};
use crate::family::V4;
use crate::packet::{ETH_HLEN, IPPROTO_ICMP, IPPROTO_UDP, Packet, at, halves, join};
use crate::packet4::Ip4;

const IP_HLEN: u32 = 20;
/// Longest ICMP error, IP header included (RFC 1812 §4.3.2.3).
const ICMP_ERROR_MAX: u32 = 576;
/// What an error quotes at most of the packet it is about.
const QUOTE_MAX: u32 = ICMP_ERROR_MAX - IP_HLEN - ICMP_HLEN;
/// Precedence "internetwork control", which ICMP errors carry (RFC 1812 §4.3.2.5).
const TOS_CONTROL: u8 = 0xc0;
/// The type-of-service bits an error takes over from the packet it is about.
const TOS_KEPT: u8 = 0x1e;
/// Destination unreachable, port unreachable.
const PORT_UNREACHABLE: u16 = u16::from_ne_bytes([3, 3]);
/// Time exceeded in transit.
const TIME_EXCEEDED: u16 = u16::from_ne_bytes([11, 0]);

/// ICMP header of an error (RFC 792).
#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    check: u16,
    unused: u32,
}

/// IPv4 and ICMP header in one, as they are put in front of the quoted packet.
#[repr(C)]
struct ErrorHeaders {
    ip: Ip4,
    icmp: [u16; 4],
}

/// Drops the packet for this reason and tells the client that nobody serves there.
#[inline(always)]
pub fn port_unreachable(ctx: &TcContext, packet: &Packet<Be32>, reason: Verdict) -> Outcome {
    answer(ctx, packet, PORT_UNREACHABLE, reason)
}

/// Drops the packet and tells the client that its TTL ended here.
#[inline(always)]
pub fn time_exceeded(ctx: &TcContext, packet: &Packet<Be32>) -> Outcome {
    answer(ctx, packet, TIME_EXCEEDED, Verdict::TtlExceeded)
}

/// A function of its own, so that its stack is not the caller's too.
#[inline(never)]
fn answer(ctx: &TcContext, packet: &Packet<Be32>, kind_code: u16, reason: Verdict) -> Outcome {
    error::<V4>(ctx, packet, reason, |skb, len| {
        make_error(skb, len, kind_code)
    })
}

/// Cuts the packet to what an error quotes, and puts the headers of the error in front.
#[inline(never)]
fn make_error(skb: *mut __sk_buff, packet_len: u32, kind_code: u16) -> bool {
    let ctx = TcContext::new(skb);
    let quoted = if packet_len > QUOTE_MAX {
        QUOTE_MAX
    } else {
        packet_len
    };
    if !make_room(skb, quoted, IP_HLEN + ICMP_HLEN) {
        return false;
    }
    let Some(quote) = at::<Ip4>(&ctx, ETH_HLEN + IP_HLEN + ICMP_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let (tos, client, vip) = unsafe { ((*quote).tos, join((*quote).src), join((*quote).dst)) };
    let Some(headers) = at::<ErrorHeaders>(&ctx, ETH_HLEN) else {
        return false;
    };
    // SAFETY: as above.
    unsafe {
        let ip = &raw mut (*headers).ip;
        (*ip).version_ihl = 0x45;
        (*ip).tos = (tos & TOS_KEPT) | TOS_CONTROL;
        (*ip).total_len = ((IP_HLEN + ICMP_HLEN + quoted) as u16).to_be();
        (*ip).id = 0;
        (*ip).fragment = 0;
        (*ip).ttl = DEFAULT_TTL;
        (*ip).protocol = IPPROTO_ICMP;
        (*ip).check = 0;
        (*ip).src = halves(vip);
        (*ip).dst = halves(client);
        (*headers).icmp = [kind_code, 0, 0, 0];
        let words = ip.cast::<[u16; 10]>();
        let mut sum = 0u64;
        for index in 0..10 {
            sum += (*words)[index] as u64;
        }
        (*ip).check = !fold(sum);
    }
    let Some(sum) = sum_of(skb, ETH_HLEN + IP_HLEN, ICMP_HLEN + quoted, 0) else {
        return false;
    };
    let Some(icmp) = at::<Icmp>(&ctx, ETH_HLEN + IP_HLEN) else {
        return false;
    };
    // SAFETY: as above.
    unsafe { (*icmp).check = !fold(sum) }
    true
}

/// Computes and stores the checksum of a UDP datagram that has none (RFC 768).
#[inline(always)]
pub fn fill_udp_checksum(ctx: &TcContext, l4: u32, packet_len: u32) -> bool {
    fill_udp(ctx.skb.skb, l4, packet_len)
}

#[inline(never)]
fn fill_udp(skb: *mut __sk_buff, l4: u32, packet_len: u32) -> bool {
    let ctx = TcContext::new(skb);
    let l4 = l4 & 0x7f;
    let len = packet_len.wrapping_sub(l4 - ETH_HLEN) & 0xffff;
    let Some(ip) = at::<Ip4>(&ctx, ETH_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let (src, dst) = unsafe { (join((*ip).src), join((*ip).dst)) };
    let pseudo = (src & 0xffff) as u64
        + (src >> 16) as u64
        + (dst & 0xffff) as u64
        + (dst >> 16) as u64
        + (IPPROTO_UDP as u16).to_be() as u64
        + (len as u16).to_be() as u64;
    let Some(sum) = sum_of(skb, l4, len, pseudo) else {
        return false;
    };
    let check = !fold(sum);
    let Some(header) = at::<[u16; 4]>(&ctx, l4) else {
        return false;
    };
    // SAFETY: as above. A computed zero is sent as all ones.
    unsafe { (*header)[3] = if check == 0 { 0xffff } else { check } }
    true
}
