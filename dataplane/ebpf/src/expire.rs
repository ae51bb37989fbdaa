//! Ends connections that user space found due, and frees their places a grace period later.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::batch::{BatchItem, BatchResult, ExpireOp};
use dataplane_common::entry::{Conn4, ConnWord};
use dataplane_common::rules::transition::may_be_freed;

use crate::apply::{Run, batch_of};
use crate::clock::coarse_ns;
use crate::connection::{mark, sweep};
use crate::maps::{BATCH, CONNS4};
use crate::{atomic, offer};

#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    let Some((first, items)) = batch_of(ctx) else {
        return -1;
    };
    let mut run = Run {
        first,
        now_ns: coarse_ns(),
    };
    // SAFETY: the callback has the signature the helper asks for and its context outlives the call.
    unsafe {
        bpf_loop(
            items,
            one as *mut c_void,
            (&raw mut run).cast::<c_void>(),
            0,
        ) as i32
    }
}

/// Handles one item. Returns 1 to end the loop.
unsafe extern "C" fn one(index: u32, run: *mut c_void) -> i64 {
    let run = run.cast::<Run>();
    // SAFETY: `run` hands in its own `Run`; the rest are map values.
    unsafe {
        let Some(item) = BATCH.get_ptr_mut((*run).first + index) else {
            return 1;
        };
        let result = match CONNS4.get_ptr_mut((*item).index) {
            Some(conn) => expire(item, conn, (*run).now_ns),
            None => BatchResult::Missed,
        };
        (*item).result = result as u8;
    }
    0
}

/// # Safety
/// Both pointers are map values.
#[inline(always)]
unsafe fn expire(item: *const BatchItem, conn: *mut Conn4, now_ns: u64) -> BatchResult {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let word = ConnWord(atomic::load(&raw const (*conn).word));
        let op = (*item).op;
        if word.generation() != (*item).generation || word.is_free() {
            return BatchResult::Missed;
        }
        if op == ExpireOp::Sweep as u8 {
            let marked = word.is(ConnWord::DEAD) && !word.is(ConnWord::GONE);
            return if marked && sweep(conn, word) {
                BatchResult::Swept
            } else {
                BatchResult::Missed
            };
        }
        if !word.is_usable((*item).generation) {
            return BatchResult::Missed;
        }
        if op == ExpireOp::Offer as u8 {
            return if offer::again(conn, word, now_ns) {
                BatchResult::Offered
            } else {
                BatchResult::RingFull
            };
        }
        let due = may_be_freed((*conn).deadline_ns, now_ns) && word.controls() == 0;
        if op == ExpireOp::MarkIfDue as u8 && !due {
            return BatchResult::Kept;
        }
        if !mark(conn, word) {
            return BatchResult::Missed;
        }
        BatchResult::Marked
    }
}
