//! Creates and refreshes connections that another director had.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::batch::{BatchItem, BatchResult, REGION_ITEMS, REGIONS};
use dataplane_common::entry::{Conn4, ConnWord, NO_SERVER, server_conns};
use dataplane_common::rules::directing::Function;
use dataplane_common::rules::transition::is_expired;
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{FlowRef, NS_PER_SEC};

use crate::atomic;
use crate::clock::coarse_ns;
use crate::connection::{
    Claim, MASQUERADING, NotPublished, SWAP_TRIES, add_conns, claim, method, publish, release,
    take_down,
};
use crate::maps::{BATCH, CONNS4, FLOWS4, SETTINGS, count};

/// Connection flags that a known connection takes over from an entry, beside INACTIVE, which lives in
/// the word: OUT_SEQ and IN_SEQ (`ip_vs.h: IP_VS_CONN_F_BACKUP_UPD_MASK`).
const UPDATED: u16 = 0x0600;

/// A batch in progress, as the loop's callback gets it.
pub struct Run {
    /// Index in `BATCH` of the first item.
    pub first: u32,
    pub now_ns: u64,
}

/// What the mark of a run says: the first item and how many there are.
#[inline(always)]
pub fn batch_of(ctx: &TcContext) -> Option<(u32, u32)> {
    // SAFETY: the context is the program's own.
    let mark = unsafe { (*ctx.skb.skb).mark };
    let (region, items) = (mark >> 16, mark & 0xffff);
    if region >= REGIONS || items > REGION_ITEMS {
        return None;
    }
    Some((region * REGION_ITEMS, items))
}

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

/// Applies one item. Returns 1 to end the loop.
unsafe extern "C" fn one(index: u32, run: *mut c_void) -> i64 {
    let run = run.cast::<Run>();
    // SAFETY: `run` hands in its own `Run`; the rest are map values.
    unsafe {
        let Some(item) = BATCH.get_ptr_mut((*run).first + index) else {
            return 1;
        };
        let Some(settings) = SETTINGS.get_ptr(0) else {
            return 1;
        };
        (*item).result = apply(settings, item, (*run).now_ns) as u8;
    }
    0
}

/// # Safety
/// `settings` and `item` are map values.
#[inline(always)]
unsafe fn apply(settings: *const Settings, item: *const BatchItem, now_ns: u64) -> BatchResult {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let key = (*item).key;
        if let Some(flow) = FLOWS4.get_ptr(key) {
            // One aligned read; a torn element would fail the checks below.
            let flow = core::ptr::read_volatile(flow.cast::<u64>());
            let flow = FlowRef {
                index: flow as u32,
                tag: (flow >> 32) as u32,
            };
            if let Some(conn) = CONNS4.get_ptr_mut(flow.index) {
                match refresh(settings, item, conn, flow, now_ns) {
                    Refreshed::Done(result) => return result,
                    Refreshed::Stale(word) => {
                        take_down(conn, word);
                    }
                    // The key of a place that has another connection by now: it is in nobody's way.
                    Refreshed::Orphaned => {}
                    Refreshed::Replaced(word) => {
                        // The old one goes when there is a place for the new one.
                        let Some(claim) = claim(settings, now_ns) else {
                            return BatchResult::TableFull;
                        };
                        if !take_down(conn, word) {
                            release(&claim);
                            return BatchResult::Missed;
                        }
                        return match create(settings, item, &claim, now_ns) {
                            BatchResult::Created => BatchResult::Replaced,
                            failed => failed,
                        };
                    }
                }
            }
        }
        match claim(settings, now_ns) {
            Some(claim) => create(settings, item, &claim, now_ns),
            None => BatchResult::TableFull,
        }
    }
}

enum Refreshed {
    Done(BatchResult),
    /// Not what the key names.
    Orphaned,
    /// Over: its key is free for the new one.
    Stale(ConnWord),
    /// Has another real server now, or has one at last.
    Replaced(ConnWord),
}

/// # Safety
/// All pointers are map values.
#[inline(always)]
unsafe fn refresh(
    settings: *const Settings,
    item: *const BatchItem,
    conn: *mut Conn4,
    flow: FlowRef,
    now_ns: u64,
) -> Refreshed {
    for _ in 0..SWAP_TRIES {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let word = ConnWord(atomic::load(&raw const (*conn).word));
            if word.generation() != flow.generation() || word.is_free() {
                return Refreshed::Orphaned;
            }
            if word.is(ConnWord::INIT | ConnWord::GONE)
                || flow.is_reply()
                || (*conn).key != (*item).key
            {
                return Refreshed::Done(BatchResult::Missed);
            }
            if word.is(ConnWord::DEAD) || is_expired((*conn).deadline_ns, now_ns) {
                return Refreshed::Stale(word);
            }
            let guard_ns = (*settings).apply_guard_secs as u64 * NS_PER_SEC;
            let directs = (*settings).function == Function::Direct as u32;
            if directs && guard_ns != 0 && word.is(ConnWord::LOCAL) {
                // Every packet puts the deadline one timeout ahead.
                let timeout_ns = (*conn).timeout_secs as u64 * NS_PER_SEC;
                if (*conn).deadline_ns.wrapping_sub(timeout_ns) + guard_ns > now_ns {
                    return Refreshed::Done(BatchResult::Guarded);
                }
            }
            let inactive = (*item).inactive != 0;
            if (*conn).daddr.0 != (*item).daddr.0 || (*conn).dport.0 != (*item).dport.0 {
                // The end of a connection whose client port has another one by now.
                if inactive {
                    return Refreshed::Done(BatchResult::Late);
                }
                return Refreshed::Replaced(word);
            }
            if (*conn).server == NO_SERVER && (*item).server != NO_SERVER {
                return Refreshed::Replaced(word);
            }
            let next = word.synced((*item).state);
            let next = if inactive {
                next.with(ConnWord::INACTIVE)
            } else {
                next.without(ConnWord::INACTIVE)
            };
            let delta = match (word.is(ConnWord::INACTIVE), inactive) {
                (true, false) => server_conns::ACTIVE_ONE,
                (false, true) => server_conns::ACTIVE_ONE.wrapping_neg(),
                _ => 0,
            };
            let server = (*conn).server;
            if next != word && !atomic::swap(&raw mut (*conn).word, word.0, next.0) {
                count(Event::SwapRetry);
                continue;
            }
            add_conns(server, delta);
            (*conn).conn_flags = (*conn).conn_flags & !UPDATED | (*item).conn_flags & UPDATED;
            (*conn).in_pkts = (*settings).sync_threshold as u64;
            (*conn).timeout_secs = (*item).timeout_secs;
            (*conn).deadline_ns = now_ns + (*item).timeout_secs as u64 * NS_PER_SEC;
            return Refreshed::Done(BatchResult::Updated);
        }
    }
    count(Event::SwapGivenUp);
    Refreshed::Done(BatchResult::Missed)
}

/// Fills a claimed place, and publishes it or gives it back.
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn create(
    settings: *const Settings,
    item: *const BatchItem,
    claim: &Claim,
    now_ns: u64,
) -> BatchResult {
    let conn = claim.conn;
    // SAFETY: the caller vouches for the pointers; the entry is claimed, so no one else reads it.
    unsafe {
        (*conn).key = (*item).key;
        (*conn).daddr = (*item).daddr;
        (*conn).dport = (*item).dport;
        (*conn).conn_flags = (*item).conn_flags;
        (*conn).server = (*item).server;
        (*conn).server_generation = (*item).server_generation;
        (*conn).in_pkts = (*settings).sync_threshold as u64;
        (*conn).timeout_secs = (*item).timeout_secs;
        (*conn).deadline_ns = now_ns + (*item).timeout_secs as u64 * NS_PER_SEC;
        (*conn).fwmark = (*item).fwmark;
        (*conn).sync_endtime = 0;
        (*conn).controller = 0;
        (*conn).controller_generation = 0;
        (*conn).created_ns = now_ns;
        let inactive = (*item).inactive != 0;
        let live = claim.word.without(ConnWord::INIT).synced((*item).state);
        let live = if inactive {
            live.with(ConnWord::INACTIVE)
        } else {
            live
        };
        let live = if method(conn) == MASQUERADING {
            live
        } else {
            live.with(ConnWord::NOOUTPUT)
        };
        let delta = if (*item).server == NO_SERVER {
            0
        } else if inactive {
            server_conns::TOTAL_ONE
        } else {
            server_conns::TOTAL_ONE + server_conns::ACTIVE_ONE
        };
        match publish(claim, live, delta, now_ns) {
            Ok(()) => BatchResult::Created,
            Err(NotPublished::Exists) => BatchResult::Missed,
            Err(NotPublished::ReplyCollision) => BatchResult::ReplyCollision,
        }
    }
}
