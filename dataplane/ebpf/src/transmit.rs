//! Rewrites packets and sends them on.

use aya_ebpf::bindings::{
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_OK, TC_ACT_REDIRECT, bpf_redir_neigh,
};
use aya_ebpf::helpers::bpf_redirect_neigh;
use aya_ebpf::programs::TcContext;
use dataplane_common::csum::{replace16, replace32};
use dataplane_common::entry::Conn4;
use dataplane_common::service::{RouteRecord, ServerRecord};
use dataplane_common::verdict::Verdict;

use crate::connection::{DIRECT_ROUTING, LOCAL_NODE, MASQUERADING, method};
use crate::maps::{ROUTES4, SERVER_STATS, SERVICE_STATS, TOTAL_STATS, host_route};
use crate::packet::{ETH_HLEN, IPPROTO_TCP, Ip4, Packet, at, halves};
use crate::{Outcome, emit};

const AF_INET: u32 = 2;
/// Offset of the checksum in a TCP and in a UDP header.
const TCP_CHECK: u32 = 16;
const UDP_CHECK: u32 = 6;

/// Counts a packet from a client for its server, its service and the director.
///
/// # Safety
/// `server` points to element `slot` of `SERVERS`.
#[inline(always)]
pub unsafe fn count_request(slot: u32, server: *const ServerRecord, len: u64) {
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
            (*stats).in_bytes += len;
        }
    }
}

/// Counts a packet from a server, while the server is listed.
///
/// # Safety
/// `server` points to element `slot` of `SERVERS`.
#[inline(always)]
pub unsafe fn count_reply(slot: u32, server: Option<*const ServerRecord>, len: u64) {
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
            (*stats).out_bytes += len;
        }
    }
}

/// Sends a packet to its real server by the connection's method.
///
/// # Safety
/// `conn` points to an element of `CONNS4`, `server` to the element of `SERVERS` it is bound to.
#[inline(always)]
pub unsafe fn request(
    ctx: &TcContext,
    packet: &Packet,
    conn: *const Conn4,
    server: Option<*const ServerRecord>,
) -> Outcome {
    // SAFETY: the caller vouches for both pointers.
    let (daddr, dport, method) = unsafe { ((*conn).daddr.0, (*conn).dport.0, method(conn)) };
    let hop = match server {
        // SAFETY: as above.
        Some(server) => unsafe {
            if method == LOCAL_NODE || (*server).flags & ServerRecord::LOCAL != 0 {
                return Verdict::LocalServer.into();
            }
            core::ptr::read_volatile(&raw const (*server).next_hop)
        },
        None if method == LOCAL_NODE => LOCAL_HOP,
        None => route(daddr),
    };
    if hop == LOCAL_HOP {
        return Verdict::LocalServer.into();
    }
    if packet.ttl <= 1 {
        return emit::time_exceeded(ctx, packet);
    }
    if hop == 0 {
        return Verdict::NoServerRoute.into();
    }
    if method == MASQUERADING {
        if !rewrite::<false>(ctx, packet, daddr, dport) {
            return Verdict::Failed.into();
        }
        return send(hop, Verdict::Masqueraded);
    }
    // Tunnels and bypasses of another director's connections are not there.
    if method != DIRECT_ROUTING || !decrement_ttl(ctx) {
        return Verdict::Failed.into();
    }
    send(hop, Verdict::Direct)
}

/// Sends a reply to its client, with the virtual address as its source.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
pub unsafe fn reply(ctx: &TcContext, packet: &Packet, conn: *const Conn4) -> Outcome {
    // SAFETY: the caller vouches for the pointer.
    let (vaddr, vport, client) =
        unsafe { ((*conn).key.dst.0, (*conn).key.dport.0, (*conn).key.src.0) };
    let hop = route(client);
    if hop == 0 {
        return Verdict::NoClientRoute.into();
    }
    if !rewrite::<true>(ctx, packet, vaddr, vport) {
        return Verdict::Failed.into();
    }
    if hop == LOCAL_HOP {
        return Outcome {
            verdict: Verdict::Reply,
            redirect: TC_ACT_OK as i32,
        };
    }
    send(hop, Verdict::Reply)
}

/// A next hop that is this host.
pub const LOCAL_HOP: u64 = u64::MAX;

/// The next hop to an address by the host's routes: as `ServerRecord::next_hop`, 0 for none.
#[inline(always)]
pub fn route(addr: u32) -> u64 {
    let Some(route) = ROUTES4.get(&host_route(addr)) else {
        return 0;
    };
    match route.kind {
        RouteRecord::UNICAST => {
            let via = if route.gateway.0 == 0 {
                addr
            } else {
                route.gateway.0
            };
            route.ifindex as u64 | (via as u64) << 32
        }
        RouteRecord::LOCAL => LOCAL_HOP,
        _ => 0,
    }
}

/// Hands the packet to the neighbour of a next hop.
#[inline(always)]
pub fn send(hop: u64, verdict: Verdict) -> Outcome {
    // SAFETY: an all-zero value of this plain structure is valid.
    let mut neighbour: bpf_redir_neigh = unsafe { core::mem::zeroed() };
    neighbour.nh_family = AF_INET;
    neighbour.__bindgen_anon_1.ipv4_nh = (hop >> 32) as u32;
    // SAFETY: the structure lives during the call and its size is given.
    let redirect = unsafe {
        bpf_redirect_neigh(
            hop as u32,
            &raw mut neighbour,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        )
    } as i32;
    if redirect != TC_ACT_REDIRECT as i32 {
        return Verdict::Failed.into();
    }
    Outcome { verdict, redirect }
}

/// Takes one off the TTL.
///
/// # Safety
/// `ip` points to a checked header.
#[inline(always)]
unsafe fn ttl_less_one(ip: *mut Ip4) {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let old = u16::from_ne_bytes([(*ip).ttl, (*ip).protocol]);
        let ttl = (*ip).ttl - 1;
        (*ip).ttl = ttl;
        (*ip).check = replace16((*ip).check, old, u16::from_ne_bytes([ttl, (*ip).protocol]));
    }
}

#[inline(always)]
fn decrement_ttl(ctx: &TcContext) -> bool {
    let Some(ip) = at::<Ip4>(ctx, ETH_HLEN) else {
        return false;
    };
    // SAFETY: `at` checked the bounds.
    unsafe { ttl_less_one(ip) }
    true
}

/// Replaces source or destination, takes one off the TTL, and mends the checksums.
///
/// The transport checksum is left to the helper, which knows of checksums that a device fills in.
#[inline(always)]
fn rewrite<const SOURCE: bool>(ctx: &TcContext, packet: &Packet, addr: u32, port: u16) -> bool {
    let tcp = packet.key.protocol == IPPROTO_TCP;
    // Always true; it tells the verifier the bound.
    let l4 = packet.l4 & 0x7f;
    let Some(ip) = at::<Ip4>(ctx, ETH_HLEN) else {
        return false;
    };
    let Some(transport) = at::<[u16; 4]>(ctx, l4) else {
        return false;
    };
    let (old_addr, old_port, udp_check);
    // SAFETY: `at` checked the bounds, and nothing moves the packet before the last access.
    unsafe {
        if SOURCE {
            (old_addr, old_port) = (packet.key.src.0, packet.key.sport.0);
            (*ip).src = halves(addr);
            (*transport)[0] = port;
        } else {
            (old_addr, old_port) = (packet.key.dst.0, packet.key.dport.0);
            (*ip).dst = halves(addr);
            (*transport)[1] = port;
        }
        (*ip).check = replace32((*ip).check, old_addr, addr);
        ttl_less_one(ip);
        udp_check = (*transport)[3];
    }
    if !tcp && udp_check == 0 {
        // As the kernel does it: a datagram without a checksum leaves with one.
        return emit::fill_udp_checksum(ctx, l4, packet.len);
    }
    let (check, mangled) = if tcp {
        (l4 + TCP_CHECK, 0)
    } else {
        (l4 + UDP_CHECK, BPF_F_MARK_MANGLED_0 as u64)
    };
    let check = check as usize;
    let pseudo = BPF_F_PSEUDO_HDR as u64 | mangled | 4;
    if ctx
        .l4_csum_replace(check, old_addr as u64, addr as u64, pseudo)
        .is_err()
    {
        return false;
    }
    old_port == port
        || ctx
            .l4_csum_replace(check, old_port as u64, port as u64, mangled | 2)
            .is_ok()
}
