//! ICMPv6 errors (RFC 4443), and UDP checksums over IPv6.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use dataplane_common::Addr6;
use dataplane_common::csum::fold;
use dataplane_common::verdict::Verdict;

use crate::Outcome;
use crate::emit::{DEFAULT_TTL, ICMP_HLEN, error, make_room, sum_of};
use crate::family::V6;
use crate::packet::{ETH_HLEN, IPPROTO_ICMPV6, IPPROTO_UDP, Packet, at};
use crate::packet6::{IP6_HLEN, Ip6};

/// Longest ICMPv6 error: the least MTU of IPv6 (RFC 4443 §2.4).
const ICMP_ERROR_MAX: u32 = 1280;
/// What an error quotes at most of the packet it is about.
const QUOTE_MAX: u32 = ICMP_ERROR_MAX - IP6_HLEN - ICMP_HLEN;
/// Destination unreachable, port unreachable (RFC 4443 §3.1).
const PORT_UNREACHABLE: u16 = u16::from_ne_bytes([1, 4]);
/// Hop limit exceeded in transit (RFC 4443 §3.3).
const TIME_EXCEEDED: u16 = u16::from_ne_bytes([3, 0]);

/// IPv6 and ICMPv6 header in one, as they are put in front of the quoted packet.
#[repr(C)]
struct ErrorHeaders {
    ip: Ip6,
    icmp: [u16; 4],
}

/// Drops the packet for this reason and tells the client that nobody serves there.
#[inline(always)]
pub fn port_unreachable(ctx: &TcContext, packet: &Packet<Addr6>, reason: Verdict) -> Outcome {
    answer(ctx, packet, PORT_UNREACHABLE, reason)
}

/// Drops the packet and tells the client that its hop limit ended here.
#[inline(always)]
pub fn time_exceeded(ctx: &TcContext, packet: &Packet<Addr6>) -> Outcome {
    answer(ctx, packet, TIME_EXCEEDED, Verdict::TtlExceeded)
}

/// A function of its own, so that its stack is not the caller's too.
#[inline(never)]
fn answer(ctx: &TcContext, packet: &Packet<Addr6>, kind_code: u16, reason: Verdict) -> Outcome {
    error::<V6>(ctx, packet, reason, |skb, len| {
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
    if !make_room(skb, quoted, IP6_HLEN + ICMP_HLEN) {
        return false;
    }
    let Some(quote) = at::<Ip6>(&ctx, ETH_HLEN + IP6_HLEN + ICMP_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let (client, vip) = unsafe { ((*quote).src, (*quote).dst) };
    let Some(headers) = at::<ErrorHeaders>(&ctx, ETH_HLEN) else {
        return false;
    };
    let len = ICMP_HLEN + quoted;
    // SAFETY: as above.
    unsafe {
        let ip = &raw mut (*headers).ip;
        (*ip).version_class_label = (6u32 << 28).to_be();
        (*ip).payload_len = (len as u16).to_be();
        (*ip).next_header = IPPROTO_ICMPV6;
        (*ip).hop_limit = DEFAULT_TTL;
        (*ip).src = vip;
        (*ip).dst = client;
        (*headers).icmp = [kind_code, 0, 0, 0];
    }
    let Some(sum) = sum_of(
        skb,
        ETH_HLEN + IP6_HLEN,
        len,
        pseudo(vip, client, len, IPPROTO_ICMPV6),
    ) else {
        return false;
    };
    let Some(icmp) = at::<[u16; 4]>(&ctx, ETH_HLEN + IP6_HLEN) else {
        return false;
    };
    // SAFETY: as above.
    unsafe { (*icmp)[1] = !fold(sum) }
    true
}

/// Sum of the pseudo header (RFC 8200 §8.1).
#[inline(always)]
fn pseudo(src: [u32; 4], dst: [u32; 4], len: u32, protocol: u8) -> u64 {
    let addresses = src[0] as u64
        + src[1] as u64
        + src[2] as u64
        + src[3] as u64
        + dst[0] as u64
        + dst[1] as u64
        + dst[2] as u64
        + dst[3] as u64;
    addresses + len.to_be() as u64 + (protocol as u32).to_be() as u64
}

/// Computes and stores the checksum of a UDP datagram that has none.
#[inline(always)]
pub fn fill_udp_checksum(ctx: &TcContext, l4: u32, packet_len: u32) -> bool {
    fill_udp(ctx.skb.skb, l4, packet_len)
}

#[inline(never)]
fn fill_udp(skb: *mut __sk_buff, l4: u32, packet_len: u32) -> bool {
    let ctx = TcContext::new(skb);
    let l4 = l4 & 0x1ff;
    let len = packet_len.wrapping_sub(l4 - ETH_HLEN) & 0xffff;
    let Some(ip) = at::<Ip6>(&ctx, ETH_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    let (src, dst) = unsafe { ((*ip).src, (*ip).dst) };
    let Some(sum) = sum_of(skb, l4, len, pseudo(src, dst, len, IPPROTO_UDP)) else {
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
