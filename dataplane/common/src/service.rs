//! Services, real servers, server lists and statistics as they stand in the maps.

use crate::key::{Addr6, Be16, Be32};

/// Key of `SERVICE_IDS4`: what an IPv4 packet is addressed to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey4 {
    /// The virtual address, or the firewall mark in network byte order.
    pub addr: Be32,
    pub port: Be16,
    /// IP protocol number; 0 for a firewall mark.
    pub protocol: u8,
    pub reserved: u8,
}

/// Key of `SERVICE_IDS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceKey6 {
    /// The virtual address, or the firewall mark in the first word.
    pub addr: Addr6,
    pub port: Be16,
    /// IP protocol number; 0 for a firewall mark.
    pub protocol: u8,
    pub reserved: u8,
}

/// One element of `SERVICES`: the complete record of a virtual service.
///
/// User space writes it field by field through a mapping; the programs change `sched` alone.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServiceRecord {
    /// The list the programs walk: offset of its block in `LISTS` (bits 0..32) and a count of
    /// edits (bits 32..64). Offset 0 is no list. One store switches it.
    pub list: u64,
    /// Position of the scheduler, see `rules::schedule`; changed by compare-and-swap.
    pub sched: u64,
    /// [`ServiceRecord::LIVE`] and friends.
    pub flags: u32,
    /// Grows each time the place is used for another service.
    pub generation: u32,
    /// `ipvs_model::Scheduler` number, 0 for none.
    pub scheduler: u8,
    /// IP protocol number; 0 for a firewall mark.
    pub protocol: u8,
    pub port: Be16,
    pub fwmark: u32,
    /// 2 or 10 (`AF_INET`, `AF_INET6`).
    pub family: u32,
    /// `IP_VS_SVC_F_*`.
    pub service_flags: u32,
    pub timeout_secs: u32,
    pub netmask: u32,
    /// IPv4 in the first word.
    pub addr: [Be32; 4],
    pub pe_name: [u8; 16],
    /// Order of creation.
    pub created: u64,
    /// Statistics at the last zeroing.
    pub zero: StatsRecord,
    /// lblc, lblcr: entries in the cache; programs add, user space takes off.
    pub cached: u64,
    pub reserved: [u64; 7],
}

impl ServiceRecord {
    /// The place holds a service.
    pub const LIVE: u32 = 1;
    /// The virtual address is one of this host's. A fwmark service always has it.
    pub const VIP_LOCAL: u32 = 2;
}

/// Value of `VIPS4` and `VIPS6`: what an address is virtual for.
pub mod vip {
    /// The address moves with a virtual router: it may be the gateway of real servers, and no
    /// service need have it.
    pub const ROUTER: u32 = 1 << 31;
    /// What comes for the address and is no service traffic is dropped (RFC 5798 §6.1,
    /// `Accept_Mode` false). Since version 5 of the layout.
    pub const NOT_ACCEPTED: u32 = 1 << 30;

    /// Services that have the address.
    pub const fn services(value: u32) -> u32 {
        value & !(ROUTER | NOT_ACCEPTED)
    }
}

/// One element of `SERVERS`: a real server of one service.
///
/// The first cache line is read for every packet and written only by edits, the second is counted
/// in.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerRecord {
    /// [`ServerRecord::USED`] and friends.
    pub flags: u32,
    /// Grows each time the place is used for another server.
    pub generation: u32,
    /// Where packets go: interface index (bits 0..32) and the IPv4 next hop as it stands in a packet,
    /// or which of `gateways` is the IPv6 next hop (bits 32..64). 0 is no route.
    pub next_hop: u64,
    /// Place of the service in `SERVICES`, and its generation when the server was put there.
    pub service: u32,
    pub service_generation: u32,
    /// IPv4 in the first word.
    pub addr: [Be32; 4],
    pub port: Be16,
    /// `ipvs_model::ForwardMethod` number.
    pub method: u8,
    /// 2 or 10 (`AF_INET`, `AF_INET6`).
    pub family: u8,
    /// Position in the service's list.
    pub list_index: u32,
    pub weight: u32,
    pub last_weight: u32,
    pub reserved_hot: u64,
    /// Active (upper half) and total (lower half) connections, see
    /// [`crate::entry::server_conns`].
    pub conns: u64,
    /// Templates bound.
    pub persistent: u64,
    pub upper_threshold: u32,
    pub lower_threshold: u32,
    pub tunnel_type: u16,
    pub tunnel_port: Be16,
    pub tunnel_flags: u32,
    /// IPv6 next hops: the one in force and the one before it or after it.
    pub gateways: [Addr6; 2],
    /// CLOCK_MONOTONIC nanoseconds at which the server was last seen unused in the trash.
    pub trash_since_ns: u64,
    /// The service's own key, by which a server that comes back is known again.
    pub service_addr: [Be32; 4],
    pub service_port: Be16,
    pub service_protocol: u8,
    /// 2 or 10 (`AF_INET`, `AF_INET6`).
    pub service_family: u8,
    pub service_fwmark: u32,
    /// Statistics at the last zeroing.
    pub zero: StatsRecord,
    pub reserved: [u64; 7],
}

impl ServerRecord {
    /// The place holds a server, listed or in the trash.
    pub const USED: u32 = 1;
    /// Listed (`IP_VS_DEST_F_AVAILABLE`).
    pub const AVAILABLE: u32 = 2;
    /// At its upper threshold (`IP_VS_DEST_F_OVERLOAD`).
    pub const OVERLOAD: u32 = 4;
    /// The address is one of this host's.
    pub const LOCAL: u32 = 8;
}

/// A block of `LISTS`: four head words, one word per server, and for `sh`, `dh` and `mh` the table,
/// four slots to a word.
///
/// | word | bits 0..32 | bits 32..64 |
/// | --- | --- | --- |
/// | 0 | servers that follow | slots of the table, 0 for none |
/// | 1 | wrr: highest level | wrr: distance of levels |
/// | 2, 3 | reserved | |
/// | 4.. | place in `SERVERS` | weight |
/// | 4 + servers.. | slots 4n and 4n + 1 | slots 4n + 2 and 4n + 3 |
///
/// A slot is the server's position in the list, 16 bits; [`EMPTY_SLOT`] is none.
pub mod list {
    /// Words before the first server.
    pub const HEAD: u32 = 4;
    /// Servers one service can have: a slot must be able to name each.
    pub const SERVERS_MAX: u32 = 0xfffe;
    pub const EMPTY_SLOT: u16 = u16::MAX;
    /// Slots in a word.
    pub const SLOTS_PER_WORD: u32 = 4;

    /// One slot of a word of a table.
    pub const fn slot_of(word: u64, slot: u32) -> u16 {
        (word >> (16 * (slot & 3))) as u16
    }

    pub const fn pack(low: u32, high: u32) -> u64 {
        low as u64 | (high as u64) << 32
    }

    pub const fn low(word: u64) -> u32 {
        word as u32
    }

    pub const fn high(word: u64) -> u32 {
        (word >> 32) as u32
    }
}

/// Statistics of a service, a server or the director; one per processor.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsRecord {
    pub conns: u64,
    pub in_pkts: u64,
    pub out_pkts: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
}

/// Key of `ROUTES4`, the host's routes: prefix length in bits, then the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteKey4 {
    pub prefix_len: u32,
    pub addr: Be32,
}

/// Key of `ROUTES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RouteKey6 {
    pub prefix_len: u32,
    pub addr: Addr6,
}

/// Value of `ROUTES4` and `ROUTES6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRecord {
    /// [`RouteRecord::UNICAST`] and friends.
    pub kind: u32,
    pub ifindex: u32,
    /// 0 when destinations are on the link.
    pub gateway: Addr6,
}

impl RouteRecord {
    pub const UNICAST: u32 = 1;
    pub const LOCAL: u32 = 2;
    pub const UNUSABLE: u32 = 3;
}

/// One element of `MARK_RULES`: gives a packet of no connection a firewall mark.
///
/// A field of zeros matches everything: `protocol`, a mask, the highest port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkRecord {
    /// 2 or 10 (`AF_INET`, `AF_INET6`).
    pub family: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Lowest and highest destination port, host byte order.
    pub ports: [u16; 2],
    pub reserved: u16,
    pub mark: u32,
    pub destination: Addr6,
    pub destination_mask: Addr6,
    pub source: Addr6,
    pub source_mask: Addr6,
}

/// The word `Settings::mark_rules`: which part of `MARK_RULES` is in force.
pub mod mark_rules {
    /// Rules at most. `MARK_RULES` has room for twice as many: one part is in force, the other is
    /// written.
    pub const MAX: u32 = 256;

    pub const fn pack(first: u32, count: u32) -> u64 {
        first as u64 | (count as u64) << 32
    }
}

/// Key of `CACHE`, the servers that `lblc` and `lblcr` remember for a destination.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CacheKey {
    /// Place in `SERVICES`.
    pub service: u32,
    pub service_generation: u32,
    /// IPv4 in the first word.
    pub destination: Addr6,
}

/// Servers that one destination can have with `lblcr`.
///
/// DIFFERS: the kernel sets no bound.
pub const CACHE_SET_MAX: usize = 16;

/// Value of `CACHE`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheRecord {
    /// CLOCK_MONOTONIC (coarse) nanoseconds.
    pub last_use_ns: u64,
    /// When the set changed last.
    pub last_change_ns: u64,
    pub count: u32,
    pub reserved: u32,
    /// Newest first: place in `SERVERS` (bits 0..32) and its generation (bits 32..64).
    pub servers: [u64; CACHE_SET_MAX],
}

const _: () = {
    assert!(size_of::<ServiceKey4>() == 8);
    assert!(size_of::<ServiceKey6>() == 20);
    assert!(core::mem::offset_of!(ServerRecord, trash_since_ns) == 128);
    assert!(size_of::<MarkRecord>() == 76);
    assert!(size_of::<CacheKey>() == 24);
    assert!(size_of::<CacheRecord>() == 152);
    assert!(size_of::<RouteKey6>() == 20);
    assert!(size_of::<ServiceRecord>() == 192);
    assert!(size_of::<ServerRecord>() == 256);
    assert!(core::mem::offset_of!(ServerRecord, conns) == 64);
    assert!(size_of::<StatsRecord>() == 40);
    assert!(size_of::<RouteKey4>() == 8);
    assert!(size_of::<RouteRecord>() == 24);
};
