//! The way of a packet: of a known connection, of a new one, or not ours.

use aya_ebpf::helpers::bpf_skb_vlan_pop;
use aya_ebpf::programs::TcContext;
use dataplane_common::FlowKey;
use dataplane_common::rules::directing::{Function, under_lease};
use dataplane_common::rules::sctp::chunk;
use dataplane_common::rules::tcp::flag;
use dataplane_common::service::{ServiceRecord, vip};
use dataplane_common::settings::{LEASE_FOREVER, Settings};
use dataplane_common::verdict::Verdict;

use crate::clock::{boot_ns, coarse_ns};
use crate::family::{Family, V4};
use crate::maps::{PROGRAMS, SERVICES, SETTINGS, VIPS4, program};
use crate::packet::{
    ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IPPROTO_SCTP, IPPROTO_TCP, Packet, Unparsed,
    arp_request_target,
};
use crate::{Outcome, atomic, known, packet4, schedule, service};

/// `__sk_buff.pkt_type` of a frame for this host, and of one for a group.
const PACKET_HOST: u32 = 0;
const PACKET_MULTICAST: u32 = 2;
/// Those up to this one come to the stack: for this host, for all, for a group. One for another host
/// does not.
const PACKET_ANYBODYS: u32 = PACKET_MULTICAST;
/// The VLAN's number in `__sk_buff.vlan_tci`.
const VLAN_ID: u32 = 0xfff;

/// Handles one frame; one of IPv6 goes on in `director6`.
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
    if vlan != 0 {
        return Verdict::NotHost.into();
    }
    if protocol == ETH_P_IP.to_be() as u32 && kind == PACKET_HOST {
        return ip::<V4>(ctx);
    }
    // A neighbour solicitation is sent to a group.
    if protocol == ETH_P_IPV6.to_be() as u32 && kind <= PACKET_ANYBODYS {
        // SAFETY: the context is the program's own; the call does not come back.
        unsafe { PROGRAMS.tail_call(ctx, program::DIRECTOR6) }
        return Verdict::Internal.into();
    }
    // An ARP request is a broadcast, and must stay unanswered when the lease has lapsed.
    if protocol == ETH_P_ARP.to_be() as u32 {
        return arp(ctx).into();
    }
    if kind == PACKET_HOST {
        return Verdict::NotIp.into();
    }
    if protocol == ETH_P_IP.to_be() as u32 && kind <= PACKET_ANYBODYS {
        return to_everybody(ctx).into();
    }
    Verdict::NotHost.into()
}

/// A packet in a frame for everybody is no service traffic, but the stack would take it.
#[inline(always)]
fn to_everybody(ctx: &TcContext) -> Verdict {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return Verdict::Internal;
    };
    match packet4::destination(ctx) {
        Some(dst) => if_accepted::<V4>(settings, dst, Verdict::NotHost),
        None => Verdict::NotHost,
    }
}

/// The verdict of a packet that passes, unless its destination takes service traffic alone.
#[inline(always)]
pub fn if_accepted<F: Family>(
    settings: *const Settings,
    dst: F::Addr,
    verdict: Verdict,
) -> Verdict {
    // SAFETY: `settings` is a map value.
    if unsafe { (*settings).not_accepted } == 0 {
        return verdict;
    }
    match F::vip(dst) {
        Some(value) if value & vip::NOT_ACCEPTED != 0 => Verdict::NotAccepted,
        _ => verdict,
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
    if function(settings).answers_for_addresses() {
        return Verdict::Arp;
    }
    match arp_request_target(ctx) {
        Some(target) if VIPS4.get_ptr(target).is_some() => Verdict::LeaseLapsedArp,
        _ => Verdict::Arp,
    }
}

/// Handles one IP packet.
#[inline(always)]
pub fn ip<F: Family>(ctx: &TcContext) -> Outcome {
    let Some(settings) = SETTINGS.get_ptr(0) else {
        return Verdict::Internal.into();
    };
    // SAFETY: the context is the program's own.
    let for_host = unsafe { (*ctx.skb.skb).pkt_type } == PACKET_HOST;
    let packet = match F::parse(ctx) {
        Ok(packet) if for_host => packet,
        Err(unparsed) if for_host => return not_parsed::<F>(settings, unparsed).into(),
        Err(Unparsed::Solicitation { target }) => {
            return solicited::<F>(settings, target, Verdict::NotHost).into();
        }
        Ok(Packet {
            key: FlowKey { dst, .. },
            ..
        })
        | Err(
            Unparsed::OtherProtocol { dst }
            | Unparsed::Fragment { dst }
            | Unparsed::TooShort { dst }
            | Unparsed::TooManyHeaders { dst },
        ) => return if_accepted::<F>(settings, dst, Verdict::NotHost).into(),
        Err(Unparsed::BadHeader | Unparsed::NeighbourDiscovery) => {
            return Verdict::NotHost.into();
        }
    };
    let now_ns = coarse_ns();
    let function = function(settings);
    if let Some(flow) = F::find(&packet.key) {
        if let Some(conn) = F::conn(flow.index) {
            if let Some(outcome) =
                known::handle::<F>(ctx, settings, &packet, conn, flow, function, now_ns)
            {
                return outcome;
            }
        }
    }
    unknown::<F>(ctx, settings, &packet, function, now_ns)
}

/// A packet whose ports cannot be read: nothing is known about it but where it goes.
///
/// DIFFERS: the kernel reassembles fragments before it looks; a packet cannot be held at TC.
#[inline(always)]
fn not_parsed<F: Family>(settings: *const Settings, unparsed: Unparsed<F::Addr>) -> Verdict {
    let (dst, ours, others) = match unparsed {
        Unparsed::BadHeader => return Verdict::BadHeader,
        Unparsed::OtherProtocol { dst } => {
            return if_accepted::<F>(settings, dst, Verdict::OtherProtocol);
        }
        Unparsed::NeighbourDiscovery => return Verdict::OtherProtocol,
        Unparsed::Solicitation { target } => {
            return solicited::<F>(settings, target, Verdict::OtherProtocol);
        }
        Unparsed::Fragment { dst } => (dst, Verdict::Fragment, Verdict::OtherFragment),
        Unparsed::TooShort { dst } => (dst, Verdict::TooShort, Verdict::BadHeader),
        Unparsed::TooManyHeaders { dst } => {
            (dst, Verdict::ExtensionHeaders, Verdict::OtherProtocol)
        }
    };
    if !F::has_services(dst) {
        return if_accepted::<F>(settings, dst, others);
    }
    match function(settings) {
        Function::Direct => ours,
        Function::Drop => Verdict::LeaseLapsed,
        Function::ReplyOnly | Function::Pass => standby::<F>(dst),
    }
}

/// A neighbour solicitation for a virtual address gets no answer from a node whose lease has lapsed.
#[inline(always)]
fn solicited<F: Family>(settings: *const Settings, target: F::Addr, others: Verdict) -> Verdict {
    if !function(settings).answers_for_addresses() && F::vip(target).is_some() {
        return Verdict::LeaseLapsedNdp;
    }
    others
}

/// Requests on a node that does not direct: to the stack, but never routed onwards.
///
/// DIFFERS: the kernel would route a packet whose address is not its own; here a node that lost the
/// virtual address, or never had it, must not send it back onto the LAN.
#[inline(always)]
pub fn standby<F: Family>(vip: F::Addr) -> Verdict {
    if F::is_local(vip) {
        Verdict::Standby
    } else {
        Verdict::VipNotLocal
    }
}

/// Whether a packet may start a connection, as far as it alone says.
#[inline(always)]
pub fn may_start<A>(settings: *const Settings, packet: &Packet<A>) -> bool {
    // SAFETY: the pointer is a map value.
    unsafe {
        match packet.key.protocol {
            IPPROTO_TCP => {
                let sloppy = (*settings).sloppy_tcp != 0;
                packet.flags & flag::RST == 0 && (sloppy || packet.flags & flag::SYN != 0)
            }
            IPPROTO_SCTP => {
                let sloppy = (*settings).sloppy_sctp != 0;
                packet.flags != chunk::ABORT && (sloppy || packet.flags == chunk::INIT)
            }
            _ => true,
        }
    }
}

/// A packet of no connection: what may start one goes on in the program that makes connections.
#[inline(always)]
fn unknown<F: Family>(
    ctx: &TcContext,
    settings: *const Settings,
    packet: &Packet<F::Addr>,
    function: Function,
    now_ns: u64,
) -> Outcome {
    let Some(id) = service::find::<F>(ctx, settings, packet) else {
        return if_accepted::<F>(settings, packet.key.dst, Verdict::NoService).into();
    };
    match function {
        Function::Direct => {}
        Function::Drop => return Verdict::LeaseLapsed.into(),
        Function::ReplyOnly | Function::Pass => {
            return standby::<F>(packet.key.dst).into();
        }
    }
    let Some(service) = SERVICES.get_ptr(id) else {
        return Verdict::Internal.into();
    };
    // SAFETY: `service` is a map value.
    if unsafe { (*service).flags } & ServiceRecord::VIP_LOCAL == 0 {
        return Verdict::VipNotLocal.into();
    }
    if !may_start(settings, packet) {
        // SAFETY: the pointer is a map value.
        let held_ns = unsafe { atomic::load(&raw const (*settings).unknown_held_ns) };
        if now_ns < held_ns {
            return Verdict::NotYetKnown.into();
        }
        return if_accepted::<F>(settings, packet.key.dst, Verdict::NoConnection).into();
    }
    schedule::go_on::<F>(ctx, packet, id, now_ns)
}
