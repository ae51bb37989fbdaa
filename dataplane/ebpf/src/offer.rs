//! Offers connections to the backup: the ring that the sync threads read.

use dataplane_common::entry::{Conn4, ConnWord};
use dataplane_common::key::FlowKey4;
use dataplane_common::offer::Offer;
use dataplane_common::rules::sync::{
    Decision, SyncRules, SyncView, decide, first_endtime, next_endtime,
};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;

use crate::atomic;
use crate::connection::SWAP_TRIES;
use crate::maps::{OFFERS, count};

const INACTIVE: u16 = 0x100;
const NOOUTPUT: u16 = 0x80;

/// Offers a connection after a packet from its client, if the rules say so. `pkts` counts the
/// packet at hand.
///
/// # Safety
/// Both pointers are map values.
#[inline(always)]
pub unsafe fn after_request(
    settings: *const Settings,
    conn: *mut Conn4,
    generation: u32,
    pkts: u64,
    now_ns: u64,
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        if (*settings).sync_master == 0 {
            return;
        }
        let word = ConnWord(atomic::load(&raw const (*conn).word));
        if !word.is_usable(generation) {
            return;
        }
        let rules = SyncRules {
            threshold: (*settings).sync_threshold,
            period: (*settings).sync_period,
            refresh_ticks: (*settings).sync_refresh_ms,
            retries: (*settings).sync_retries,
            persist_mode: (*settings).sync_persist_mode != 0,
        };
        let stored = atomic::load(&raw const (*conn).sync_endtime);
        let endtime = if stored == 0 {
            first_endtime((*conn).created_ns)
        } else {
            stored
        };
        let view = SyncView {
            protocol: (*conn).key.protocol,
            template: (*conn).key.kind == FlowKey4::KIND_TEMPLATE,
            under_template: false,
            state: word.state(),
            old_state: word.old_state(),
            pkts: pkts as u32,
            timeout_secs: (*conn).timeout_secs,
            endtime,
        };
        if let Decision::Send { endtime, forced } = decide(&rules, &view, now_ns) {
            offer(conn, word, stored, endtime, forced, now_ns);
        }
    }
}

/// Offers a connection whatever the rules say: one that was marked, or that the peer may have
/// missed.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn again(conn: *mut Conn4, word: ConnWord, now_ns: u64) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let stored = atomic::load(&raw const (*conn).sync_endtime);
        let endtime = next_endtime(now_ns, (*conn).timeout_secs);
        offer(conn, word, stored, endtime, true, now_ns)
    }
}

/// Puts a connection into the ring. Without room there nothing is noted as told: the entry is
/// marked, and the walk offers it again.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn offer(
    conn: *mut Conn4,
    word: ConnWord,
    stored: u64,
    endtime: u64,
    forced: bool,
    now_ns: u64,
) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let Some(mut record) = OFFERS.reserve(0) else {
            mark(conn, word);
            count(Event::SyncRingFull);
            return false;
        };
        let noted = atomic::swap(&raw mut (*conn).sync_endtime, stored, endtime);
        if !noted && !forced {
            // Another processor is offering it.
            record.discard(0);
            return false;
        }
        let inactive = if word.is(ConnWord::INACTIVE) {
            INACTIVE
        } else {
            0
        };
        let nooutput = if word.is(ConnWord::NOOUTPUT) {
            NOOUTPUT
        } else {
            0
        };
        record.write(Offer {
            key: (*conn).key,
            daddr: (*conn).daddr,
            dport: (*conn).dport,
            conn_flags: (*conn).conn_flags | inactive | nooutput,
            fwmark: (*conn).fwmark,
            timeout_secs: (*conn).timeout_secs,
            at_ns: now_ns,
            state: word.state(),
            reserved: [0; 7],
        });
        // When another processor has moved the state meanwhile, it is news again.
        atomic::swap(&raw mut (*conn).word, word.0, word.offered().0);
        record.submit(0);
    }
    count(Event::SyncOffered);
    true
}

/// Marks an entry as one that is to be offered.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn mark(conn: *mut Conn4, seen: ConnWord) {
    let mut word = seen;
    for _ in 0..SWAP_TRIES {
        if !word.is_usable(seen.generation()) || word.is(ConnWord::DIRTY) {
            return;
        }
        // SAFETY: the caller vouches for the pointer.
        unsafe {
            if atomic::swap(&raw mut (*conn).word, word.0, word.with(ConnWord::DIRTY).0) {
                return;
            }
            word = ConnWord(atomic::load(&raw const (*conn).word));
        }
    }
    count(Event::SwapGivenUp);
}
