//! New connections: the scheduler's pick, and the entry that follows from it.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::entry::{ConnWord, server_conns};
use dataplane_common::rules::schedule::{Candidate, HEAD, ListHead, Position, Step, Walk};
use dataplane_common::rules::tcp::TcpEvent;
use dataplane_common::rules::transition::{on_tcp, on_udp};
use dataplane_common::service::{ServerRecord, ServiceRecord, list};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::{Event, Verdict};
use dataplane_common::{Be16, NS_PER_SEC};

use crate::connection::{MASQUERADING, NotPublished, SWAP_TRIES, claim, publish};
use crate::maps::{LISTS, SERVER_STATS, SERVERS, SERVICE_STATS, TOTAL_STATS, WALKING, count};
use crate::packet::{IPPROTO_TCP, Packet};
use crate::transmit::{LOCAL_HOP, count_request, request, route};
use crate::{Outcome, atomic, emit, offer};

/// FTP's data port: connections from it are never scheduled.
const FTP_DATA: u16 = 20;

/// A walk and where its list is. It lies in a map, not on the stack: there the verifier would
/// follow every value it can take from step to step.
#[repr(C)]
pub struct Walking {
    walk: Walk,
    /// Index in `LISTS` of the first server.
    first: u32,
}

/// Schedules a packet that found a service, and sends it on.
#[inline(always)]
pub fn new_connection(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet,
    service: *mut ServiceRecord,
    service_id: u32,
    now_ns: u64,
) -> Outcome {
    if packet.key.sport.0 == FTP_DATA.to_be() {
        return Verdict::SourcePort20.into();
    }
    if is_martian(packet.key.src.to_host()) || route(packet.key.src.0) == LOCAL_HOP {
        return Verdict::MartianSource.into();
    }
    let slot = pick(service);
    if slot == HEAD {
        return emit::port_unreachable(ctx, packet);
    }
    let Some(server) = SERVERS.get_ptr(slot) else {
        return Verdict::Internal.into();
    };
    let Some(claim) = claim(settings, now_ns) else {
        return Verdict::TableFull.into();
    };
    // SAFETY: `server`, `settings` and `claim.conn` are map values; the entry is claimed, so no
    // one else reads it.
    unsafe {
        let method = (*server).method as u16;
        let conn = claim.conn;
        let fresh = ConnWord::LIVE
            | ConnWord::INACTIVE
            | if method == MASQUERADING {
                0
            } else {
                ConnWord::NOOUTPUT
            };
        let fresh = claim.word.without(ConnWord::INIT).with(fresh);
        let (next, timeout_secs) = if packet.key.protocol == IPPROTO_TCP {
            let event = TcpEvent::from_flags(packet.tcp_flags);
            let next = on_tcp(fresh, (*settings).secure_tcp != 0, false, event);
            (
                next,
                (*settings).tcp_timeout_secs[(next.word.state() & 15) as usize],
            )
        } else {
            (on_udp(fresh, false), (*settings).udp_timeout_secs)
        };
        let port = (*server).port;
        (*conn).key = packet.key;
        (*conn).daddr = (*server).addr[0];
        (*conn).dport = if port.0 == 0 {
            packet.key.dport
        } else {
            Be16(port.0)
        };
        (*conn).conn_flags = method;
        (*conn).server = slot;
        (*conn).server_generation = (*server).generation;
        (*conn).in_pkts = 1;
        (*conn).timeout_secs = timeout_secs;
        (*conn).deadline_ns = now_ns + timeout_secs as u64 * NS_PER_SEC;
        (*conn).fwmark = 0;
        (*conn).sync_endtime = 0;
        (*conn).controller = 0;
        (*conn).controller_generation = 0;
        (*conn).created_ns = now_ns;
        let delta = next.conns_delta.wrapping_add(server_conns::TOTAL_ONE);
        let live = next.word.with(ConnWord::LOCAL);
        match publish(&claim, live, delta, now_ns) {
            Ok(()) => {}
            Err(NotPublished::Exists) => return Verdict::Busy.into(),
            Err(NotPublished::ReplyCollision) => return Verdict::ReplyCollision.into(),
        }
        count_scheduled(slot, service_id);
        count_request(slot, server, packet.len);
        let outcome = request(ctx, packet, conn, Some(server));
        offer::after_request(settings, conn, live.generation(), 1, now_ns);
        outcome
    }
}

/// Whether no host can have this address: "this network", loopback, multicast and above
/// (RFC 1812 §5.3.7).
#[inline(always)]
fn is_martian(source: u32) -> bool {
    let first = source >> 24;
    first == 0 || first == 127 || first >= 224
}

/// The place in `SERVERS` that the service's scheduler chooses, or [`HEAD`].
///
/// Read the list, walk it, and store the new position only if nobody moved it meanwhile; after a
/// few collisions the pick counts all the same.
#[inline(never)]
fn pick(service: *mut ServiceRecord) -> u32 {
    let mut slot = HEAD;
    for _ in 0..SWAP_TRIES {
        // SAFETY: `service` is a map value.
        let (list, sched, scheduler) = unsafe {
            (
                atomic::load(&raw const (*service).list),
                atomic::load(&raw const (*service).sched),
                (*service).scheduler,
            )
        };
        let block = list::low(list);
        if block == 0 {
            return HEAD;
        }
        let position = Position::from_word(sched);
        let next = walk(block, scheduler, position, &mut slot);
        let next = next.to_word();
        // SAFETY: as above.
        if next == sched || unsafe { atomic::swap(&raw mut (*service).sched, sched, next) } {
            return slot;
        }
        count(Event::SwapRetry);
    }
    count(Event::SwapGivenUp);
    slot
}

/// One pick over the list in `block`: the slot, and the position to store.
#[inline(always)]
fn walk(block: u32, scheduler: u8, position: Position, slot: &mut u32) -> Position {
    *slot = HEAD;
    let Some(head) = LISTS.get_ptr(block) else {
        return position;
    };
    let Some(levels) = LISTS.get_ptr(block + 1) else {
        return position;
    };
    // SAFETY: map values; a block never changes while a service points to it.
    let (head, levels) = unsafe { (*head, *levels) };
    let head = ListHead {
        count: list::low(head),
        wrr_max: list::low(levels),
        wrr_step: list::high(levels),
    };
    let first = block + list::HEAD;
    let start = index_of(position, first, head.count);
    let Some(walk) = Walk::begin(scheduler, head, start, position.level) else {
        return position;
    };
    let Some(mut walking) = WALKING.get_ptr_mut(0) else {
        return position;
    };
    // SAFETY: the value is this processor's own; the callback has the signature the helper asks
    // for and its context outlives the call.
    unsafe {
        (*walking).walk = walk;
        (*walking).first = first;
        let context = (&raw mut walking).cast::<c_void>();
        bpf_loop(Walk::steps_max(head.count), step as *mut c_void, context, 0);
        if let Some(chosen) = (*walking).walk.chosen() {
            *slot = chosen;
        }
        (*walking).walk.position(position)
    }
}

/// Index in the list of the position's server, or [`HEAD`] when it is not in this list.
#[inline(always)]
fn index_of(position: Position, first: u32, count: u32) -> u32 {
    let Some(slot) = position.slot else {
        return HEAD;
    };
    let Some(server) = SERVERS.get_ptr(slot) else {
        return HEAD;
    };
    // SAFETY: `server` is a map value.
    let index = unsafe { (*server).list_index };
    if index >= count {
        return HEAD;
    }
    match LISTS.get_ptr(first + index) {
        // SAFETY: a map value.
        Some(entry) if list::low(unsafe { *entry }) == slot => index,
        _ => HEAD,
    }
}

/// One step of the walk: fetches the server it wants to see. Returns 1 to end the loop.
unsafe extern "C" fn step(_: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<*mut Walking>();
    // SAFETY: `walk` above hands in a pointer to its own `Walking`; the rest are map values.
    unsafe {
        let walking = *context;
        let at = (*walking).first + (*walking).walk.index();
        let Some(entry) = LISTS.get_ptr(at) else {
            return 1;
        };
        let (slot, weight) = (list::low(*entry), list::high(*entry));
        let Some(server) = SERVERS.get_ptr(slot) else {
            return 1;
        };
        let conns = atomic::load(&raw const (*server).conns);
        let candidate = Candidate {
            slot,
            weight,
            active: server_conns::active(conns),
            total: server_conns::total(conns),
            overloaded: (*server).flags & ServerRecord::OVERLOAD != 0,
        };
        match (*walking).walk.step(candidate) {
            Step::Continue => 0,
            Step::Done => 1,
        }
    }
}

/// Counts a scheduled connection for its server, its service and the director.
#[inline(always)]
fn count_scheduled(slot: u32, service_id: u32) {
    let all = [
        SERVER_STATS.get_ptr_mut(slot),
        SERVICE_STATS.get_ptr_mut(service_id),
        TOTAL_STATS.get_ptr_mut(0),
    ];
    for stats in all.into_iter().flatten() {
        // SAFETY: the value is this processor's own.
        unsafe { (*stats).conns += 1 }
    }
}
