//! Real servers, as connections see them: whether they are there, and what they count.
//!
//! Active and total connections share one word, so one atomic addition moves both.

use dataplane_common::entry::{Conn, NO_SERVER, server_conns};
use dataplane_common::rules::threshold::{Overload, Thresholds, after_increment, before_decrement};
use dataplane_common::service::{ServerRecord, ServiceRecord};

use crate::atomic;
use crate::family::Family;
use crate::maps::{SERVERS, SERVICES};

/// Adds to the active connections of a server; the total does not change.
#[inline(always)]
pub fn add_active(server: u32, delta: u64) {
    if delta == 0 || server == NO_SERVER {
        return;
    }
    if let Some(record) = SERVERS.get_ptr_mut(server) {
        // SAFETY: the pointer is a map value; the field is aligned.
        unsafe { atomic::add(&raw mut (*record).conns, delta) }
    }
}

/// Counts a connection for its server, which may become overloaded by it.
#[inline(always)]
pub fn bind(server: u32, delta: u64) {
    let Some(record) = SERVERS.get_ptr_mut(server) else {
        return;
    };
    // SAFETY: the pointer is a map value; the field is aligned.
    unsafe {
        let before = atomic::fetch_add(&raw mut (*record).conns, delta);
        let thresholds = thresholds_of(record);
        if thresholds.upper != 0 {
            let reached = server_conns::total(before) + 1;
            let now = server_conns::total(atomic::load(&raw const (*record).conns));
            overload(record, after_increment(thresholds, reached, now));
        }
    }
}

/// Takes a connection off its server, which may recover by it.
#[inline(always)]
pub fn unbind(server: u32, delta: u64) {
    let Some(record) = SERVERS.get_ptr_mut(server) else {
        return;
    };
    // SAFETY: the pointer is a map value; the field is aligned.
    unsafe {
        let before = atomic::fetch_add(&raw mut (*record).conns, delta);
        let thresholds = thresholds_of(record);
        if thresholds.upper != 0 {
            let from = server_conns::total(before);
            let now = server_conns::total(atomic::load(&raw const (*record).conns));
            overload(record, before_decrement(thresholds, from, now));
        }
    }
}

/// # Safety
/// `record` is a map value.
#[inline(always)]
unsafe fn thresholds_of(record: *const ServerRecord) -> Thresholds {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        Thresholds {
            upper: core::ptr::read_volatile(&raw const (*record).upper_threshold),
            lower: core::ptr::read_volatile(&raw const (*record).lower_threshold),
        }
    }
}

/// Sets or clears OVERLOAD. Two processors may do so in the other order than they counted, so each
/// looks at the count once more afterwards.
///
/// # Safety
/// `record` is a map value.
#[inline(always)]
unsafe fn overload(record: *mut ServerRecord, change: Overload) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let flags = &raw mut (*record).flags;
        let thresholds = thresholds_of(record);
        match change {
            Overload::Keep => {}
            Overload::Set => {
                atomic::or32(flags, ServerRecord::OVERLOAD);
                let now = server_conns::total(atomic::load(&raw const (*record).conns));
                if now < thresholds.lower_limit() {
                    atomic::and32(flags, !ServerRecord::OVERLOAD);
                }
            }
            Overload::Clear => {
                atomic::and32(flags, !ServerRecord::OVERLOAD);
                let now = server_conns::total(atomic::load(&raw const (*record).conns));
                if now >= thresholds.upper {
                    atomic::or32(flags, ServerRecord::OVERLOAD);
                }
            }
        }
    }
}

/// Counts a template for its server, or takes it off.
#[inline(always)]
pub fn add_persistent(server: u32, delta: u64) {
    if let Some(record) = SERVERS.get_ptr_mut(server) {
        // SAFETY: the pointer is a map value; the field is aligned.
        unsafe { atomic::add(&raw mut (*record).persistent, delta) }
    }
}

/// Whether a connection has a real server, and that is there.
pub enum ServerOf {
    Available,
    Unbound,
    Gone,
}

/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn server_of<F: Family>(conn: *const Conn<F::Addr>) -> ServerOf {
    // SAFETY: the caller vouches for the pointer; `server` is a map value.
    unsafe {
        if (*conn).server == NO_SERVER {
            return ServerOf::Unbound;
        }
        let Some(server) = SERVERS.get_ptr((*conn).server) else {
            return ServerOf::Gone;
        };
        let available = (*server).flags & ServerRecord::AVAILABLE != 0;
        if available && (*server).generation == (*conn).server_generation {
            ServerOf::Available
        } else {
            ServerOf::Gone
        }
    }
}

/// Whether a connection's server has weight 0.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn is_quiesced<F: Family>(conn: *const Conn<F::Addr>) -> bool {
    // SAFETY: the caller vouches for the pointer; `server` is a map value.
    unsafe {
        let slot = (*conn).server;
        if slot == NO_SERVER {
            return false;
        }
        SERVERS
            .get_ptr(slot)
            .is_some_and(|server| (*server).weight == 0)
    }
}

/// Whether the virtual address of a server's service has left this host.
///
/// # Safety
/// `server` points to an element of `SERVERS`.
#[inline(always)]
pub unsafe fn vip_is_elsewhere(server: *const ServerRecord) -> bool {
    // SAFETY: the caller vouches for the pointer; `service` is a map value.
    unsafe {
        match SERVICES.get_ptr((*server).service) {
            Some(service) => (*service).flags & ServiceRecord::VIP_LOCAL == 0,
            None => false,
        }
    }
}
