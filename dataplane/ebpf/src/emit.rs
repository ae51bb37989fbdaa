//! Packets the director makes itself: what both families have in common, and checksums over whole
//! packets. The errors are in `emit4` and `emit6`.

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC};
use aya_ebpf::helpers::{
    bpf_csum_diff, bpf_loop, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
};
use aya_ebpf::programs::TcContext;
use dataplane_common::settings::icmp_bucket;
use dataplane_common::verdict::Verdict;

use crate::clock::coarse_ns;
use crate::connection::SWAP_TRIES;
use crate::family::Family;
use crate::maps::{ICMP_BUCKET, SUMMING};
use crate::packet::{ETH_HLEN, Packet};
use crate::transmit::send;
use crate::{Outcome, atomic};

/// TTL or hop limit of packets the director makes (kernel names `ip_default_ttl`, `hop_limit`).
pub const DEFAULT_TTL: u8 = 64;
/// Header of an ICMP or ICMPv6 error.
pub const ICMP_HLEN: u32 = 8;

/// Turns the frame into an ICMP error about itself and sends it back; the verdict says why, and is
/// a drop: the packet itself goes nowhere. `make` rewrites the frame.
#[inline(always)]
pub fn error<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    reason: Verdict,
    make: impl FnOnce(*mut __sk_buff, u32) -> bool,
) -> Outcome {
    let hop = F::hop(packet.key.src);
    if hop.is_none() || hop.is_local() || !take_token() || !make(ctx.skb.skb, packet.len) {
        return Verdict::IcmpSuppressed.into();
    }
    let sent = send::<F>(&hop, Verdict::Reply);
    if sent.verdict as u32 != Verdict::Reply as u32 {
        return Verdict::IcmpSuppressed.into();
    }
    Outcome {
        verdict: reason,
        redirect: sent.redirect,
    }
}

/// Cuts the packet to `quoted` bytes and makes room for `headers` bytes in front of it.
#[inline(always)]
pub fn make_room(skb: *mut __sk_buff, quoted: u32, headers: u32) -> bool {
    // SAFETY: helpers on the program's own context.
    unsafe {
        bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) == 0
            && bpf_skb_adjust_room(skb, headers as i32, BPF_ADJ_ROOM_MAC, 0) == 0
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
pub fn sum_of(skb: *mut __sk_buff, offset: u32, len: u32, seed: u64) -> Option<u64> {
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
