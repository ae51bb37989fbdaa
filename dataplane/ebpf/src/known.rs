//! A packet of a known connection.

use aya_ebpf::programs::TcContext;
use dataplane_common::entry::{Conn, ConnWord, NO_CONTROLLER, NO_SERVER};
use dataplane_common::rules::directing::Function;
use dataplane_common::rules::sctp::chunk;
use dataplane_common::rules::tcp::flag;
use dataplane_common::settings::Settings;
use dataplane_common::verdict::{Event, Verdict};
use dataplane_common::{FlowRef, SctpState, TcpState};

use crate::connection::{BYPASS, SWAP_TRIES, is_over, make_way, method};
use crate::director::{may_start, standby};
use crate::family::Family;
use crate::maps::{SERVERS, count};
use crate::packet::{IPPROTO_SCTP, IPPROTO_TCP, Packet};
use crate::server::{ServerOf, add_active, is_quiesced, server_of, vip_is_elsewhere};
use crate::state::{assure, set_timer, transition};
use crate::transmit::{count_reply, count_request, reply, request, target_of};
use crate::{Outcome, atomic, offer};

/// Whether a packet starts a connection, so that one of the same client port may have to make room.
#[inline(always)]
fn starts<A>(packet: &Packet<A>) -> bool {
    match packet.key.protocol {
        IPPROTO_TCP => packet.flags & flag::SYN != 0,
        IPPROTO_SCTP => packet.flags == chunk::INIT,
        _ => false,
    }
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
pub fn handle<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    conn: *mut Conn<F::Addr>,
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
        Function::ReplyOnly | Function::Pass => {
            return Some(standby::<F>(packet.key.dst).into());
        }
    }
    if is_reply && packet.ttl <= 1 {
        return Some(Verdict::ReplyTtl.into());
    }
    // SAFETY: `conn` is an element of the map.
    match unsafe { touch::<F>(settings, packet, conn, flow, now_ns) } {
        Touched::Live => {}
        Touched::Busy => return Some(Verdict::Busy.into()),
        Touched::ServerGone => return Some(Verdict::ServerGone.into()),
        // Whatever the client sends: a server that was removed may have ended it.
        Touched::Stale(word) if !is_reply => {
            // SAFETY: as above.
            if unsafe { make_way::<F>(conn, flow.index, word) } && may_start(settings, packet) {
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
            return Some(reply::<F>(ctx, packet, conn));
        }
        let elsewhere = match server {
            Some(server) => vip_is_elsewhere(server),
            None => method::<F>(conn) != BYPASS && !F::is_local(packet.key.dst),
        };
        if elsewhere {
            return Some(Verdict::VipNotLocal.into());
        }
        if let Some(server) = server {
            count_request(slot, server, packet.len);
        }
        let pkts = atomic::fetch_add(&raw mut (*conn).in_pkts, 1) + 1;
        let target = target_of::<F>(conn, server);
        let outcome = request::<F>(ctx, packet, &target);
        offer::after_request::<F>(settings, conn, flow.generation(), pkts, now_ns);
        Some(outcome)
    }
}

/// Moves a connection's word, deadline and timeout for a packet.
///
/// What the swap vouches for is read between the word and the swap.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn touch<F: Family>(
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    conn: *mut Conn<F::Addr>,
    flow: FlowRef,
    now_ns: u64,
) -> Touched {
    let output = flow.is_reply();
    let mut touched = ConnWord(0);
    let mut assures = false;
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
            if word.is(ConnWord::DETACHED) || !is_of::<F>(conn, packet, output) {
                return Touched::Absent;
            }
            if word.is(ConnWord::DEAD) || is_over(word, (*conn).deadline_ns, now_ns) {
                return Touched::Stale(word);
            }
            if !output {
                if starts(packet) && makes_room::<F>(settings, packet, conn, word) {
                    return Touched::Stale(word);
                }
                match server_of::<F>(conn) {
                    ServerOf::Available | ServerOf::Unbound => {}
                    ServerOf::Gone if (*settings).expire_nodest_conn != 0 => {
                        return Touched::Stale(word);
                    }
                    ServerOf::Gone => return Touched::ServerGone,
                }
            }
            let moved = transition(settings, packet, word, output);
            let next = moved.word.with(ConnWord::LOCAL);
            if next == word || atomic::swap(&raw mut (*conn).word, word.0, next.0) {
                add_active((*conn).server, moved.conns_delta);
                assures = moved.assures;
                touched = next;
                break;
            }
            count(Event::SwapRetry);
        }
    }
    if touched.is_free() {
        count(Event::SwapGivenUp);
        return Touched::Busy;
    }
    // SAFETY: as above.
    unsafe {
        let controller = (*conn).controller;
        if assures && controller != NO_CONTROLLER {
            assure::<F>(controller, (*conn).controller_generation);
        }
        set_timer::<F>(settings, conn, packet.key.protocol, touched, now_ns);
    }
    Touched::Live
}

/// Whether an entry is the one the packet's addresses belong to.
///
/// # Safety
/// `conn` is an entry of the connection table.
#[inline(always)]
unsafe fn is_of<F: Family>(
    conn: *const Conn<F::Addr>,
    packet: &Packet<F::Addr>,
    output: bool,
) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let (key, seen) = (&(*conn).key, &packet.key);
        if key.protocol != seen.protocol || key.is_template() {
            return false;
        }
        if output {
            F::same(key.src, seen.dst)
                && key.sport.0 == seen.dport.0
                && F::same((*conn).daddr, seen.src)
                && (*conn).dport.0 == seen.sport.0
        } else {
            F::same(key.src, seen.src)
                && F::same(key.dst, seen.dst)
                && key.sport.0 == seen.sport.0
                && key.dport.0 == seen.dport.0
        }
    }
}

/// Whether a packet that starts a connection replaces the one it hits
/// (`ip_vs_core.c: is_new_conn_expected`).
///
/// DIFFERS: the kernel spares a connection that controls others when connection tracking has
/// confirmed the packet's; here there is no connection tracking.
///
/// # Safety
/// The pointers are map values.
#[inline(always)]
unsafe fn makes_room<F: Family>(
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    conn: *const Conn<F::Addr>,
    word: ConnWord,
) -> bool {
    // SAFETY: the caller vouches for the pointers.
    unsafe {
        if (*settings).expire_nodest_conn != 0 && is_quiesced::<F>(conn) {
            return true;
        }
        let mode = (*settings).conn_reuse_mode;
        if mode == 0 || (*conn).controller != NO_CONTROLLER {
            return false;
        }
        let state = word.state();
        if packet.key.protocol == IPPROTO_SCTP {
            return state == SctpState::Closed as u8;
        }
        let closed = state == TcpState::TimeWait as u8 || state == TcpState::Close as u8;
        let half_closed =
            mode & 2 != 0 && state == TcpState::FinWait as u8 && word.is(ConnWord::NOOUTPUT);
        closed || half_closed
    }
}
