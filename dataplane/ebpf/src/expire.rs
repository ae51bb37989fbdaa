//! Ends connections that user space found due, and frees their places a grace period later.
//!
//! One that is due and controls others gets another minute instead, and the backup is told of it
//! (`ip_vs_conn.c: ip_vs_conn_expire`).

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::batch::{BatchItem, BatchResult, ExpireOp};
use dataplane_common::entry::{Conn, ConnWord};
use dataplane_common::rules::transition::{POSTPONED_SECS, may_be_freed};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{Address, NS_PER_SEC};

use crate::apply::{Run, batch_of};
use crate::clock::coarse_ns;
use crate::connection::{mark, sweep};
use crate::family::{Family, V4, V6};
use crate::maps::{BATCH, SETTINGS, count};
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
        let now_ns = (*run).now_ns;
        let result = if (*item).family == <V6 as Family>::Addr::FAMILY {
            expire::<V6>(item, now_ns)
        } else {
            expire::<V4>(item, now_ns)
        };
        (*item).result = result as u8;
    }
    0
}

/// # Safety
/// `item` is a map value.
#[inline(never)]
unsafe fn expire<F: Family>(item: *const BatchItem, now_ns: u64) -> BatchResult {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let Some(conn) = F::conn((*item).index) else {
            return BatchResult::Missed;
        };
        let word = ConnWord(atomic::load(&raw const (*conn).word));
        let op = (*item).op;
        if word.generation() != (*item).generation || word.is_free() {
            return BatchResult::Missed;
        }
        if op == ExpireOp::Sweep as u8 {
            let marked = word.is(ConnWord::DEAD) && !word.is(ConnWord::GONE);
            return if marked && sweep::<F>(conn, (*item).index, word) {
                BatchResult::Swept
            } else {
                BatchResult::Missed
            };
        }
        if !word.is_usable((*item).generation) {
            return BatchResult::Missed;
        }
        if op == ExpireOp::Offer as u8 {
            return if offer::again::<F>(conn, word, now_ns) {
                BatchResult::Offered
            } else {
                BatchResult::RingFull
            };
        }
        let due = may_be_freed((*conn).deadline_ns, now_ns);
        if op == ExpireOp::MarkIfDue as u8 && !due {
            return BatchResult::Kept;
        }
        if word.controls() != 0 {
            if due {
                postpone::<F>(conn, word.generation(), now_ns);
                return BatchResult::Postponed;
            }
            return BatchResult::Kept;
        }
        if !mark::<F>(conn, word) {
            return BatchResult::Missed;
        }
        BatchResult::Marked
    }
}

/// Gives an entry that controls others another minute.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn postpone<F: Family>(conn: *mut Conn<F::Addr>, generation: u32, now_ns: u64) {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return;
    };
    let settings: *const Settings = settings;
    // SAFETY: the caller vouches for `conn`; `settings` is a map value.
    unsafe {
        (*conn).timeout_secs = POSTPONED_SECS;
        let deadline_ns = now_ns + POSTPONED_SECS as u64 * NS_PER_SEC;
        atomic::store(&raw mut (*conn).deadline_ns, deadline_ns);
        // Version 0 says nothing of IPv6.
        let says = (*settings).sync_version != 0 || F::Addr::FAMILY != <V6 as Family>::Addr::FAMILY;
        if (*settings).sync_master != 0 && says {
            let pkts = (*settings).sync_threshold as u64;
            offer::by_rules::<F>(settings, conn, generation, pkts, now_ns);
        }
    }
    count(Event::Postponed);
}
