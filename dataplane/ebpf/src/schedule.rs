//! New connections, first half: which real server gets it.
//!
//! `director` goes on here by a tail call, and from here `connect` by another (or `cache`, and then
//! `connect`): so the verifier looks at each part alone.

use aya_ebpf::programs::TcContext;
use dataplane_common::passing::{Held, Passing};
use dataplane_common::rules::schedule::HEAD;
use dataplane_common::service::ServiceRecord;
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Verdict;
use dataplane_common::{Address, Be16};

use crate::Outcome;
use crate::cache::is_cached;
use crate::connection::uncontrol;
use crate::director::if_accepted;
use crate::family::Family;
use crate::maps::{PROGRAMS, SERVICES, SETTINGS};
use crate::packet::Packet;
use crate::persistence::{Found, hold, rules_of};
use crate::pick::{Asked, pick};
use crate::service::{PERSISTENT, is_by_mark};

/// FTP's data port: connections from it are never scheduled.
const FTP_DATA: Be16 = Be16::from_host(20);

/// Goes on in the program that makes connections.
#[inline(always)]
pub fn go_on<F: Family>(
    ctx: &TcContext,
    packet: &Packet<F::Addr>,
    service: u32,
    now_ns: u64,
) -> Outcome {
    let Some(passing) = F::passing() else {
        return Verdict::Internal.into();
    };
    // SAFETY: the value is this processor's own; the call does not come back.
    unsafe {
        (*passing).packet = *packet;
        (*passing).service = service;
        (*passing).now_ns = now_ns;
    }
    pass_on(ctx, F::SCHEDULE)
}

/// Goes on in another program; comes back only when that is not there.
#[inline(always)]
pub fn pass_on(ctx: &TcContext, program: u32) -> Outcome {
    // SAFETY: the context is the program's own; the call does not come back.
    unsafe { PROGRAMS.tail_call(ctx, program) }
    Verdict::Internal.into()
}

/// Finds a server for the packet that was handed over.
#[inline(always)]
pub fn handle<F: Family>(ctx: &TcContext) -> Outcome {
    let (Some(passing), Some(settings)) = (F::passing(), SETTINGS.get_ptr(0)) else {
        return Verdict::Internal.into();
    };
    // SAFETY: the value is this processor's own, and no one else has it until the program ends.
    let passing = unsafe { &mut *passing };
    let Some(service) = SERVICES.get_ptr_mut(passing.service) else {
        return Verdict::Internal.into();
    };
    new_connection::<F>(ctx, settings, passing, service)
}

/// Chooses a server for a packet that found a service.
#[inline(always)]
fn new_connection<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    passing: &mut Passing<F::Addr>,
    service: *mut ServiceRecord,
) -> Outcome {
    let key = passing.packet.key;
    if key.sport.0 == FTP_DATA.0 {
        return if_accepted::<F>(settings, key.dst, Verdict::SourcePort20).into();
    }
    if F::is_martian(key.src) || F::is_local(key.src) {
        return Verdict::MartianSource.into();
    }
    passing.slot = HEAD;
    passing.held = Held::NONE;
    // SAFETY: `service` and `settings` are map values.
    unsafe {
        let flags = (*service).service_flags;
        let persistent = flags & PERSISTENT != 0;
        passing.service_flags = flags;
        if !is_for(service, passing) {
            return if_accepted::<F>(settings, key.dst, Verdict::NoService).into();
        }
        if !persistent && (*service).port.0 != key.dport.0 && !is_by_mark(service) {
            return pass_on(ctx, F::CONNECT);
        }
        if persistent {
            let rules = rules_of(service);
            passing.template = rules.template_key(key.protocol, key.src, key.dst, key.dport);
            match hold::<F>(
                settings,
                &passing.template,
                passing.now_ns,
                &mut passing.held,
            ) {
                Found::Held => {
                    passing.slot = passing.held.server;
                    let outcome = pass_on(ctx, F::CONNECT);
                    uncontrol::<F>(passing.held.index);
                    return outcome;
                }
                // One that another processor is making is looked for again when it is needed.
                Found::None | Found::Busy | Found::TableFull => {}
            }
        }
        let scheduler = (*service).scheduler;
        if is_cached(scheduler) {
            return pass_on(ctx, F::RECALL);
        }
        let asked = Asked {
            client: F::fold(key.src),
            destination: F::fold(key.dst),
            port: key.sport.to_host(),
            scheduler,
        };
        passing.slot = pick(service, &asked);
    }
    pass_on(ctx, F::CONNECT)
}

/// Whether the service is the one the packet found: its place may have been given to another one
/// between the lookup and the reading of the place.
///
/// # Safety
/// `service` is a map value.
#[inline(always)]
unsafe fn is_for<A: Address>(service: *const ServiceRecord, passing: &Passing<A>) -> bool {
    let key = &passing.packet.key;
    let to = key.dst.to_words();
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        let addr = (*service).addr;
        let differs = (addr[0].0 ^ to[0].0)
            | (addr[1].0 ^ to[1].0)
            | (addr[2].0 ^ to[2].0)
            | (addr[3].0 ^ to[3].0);
        is_by_mark(service) || (differs == 0 && (*service).protocol == key.protocol)
    }
}
