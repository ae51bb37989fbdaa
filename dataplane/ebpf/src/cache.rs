//! `lblc` and `lblcr`: the servers remembered for a destination, in front of `wlc`.
//!
//! A program of its own, between `schedule` and `connect`. An entry is replaced as a whole; of two
//! processors that change the same set at once, the later one wins. An element of the hash may be given
//! to another destination while it is read, so each server of a set is checked before it counts: what
//! can be lost is where a destination went before, never whom it may go to.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_EXIST, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::Address;
use dataplane_common::rules::schedule::locality::{
    self, FALLBACK, HalfIdle, SetScan, is_set_due, may_grow, verdict,
};
use dataplane_common::rules::schedule::{Candidate, HEAD, Step};
use dataplane_common::service::{
    CACHE_SET_MAX, CacheKey, CacheRecord, ServerRecord, ServiceRecord,
};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::{Event, Verdict};

use crate::family::Family;
use crate::maps::{CACHE, CACHING, SERVERS, SERVICES, SETTINGS, count};
use crate::pick::{by_walk, candidate, candidate_in, list_of};
use crate::schedule::pass_on;
use crate::{Outcome, atomic};

/// Scratch space of one pick.
#[repr(C)]
pub struct Caching {
    /// The entry as it was found, then as it is to be.
    record: CacheRecord,
    scan: SetScan,
    half_idle: HalfIdle,
    /// Index in `LISTS` of the first server.
    first: u32,
    service: u32,
}

/// Whether the scheduler with this number remembers servers.
#[inline(always)]
pub fn is_cached(scheduler: u8) -> bool {
    scheduler == locality::LBLC || scheduler == locality::LBLCR
}

/// Chooses a server for the packet that was handed over, and goes on to connect them.
#[inline(always)]
pub fn handle<F: Family>(ctx: &TcContext) -> Outcome {
    let Some(passing) = F::passing() else {
        return Verdict::Internal.into();
    };
    // SAFETY: the value is this processor's own, and no one else has it until the program ends.
    let passing = unsafe { &mut *passing };
    let Some(service) = SERVICES.get_ptr_mut(passing.service) else {
        return Verdict::Internal.into();
    };
    // SAFETY: `service` is a map value.
    passing.slot = unsafe {
        let key = CacheKey {
            service: passing.service,
            service_generation: (*service).generation,
            destination: passing.packet.key.dst.to_words(),
        };
        pick(service, &key, passing.now_ns)
    };
    pass_on(ctx, F::CONNECT)
}

/// The place in `SERVERS` that the scheduler chooses, or [`HEAD`].
///
/// # Safety
/// `service` is a map value.
#[inline(never)]
unsafe fn pick(service: *mut ServiceRecord, key: &CacheKey, now_ns: u64) -> u32 {
    // SAFETY: the caller vouches for the pointer; the rest are map values or this processor's own.
    unsafe {
        let Some(mut caching) = CACHING.get_ptr_mut(0) else {
            return HEAD;
        };
        (*caching).service = key.service;
        let known = match CACHE.get_ptr_mut(key) {
            Some(entry) => {
                atomic::store(&raw mut (*entry).last_use_ns, now_ns);
                (*caching).record = *entry;
                true
            }
            None => false,
        };
        let with_sets = (*service).scheduler == locality::LBLCR;
        let mut changed = false;
        if known {
            let mut slot = HEAD;
            if with_sets {
                scan(&mut caching);
                slot = slot_of((*caching).scan.least());
                if is_due(caching, now_ns) {
                    remove(caching, slot_of((*caching).scan.most()));
                    (*caching).record.last_change_ns = now_ns;
                    changed = true;
                }
            } else if let Some(only) = member((*caching).record.servers[0], key.service) {
                slot = only.slot;
            }
            if slot != HEAD && is_used(caching, service, slot) {
                if changed {
                    let _ = CACHE.insert(key, &(*caching).record, BPF_EXIST as u64);
                }
                return slot;
            }
        }
        let slot = by_walk(service, FALLBACK);
        if slot == HEAD {
            return HEAD;
        }
        if !known || !with_sets {
            clear(caching);
        }
        insert(caching, slot, now_ns);
        (*caching).record.last_use_ns = now_ns;
        store(service, key, caching, known);
        slot
    }
}

/// A server's place by itself: what a missing `Candidate` leaves undefined must not be copied.
#[inline(always)]
fn slot_of(server: Option<Candidate>) -> u32 {
    match server {
        Some(server) => server.slot,
        None => HEAD,
    }
}

/// Whether a remembered server gets the connection.
///
/// # Safety
/// `service` is a map value, `caching` this processor's own.
#[inline(never)]
unsafe fn is_used(mut caching: *mut Caching, service: *const ServiceRecord, slot: u32) -> bool {
    let Some(server) = SERVERS.get_ptr(slot) else {
        return false;
    };
    // SAFETY: the caller vouches for the pointers; `server` is a map value.
    unsafe {
        let Some(server) = candidate_in(slot, (*server).weight) else {
            return false;
        };
        match verdict(&server, true) {
            locality::Verdict::Use => true,
            locality::Verdict::UnlessHalfIdle => !some_half_idle(&mut caching, service),
            locality::Verdict::Refuse => false,
        }
    }
}

/// Whether the most loaded server of the set has to leave it.
///
/// # Safety
/// `caching` is this processor's own.
#[inline(always)]
unsafe fn is_due(caching: *const Caching, now_ns: u64) -> bool {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return false;
    };
    let settings: *const Settings = settings;
    // SAFETY: the caller vouches for `caching`; `settings` is a map value.
    unsafe {
        is_set_due(
            (*caching).record.count,
            (*caching).record.last_change_ns,
            now_ns,
            (*settings).lblcr_expiration_secs,
        )
    }
}

/// Writes the entry back.
///
/// # Safety
/// `service` is a map value, `caching` this processor's own.
#[inline(always)]
unsafe fn store(service: *mut ServiceRecord, key: &CacheKey, caching: *const Caching, known: bool) {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        let record = &(*caching).record;
        if known {
            let _ = CACHE.insert(key, record, BPF_EXIST as u64);
            return;
        }
        let cached = &raw mut (*service).cached;
        let room = may_grow(atomic::load(cached));
        if room && CACHE.insert(key, record, BPF_NOEXIST as u64).is_ok() {
            atomic::add(cached, 1);
        } else {
            count(Event::CacheFull);
        }
    }
}

/// A member of a set, if it is still a listed server of the service.
#[inline(always)]
fn member(entry: u64, service: u32) -> Option<Candidate> {
    if entry == 0 {
        return None;
    }
    let (slot, generation) = (entry as u32, (entry >> 32) as u32);
    let server = SERVERS.get_ptr(slot)?;
    // SAFETY: a map value.
    unsafe {
        let listed = (*server).flags & ServerRecord::AVAILABLE != 0;
        if !listed || (*server).generation != generation || (*server).service != service {
            return None;
        }
        candidate_in(slot, (*server).weight)
    }
}

/// Looks at each member of the set.
///
/// # Safety
/// `caching` is this processor's own.
#[inline(always)]
unsafe fn scan(caching: &mut *mut Caching) {
    // SAFETY: the caller vouches for the pointer; the callback has the signature the helper asks for
    // and its context outlives the call.
    unsafe {
        (**caching).scan = SetScan::begin();
        (**caching).record.count = 0;
        let context = (caching as *mut *mut Caching).cast::<c_void>();
        bpf_loop(CACHE_SET_MAX as u32, scan_step as *mut c_void, context, 0);
    }
}

unsafe extern "C" fn scan_step(index: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<*mut Caching>();
    // SAFETY: `scan` hands in a pointer to its own `Caching`.
    unsafe {
        let caching = *context;
        let at = index as usize & (CACHE_SET_MAX - 1);
        let entry = (*caching).record.servers[at];
        match member(entry, (*caching).service) {
            Some(candidate) => {
                (*caching).scan.step(candidate, true);
                (*caching).record.count += 1;
            }
            None => (*caching).record.servers[at] = 0,
        }
    }
    0
}

/// Whether some server of the service has fewer active connections than half its weight.
///
/// # Safety
/// `service` is a map value, `caching` this processor's own.
#[inline(always)]
unsafe fn some_half_idle(caching: &mut *mut Caching, service: *const ServiceRecord) -> bool {
    // SAFETY: the caller vouches for the pointers; the callback has the signature the helper asks
    // for and its context outlives the call.
    unsafe {
        let Some(list) = list_of(service) else {
            return false;
        };
        let Some(half_idle) = HalfIdle::begin(list.head.count) else {
            return false;
        };
        (**caching).half_idle = half_idle;
        (**caching).first = list.first;
        let context = (caching as *mut *mut Caching).cast::<c_void>();
        let steps = HalfIdle::steps_max(list.head.count);
        bpf_loop(steps, half_idle_step as *mut c_void, context, 0);
        (**caching).half_idle.found()
    }
}

unsafe extern "C" fn half_idle_step(_: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<*mut Caching>();
    // SAFETY: `some_half_idle` hands in a pointer to its own `Caching`.
    unsafe {
        let caching = *context;
        let Some(candidate) = candidate((*caching).first, (*caching).half_idle.index()) else {
            return 1;
        };
        match (*caching).half_idle.step(candidate) {
            Step::Continue => 0,
            Step::Done => 1,
        }
    }
}

/// Takes a server out of the set; its place in it stays empty.
///
/// # Safety
/// `caching` is this processor's own.
#[inline(never)]
unsafe fn remove(caching: *mut Caching, slot: u32) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let record = &raw mut (*caching).record;
        for at in 0..CACHE_SET_MAX {
            let entry = (*record).servers[at];
            if entry != 0 && entry as u32 == slot {
                (*record).servers[at] = 0;
                (*record).count = (*record).count.wrapping_sub(1);
            }
        }
    }
}

/// Puts a server at the front of the set, unless it is in it. The last place falls out of the set.
///
/// # Safety
/// `caching` is this processor's own.
#[inline(never)]
unsafe fn insert(caching: *mut Caching, slot: u32, now_ns: u64) {
    let Some(server) = SERVERS.get_ptr(slot) else {
        return;
    };
    // SAFETY: the caller vouches for `caching`; `server` is a map value.
    unsafe {
        let entry = slot as u64 | ((*server).generation as u64) << 32;
        let record = &raw mut (*caching).record;
        for at in 0..CACHE_SET_MAX {
            if (*record).servers[at] == entry {
                return;
            }
        }
        if (*record).servers[CACHE_SET_MAX - 1] == 0 {
            (*record).count = (*record).count.wrapping_add(1);
        }
        for at in (1..CACHE_SET_MAX).rev() {
            (*record).servers[at] = (*record).servers[at - 1];
        }
        (*record).servers[0] = entry;
        (*record).last_change_ns = now_ns;
    }
}

/// Forgets all servers of the set.
///
/// # Safety
/// `caching` is this processor's own.
#[inline(always)]
unsafe fn clear(caching: *mut Caching) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        (*caching).record.count = 0;
        for at in 0..CACHE_SET_MAX {
            (*caching).record.servers[at] = 0;
        }
    }
}
