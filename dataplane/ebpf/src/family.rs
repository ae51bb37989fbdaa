//! What IPv4 and IPv6 differ in: tables, headers, addresses. Everything else exists once, for any
//! [`Family`].

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::programs::TcContext;
use dataplane_common::entry::Conn;
use dataplane_common::passing::Passing;
use dataplane_common::service::{RouteRecord, ServerRecord, ServiceKey4, ServiceKey6, vip};
use dataplane_common::settings::Settings;
use dataplane_common::verdict::Verdict;
use dataplane_common::{Addr6, Address, Be16, Be32, FlowKey, FlowRef};

use crate::maps::{
    CONNS4, CONNS6, FLOWS4, FLOWS6, PASSING4, PASSING6, ROUTES4, ROUTES6, SERVICE_IDS4,
    SERVICE_IDS6, VIPS4, VIPS6, program,
};
use crate::packet::{Packet, Unparsed};
use crate::{Outcome, packet4, packet6};

/// Where a packet is sent: an interface and the neighbour there.
#[derive(Clone, Copy)]
pub struct Hop<A> {
    /// 0 is no route, [`Hop::LOCAL`] this host.
    pub ifindex: u32,
    pub via: A,
}

impl<A: Address> Hop<A> {
    pub const LOCAL: u32 = u32::MAX;

    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.ifindex == 0
    }

    #[inline(always)]
    pub fn is_local(&self) -> bool {
        self.ifindex == Self::LOCAL
    }
}

/// An address family.
pub trait Family: Sized + 'static {
    type Addr: Address;

    /// Places in `PROGRAMS` of the programs that choose servers, those that `lblc` remembers, and
    /// that make connections.
    const SCHEDULE: u32;
    const RECALL: u32;
    const CONNECT: u32;
    /// Place in `FULL_UNTIL`.
    const FULL: u32;

    fn same(one: Self::Addr, other: Self::Addr) -> bool;

    /// An IPv4 address as a number, or the words of an IPv6 address in one: what schedulers hash.
    fn fold(addr: Self::Addr) -> u32;

    /// Whether no client can have this address.
    fn is_martian(source: Self::Addr) -> bool;

    /// Whether connections can lead to this address.
    fn is_unicast(destination: Self::Addr) -> bool;

    /// A firewall mark in place of an address.
    fn mark(mark: u32) -> Self::Addr;

    fn find(key: &FlowKey<Self::Addr>) -> Option<FlowRef>;

    /// False if the key is there already, or cannot be inserted.
    fn insert(key: &FlowKey<Self::Addr>, flow: FlowRef) -> bool;

    /// Deletes a key; true when it is gone.
    fn delete(key: &FlowKey<Self::Addr>) -> bool;

    /// Deletes a key if it leads there; true when it does not any more.
    ///
    /// Between the look and the deletion another processor may give the key to another connection, but
    /// a key that has been somebody else's for longer stays.
    #[inline(always)]
    fn delete_if(key: &FlowKey<Self::Addr>, flow: FlowRef) -> bool {
        match Self::find(key) {
            Some(found) if found == flow => Self::delete(key),
            _ => true,
        }
    }

    fn conn(index: u32) -> Option<*mut Conn<Self::Addr>>;

    /// Places in the connection table less one.
    ///
    /// # Safety
    /// `settings` is a map value.
    unsafe fn mask(settings: *const Settings) -> u32;

    /// How many connections synchronisation may still make.
    ///
    /// # Safety
    /// `settings` is a map value.
    unsafe fn sync_room(settings: *mut Settings) -> *mut u64;

    fn service(addr: Self::Addr, port: Be16, protocol: u8) -> Option<u32>;

    /// The value of the address among the virtual addresses.
    fn vip(addr: Self::Addr) -> Option<u32>;

    fn route(addr: Self::Addr) -> Option<*const RouteRecord>;

    /// The next hop to a real server.
    ///
    /// # Safety
    /// `server` is a map value.
    unsafe fn server_hop(server: *const ServerRecord) -> Hop<Self::Addr>;

    fn passing() -> Option<*mut Passing<Self::Addr>>;

    fn parse(ctx: &TcContext) -> Result<Packet<Self::Addr>, Unparsed<Self::Addr>>;

    /// Replaces source or destination, takes one off the TTL, and mends the checksums.
    fn rewrite<const SOURCE: bool>(
        ctx: &TcContext,
        packet: &Packet<Self::Addr>,
        addr: Self::Addr,
        port: u16,
    ) -> bool;

    /// Takes one off the TTL or hop limit.
    fn ttl_less_one(ctx: &TcContext) -> bool;

    /// Hands the packet to a neighbour; gives what the program must return.
    fn redirect(hop: &Hop<Self::Addr>) -> i32;

    /// Drops the packet for this reason and tells the client that nobody serves there.
    fn port_unreachable(ctx: &TcContext, packet: &Packet<Self::Addr>, reason: Verdict) -> Outcome;

    /// Drops the packet and tells the client that its TTL ended here.
    fn time_exceeded(ctx: &TcContext, packet: &Packet<Self::Addr>) -> Outcome;

    /// The next hop to an address by the host's routes.
    #[inline(always)]
    fn hop(addr: Self::Addr) -> Hop<Self::Addr> {
        let none = Hop {
            ifindex: 0,
            via: addr,
        };
        let Some(route) = Self::route(addr) else {
            return none;
        };
        // SAFETY: `route` is a map value.
        unsafe {
            match (*route).kind {
                RouteRecord::UNICAST => {
                    let gateway = Self::Addr::from_words((*route).gateway);
                    let on_link = Self::same(gateway, Self::Addr::default());
                    Hop {
                        ifindex: (*route).ifindex,
                        via: if on_link { addr } else { gateway },
                    }
                }
                RouteRecord::LOCAL => Hop {
                    ifindex: Hop::<Self::Addr>::LOCAL,
                    via: addr,
                },
                _ => none,
            }
        }
    }

    #[inline(always)]
    fn is_local(addr: Self::Addr) -> bool {
        match Self::route(addr) {
            // SAFETY: `route` is a map value.
            Some(route) => unsafe { (*route).kind == RouteRecord::LOCAL },
            None => false,
        }
    }

    /// Whether services have this address. That a virtual router has it does not count: what is
    /// addressed to the servers' gateway itself is the stack's.
    #[inline(always)]
    fn has_services(addr: Self::Addr) -> bool {
        match Self::vip(addr) {
            Some(value) => vip::services(value) != 0,
            None => false,
        }
    }
}

/// One aligned read of eight bytes: an element of a hash may be given to somebody else meanwhile,
/// and a torn one fails the checks that follow.
#[inline(always)]
fn read_flow(flow: *mut FlowRef) -> FlowRef {
    // SAFETY: the pointer is a map value, aligned to 8.
    let flow = unsafe { core::ptr::read_volatile(flow.cast::<u64>()) };
    FlowRef {
        index: flow as u32,
        tag: (flow >> 32) as u32,
    }
}

/// What the kernel says about a key that is not there.
const ENOENT: i32 = 2;

macro_rules! tables {
    ($flows:ident, $conns:ident, $passing:ident) => {
        #[inline(always)]
        fn find(key: &FlowKey<Self::Addr>) -> Option<FlowRef> {
            $flows.get_ptr_mut(key).map(read_flow)
        }

        #[inline(always)]
        fn insert(key: &FlowKey<Self::Addr>, flow: FlowRef) -> bool {
            $flows.insert(key, flow, BPF_NOEXIST as u64).is_ok()
        }

        #[inline(always)]
        fn delete(key: &FlowKey<Self::Addr>) -> bool {
            match $flows.remove(key) {
                Ok(()) => true,
                Err(error) => error == -ENOENT,
            }
        }

        #[inline(always)]
        fn conn(index: u32) -> Option<*mut Conn<Self::Addr>> {
            $conns.get_ptr_mut(index)
        }

        #[inline(always)]
        fn passing() -> Option<*mut Passing<Self::Addr>> {
            $passing.get_ptr_mut(0)
        }
    };
}

pub struct V4;

impl Family for V4 {
    type Addr = Be32;

    const SCHEDULE: u32 = program::SCHEDULE4;
    const RECALL: u32 = program::RECALL4;
    const CONNECT: u32 = program::CONNECT4;
    const FULL: u32 = 0;

    tables!(FLOWS4, CONNS4, PASSING4);

    #[inline(always)]
    fn same(one: Be32, other: Be32) -> bool {
        one.0 == other.0
    }

    #[inline(always)]
    fn fold(addr: Be32) -> u32 {
        addr.to_host()
    }

    /// "This network", loopback, multicast and above (RFC 1812 §5.3.7).
    #[inline(always)]
    fn is_martian(source: Be32) -> bool {
        let first = source.to_host() >> 24;
        first == 0 || first == 127 || first >= 224
    }

    #[inline(always)]
    fn is_unicast(destination: Be32) -> bool {
        !Self::is_martian(destination)
    }

    #[inline(always)]
    fn mark(mark: u32) -> Be32 {
        Be32::from_host(mark)
    }

    #[inline(always)]
    unsafe fn mask(settings: *const Settings) -> u32 {
        // SAFETY: the caller vouches for the pointer.
        unsafe { (*settings).conns4_mask }
    }

    #[inline(always)]
    unsafe fn sync_room(settings: *mut Settings) -> *mut u64 {
        // SAFETY: the caller vouches for the pointer.
        unsafe { &raw mut (*settings).sync_room4 }
    }

    #[inline(always)]
    fn service(addr: Be32, port: Be16, protocol: u8) -> Option<u32> {
        let key = ServiceKey4 {
            addr,
            port,
            protocol,
            reserved: 0,
        };
        // SAFETY: a map value of four aligned bytes.
        SERVICE_IDS4.get_ptr(&key).map(|id| unsafe { *id })
    }

    #[inline(always)]
    fn vip(addr: Be32) -> Option<u32> {
        // SAFETY: a map value of four aligned bytes.
        VIPS4.get_ptr(addr.0).map(|value| unsafe { *value })
    }

    #[inline(always)]
    fn route(addr: Be32) -> Option<*const RouteRecord> {
        ROUTES4.get(&Key::new(32, addr.0)).map(core::ptr::from_ref)
    }

    #[inline(always)]
    unsafe fn server_hop(server: *const ServerRecord) -> Hop<Be32> {
        // SAFETY: the caller vouches for the pointer.
        let word = unsafe { core::ptr::read_volatile(&raw const (*server).next_hop) };
        Hop {
            ifindex: word as u32,
            via: Be32((word >> 32) as u32),
        }
    }

    #[inline(always)]
    fn parse(ctx: &TcContext) -> Result<Packet<Be32>, Unparsed<Be32>> {
        packet4::parse(ctx)
    }

    #[inline(always)]
    fn rewrite<const SOURCE: bool>(
        ctx: &TcContext,
        packet: &Packet<Be32>,
        addr: Be32,
        port: u16,
    ) -> bool {
        packet4::rewrite::<SOURCE>(ctx, packet, addr.0, port)
    }

    #[inline(always)]
    fn ttl_less_one(ctx: &TcContext) -> bool {
        packet4::decrement_ttl(ctx)
    }

    #[inline(always)]
    fn redirect(hop: &Hop<Be32>) -> i32 {
        packet4::redirect(hop.ifindex, hop.via.0)
    }

    #[inline(always)]
    fn port_unreachable(ctx: &TcContext, packet: &Packet<Be32>, reason: Verdict) -> Outcome {
        crate::emit4::port_unreachable(ctx, packet, reason)
    }

    #[inline(always)]
    fn time_exceeded(ctx: &TcContext, packet: &Packet<Be32>) -> Outcome {
        crate::emit4::time_exceeded(ctx, packet)
    }
}

pub struct V6;

impl Family for V6 {
    type Addr = Addr6;

    const SCHEDULE: u32 = program::SCHEDULE6;
    const RECALL: u32 = program::RECALL6;
    const CONNECT: u32 = program::CONNECT6;
    const FULL: u32 = 1;

    tables!(FLOWS6, CONNS6, PASSING6);

    #[inline(always)]
    fn same(one: Addr6, other: Addr6) -> bool {
        (one[0].0 ^ other[0].0)
            | (one[1].0 ^ other[1].0)
            | (one[2].0 ^ other[2].0)
            | (one[3].0 ^ other[3].0)
            == 0
    }

    #[inline(always)]
    fn fold(addr: Addr6) -> u32 {
        u32::from_be(addr[0].0 ^ addr[1].0 ^ addr[2].0 ^ addr[3].0)
    }

    /// The unspecified address, loopback, multicast (RFC 4291 §2.5.2, §2.5.3, §2.7).
    #[inline(always)]
    fn is_martian(source: Addr6) -> bool {
        let low = source[0].0 | source[1].0 | source[2].0;
        (low == 0 && u32::from_be(source[3].0) <= 1) || !Self::is_unicast(source)
    }

    #[inline(always)]
    fn is_unicast(destination: Addr6) -> bool {
        u32::from_be(destination[0].0) >> 24 != 0xff
    }

    #[inline(always)]
    fn mark(mark: u32) -> Addr6 {
        [Be32::from_host(mark), Be32(0), Be32(0), Be32(0)]
    }

    #[inline(always)]
    unsafe fn mask(settings: *const Settings) -> u32 {
        // SAFETY: the caller vouches for the pointer.
        unsafe { (*settings).conns6_mask }
    }

    #[inline(always)]
    unsafe fn sync_room(settings: *mut Settings) -> *mut u64 {
        // SAFETY: the caller vouches for the pointer.
        unsafe { &raw mut (*settings).sync_room6 }
    }

    #[inline(always)]
    fn service(addr: Addr6, port: Be16, protocol: u8) -> Option<u32> {
        let key = ServiceKey6 {
            addr,
            port,
            protocol,
            reserved: 0,
        };
        // SAFETY: a map value of four aligned bytes.
        SERVICE_IDS6.get_ptr(&key).map(|id| unsafe { *id })
    }

    #[inline(always)]
    fn vip(addr: Addr6) -> Option<u32> {
        // SAFETY: a map value of four aligned bytes.
        VIPS6.get_ptr(&addr).map(|value| unsafe { *value })
    }

    #[inline(always)]
    fn route(addr: Addr6) -> Option<*const RouteRecord> {
        ROUTES6.get(&Key::new(128, addr)).map(core::ptr::from_ref)
    }

    #[inline(always)]
    unsafe fn server_hop(server: *const ServerRecord) -> Hop<Addr6> {
        // SAFETY: the caller vouches for the pointer.
        unsafe {
            let word = core::ptr::read_volatile(&raw const (*server).next_hop);
            let which = (word >> 32) as usize & 1;
            Hop {
                ifindex: word as u32,
                via: if which == 0 {
                    (*server).gateways[0]
                } else {
                    (*server).gateways[1]
                },
            }
        }
    }

    #[inline(always)]
    fn parse(ctx: &TcContext) -> Result<Packet<Addr6>, Unparsed<Addr6>> {
        packet6::parse(ctx)
    }

    #[inline(always)]
    fn rewrite<const SOURCE: bool>(
        ctx: &TcContext,
        packet: &Packet<Addr6>,
        addr: Addr6,
        port: u16,
    ) -> bool {
        packet6::rewrite::<SOURCE>(ctx, packet, addr, port)
    }

    #[inline(always)]
    fn ttl_less_one(ctx: &TcContext) -> bool {
        packet6::decrement_hop_limit(ctx)
    }

    #[inline(always)]
    fn redirect(hop: &Hop<Addr6>) -> i32 {
        packet6::redirect(hop.ifindex, hop.via)
    }

    #[inline(always)]
    fn port_unreachable(ctx: &TcContext, packet: &Packet<Addr6>, reason: Verdict) -> Outcome {
        crate::emit6::port_unreachable(ctx, packet, reason)
    }

    #[inline(always)]
    fn time_exceeded(ctx: &TcContext, packet: &Packet<Addr6>) -> Outcome {
        crate::emit6::time_exceeded(ctx, packet)
    }
}
