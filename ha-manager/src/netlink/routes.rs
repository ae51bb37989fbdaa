//! Route and rule messages of the kernel, reduced to what the data plane looks up.
//!
//! The kernel asks the tables local, main and default in this order and takes the first that
//! matches at all; the data plane has one table of each family with the longest prefix. The two agree
//! when a route is left out that an earlier table hides completely.
//!
//! IPv6 asks the tables local and main; it has no rule for default.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane::{Route, RouteKind};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

const TABLE_DEFAULT: u32 = 253;
const TABLE_MAIN: u32 = 254;
const TABLE_LOCAL: u32 = 255;
/// In the order in which the kernel's default rules ask them.
const TABLES: [u32; 3] = [TABLE_LOCAL, TABLE_MAIN, TABLE_DEFAULT];
/// Priority and table of the rules every host has; IPv6 has the first two.
const DEFAULT_RULES: [(u32, u32); 3] = [
    (0, TABLE_LOCAL),
    (32_766, TABLE_MAIN),
    (32_767, TABLE_DEFAULT),
];

/// A prefix; ordered by address, then length. Every IPv4 address is less than any of IPv6.
type Prefix = (IpAddr, u8);

/// One usable message.
struct Candidate {
    metric: u32,
    route: Route,
}

/// Routes as they are read, each reduced at once: a full table is about a million messages.
#[derive(Default)]
pub(super) struct Reading {
    /// The best of each prefix, for each of [`TABLES`].
    best: [BTreeMap<Prefix, Candidate>; TABLES.len()],
    /// The host's own addresses with their interfaces, as the table local has them.
    addresses: BTreeSet<(IpAddr, u32)>,
}

impl Reading {
    pub(super) fn add(&mut self, message: &RouteMessage) {
        let table = table_of(message);
        let place = TABLES.iter().position(|known| *known == table);
        let Some(best) = place.and_then(|place| self.best.get_mut(place)) else {
            return;
        };
        let Some(candidate) = candidate_of(message) else {
            return;
        };
        let route = candidate.route;
        let is_whole = route.prefix_len == length_max(route.prefix);
        if table == TABLE_LOCAL && is_whole && route.kind == RouteKind::Local {
            self.addresses.insert((route.prefix, route.ifindex));
        }
        match best.entry((route.prefix, route.prefix_len)) {
            Entry::Vacant(entry) => drop(entry.insert(candidate)),
            Entry::Occupied(mut known) => {
                if candidate.metric < known.get().metric {
                    known.insert(candidate);
                }
            }
        }
    }

    /// The best route of each prefix, ordered by prefix, and the addresses.
    pub(super) fn finish(self) -> (Vec<Route>, BTreeSet<(IpAddr, u32)>) {
        let mut chosen: BTreeMap<Prefix, Route> = BTreeMap::new();
        for best in self.best {
            let lengths: BTreeSet<u8> = chosen.keys().map(|(_, length)| *length).collect();
            let visible: Vec<_> = best
                .into_iter()
                .filter(|(prefix, _)| !is_hidden(&chosen, &lengths, *prefix))
                .map(|(prefix, candidate)| (prefix, candidate.route))
                .collect();
            chosen.extend(visible);
        }
        (chosen.into_values().collect(), self.addresses)
    }
}

/// Whether this is one of the three rules every host has.
pub(super) fn is_default_rule(rule: &RuleMessage) -> bool {
    let (mut priority, mut table) = (0, u32::from(rule.header.table));
    let mut selects = rule.header.src_len != 0 || rule.header.dst_len != 0 || rule.header.tos != 0;
    for attribute in &rule.attributes {
        if let RuleAttribute::Priority(value) = attribute {
            priority = *value;
        } else if let RuleAttribute::Table(value) = attribute {
            table = *value;
        } else if let RuleAttribute::FwMark(_)
        | RuleAttribute::Iifname(_)
        | RuleAttribute::Oifname(_)
        | RuleAttribute::L3MDev(_)
        | RuleAttribute::UidRange(_)
        | RuleAttribute::IpProtocol(_)
        | RuleAttribute::SourcePortRange(_)
        | RuleAttribute::DestinationPortRange(_)
        | RuleAttribute::TunId(_) = attribute
        {
            selects = true;
        }
    }
    let has_default = rule.header.family != AddressFamily::Inet6;
    !selects
        && rule.header.action == RuleAction::ToTable
        && DEFAULT_RULES.contains(&(priority, table))
        && (has_default || table != TABLE_DEFAULT)
}

/// Whether a route already chosen, from an earlier table, matches all of `prefix`. `lengths` are those
/// that occur.
fn is_hidden(
    chosen: &BTreeMap<Prefix, Route>,
    lengths: &BTreeSet<u8>,
    (addr, length): Prefix,
) -> bool {
    let mut shorter = lengths.range(..=length);
    shorter.any(|shorter| chosen.contains_key(&(network(addr, *shorter), *shorter)))
}

fn network(addr: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length.min(length_max(addr)));
    match addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            Ipv4Addr::from_bits(addr.to_bits() & mask).into()
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            Ipv6Addr::from_bits(addr.to_bits() & mask).into()
        }
    }
}

/// Bits of an address.
const fn length_max(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(addr) = address {
        Some(IpAddr::V4(*addr))
    } else if let RouteAddress::Inet6(addr) = address {
        Some(IpAddr::V6(*addr))
    } else {
        None
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    attribute.unwrap_or_else(|| u32::from(message.header.table))
}

/// `None` for what is no route of its own: another family, a cache entry, a route for one type of
/// service or some sources only, or a next hop the kernel would not use.
fn candidate_of(message: &RouteMessage) -> Option<Candidate> {
    let header = &message.header;
    let length = header.destination_prefix_length;
    let mut prefix = if header.address_family == AddressFamily::Inet {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    } else if header.address_family == AddressFamily::Inet6 && table_of(message) != TABLE_DEFAULT {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        return None;
    };
    if length > length_max(prefix)
        || header.source_prefix_length != 0
        || header.tos != 0
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let mut metric = 0;
    let mut hop = Hop {
        dead: header.flags.contains(RouteFlags::Dead),
        ..Hop::default()
    };
    hop.read(&message.attributes);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            prefix = address_of(address).filter(|addr| addr.is_ipv4() == prefix.is_ipv4())?;
        } else if let RouteAttribute::Priority(value) = attribute {
            metric = *value;
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            hop = hops.iter().map(Hop::of).find(|hop| !hop.dead)?;
        }
    }
    let kind = kind_of(header.kind);
    if kind == RouteKind::Unicast && hop.dead {
        return None;
    }
    let other_family = hop
        .gateway
        .is_some_and(|gateway| gateway.is_ipv4() != prefix.is_ipv4());
    let nowhere = kind == RouteKind::Unicast && hop.ifindex == 0;
    let kind = if hop.unusable || other_family || nowhere {
        RouteKind::Unusable
    } else {
        kind
    };
    let (ifindex, gateway) = if kind == RouteKind::Unusable {
        (0, None)
    } else {
        (hop.ifindex, hop.gateway)
    };
    let prefix = network(prefix, length);
    Some(Candidate {
        metric,
        route: Route {
            prefix,
            prefix_len: length,
            kind,
            ifindex,
            gateway,
        },
    })
}

fn kind_of(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Local => RouteKind::Local,
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Unspec
        | RouteType::Broadcast
        | RouteType::Anycast
        | RouteType::Multicast
        | RouteType::BlackHole
        | RouteType::Unreachable
        | RouteType::Prohibit
        | RouteType::Throw
        | RouteType::Nat
        | RouteType::ExternalResolve
        | RouteType::Other(_) => RouteKind::Unusable,
        _ => RouteKind::Unusable,
    }
}

/// One next hop.
#[derive(Default)]
struct Hop {
    ifindex: u32,
    gateway: Option<IpAddr>,
    dead: bool,
    /// Needs what a redirect at TC cannot give: a gateway of the other family or an encapsulation.
    unusable: bool,
}

impl Hop {
    fn of(hop: &netlink_packet_route::route::RouteNextHop) -> Hop {
        let dead = hop.flags.contains(RouteNextHopFlags::Dead);
        let mut read = Hop {
            ifindex: hop.interface_index,
            dead,
            ..Hop::default()
        };
        read.read(&hop.attributes);
        read
    }

    fn read(&mut self, attributes: &[RouteAttribute]) {
        for attribute in attributes {
            if let RouteAttribute::Oif(ifindex) = attribute {
                self.ifindex = *ifindex;
            } else if let RouteAttribute::Gateway(address) = attribute
                && let Some(addr) = address_of(address)
            {
                self.gateway = Some(addr);
            } else if let RouteAttribute::Via(_)
            | RouteAttribute::Gateway(_)
            | RouteAttribute::EncapType(_) = attribute
            {
                self.unusable = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
