//! Sends packets on, and counts them.

use aya_ebpf::bindings::{TC_ACT_OK, TC_ACT_REDIRECT};
use aya_ebpf::programs::TcContext;
use dataplane_common::entry::Conn;
use dataplane_common::service::ServerRecord;
use dataplane_common::verdict::Verdict;

use crate::Outcome;
use crate::connection::{BYPASS, DIRECT_ROUTING, LOCAL_NODE, MASQUERADING, method};
use crate::family::{Family, Hop};
use crate::maps::{SERVER_STATS, SERVICE_STATS, TOTAL_STATS};
use crate::packet::Packet;

/// Counts a packet from a client for its server, its service and the director.
///
/// # Safety
/// `server` points to element `slot` of `SERVERS`.
#[inline(always)]
pub unsafe fn count_request(slot: u32, server: *const ServerRecord, len: u32) {
    // SAFETY: the caller vouches for `server`; statistics are this processor's own.
    unsafe {
        let service = (*server).service;
        let all = [
            SERVER_STATS.get_ptr_mut(slot),
            SERVICE_STATS.get_ptr_mut(service),
            TOTAL_STATS.get_ptr_mut(0),
        ];
        for stats in all.into_iter().flatten() {
            (*stats).in_pkts += 1;
            (*stats).in_bytes += len as u64;
        }
    }
}

/// Counts a packet from a server, while the server is listed.
///
/// # Safety
/// `server` points to element `slot` of `SERVERS`.
#[inline(always)]
pub unsafe fn count_reply(slot: u32, server: Option<*const ServerRecord>, len: u32) {
    let Some(server) = server else { return };
    // SAFETY: the caller vouches for `server`; statistics are this processor's own.
    unsafe {
        if (*server).flags & ServerRecord::AVAILABLE == 0 {
            return;
        }
        let service = (*server).service;
        let all = [
            SERVER_STATS.get_ptr_mut(slot),
            SERVICE_STATS.get_ptr_mut(service),
            TOTAL_STATS.get_ptr_mut(0),
        ];
        for stats in all.into_iter().flatten() {
            (*stats).out_pkts += 1;
            (*stats).out_bytes += len as u64;
        }
    }
}

/// Where a packet from a client goes, by its connection or, without one, by the scheduler.
pub struct Target<A> {
    pub daddr: A,
    pub dport: u16,
    /// Number of the forwarding method.
    pub method: u16,
    pub server: Option<*const ServerRecord>,
}

/// The target of a connection.
///
/// # Safety
/// `conn` is an entry of the connection table, `server` the element of `SERVERS` it is bound to.
#[inline(always)]
pub unsafe fn target_of<F: Family>(
    conn: *const Conn<F::Addr>,
    server: Option<*const ServerRecord>,
) -> Target<F::Addr> {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        Target {
            daddr: (*conn).daddr,
            dport: (*conn).dport.0,
            method: method::<F>(conn),
            server,
        }
    }
}

/// Sends a packet to its real server by the forwarding method.
///
/// # Safety
/// `target.server` is a map value.
#[inline(always)]
pub unsafe fn request<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    target: &Target<F::Addr>,
) -> Outcome {
    let method = target.method;
    let hop = match target.server {
        // SAFETY: the caller vouches for the pointer.
        Some(server) => unsafe {
            if method == LOCAL_NODE || (*server).flags & ServerRecord::LOCAL != 0 {
                return Verdict::LocalServer.into();
            }
            F::server_hop(server)
        },
        None if method == LOCAL_NODE => return Verdict::LocalServer.into(),
        None if method == BYPASS => F::hop(packet.key.dst),
        None => F::hop(target.daddr),
    };
    if hop.is_local() {
        return Verdict::LocalServer.into();
    }
    if packet.ttl <= 1 {
        return F::time_exceeded(ctx, packet);
    }
    if hop.is_none() {
        return Verdict::NoServerRoute.into();
    }
    if method == MASQUERADING {
        if !F::rewrite::<false>(ctx, packet, target.daddr, target.dport) {
            return Verdict::Failed.into();
        }
        return send::<F>(&hop, Verdict::Masqueraded);
    }
    let verdict = match method {
        DIRECT_ROUTING => Verdict::Direct,
        BYPASS => Verdict::Bypassed,
        // Tunnels of another director's connections are not there.
        _ => return Verdict::Failed.into(),
    };
    if !F::ttl_less_one(ctx) {
        return Verdict::Failed.into();
    }
    send::<F>(&hop, verdict)
}

/// Sends a reply to its client, with the virtual address as its source.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
pub unsafe fn reply<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    conn: *const Conn<F::Addr>,
) -> Outcome {
    // SAFETY: the caller vouches for the pointer.
    let (vaddr, vport, client) = unsafe { ((*conn).key.dst, (*conn).key.dport.0, (*conn).key.src) };
    let hop = F::hop(client);
    if hop.is_none() {
        return Verdict::NoClientRoute.into();
    }
    if !F::rewrite::<true>(ctx, packet, vaddr, vport) {
        return Verdict::Failed.into();
    }
    if hop.is_local() {
        return Outcome {
            verdict: Verdict::Reply,
            redirect: TC_ACT_OK as i32,
        };
    }
    send::<F>(&hop, Verdict::Reply)
}

/// Hands the packet to the neighbour of a next hop.
#[inline(always)]
pub fn send<F: Family>(hop: &Hop<F::Addr>, verdict: Verdict) -> Outcome {
    let redirect = F::redirect(hop);
    if redirect != TC_ACT_REDIRECT as i32 {
        return Verdict::Failed.into();
    }
    Outcome { verdict, redirect }
}
