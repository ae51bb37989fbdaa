//! Creates and refreshes connections that another director had.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::batch::{BatchItem, BatchResult, REGION_ITEMS, REGIONS, says};
use dataplane_common::entry::{Conn, ConnWord, NO_CONTROLLER, NO_SERVER, server_conns};
use dataplane_common::extra::HAS_EXTRA;
use dataplane_common::rules::directing::Function;
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{Address, Be16, FlowKey, FlowRef, NS_PER_SEC};

use crate::atomic;
use crate::clock::coarse_ns;
use crate::connection::{
    Claim, NO_CPORT, NotPublished, SWAP_TRIES, claim_near, is_over, make_way, publish, release,
};
use crate::family::{Family, V4, V6};
use crate::maps::{BATCH, SETTINGS, count};
use crate::server::add_active;

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
        let Some(settings) = SETTINGS.get_ptr_mut(0) else {
            return 1;
        };
        let now_ns = (*run).now_ns;
        let result = if (*item).family == <V6 as Family>::Addr::FAMILY {
            apply::<V6>(settings, item, now_ns)
        } else {
            apply::<V4>(settings, item, now_ns)
        };
        (*item).result = result as u8;
    }
    0
}

/// # Safety
/// `settings` and `item` are map values.
#[inline(never)]
unsafe fn apply<F: Family>(
    settings: *mut Settings,
    item: *mut BatchItem,
    now_ns: u64,
) -> BatchResult {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let mut key = FlowKey::<F::Addr>::from_words((*item).key);
        let hint = (*item).index;
        let mut found = F::find(&key);
        if found.is_none() && (*item).says & says::NO_CPORT != 0 && !key.is_template() {
            // One that has no port of its client yet (`ip_vs_conn.c: ip_vs_conn_in_get`).
            key.sport = Be16(0);
            found = F::find(&key).filter(|flow| has_no_cport::<F>(*flow));
        }
        if let Some(flow) = found {
            (*item).index = flow.index;
            if let Some(conn) = F::conn(flow.index) {
                match refresh::<F>(settings, item, &key, conn, flow, now_ns) {
                    Refreshed::Done(result) => return result,
                    Refreshed::Stale(word) => {
                        make_way::<F>(conn, flow.index, word);
                    }
                    // The key of a place that has another connection by now: it is in nobody's way.
                    Refreshed::Orphaned => {}
                    Refreshed::Replaced(word) => {
                        // The old one goes when there is a place for the new one.
                        let Some(claim) = claim_near::<F>(settings, hint, now_ns) else {
                            return BatchResult::TableFull;
                        };
                        if !make_way::<F>(conn, flow.index, word) {
                            release(&claim);
                            return BatchResult::Missed;
                        }
                        return match create::<F>(settings, item, &claim, now_ns) {
                            BatchResult::Created => BatchResult::Replaced,
                            failed => failed,
                        };
                    }
                }
            }
        }
        let room = F::sync_room(settings);
        // Batches may run at once: those that pass this together are few.
        if atomic::load(room) == 0 {
            return BatchResult::NoShare;
        }
        let Some(claim) = claim_near::<F>(settings, hint, now_ns) else {
            return BatchResult::TableFull;
        };
        atomic::add(room, 1u64.wrapping_neg());
        create::<F>(settings, item, &claim, now_ns)
    }
}

/// Whether a connection waits for the port of its client. One whose client's port is zero is another
/// matter (`ip_vs_conn.c: __ip_vs_conn_in_get`).
///
/// Its flags were there before its key was; that the place has not been given to another connection
/// since is for [`refresh`] to see.
#[inline(always)]
fn has_no_cport<F: Family>(flow: FlowRef) -> bool {
    match F::conn(flow.index) {
        // SAFETY: an entry of the connection table.
        Some(conn) => !flow.is_reply() && unsafe { (*conn).conn_flags } & NO_CPORT != 0,
        None => false,
    }
}

/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn is_of<F: Family>(conn: *const Conn<F::Addr>, key: &FlowKey<F::Addr>) -> bool {
    // SAFETY: the caller vouches for the pointer.
    let found = unsafe { (*conn).key };
    F::same(found.src, key.src)
        && F::same(found.dst, key.dst)
        && found.sport.0 == key.sport.0
        && found.dport.0 == key.dport.0
        && found.protocol == key.protocol
        && found.kind == key.kind
        && found.apart == key.apart
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
unsafe fn refresh<F: Family>(
    settings: *const Settings,
    item: *mut BatchItem,
    key: &FlowKey<F::Addr>,
    conn: *mut Conn<F::Addr>,
    flow: FlowRef,
    now_ns: u64,
) -> Refreshed {
    for _ in 0..SWAP_TRIES {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let word = ConnWord(atomic::load(&raw const (*conn).word));
            let gone = word.generation() != flow.generation() || word.is_free();
            if gone || word.is(ConnWord::DETACHED) {
                return Refreshed::Orphaned;
            }
            if flow.is_reply() {
                return Refreshed::Done(BatchResult::ReplyCollision);
            }
            if word.is(ConnWord::INIT | ConnWord::GONE) || !is_of::<F>(conn, key) {
                return Refreshed::Done(BatchResult::Missed);
            }
            if word.is(ConnWord::DEAD) || is_over(word, (*conn).deadline_ns, now_ns) {
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
            let inactive = (*item).says & says::INACTIVE != 0;
            let template = key.is_template();
            let daddr = F::Addr::from_words((*item).daddr);
            let elsewhere = !F::same((*conn).daddr, daddr) || (*conn).dport.0 != (*item).dport.0;
            // A template keeps its server, whatever the entry says.
            if elsewhere && !template {
                // The end of a connection whose client port has another one by now.
                if inactive {
                    return Refreshed::Done(BatchResult::Late);
                }
                return Refreshed::Replaced(word);
            }
            if (*conn).server == NO_SERVER && (*item).server != NO_SERVER && !elsewhere {
                return Refreshed::Replaced(word);
            }
            let next = word.synced((*item).state);
            let next = if inactive {
                next.with(ConnWord::INACTIVE)
            } else {
                next.without(ConnWord::INACTIVE)
            };
            let delta = match (word.is(ConnWord::INACTIVE), next.is(ConnWord::INACTIVE)) {
                (true, false) => server_conns::ACTIVE_ONE,
                (false, true) => server_conns::ACTIVE_ONE.wrapping_neg(),
                _ => 0,
            };
            let server = (*conn).server;
            if next != word && !atomic::swap(&raw mut (*conn).word, word.0, next.0) {
                count(Event::SwapRetry);
                continue;
            }
            if !template {
                add_active(server, delta);
            }
            let flags = (*item).conn_flags;
            (*conn).conn_flags = (*conn).conn_flags & !UPDATED | flags & (UPDATED | HAS_EXTRA);
            (*item).generation = word.generation();
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
unsafe fn create<F: Family>(
    settings: *const Settings,
    item: *mut BatchItem,
    claim: &Claim<F>,
    now_ns: u64,
) -> BatchResult {
    let conn = claim.conn;
    // SAFETY: the caller vouches for the pointers; the entry is claimed, so no one else reads it.
    unsafe {
        (*conn).key = FlowKey::from_words((*item).key);
        (*conn).daddr = F::Addr::from_words((*item).daddr);
        (*conn).dport = (*item).dport;
        (*conn).conn_flags = (*item).conn_flags;
        (*conn).server = (*item).server;
        (*conn).server_generation = (*item).server_generation;
        (*conn).in_pkts = (*settings).sync_threshold as u64;
        (*conn).timeout_secs = (*item).timeout_secs;
        (*conn).deadline_ns = now_ns + (*item).timeout_secs as u64 * NS_PER_SEC;
        (*conn).fwmark = (*item).fwmark;
        (*conn).sync_endtime = 0;
        (*conn).controller = NO_CONTROLLER;
        (*conn).controller_generation = 0;
        (*conn).created_ns = now_ns;
        let inactive = (*item).says & (says::INACTIVE | says::NEW_INACTIVE) != 0;
        let live = claim.word.without(ConnWord::INIT).synced((*item).state);
        let live = if inactive {
            live.with(ConnWord::INACTIVE)
        } else {
            live
        };
        let live = if (*item).says & says::NOOUTPUT != 0 {
            live.with(ConnWord::NOOUTPUT)
        } else {
            live
        };
        match publish(claim, live, now_ns) {
            Ok(()) => {
                (*item).index = claim.index;
                (*item).generation = claim.word.generation();
                BatchResult::Created
            }
            Err(NotPublished::Exists) => BatchResult::Missed,
            Err(NotPublished::ReplyCollision) => BatchResult::ReplyCollision,
        }
    }
}
