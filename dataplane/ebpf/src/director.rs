//! The way of a packet: hit, reuse, new connection, or not ours.

use aya_ebpf::helpers::bpf_skb_vlan_pop;
use aya_ebpf::programs::TcContext;
use dataplane_common::entry::{Conn4, ConnWord, NO_SERVER};
use dataplane_common::rules::directing::{Function, under_lease};
use dataplane_common::rules::tcp::{TcpEvent, flag};
use dataplane_common::rules::transition::{Transition, is_expired, on_tcp, on_udp};
use dataplane_common::service::{RouteRecord, ServerRecord, ServiceKey4, ServiceRecord, vip};
use dataplane_common::settings::{LEASE_FOREVER, Settings};
use dataplane_common::verdict::{Event, Verdict};
use dataplane_common::{FlowRef, NS_PER_SEC, TcpState};

use crate::clock::{boot_ns, coarse_ns};
use crate::connection::{SWAP_TRIES, add_conns, take_down};
use crate::maps::{
    CONNS4, FLOWS4, ROUTES4, SERVERS, SERVICE_IDS4, SERVICES, SETTINGS, VIPS4, count, host_route,
};
use crate::packet::{
    ETH_P_ARP, ETH_P_IP, IPPROTO_TCP, Packet, Unparsed, arp_request_target, parse,
};
use crate::transmit::{count_reply, count_request, reply, request};
use crate::{Outcome, atomic, offer, schedule};

/// `__sk_buff.pkt_type` of a frame for this host.
const PACKET_HOST: u32 = 0;
/// The VLAN's number in `__sk_buff.vlan_tci`.
const VLAN_ID: u32 = 0xfff;

/// Handles one frame.
#[inline(always)]
pub fn handle(ctx: &TcContext) -> Outcome {
    // SAFETY: the context is the program's own.
    let (kind, tagged, tag, protocol) = unsafe {
        let skb = ctx.skb.skb;
        (
            (*skb).pkt_type,
            (*skb).vlan_present != 0,
            (*skb).vlan_tci,
            (*skb).protocol,
        )
    };
    // A tag of VLAN 0 carries a priority only (IEEE 802.1Q): the frame is for this interface.
    let vlan = if tagged && tag & VLAN_ID == 0 {
        // SAFETY: the helper gets the program's own context.
        (unsafe { bpf_skb_vlan_pop(ctx.skb.skb) } != 0) as u32
    } else {
        tagged as u32
    };
    // A frame with a tag goes to its VLAN device and comes by there.
    if kind != PACKET_HOST || vlan != 0 {
        // An ARP request is a broadcast, and must stay unanswered when the lease has lapsed.
        if vlan == 0 && protocol == ETH_P_ARP.to_be() as u32 {
            return arp(ctx).into();
        }
        return Verdict::NotHost.into();
    }
    if protocol == ETH_P_IP.to_be() as u32 {
        ipv4(ctx)
    } else if protocol == ETH_P_ARP.to_be() as u32 {
        arp(ctx).into()
    } else {
        Verdict::NotIp.into()
    }
}

/// What this node does at this moment. The clock of the lease is read only where there is one.
#[inline(always)]
fn function(settings: *const Settings) -> Function {
    // SAFETY: the pointer is a map value.
    let (base, deadline) = unsafe {
        (
            (*settings).function,
            atomic::load(&raw const (*settings).lease_deadline_ns),
        )
    };
    let base = Function::from_number(base);
    if deadline == LEASE_FOREVER {
        return base;
    }
    under_lease(base, deadline, boot_ns())
}

/// An ARP request for a virtual address gets no answer from a node whose lease has lapsed.
#[inline(always)]
fn arp(ctx: &TcContext) -> Verdict {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return Verdict::Internal;
    };
    if !matches!(function(settings), Function::Drop) {
        return Verdict::Arp;
    }
    match arp_request_target(ctx) {
        Some(target) if VIPS4.get_ptr(target).is_some() => Verdict::LeaseLapsedArp,
        _ => Verdict::Arp,
    }
}

#[inline(always)]
fn ipv4(ctx: &TcContext) -> Outcome {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return Verdict::Internal.into();
    };
    let packet = match parse(ctx) {
        Ok(packet) => packet,
        Err(unparsed) => return not_parsed(settings, unparsed).into(),
    };
    let now_ns = coarse_ns();
    let function = function(settings);
    if let Some(flow) = FLOWS4.get_ptr(&packet.key) {
        // SAFETY: one aligned read of eight bytes; a torn element would fail the checks below.
        let flow = unsafe { core::ptr::read_volatile(flow.cast::<u64>()) };
        let flow = FlowRef {
            index: flow as u32,
            tag: (flow >> 32) as u32,
        };
        if let Some(conn) = CONNS4.get_ptr_mut(flow.index) {
            if let Some(outcome) = known(ctx, settings, &packet, conn, flow, function, now_ns) {
                return outcome;
            }
        }
    }
    unknown(ctx, settings, &packet, function, now_ns)
}

/// A packet whose ports cannot be read: nothing is known about it but where it goes.
///
/// DIFFERS: the kernel reassembles fragments before it looks; a packet cannot be held at TC.
#[inline(always)]
fn not_parsed(settings: *const Settings, unparsed: Unparsed) -> Verdict {
    let (dst, ours, others) = match unparsed {
        Unparsed::BadHeader => return Verdict::BadHeader,
        Unparsed::OtherProtocol => return Verdict::OtherProtocol,
        Unparsed::Fragment { dst } => (dst, Verdict::Fragment, Verdict::OtherFragment),
        Unparsed::TooShort { dst } => (dst, Verdict::TooShort, Verdict::BadHeader),
    };
    if !has_services(dst.0) {
        return others;
    }
    match function(settings) {
        Function::Direct => ours,
        Function::Drop => Verdict::LeaseLapsed,
        Function::ReplyOnly | Function::Pass => standby(dst.0),
    }
}

/// Whether services have this address. That a virtual router has it does not count: what is
/// addressed to the servers' gateway itself is the stack's.
#[inline(always)]
fn has_services(addr: u32) -> bool {
    match VIPS4.get_ptr(addr) {
        // SAFETY: the pointer is a map value.
        Some(value) => vip::services(unsafe { *value }) != 0,
        None => false,
    }
}

/// Requests on a node that does not direct: to the stack, but never routed onwards.
///
/// DIFFERS: the kernel would route a packet whose address is not its own; here a node that lost the
/// virtual address, or never had it, must not send it back onto the LAN.
#[inline(always)]
fn standby(vip: u32) -> Verdict {
    if is_local(vip) {
        Verdict::Standby
    } else {
        Verdict::VipNotLocal
    }
}

#[inline(always)]
fn is_local(addr: u32) -> bool {
    match ROUTES4.get(&host_route(addr)) {
        Some(route) => route.kind == RouteRecord::LOCAL,
        None => false,
    }
}

/// Whether a packet may start a connection, as far as it alone says.
#[inline(always)]
fn may_start(settings: *const Settings, packet: &Packet) -> bool {
    if packet.key.protocol != IPPROTO_TCP {
        return true;
    }
    // SAFETY: the pointer is a map value.
    let sloppy = unsafe { (*settings).sloppy_tcp } != 0;
    packet.tcp_flags & flag::RST == 0 && (sloppy || packet.tcp_flags & flag::SYN != 0)
}

/// What became of a connection's word under a packet.
enum Touched {
    /// The packet belongs to it.
    Live,
    /// It is not there any more, or not for this packet.
    Absent,
    /// Its maker is still at it.
    Busy,
    /// It must make room before a new connection can have its key.
    Stale(ConnWord),
    /// Its server was removed.
    ServerGone,
}

/// A packet whose flow is in the table. `None` when the packet has to be looked at as a new one.
#[inline(always)]
fn known(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet,
    conn: *mut Conn4,
    flow: FlowRef,
    function: Function,
    now_ns: u64,
) -> Option<Outcome> {
    let is_reply = flow.is_reply();
    match function {
        Function::Direct => {}
        Function::Drop => return Some(Verdict::LeaseLapsed.into()),
        Function::ReplyOnly if is_reply => {}
        Function::ReplyOnly | Function::Pass if is_reply => {
            return Some(Verdict::Standby.into());
        }
        Function::ReplyOnly | Function::Pass => return Some(standby(packet.key.dst.0).into()),
    }
    if is_reply && packet.ttl <= 1 {
        return Some(Verdict::ReplyTtl.into());
    }
    // SAFETY: `conn` is an element of the map.
    match unsafe { touch(settings, packet, conn, flow, now_ns) } {
        Touched::Live => {}
        Touched::Busy => return Some(Verdict::Busy.into()),
        Touched::ServerGone => return Some(Verdict::ServerGone.into()),
        // Whatever the client sends: a server that was removed may have ended it.
        Touched::Stale(word) if !is_reply => {
            // SAFETY: as above.
            if unsafe { take_down(conn, word) } && may_start(settings, packet) {
                count(Event::Reused);
            }
            return None;
        }
        Touched::Stale(_) | Touched::Absent => return None,
    }
    // SAFETY: as above.
    unsafe {
        let slot = (*conn).server;
        let server = if slot == NO_SERVER {
            None
        } else {
            SERVERS.get_ptr(slot)
        };
        if is_reply {
            count_reply(slot, server, packet.len);
            return Some(reply(ctx, packet, conn));
        }
        let elsewhere = match server {
            Some(server) => vip_is_elsewhere(server),
            None => !is_local(packet.key.dst.0),
        };
        if elsewhere {
            return Some(Verdict::VipNotLocal.into());
        }
        if let Some(server) = server {
            count_request(slot, server, packet.len);
        }
        let pkts = atomic::fetch_add(&raw mut (*conn).in_pkts, 1) + 1;
        let outcome = request(ctx, packet, conn, server);
        offer::after_request(settings, conn, flow.generation(), pkts, now_ns);
        Some(outcome)
    }
}

/// Whether the virtual address of a server's service has left this host.
///
/// # Safety
/// `server` points to an element of `SERVERS`.
#[inline(always)]
unsafe fn vip_is_elsewhere(server: *const ServerRecord) -> bool {
    // SAFETY: the caller vouches for the pointer; `service` is a map value.
    unsafe {
        match SERVICES.get_ptr((*server).service) {
            Some(service) => (*service).flags & ServiceRecord::VIP_LOCAL == 0,
            None => false,
        }
    }
}

/// Moves a connection's word, deadline and timeout for a packet.
///
/// What the swap vouches for is read between the word and the swap.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn touch(
    settings: *const Settings,
    packet: &Packet,
    conn: *mut Conn4,
    flow: FlowRef,
    now_ns: u64,
) -> Touched {
    let output = flow.is_reply();
    for _ in 0..SWAP_TRIES {
        // SAFETY: the caller vouches for `conn`; `settings` is a map value.
        unsafe {
            let word = ConnWord(atomic::load(&raw const (*conn).word));
            if word.generation() != flow.generation() || word.is_free() {
                return Touched::Absent;
            }
            if word.is(ConnWord::INIT | ConnWord::GONE) {
                return Touched::Busy;
            }
            if !is_of(conn, packet, output) {
                return Touched::Absent;
            }
            if word.is(ConnWord::DEAD) || is_expired((*conn).deadline_ns, now_ns) {
                return Touched::Stale(word);
            }
            let tcp = packet.key.protocol == IPPROTO_TCP;
            if !output {
                if tcp && packet.tcp_flags & flag::SYN != 0 && makes_room(settings, conn, word) {
                    return Touched::Stale(word);
                }
                match server_of(conn) {
                    ServerOf::Available | ServerOf::Unbound => {}
                    ServerOf::Gone if (*settings).expire_nodest_conn != 0 => {
                        return Touched::Stale(word);
                    }
                    ServerOf::Gone => return Touched::ServerGone,
                }
            }
            let next = if tcp {
                let event = TcpEvent::from_flags(packet.tcp_flags);
                on_tcp(word, (*settings).secure_tcp != 0, output, event)
            } else {
                on_udp(word, output)
            };
            let Transition {
                word: next,
                conns_delta,
            } = next;
            let next = next.with(ConnWord::LOCAL);
            if next != word {
                let server = (*conn).server;
                if !atomic::swap(&raw mut (*conn).word, word.0, next.0) {
                    count(Event::SwapRetry);
                    continue;
                }
                add_conns(server, conns_delta);
            }
            set_timer(settings, conn, tcp, next, now_ns);
            return Touched::Live;
        }
    }
    count(Event::SwapGivenUp);
    Touched::Busy
}

/// Gives a connection the timeout of its state, and of the state another processor has moved it to
/// meanwhile, so that a slow hand does not leave an old timeout behind.
///
/// # Safety
/// Both pointers are map values.
#[inline(always)]
unsafe fn set_timer(
    settings: *const Settings,
    conn: *mut Conn4,
    tcp: bool,
    word: ConnWord,
    now_ns: u64,
) {
    let mut state = word.state();
    for _ in 0..SWAP_TRIES {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let timeout_secs = if tcp {
                (*settings).tcp_timeout_secs[(state & 15) as usize]
            } else {
                (*settings).udp_timeout_secs
            };
            (*conn).timeout_secs = timeout_secs;
            let deadline_ns = now_ns + timeout_secs as u64 * NS_PER_SEC;
            atomic::store(&raw mut (*conn).deadline_ns, deadline_ns);
            let now = ConnWord(atomic::load(&raw const (*conn).word));
            if now.state() == state || now.generation() != word.generation() {
                return;
            }
            state = now.state();
        }
    }
}

/// Whether an entry is the one the packet's addresses belong to.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn is_of(conn: *const Conn4, packet: &Packet, output: bool) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let (key, seen) = (&(*conn).key, &packet.key);
        if output {
            key.src.0 == seen.dst.0
                && key.sport.0 == seen.dport.0
                && (*conn).daddr.0 == seen.src.0
                && (*conn).dport.0 == seen.sport.0
        } else {
            key.src.0 == seen.src.0
                && key.dst.0 == seen.dst.0
                && key.sport.0 == seen.sport.0
                && key.dport.0 == seen.dport.0
        }
    }
}

/// Whether a SYN replaces the connection it hits (`ip_vs_core.c: is_new_conn_expected`).
///
/// # Safety
/// Both pointers are map values.
#[inline(always)]
unsafe fn makes_room(settings: *const Settings, conn: *const Conn4, word: ConnWord) -> bool {
    // SAFETY: the caller vouches for the pointers.
    let (mode, reschedules) = unsafe {
        (
            (*settings).conn_reuse_mode,
            (*settings).expire_nodest_conn != 0,
        )
    };
    // SAFETY: as above.
    if reschedules && word.controls() == 0 && unsafe { is_quiesced(conn) } {
        return true;
    }
    let state = word.state();
    let closed = state == TcpState::TimeWait as u8 || state == TcpState::Close as u8;
    let half_closed =
        mode & 2 != 0 && state == TcpState::FinWait as u8 && word.is(ConnWord::NOOUTPUT);
    mode != 0 && word.controls() == 0 && (closed || half_closed)
}

/// Whether a connection's server has weight 0.
///
/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn is_quiesced(conn: *const Conn4) -> bool {
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

enum ServerOf {
    Available,
    Unbound,
    Gone,
}

/// # Safety
/// `conn` points to an element of `CONNS4`.
#[inline(always)]
unsafe fn server_of(conn: *const Conn4) -> ServerOf {
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

/// A packet of no connection.
#[inline(always)]
fn unknown(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet,
    function: Function,
    now_ns: u64,
) -> Outcome {
    let key = ServiceKey4 {
        addr: packet.key.dst,
        port: packet.key.dport,
        protocol: packet.key.protocol,
        reserved: 0,
    };
    let Some(id) = SERVICE_IDS4.get_ptr(&key) else {
        return Verdict::NoService.into();
    };
    // SAFETY: `id` is a map value.
    let id = unsafe { *id };
    match function {
        Function::Direct => {}
        Function::Drop => return Verdict::LeaseLapsed.into(),
        Function::ReplyOnly | Function::Pass => return standby(packet.key.dst.0).into(),
    }
    let Some(service) = SERVICES.get_ptr_mut(id) else {
        return Verdict::Internal.into();
    };
    // SAFETY: `service` is a map value.
    if unsafe { (*service).flags } & ServiceRecord::VIP_LOCAL == 0 {
        return Verdict::VipNotLocal.into();
    }
    if !may_start(settings, packet) {
        return Verdict::NoConnection.into();
    }
    schedule::new_connection(ctx, settings, packet, service, id, now_ns)
}
