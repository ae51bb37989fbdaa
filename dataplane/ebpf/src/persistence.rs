//! Persistence: templates that send a client's next connections to the same server.

use dataplane_common::entry::{Conn, ConnWord, NO_CONTROLLER};
use dataplane_common::passing::{Held, Passing};
use dataplane_common::rules::persistence::PersistentService;
use dataplane_common::rules::transition::{POSTPONED_SECS, is_expired};
use dataplane_common::service::{ServerRecord, ServiceRecord};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;
use dataplane_common::{FlowKey, NS_PER_SEC};

use crate::atomic;
use crate::connection::{
    MASQUERADING, TEMPLATE, claim, control, detach, is_over, make_way, publish,
};
use crate::family::Family;
use crate::maps::{SERVERS, count};
use crate::server::{ServerOf, server_of};

/// What became of the search for a template.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    Held = 0,
    /// None is there, or none that is valid.
    None = 1,
    /// Another processor is at it.
    Busy = 2,
    TableFull = 3,
}

/// What the rules look at of a service.
///
/// # Safety
/// `service` is a map value.
#[inline(always)]
pub unsafe fn rules_of(service: *const ServiceRecord) -> PersistentService {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        PersistentService {
            port: (*service).port,
            fwmark: (*service).fwmark,
            netmask: (*service).netmask,
        }
    }
}

/// Finds a valid template, and puts a connection under it. One that is not valid any more is given
/// up (`ip_vs_conn.c: ip_vs_check_template`).
///
/// # Safety
/// `settings` is a map value.
#[inline(never)]
pub unsafe fn hold<F: Family>(
    settings: *const Settings,
    key: &FlowKey<F::Addr>,
    now_ns: u64,
    held: &mut Held,
) -> Found {
    let Some(flow) = F::find(key) else {
        return Found::None;
    };
    let Some(template) = F::conn(flow.index) else {
        return Found::None;
    };
    // SAFETY: the caller vouches for `settings`; `template` is an entry of the table.
    unsafe {
        let word = ConnWord(atomic::load(&raw const (*template).word));
        if word.generation() != flow.generation() || word.is_free() || word.is(ConnWord::DETACHED) {
            return Found::None;
        }
        if word.is(ConnWord::INIT | ConnWord::GONE) || !is_for::<F>(template, key) {
            return Found::Busy;
        }
        let deadline_ns = (*template).deadline_ns;
        if word.is(ConnWord::DEAD) || is_over(word, deadline_ns, now_ns) {
            return if make_way::<F>(template, flow.index, word) {
                Found::None
            } else {
                Found::Busy
            };
        }
        if !is_valid::<F>(settings, template) {
            if detach::<F>(template, flow.index, word) {
                count(Event::TemplateInvalidated);
                return Found::None;
            }
            return Found::Busy;
        }
        if !control::<F>(template, flow.generation()) {
            return Found::Busy;
        }
        // Its timer ended while it controlled others, and nobody has seen to that yet.
        if is_expired(deadline_ns, now_ns) {
            (*template).timeout_secs = POSTPONED_SECS;
        }
        restart_timer::<F>(template, now_ns);
        held.index = flow.index;
        held.generation = flow.generation();
        held.server = (*template).server;
    }
    Found::Held
}

/// Whether an entry is the template with this key.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn is_for<F: Family>(conn: *const Conn<F::Addr>, key: &FlowKey<F::Addr>) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let found = &(*conn).key;
        found.is_template()
            && found.protocol == key.protocol
            && found.dport.0 == key.dport.0
            && found.sport.0 == key.sport.0
            && F::same(found.src, key.src)
            && F::same(found.dst, key.dst)
    }
}

/// Whether a template's server still takes its client. Neither OVERLOAD nor, by default, weight 0
/// stand against that.
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn is_valid<F: Family>(settings: *const Settings, template: *const Conn<F::Addr>) -> bool {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        if !matches!(server_of::<F>(template), ServerOf::Available) {
            return false;
        }
        if (*settings).expire_quiescent_template == 0 {
            return true;
        }
        SERVERS
            .get_ptr((*template).server)
            .is_some_and(|server| (*server).weight != 0)
    }
}

/// Restarts a template's timer with its own timeout.
///
/// # Safety
/// `template` is an entry of the connection table.
#[inline(always)]
unsafe fn restart_timer<F: Family>(template: *mut Conn<F::Addr>, now_ns: u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let timeout_ns = (*template).timeout_secs as u64 * NS_PER_SEC;
        atomic::store(&raw mut (*template).deadline_ns, now_ns + timeout_ns);
    }
}

/// Makes a template for the server that was chosen, with one connection under it.
///
/// # Safety
/// `settings` and `service` are map values.
#[inline(always)]
pub unsafe fn make<F: Family>(
    settings: *const Settings,
    service: *const ServiceRecord,
    passing: &mut Passing<F::Addr>,
) -> Found {
    let (slot, port, now_ns) = (passing.slot, passing.packet.key.dport, passing.now_ns);
    let Some(server) = SERVERS.get_ptr(slot) else {
        return Found::None;
    };
    let Some(claim) = claim::<F>(settings, now_ns) else {
        return Found::TableFull;
    };
    // SAFETY: the caller vouches for the pointers; the entry is claimed, so no one else reads it.
    unsafe {
        let conn = claim.conn;
        fill::<F>(conn, service, server, slot, now_ns);
        (*conn).key = passing.template;
        (*conn).dport = rules_of(service).template_dport(port, (*server).port);
        (*conn).conn_flags |= TEMPLATE;
        (*conn).in_pkts = 0;
        (*conn).timeout_secs = (*service).timeout_secs;
        (*conn).deadline_ns = now_ns + (*service).timeout_secs as u64 * NS_PER_SEC;
        let live = fresh::<F>(&claim.word, (*conn).conn_flags);
        let Some(live) = live.controlling_one_more() else {
            return Found::Busy;
        };
        if publish(&claim, live, now_ns).is_err() {
            // Another processor has made it meanwhile: it is as good as this one.
            return hold::<F>(settings, &passing.template, now_ns, &mut passing.held);
        }
        passing.held = Held {
            index: claim.index,
            generation: claim.word.generation(),
            server: slot,
        };
    }
    Found::Held
}

/// Fills in what a connection and a template take over from service and server.
///
/// # Safety
/// `conn` is claimed; `service` and `server` are map values.
#[inline(always)]
pub unsafe fn fill<F: Family>(
    conn: *mut Conn<F::Addr>,
    service: *const ServiceRecord,
    server: *const ServerRecord,
    slot: u32,
    now_ns: u64,
) {
    use dataplane_common::Address;
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        (*conn).daddr = F::Addr::from_words((*server).addr);
        (*conn).conn_flags = (*server).method as u16;
        (*conn).server = slot;
        (*conn).server_generation = (*server).generation;
        (*conn).fwmark = (*service).fwmark;
        (*conn).sync_endtime = 0;
        (*conn).controller = NO_CONTROLLER;
        (*conn).controller_generation = 0;
        (*conn).created_ns = now_ns;
    }
}

/// The word of an entry that is about to be published: inactive, and without a reply so far unless
/// replies come by.
#[inline(always)]
pub fn fresh<F: Family>(claimed: &ConnWord, conn_flags: u16) -> ConnWord {
    const FWD_MASK: u16 = 0x7;
    let flags = ConnWord::LIVE
        | ConnWord::INACTIVE
        | ConnWord::LOCAL
        | if conn_flags & FWD_MASK == MASQUERADING {
            0
        } else {
            ConnWord::NOOUTPUT
        };
    claimed.without(ConnWord::INIT).with(flags)
}
