//! Packets the director makes itself, and checksums over whole packets.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_loop, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
};
use aya_ebpf::programs::TcContext;
use dataplane_common::csum::fold;
use dataplane_common::settings::icmp_bucket;
use dataplane_common::verdict::Verdict;

use crate::clock::coarse_ns;
use crate::connection::SWAP_TRIES;
use crate::maps::{ICMP_BUCKET, SUMMING};
use crate::packet::{ETH_HLEN, IPPROTO_ICMP, IPPROTO_UDP, Ip4, Packet, at, halves, join};
use crate::transmit::{route, send};
use crate::{Outcome, atomic};

const IP_HLEN: u32 = 20;
const ICMP_HLEN: u32 = 8;
/// Longest ICMP error, IP header included (RFC 1812 §4.3.2.3).
const ICMP_ERROR_MAX: u32 = 576;
/// What an error quotes at most of the packet it is about.
const QUOTE_MAX: u32 = ICMP_ERROR_MAX - IP_HLEN - ICMP_HLEN;
/// TTL of packets the director makes (kernel name `ip_default_ttl`).
const DEFAULT_TTL: u8 = 64;
/// Precedence "internetwork control", which ICMP errors carry (RFC 1812 §4.3.2.5).
const TOS_CONTROL: u8 = 0xc0;
/// The type-of-service bits an error takes over from the packet it is about.
const TOS_KEPT: u8 = 0x1e;

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

/// Drops the packet and tells the client that nobody serves there.
#[inline(always)]
pub fn port_unreachable(ctx: &TcContext, packet: &Packet) -> Outcome {
    error(ctx, packet, 3, 3, Verdict::NoServer)
}

/// Drops the packet and tells the client that its TTL ended here.
#[inline(always)]
pub fn time_exceeded(ctx: &TcContext, packet: &Packet) -> Outcome {
    error(ctx, packet, 11, 0, Verdict::TtlExceeded)
}

/// Turns the frame into an ICMP error about itself and sends it back; the verdict says why, and is
/// a drop: the packet itself goes nowhere.
#[inline(always)]
fn error(ctx: &TcContext, packet: &Packet, kind: u8, code: u8, reason: Verdict) -> Outcome {
    let hop = route(packet.key.src.0);
    if hop == 0 || !take_token() || !make_error(ctx.skb.skb, packet.len as u32, kind, code) {
        return Verdict::IcmpSuppressed.into();
    }
    let sent = send(hop, Verdict::Reply);
    if sent.verdict as u32 != Verdict::Reply as u32 {
        return Verdict::IcmpSuppressed.into();
    }
    Outcome {
        verdict: reason,
        redirect: sent.redirect,
    }
}

/// One error from the director's budget.
#[inline(always)]
fn take_token() -> bool {
    let Some(bucket) = ICMP_BUCKET.get_ptr_mut(0) else {
        return false;
    };
    let now_ms = (coarse_ns() / 1_000_000) as u32;
    for _ in 0..SWAP_TRIES {
        // SAFETY: `bucket` is a map value.
        unsafe {
            let old = atomic::load(bucket);
            let Some(new) = icmp_bucket::take(old, now_ms) else {
                return false;
            };
            if atomic::swap(bucket, old, new) {
                return true;
            }
        }
    }
    false
}

/// Cuts the packet to what an error quotes, and puts the headers of the error in front.
#[inline(never)]
fn make_error(skb: *mut __sk_buff, packet_len: u32, kind: u8, code: u8) -> bool {
    let ctx = TcContext::new(skb);
    let quoted = if packet_len > QUOTE_MAX {
        QUOTE_MAX
    } else {
        packet_len
    };
    // SAFETY: helpers on the program's own context.
    unsafe {
        if bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) != 0 {
            return false;
        }
        if bpf_skb_adjust_room(skb, (IP_HLEN + ICMP_HLEN) as i32, BPF_ADJ_ROOM_MAC, 0) != 0 {
            return false;
        }
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
        (*headers).icmp = [u16::from_ne_bytes([kind, code]), 0, 0, 0];
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
pub fn fill_udp_checksum(ctx: &TcContext, l4: u32, packet_len: u64) -> bool {
    fill_udp(ctx.skb.skb, l4, packet_len as u32)
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

/// Bytes summed by one step of [`sum_of`].
const CHUNK: u32 = 64;

/// A sum in progress. It lies in a map, not on the stack: there the verifier would follow every
/// value it can take from step to step.
#[repr(C)]
pub struct Summing {
    offset: u32,
    left: u32,
    sum: u64,
    chunk: [u64; (CHUNK / 8) as usize],
}

/// What the loop's callback gets.
struct Context {
    skb: *mut __sk_buff,
    summing: *mut Summing,
}

/// Sum of `len` bytes of the frame from `offset` on, in 16-bit words, added to `seed`.
#[inline(always)]
fn sum_of(skb: *mut __sk_buff, offset: u32, len: u32, seed: u64) -> Option<u64> {
    let summing = SUMMING.get_ptr_mut(0)?;
    let mut context = Context { skb, summing };
    // SAFETY: the value is this processor's own; the callback has the signature the helper asks
    // for and its context outlives the call.
    unsafe {
        (*summing).offset = offset;
        (*summing).left = len;
        (*summing).sum = seed;
        let context = (&raw mut context).cast::<c_void>();
        bpf_loop(len / CHUNK + 1, sum_chunk as *mut c_void, context, 0);
        ((*summing).left == 0).then_some((*summing).sum)
    }
}

/// Sums one chunk. Returns 1 to end the loop.
unsafe extern "C" fn sum_chunk(_: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<Context>();
    // SAFETY: `sum_of` hands in its own `Context`.
    unsafe {
        let (skb, summing) = ((*context).skb, (*context).summing);
        let left = (*summing).left;
        if left == 0 {
            return 1;
        }
        // The chunk's length less one, masked where the compiler cannot see that it need not be:
        // older verifiers lose the bound of a copied register.
        let mut last = if left > CHUNK { CHUNK - 1 } else { left - 1 } as u64;
        asm!("{0} &= 63", inout(reg) last);
        let len = last as u32 + 1;
        for word in &mut (*summing).chunk {
            core::ptr::write_volatile(word, 0);
        }
        let chunk = (&raw mut (*summing).chunk).cast::<c_void>();
        if bpf_skb_load_bytes(skb.cast(), (*summing).offset, chunk, len) != 0 {
            return 1;
        }
        let sum = bpf_csum_diff(core::ptr::null_mut(), 0, chunk.cast(), CHUNK, 0);
        (*summing).sum += sum as u64 & 0xffff_ffff;
        (*summing).offset += len;
        (*summing).left = left - len;
    }
    0
}
