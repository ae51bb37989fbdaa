//! States of connections: what a packet moves, and the timers that belong to them.

use dataplane_common::NS_PER_SEC;
use dataplane_common::entry::{Conn, ConnWord};
use dataplane_common::rules::tcp::TcpEvent;
use dataplane_common::rules::transition::{Transition, on_sctp, on_tcp, on_udp};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Event;

use crate::atomic;
use crate::connection::SWAP_TRIES;
use crate::family::Family;
use crate::maps::count;
use crate::packet::{IPPROTO_SCTP, IPPROTO_TCP, Packet};

/// State of a template whose client has shown that it is there (`IP_VS_CTPL_S_ASSURED`).
const ASSURED: u8 = 1;

/// What a packet makes of a connection's word.
///
/// # Safety
/// `settings` is a map value.
#[inline(always)]
pub unsafe fn transition<A>(
    settings: *const Settings,
    packet: &Packet<A>,
    word: ConnWord,
    output: bool,
) -> Transition {
    match packet.key.protocol {
        IPPROTO_TCP => {
            let event = TcpEvent::from_flags(packet.flags);
            // SAFETY: the caller vouches for the pointer.
            let secure = unsafe { (*settings).secure_tcp } != 0;
            on_tcp(word, secure, output, event)
        }
        IPPROTO_SCTP => on_sctp(word, output, packet.event),
        _ => on_udp(word, output),
    }
}

/// The timeout in seconds of a state.
///
/// # Safety
/// `settings` is a map value.
#[inline(always)]
pub unsafe fn timeout_secs(settings: *const Settings, protocol: u8, state: u8) -> u32 {
    let state = (state & 15) as usize;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        match protocol {
            IPPROTO_TCP => (*settings).tcp_timeout_secs[state],
            IPPROTO_SCTP => (*settings).sctp_timeout_secs[state],
            _ => (*settings).udp_timeout_secs,
        }
    }
}

/// Gives a connection the timeout of its state, and of the state another processor has moved it to
/// meanwhile, so that a slow hand does not leave an old timeout behind.
///
/// # Safety
/// Both pointers are map values.
#[inline(always)]
pub unsafe fn set_timer<F: Family>(
    settings: *const Settings,
    conn: *mut Conn<F::Addr>,
    protocol: u8,
    word: ConnWord,
    now_ns: u64,
) {
    let mut state = word.state();
    for _ in 0..SWAP_TRIES {
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            let timeout_secs = timeout_secs(settings, protocol, state);
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

/// Notes that a client under a template is there.
#[inline(never)]
pub fn assure<F: Family>(controller: u32, generation: u32) {
    let Some(template) = F::conn(controller) else {
        return;
    };
    for _ in 0..SWAP_TRIES {
        // SAFETY: an entry of the table.
        unsafe {
            let word = ConnWord(atomic::load(&raw const (*template).word));
            let is_one = word.is_usable(generation) && (*template).key.is_template();
            if !is_one || word.state() == ASSURED {
                return;
            }
            let next = word.with_state(ASSURED);
            if atomic::swap(&raw mut (*template).word, word.0, next.0) {
                return;
            }
        }
    }
    count(Event::SwapGivenUp);
}
