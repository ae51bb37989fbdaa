//! New connections, second half: the entry in the table, and the packet's way out.

use aya_ebpf::programs::TcContext;
use dataplane_common::entry::{NO_CONTROLLER, NO_SERVER};
use dataplane_common::passing::Held;
use dataplane_common::rules::schedule::HEAD;
use dataplane_common::service::{ServerRecord, ServiceRecord};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Verdict;
use dataplane_common::{Address, Be16, NS_PER_SEC};

use crate::connection::{BYPASS, NotPublished, claim, publish, uncontrol};
use crate::director::if_accepted;
use crate::family::Family;
use crate::maps::{SERVER_STATS, SERVERS, SERVICE_STATS, SERVICES, SETTINGS, TOTAL_STATS};
use crate::packet::{IPPROTO_UDP, Packet};
use crate::persistence::{Found, fill, fresh, make, rules_of};
use crate::service::{FTP, ONEPACKET, PERSISTENT, is_by_mark};
use crate::state::{assure, timeout_secs, transition};
use crate::transmit::{Target, count_request, request, target_of};
use crate::{Outcome, offer};

/// Connects the packet that was handed over with the server that was chosen.
#[inline(always)]
pub fn handle<F: Family>(ctx: &TcContext) -> Outcome {
    let (Some(passing), Some(settings)) = (F::passing(), SETTINGS.get_ptr(0)) else {
        return Verdict::Internal.into();
    };
    // SAFETY: the value is this processor's own, and no one else has it until the program ends.
    let passing = unsafe { &mut *passing };
    let Some(service) = SERVICES.get_ptr(passing.service) else {
        return Verdict::Internal.into();
    };
    let packet = &passing.packet;
    // SAFETY: `service`, `server` and `settings` are map values.
    unsafe {
        if passing.slot == HEAD {
            return leave::<F>(ctx, settings, packet, service, passing.now_ns);
        }
        let flags = passing.service_flags;
        if flags & PERSISTENT != 0 && passing.held.is_none() {
            match make::<F>(settings, service, passing) {
                Found::Held => passing.slot = passing.held.server,
                Found::TableFull => return Verdict::TableFull.into(),
                // Another processor is making it at this moment. The kernel would have two of
                // them now; here this connection has none.
                Found::None | Found::Busy => {}
            }
        }
        let packet = &passing.packet;
        let Some(server) = SERVERS.get_ptr(passing.slot) else {
            uncontrol::<F>(passing.held.index);
            return Verdict::Internal.into();
        };
        let dport = if flags & PERSISTENT != 0 {
            rules_of(service).connection_dport(packet.key.dport, (*server).port)
        } else if (*server).port.0 == 0 {
            packet.key.dport
        } else {
            (*server).port
        };
        let chosen = Chosen {
            service,
            service_id: passing.service,
            slot: passing.slot,
            server,
            dport,
        };
        if flags & ONEPACKET != 0 && packet.key.protocol == IPPROTO_UDP {
            return one_packet::<F>(
                ctx,
                settings,
                packet,
                &chosen,
                &passing.held,
                passing.now_ns,
            );
        }
        connect::<F>(
            ctx,
            settings,
            packet,
            &chosen,
            &passing.held,
            passing.now_ns,
        )
    }
}

/// Who gets the connection.
struct Chosen {
    service: *const ServiceRecord,
    service_id: u32,
    slot: u32,
    server: *const ServerRecord,
    dport: Be16,
}

/// Makes the entry, and sends the packet.
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn connect<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    chosen: &Chosen,
    held: &Held,
    now_ns: u64,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers; a claimed entry is nobody else's.
    unsafe {
        let Some(claim) = claim::<F>(settings, now_ns) else {
            uncontrol::<F>(held.index);
            return Verdict::TableFull.into();
        };
        let conn = claim.conn;
        fill::<F>(conn, chosen.service, chosen.server, chosen.slot, now_ns);
        let word = fresh::<F>(&claim.word, (*conn).conn_flags);
        let moved = transition(settings, packet, word, false);
        let next = moved.word;
        let timeout_secs = timeout_secs(settings, packet.key.protocol, next.state());
        (*conn).key = packet.key;
        (*conn).dport = chosen.dport;
        (*conn).in_pkts = 1;
        (*conn).timeout_secs = timeout_secs;
        (*conn).deadline_ns = now_ns + timeout_secs as u64 * NS_PER_SEC;
        (*conn).controller = held.index;
        (*conn).controller_generation = held.generation;
        match publish(&claim, next, now_ns) {
            Ok(()) => {}
            Err(error) => {
                uncontrol::<F>(held.index);
                return match error {
                    NotPublished::Exists => Verdict::Busy.into(),
                    NotPublished::ReplyCollision => Verdict::ReplyCollision.into(),
                };
            }
        }
        if moved.assures && !held.is_none() {
            assure::<F>(held.index, held.generation);
        }
        count_scheduled(chosen.slot, chosen.service_id);
        count_request(chosen.slot, chosen.server, packet.len);
        let target = target_of::<F>(conn, Some(chosen.server));
        let outcome = request::<F>(ctx, packet, &target);
        offer::after_request::<F>(settings, conn, next.generation(), 1, now_ns);
        outcome
    }
}

/// Sends a packet whose service schedules each one anew, without an entry.
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn one_packet<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    chosen: &Chosen,
    held: &Held,
    now_ns: u64,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        count_scheduled(chosen.slot, chosen.service_id);
        count_request(chosen.slot, chosen.server, packet.len);
        let target = Target {
            daddr: F::Addr::from_words((*chosen.server).addr),
            dport: chosen.dport.0,
            method: (*chosen.server).method as u16,
            server: Some(chosen.server),
        };
        let outcome = request::<F>(ctx, packet, &target);
        if let Some(template) = F::conn(held.index) {
            offer::after_one_packet::<F>(settings, template, held.generation, now_ns);
            uncontrol::<F>(held.index);
        }
        outcome
    }
}

/// A packet that no server takes (`ip_vs_core.c: ip_vs_leave`).
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn leave<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    service: *const ServiceRecord,
    now_ns: u64,
) -> Outcome {
    let (dst, dport) = (packet.key.dst, packet.key.dport.0);
    // SAFETY: the caller vouches for the pointers.
    let (by_mark, service_port, persistent) = unsafe {
        let bypasses = (*settings).cache_bypass != 0;
        let by_mark = is_by_mark(service);
        if bypasses && by_mark && F::is_unicast(dst) && !F::is_local(dst) {
            return bypass::<F>(ctx, settings, packet, service, now_ns);
        }
        let persistent = (*service).service_flags & PERSISTENT != 0;
        (by_mark, (*service).port.0, persistent)
    };
    if service_port == FTP.0 && dport != FTP.0 {
        return if_accepted::<F>(settings, dst, Verdict::FtpPort).into();
    }
    let reason = if !by_mark && !persistent && service_port != dport {
        Verdict::PortZero
    } else {
        Verdict::NoServer
    };
    F::port_unreachable(ctx, packet, reason)
}

/// Sends a packet to its own destination, and the rest of its connection with it (sysctl
/// `cache_bypass`).
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn bypass<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    service: *const ServiceRecord,
    now_ns: u64,
) -> Outcome {
    // SAFETY: the caller vouches for the pointers; a claimed entry is nobody else's.
    unsafe {
        if (*service).service_flags & ONEPACKET != 0 && packet.key.protocol == IPPROTO_UDP {
            let target = Target {
                daddr: F::Addr::default(),
                dport: 0,
                method: BYPASS,
                server: None,
            };
            return request::<F>(ctx, packet, &target);
        }
        let Some(claim) = claim::<F>(settings, now_ns) else {
            return Verdict::TableFull.into();
        };
        let conn = claim.conn;
        let word = fresh::<F>(&claim.word, BYPASS);
        let next = transition(settings, packet, word, false).word;
        let timeout_secs = timeout_secs(settings, packet.key.protocol, next.state());
        (*conn).key = packet.key;
        (*conn).daddr = F::Addr::default();
        (*conn).dport = Be16(0);
        (*conn).conn_flags = BYPASS;
        (*conn).server = NO_SERVER;
        (*conn).server_generation = 0;
        (*conn).in_pkts = 1;
        (*conn).timeout_secs = timeout_secs;
        (*conn).deadline_ns = now_ns + timeout_secs as u64 * NS_PER_SEC;
        (*conn).fwmark = (*service).fwmark;
        (*conn).sync_endtime = 0;
        (*conn).controller = NO_CONTROLLER;
        (*conn).controller_generation = 0;
        (*conn).created_ns = now_ns;
        if publish(&claim, next, now_ns).is_err() {
            return Verdict::Busy.into();
        }
        let target = target_of::<F>(conn, None);
        let outcome = request::<F>(ctx, packet, &target);
        offer::after_request::<F>(settings, conn, next.generation(), 1, now_ns);
        outcome
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
