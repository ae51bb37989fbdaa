//! Which virtual service a packet of no connection is for.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use aya_ebpf::programs::TcContext;
use dataplane_common::service::{ServiceRecord, mark_rules};
use dataplane_common::settings::Settings;
use dataplane_common::{Addr6, Address, Be16};

use crate::family::Family;
use crate::maps::{MARK_RULES, MARKING};
use crate::packet::{IPPROTO_TCP, Packet};

/// `IP_VS_SVC_F_PERSISTENT`, `IP_VS_SVC_F_ONEPACKET`
pub const PERSISTENT: u32 = 0x1;
pub const ONEPACKET: u32 = 0x4;
/// FTP's ports for control and for data.
pub const FTP: Be16 = Be16::from_host(21);
const FTP_DATA: Be16 = Be16::from_host(20);

/// What the marking rules are compared with, and what they gave.
#[repr(C)]
pub struct Marking {
    source: Addr6,
    destination: Addr6,
    /// Host byte order.
    port: u16,
    protocol: u8,
    family: u8,
    /// Place in `MARK_RULES` of the first rule in force.
    first: u32,
    mark: u32,
}

/// The place in `SERVICES` of a packet's service, in the kernel's order: by mark, by address and
/// port, an FTP service that takes the ports of data connections too, a service on port zero
/// (`ip_vs_ctl.c: ip_vs_service_find`).
#[inline(always)]
pub fn find<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
) -> Option<u32> {
    let key = &packet.key;
    // SAFETY: `settings` is a map value.
    let (by_mark, ftp, port_zero) = unsafe {
        (
            (*settings).fwmark_services != 0,
            (*settings).ftp_services != 0,
            (*settings).port_zero_services != 0,
        )
    };
    if by_mark {
        let mark = mark_of::<F>(ctx, settings, packet);
        if mark != 0 {
            if let Some(id) = F::service(F::mark(mark), Be16(0), 0) {
                return Some(id);
            }
        }
    }
    if let Some(id) = F::service(key.dst, key.dport, key.protocol) {
        return Some(id);
    }
    if ftp && key.protocol == IPPROTO_TCP {
        // SAFETY: as above.
        let unprivileged = key.dport.to_host() as u32 >= unsafe { (*settings).unprivileged_port };
        if unprivileged || key.dport.0 == FTP_DATA.0 {
            if let Some(id) = F::service(key.dst, FTP, key.protocol) {
                return Some(id);
            }
        }
    }
    if port_zero {
        return F::service(key.dst, Be16(0), key.protocol);
    }
    None
}

/// The firewall mark of a packet: that of the first rule that matches, else the one it came with.
#[inline(always)]
fn mark_of<F: Family>(ctx: &TcContext, settings: *const Settings, packet: &Packet<F::Addr>) -> u32 {
    // SAFETY: the context is the program's own; `settings` is a map value.
    let (came_with, rules) = unsafe {
        (
            (*ctx.skb.skb).mark,
            core::ptr::read_volatile(&raw const (*settings).mark_rules),
        )
    };
    let (first, count) = (rules as u32, (rules >> 32) as u32);
    if count == 0 {
        return came_with;
    }
    let Some(mut marking) = MARKING.get_ptr_mut(0) else {
        return came_with;
    };
    // SAFETY: the value is this processor's own; the callback has the signature the helper asks for
    // and its context outlives the call.
    unsafe {
        (*marking).source = packet.key.src.to_words();
        (*marking).destination = packet.key.dst.to_words();
        (*marking).port = packet.key.dport.to_host();
        (*marking).protocol = packet.key.protocol;
        (*marking).family = F::Addr::FAMILY;
        (*marking).first = first;
        (*marking).mark = came_with;
        let context = (&raw mut marking).cast::<c_void>();
        let count = if count > mark_rules::MAX {
            mark_rules::MAX
        } else {
            count
        };
        bpf_loop(count, compare as *mut c_void, context, 0);
        (*marking).mark
    }
}

/// Compares one rule. Returns 1 to end the loop.
unsafe extern "C" fn compare(index: u32, context: *mut c_void) -> i64 {
    let context = context.cast::<*mut Marking>();
    // SAFETY: `mark_of` hands in a pointer to its own `Marking`; the rule is a map value.
    unsafe {
        let marking = *context;
        let Some(rule) = MARK_RULES.get_ptr((*marking).first.wrapping_add(index)) else {
            return 1;
        };
        let port = (*marking).port;
        let (low, high) = ((*rule).ports[0], (*rule).ports[1]);
        if (*rule).family != (*marking).family
            || ((*rule).protocol != 0 && (*rule).protocol != (*marking).protocol)
            || (high != 0 && (port < low || port > high))
        {
            return 0;
        }
        let mut differs = 0;
        for word in 0..4 {
            let source = (*marking).source[word].0 ^ (*rule).source[word].0;
            let destination = (*marking).destination[word].0 ^ (*rule).destination[word].0;
            differs |= source & (*rule).source_mask[word].0;
            differs |= destination & (*rule).destination_mask[word].0;
        }
        if differs != 0 {
            return 0;
        }
        (*marking).mark = (*rule).mark;
    }
    1
}

/// Whether a service is known by a firewall mark.
///
/// # Safety
/// `service` is a map value.
#[inline(always)]
pub unsafe fn is_by_mark(service: *const ServiceRecord) -> bool {
    // SAFETY: the caller vouches for the pointer.
    unsafe { (*service).protocol == 0 }
}
