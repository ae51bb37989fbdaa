//! Offers connections to the backup: the ring that the sync threads read.

use dataplane_common::entry::{Conn, ConnWord, NO_CONTROLLER};
use dataplane_common::offer::Offer;
use dataplane_common::rules::sync::{
    Decision, SyncRules, SyncView, decide, first_endtime, is_news, next_endtime,
};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{Address, Be16, FlowKey};

use crate::atomic;
use crate::connection::{SWAP_TRIES, TEMPLATE};
use crate::family::{Family, V6};
use crate::maps::{OFFERS, count};

const INACTIVE: u16 = 0x100;
const NOOUTPUT: u16 = 0x80;
/// Ports of a template that was given up (`ip_vs_conn.c: ip_vs_check_template`).
const INVALID_PORT: Be16 = Be16(u16::MAX);

/// Offers a connection after a packet from its client, and what controls it, if the rules say so.
/// `pkts` counts the packet at hand (`ip_vs_sync.c: ip_vs_sync_conn`).
///
/// # Safety
/// Both pointers are map values.
#[inline(always)]
pub unsafe fn after_request<F: Family>(
    settings: *const Settings,
    conn: *mut Conn<F::Addr>,
    generation: u32,
    pkts: u64,
    now_ns: u64,
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        if (*settings).sync_master == 0 {
            return;
        }
        let version0 = (*settings).sync_version == 0;
        if version0 && F::Addr::FAMILY == <V6 as Family>::Addr::FAMILY {
            return;
        }
        let needed = by_rules::<F>(settings, conn, generation, pkts, now_ns);
        // Version 0 looks at a controller behind its connection alone
        // (`ip_vs_sync.c: ip_vs_sync_conn_v0`).
        if version0 && !needed {
            return;
        }
        let (controller, generation) = ((*conn).controller, (*conn).controller_generation);
        if controller != NO_CONTROLLER {
            chain::<F>(settings, controller, generation, now_ns);
        }
    }
}

/// Counts a packet without a connection of its own for the template that chose its server, and
/// offers the template.
///
/// # Safety
/// `settings` is a map value, `template` an entry of the connection table.
#[inline(always)]
pub unsafe fn after_one_packet<F: Family>(
    settings: *const Settings,
    template: *mut Conn<F::Addr>,
    generation: u32,
    now_ns: u64,
) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        // Version 0 does not get as far as the template.
        if (*settings).sync_master != 0 && (*settings).sync_version == 0 {
            return;
        }
        let pkts = atomic::fetch_add(&raw mut (*template).in_pkts, 1) + 1;
        if (*settings).sync_master != 0 {
            by_rules::<F>(settings, template, generation, pkts, now_ns);
        }
    }
}

/// Offers what controls a connection, up the chain: a connection that controls another one may hang
/// under a template.
#[inline(never)]
unsafe fn chain<F: Family>(
    settings: *const Settings,
    controller: u32,
    generation: u32,
    now_ns: u64,
) {
    const LONGEST: u32 = 2;
    let (mut index, mut generation) = (controller, generation);
    for _ in 0..LONGEST {
        let Some(conn) = F::conn(index) else {
            return;
        };
        // SAFETY: the caller vouches for `settings`; `conn` is an entry of the table.
        unsafe {
            let pkts = if (*conn).key.is_template() {
                atomic::fetch_add(&raw mut (*conn).in_pkts, 1) + 1
            } else {
                (*settings).sync_threshold as u64
            };
            let needed = by_rules::<F>(settings, conn, generation, pkts, now_ns);
            if !needed && (*settings).sync_version == 0 {
                return;
            }
            (index, generation) = ((*conn).controller, (*conn).controller_generation);
        }
        if index == NO_CONTROLLER {
            return;
        }
    }
}

/// Offers one entry if the rules say so; whether they did.
///
/// # Safety
/// Both pointers are map values.
#[inline(always)]
pub unsafe fn by_rules<F: Family>(
    settings: *const Settings,
    conn: *mut Conn<F::Addr>,
    generation: u32,
    pkts: u64,
    now_ns: u64,
) -> bool {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let word = ConnWord(atomic::load(&raw const (*conn).word));
        if !word.is_usable(generation) {
            return false;
        }
        let persist_mode = (*settings).sync_persist_mode != 0;
        let rules = SyncRules {
            threshold: (*settings).sync_threshold,
            period: (*settings).sync_period,
            refresh_ticks: (*settings).sync_refresh_ms,
            retries: (*settings).sync_retries,
            persist_mode,
        };
        let stored = atomic::load(&raw const (*conn).sync_endtime);
        let endtime = if stored == 0 {
            first_endtime((*conn).created_ns)
        } else {
            stored
        };
        let view = SyncView {
            protocol: (*conn).key.protocol,
            template: (*conn).key.is_template(),
            under_template: persist_mode && is_under_template::<F>(conn),
            state: word.state(),
            old_state: word.old_state(),
            pkts: pkts as u32,
            timeout_secs: (*conn).timeout_secs,
            endtime,
        };
        let (endtime, forced) =
            if (*settings).sync_tell_all != 0 && is_news(&rules, &view, stored != 0) {
                let is_changed = view.state != view.old_state;
                (next_endtime(now_ns, view.timeout_secs), is_changed)
            } else {
                match decide(&rules, &view, now_ns) {
                    Decision::Send { endtime, forced } => (endtime, forced),
                    Decision::Keep(_) => return false,
                }
            };
        offer::<F>(conn, word, stored, endtime, forced, now_ns);
        true
    }
}

/// Whether a template is up a connection's chain of controllers.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn is_under_template<F: Family>(conn: *const Conn<F::Addr>) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let Some(first) = F::conn((*conn).controller) else {
            return false;
        };
        if (*first).key.is_template() {
            return true;
        }
        match F::conn((*first).controller) {
            Some(second) => (*second).key.is_template(),
            None => false,
        }
    }
}

/// Offers a connection whatever the rules say: one that was marked, or that the peer may have
/// missed.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn again<F: Family>(conn: *mut Conn<F::Addr>, word: ConnWord, now_ns: u64) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let stored = atomic::load(&raw const (*conn).sync_endtime);
        let endtime = next_endtime(now_ns, (*conn).timeout_secs);
        offer::<F>(conn, word, stored, endtime, true, now_ns)
    }
}

/// Puts a connection into the ring. Without room there nothing is noted as told: the entry is
/// marked, and the walk offers it again.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn offer<F: Family>(
    conn: *mut Conn<F::Addr>,
    word: ConnWord,
    stored: u64,
    endtime: u64,
    forced: bool,
    now_ns: u64,
) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let Some(mut record) = OFFERS.reserve_untyped::<Offer<F::Addr>>(0) else {
            mark::<F>(conn, word);
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
        let given_up = word.is(ConnWord::DETACHED) && (*conn).conn_flags & TEMPLATE != 0;
        let (key, dport) = if given_up {
            let key = FlowKey {
                dport: INVALID_PORT,
                ..(*conn).key
            };
            (key, INVALID_PORT)
        } else {
            ((*conn).key, (*conn).dport)
        };
        record.write(Offer {
            key,
            daddr: (*conn).daddr,
            dport,
            conn_flags: (*conn).conn_flags | inactive | nooutput,
            fwmark: (*conn).fwmark,
            timeout_secs: (*conn).timeout_secs,
            align: Default::default(),
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
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn mark<F: Family>(conn: *mut Conn<F::Addr>, seen: ConnWord) {
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
