//! What must not go out of an interface with a virtual router's MAC address.
//!
//! The interface is there on every router of the group, and all of them have that address on it. A
//! switch sends frames for it to where it last saw one from it; so a router that is not the master must
//! not say anything there by itself. The host would: it reports its multicast memberships, and it tells
//! neighbours about the link-local address that adverts come from.

use aya_ebpf::helpers::bpf_skb_load_bytes;
use aya_ebpf::programs::TcContext;
use dataplane_common::service::vip;

use crate::family::{Family, V6};
use crate::packet::{ETH_HLEN, ETH_P_IP, ETH_P_IPV6, IPPROTO_ICMPV6, pulled};
use crate::packet4::Ip4;
use crate::packet6::{HOP_BY_HOP, IP6_HLEN, Ip6, address};

/// RFC 3376 §4
const IPPROTO_IGMP: u8 = 2;
/// ICMPv6 types: membership queries, reports and ends (RFC 2710 §3, RFC 3810 §5.2).
const QUERY: u8 = 130;
const DONE: u8 = 132;
const REPORT_V2: u8 = 143;
/// ICMPv6 types of RFC 4861 §4.
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// Start of a message about neighbours.
#[repr(C)]
struct Neighbour {
    kind: u8,
    code: u8,
    check: u16,
    flags: u32,
    target: [u32; 4],
}

/// Whether a frame may go out. One that cannot be read may: nobody else can read it either.
#[inline(always)]
pub fn may_go(ctx: &TcContext) -> bool {
    let Some(header) = pulled::<[u16; ETH_HLEN as usize / 2]>(ctx, 0) else {
        return true;
    };
    // As it stands in the frame: what a packet socket sends need not say so beside it.
    // SAFETY: `pulled` checked the bounds.
    let ethertype = unsafe { (*header)[6] };
    if ethertype == ETH_P_IP.to_be() {
        return may_go4(ctx);
    }
    ethertype != ETH_P_IPV6.to_be() || may_go6(ctx)
}

#[inline(always)]
fn may_go4(ctx: &TcContext) -> bool {
    let Some(ip) = pulled::<Ip4>(ctx, ETH_HLEN) else {
        return true;
    };
    // SAFETY: `pulled` checked the bounds.
    unsafe { (*ip).protocol != IPPROTO_IGMP }
}

#[inline(always)]
fn may_go6(ctx: &TcContext) -> bool {
    let Some(ip) = pulled::<Ip6>(ctx, ETH_HLEN) else {
        return true;
    };
    // SAFETY: `pulled` checked the bounds.
    let (mut next, source) = unsafe { ((*ip).next_header, address((*ip).src)) };
    let mut offset = ETH_HLEN + IP6_HLEN;
    if next == HOP_BY_HOP {
        // Membership messages carry a router alert (RFC 3810 §5).
        let mut header = [0u8; 2];
        // SAFETY: the helper gets the program's own context and writes two bytes.
        let failed =
            unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut header).cast(), 2) };
        if failed != 0 {
            return true;
        }
        next = header[0];
        offset += (header[1] as u32 + 1) * 8;
    }
    if next != IPPROTO_ICMPV6 {
        return true;
    }
    let mut kind = 0u8;
    // SAFETY: the helper gets the program's own context and writes one byte.
    let failed =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, (&raw mut kind).cast(), 1) };
    if failed != 0 {
        return true;
    }
    match kind {
        QUERY..=DONE | REPORT_V2 | ROUTER_SOLICITATION => false,
        // Without a source it asks whether an address is somebody's already.
        NEIGHBOUR_SOLICITATION => !V6::same(source, <V6 as Family>::Addr::default()),
        NEIGHBOUR_ADVERTISEMENT => match pulled::<Neighbour>(ctx, offset) {
            // SAFETY: `pulled` checked the bounds.
            Some(message) => is_of_router(address(unsafe { (*message).target })),
            None => true,
        },
        _ => true,
    }
}

/// Whether an address moves with a virtual router. The host has it while it is the master, and only
/// then speaks for it.
#[inline(always)]
fn is_of_router(addr: <V6 as Family>::Addr) -> bool {
    V6::vip(addr).is_some_and(|value| value & vip::ROUTER != 0)
}
