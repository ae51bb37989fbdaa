//! The scheduler's pick: fetches the servers that the rules want to see.
//!
//! Every decision is in `dataplane_common::rules::schedule`. What a pick needs from step to step lies
//! in maps, not on the stack: there the verifier would follow every value it can take.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_loop};
use dataplane_common::entry::server_conns;
use dataplane_common::rules::schedule::table::Probe;
use dataplane_common::rules::schedule::{Candidate, HEAD, ListHead, Position, Step, Walk, table};
use dataplane_common::service::{ServerRecord, ServiceRecord, list};
use dataplane_common::verdict::Event;

use crate::atomic;
use crate::connection::SWAP_TRIES;
use crate::maps::{LISTS, PROBING, SERVERS, WALKING, count};

/// A walk and where its list is.
#[repr(C)]
pub struct Walking {
    walk: Walk,
    /// Index in `LISTS` of the first server.
    first: u32,
}

/// A lookup in a table and where it is.
#[repr(C)]
pub struct Probing {
    probe: Probe,
    /// Index in `LISTS` of the first server, and of the first word of the table.
    first: u32,
    table: u32,
    /// Servers in the list.
    count: u32,
}

/// What schedulers look at of a packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asked {
    /// The folded address that is hashed: the client's, or for `dh` the destination.
    pub client: u32,
    pub destination: u32,
    /// The client's port, host byte order.
    pub port: u16,
    /// Number of the scheduler.
    pub scheduler: u8,
}

/// A service's server list as it is now.
#[derive(Clone, Copy)]
pub struct List {
    /// Index in `LISTS` of the first server.
    pub first: u32,
    pub head: ListHead,
    /// Slots of the table behind the servers.
    pub slots: u32,
}

/// The list in force.
///
/// # Safety
/// `service` is a map value.
#[inline(always)]
pub unsafe fn list_of(service: *const ServiceRecord) -> Option<List> {
    // SAFETY: the caller vouches for the pointer.
    let block = list::low(unsafe { atomic::load(&raw const (*service).list) });
    if block == 0 {
        return None;
    }
    let (counts, levels) = (LISTS.get_ptr(block)?, LISTS.get_ptr(block + 1)?);
    // SAFETY: map values; a block never changes while a service points to it.
    let (counts, levels) = unsafe { (*counts, *levels) };
    Some(List {
        first: block + list::HEAD,
        head: ListHead {
            count: list::low(counts),
            wrr_max: list::low(levels),
            wrr_step: list::high(levels),
        },
        slots: list::high(counts),
    })
}

/// What the rules look at of a server, by its position in a list.
#[inline(always)]
pub fn candidate(first: u32, index: u32) -> Option<Candidate> {
    let entry = LISTS.get_ptr(first + index)?;
    // SAFETY: a map value.
    let entry = unsafe { *entry };
    candidate_in(list::low(entry), list::high(entry))
}

/// What the rules look at of the server in a place, with this weight.
#[inline(always)]
pub fn candidate_in(slot: u32, weight: u32) -> Option<Candidate> {
    let server = SERVERS.get_ptr(slot)?;
    // SAFETY: a map value.
    unsafe {
        let conns = atomic::load(&raw const (*server).conns);
        let flags = core::ptr::read_volatile(&raw const (*server).flags);
        Some(Candidate {
            slot,
            weight,
            active: server_conns::active(conns),
            total: server_conns::total(conns),
            overloaded: flags & ServerRecord::OVERLOAD != 0,
        })
    }
}

/// The place in `SERVERS` that the service's scheduler chooses, or [`HEAD`]. Those that remember
/// servers are in `cache`.
///
/// # Safety
/// `service` is a map value.
#[inline(always)]
pub unsafe fn pick(service: *mut ServiceRecord, asked: &Asked) -> u32 {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        if table::table_size(asked.scheduler) != 0 {
            return by_table(service, asked);
        }
        by_walk(service, asked.scheduler)
    }
}

/// Read the list, walk it, and store the new position only if nobody moved it meanwhile; after a
/// few collisions the pick counts all the same.
///
/// # Safety
/// `service` is a map value.
#[inline(never)]
pub unsafe fn by_walk(service: *mut ServiceRecord, scheduler: u8) -> u32 {
    let mut slot = HEAD;
    for _ in 0..SWAP_TRIES {
        // SAFETY: the caller vouches for the pointer.
        unsafe {
            let sched = atomic::load(&raw const (*service).sched);
            let Some(list) = list_of(service) else {
                return HEAD;
            };
            let position = Position::from_word(sched);
            let next = walk(&list, scheduler, position, &mut slot).to_word();
            if next == sched || atomic::swap(&raw mut (*service).sched, sched, next) {
                return slot;
            }
        }
        count(Event::SwapRetry);
    }
    count(Event::SwapGivenUp);
    slot
}

/// One pick over a list: the slot, and the position to store.
#[inline(always)]
fn walk(list: &List, scheduler: u8, position: Position, slot: &mut u32) -> Position {
    *slot = HEAD;
    let start = index_of(position, list.first, list.head.count);
    // SAFETY: no arguments.
    let random = unsafe { (bpf_get_prandom_u32() as u64) << 32 | bpf_get_prandom_u32() as u64 };
    let Some(walk) = Walk::begin(scheduler, list.head, start, position.level, random) else {
        return position;
    };
    let Some(mut walking) = WALKING.get_ptr_mut(0) else {
        return position;
    };
    // SAFETY: the value is this processor's own; the callback has the signature the helper asks
    // for and its context outlives the call.
    unsafe {
        (*walking).walk = walk;
        (*walking).first = list.first;
        let context = (&raw mut walking).cast::<c_void>();
        bpf_loop(
            Walk::steps_max(list.head.count),
            walk_step as *mut c_void,
            context,
            0,
        );
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
unsafe extern "C" fn walk_step(_: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<*mut Walking>();
    // SAFETY: `walk` above hands in a pointer to its own `Walking`.
    unsafe {
        let walking = *context;
        let Some(candidate) = candidate((*walking).first, (*walking).walk.index()) else {
            return 1;
        };
        match (*walking).walk.step(candidate) {
            Step::Continue => 0,
            Step::Done => 1,
        }
    }
}

/// The server in the slot of the table that the packet hashes to.
///
/// # Safety
/// `service` is a map value.
#[inline(never)]
unsafe fn by_table(service: *mut ServiceRecord, asked: &Asked) -> u32 {
    // SAFETY: the caller vouches for the pointer.
    let Some(list) = (unsafe { list_of(service) }) else {
        return HEAD;
    };
    // SAFETY: as above.
    let flags = unsafe { (*service).service_flags };
    let fold = if asked.scheduler == table::DH {
        asked.destination
    } else {
        asked.client
    };
    // For the moment in which the scheduler changes the table may be that of another one, and larger;
    // its slots name servers of the list all the same.
    if list.slots < table::table_size(asked.scheduler) {
        return HEAD;
    }
    let Some(probe) = Probe::begin(asked.scheduler, flags, fold, asked.port) else {
        return HEAD;
    };
    let Some(mut probing) = PROBING.get_ptr_mut(0) else {
        return HEAD;
    };
    // SAFETY: the value is this processor's own; the callback has the signature the helper asks
    // for and its context outlives the call.
    unsafe {
        (*probing).probe = probe;
        (*probing).first = list.first;
        (*probing).table = list.first + list.head.count;
        (*probing).count = list.head.count;
        let context = (&raw mut probing).cast::<c_void>();
        let steps = Probe::steps_max(asked.scheduler, flags);
        bpf_loop(steps, probe_step as *mut c_void, context, 0);
        (*probing).probe.chosen().unwrap_or(HEAD)
    }
}

/// One step of the lookup: fetches the server in the slot. Returns 1 to end the loop.
unsafe extern "C" fn probe_step(_: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<*mut Probing>();
    // SAFETY: `by_table` hands in a pointer to its own `Probing`; the rest are map values.
    unsafe {
        let probing = *context;
        let slot = (*probing).probe.slot();
        let at = (*probing).table + slot / list::SLOTS_PER_WORD;
        let Some(word) = LISTS.get_ptr(at) else {
            return 1;
        };
        let index = list::slot_of(*word, slot);
        let found = if (index as u32) < (*probing).count {
            candidate((*probing).first, index as u32)
        } else {
            None
        };
        match (*probing).probe.step(found) {
            Step::Continue => 0,
            Step::Done => 1,
        }
    }
}
