//! Route and rule messages of the kernel, reduced to what the data plane looks up.
//!
//! The kernel asks the tables local, main and default in this order and takes the first that
//! matches at all; the data plane has one table with the longest prefix. The two agree when a
//! route is left out that an earlier table hides completely.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

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
/// Priority and table of the rules every host has.
const DEFAULT_RULES: [(u32, u32); 3] = [
    (0, TABLE_LOCAL),
    (32_766, TABLE_MAIN),
    (32_767, TABLE_DEFAULT),
];

/// A prefix; ordered by address, then length.
type Prefix = (Ipv4Addr, u8);

/// One usable message.
struct Candidate {
    metric: u32,
    route: Route,
}

/// The best route of each prefix, ordered by prefix.
pub(super) fn convert(messages: &[RouteMessage]) -> Vec<Route> {
    let mut chosen: BTreeMap<Prefix, Route> = BTreeMap::new();
    for table in TABLES {
        let best = best_of_table(messages, table);
        let visible: Vec<_> = best
            .into_iter()
            .filter(|(prefix, _)| !is_hidden(&chosen, *prefix))
            .collect();
        chosen.extend(
            visible
                .into_iter()
                .map(|(prefix, candidate)| (prefix, candidate.route)),
        );
    }
    chosen.into_values().collect()
}

/// The host's own addresses with their interfaces, as the table local has them.
pub(super) fn addresses(messages: &[RouteMessage]) -> BTreeSet<(Ipv4Addr, u32)> {
    let address_of = |message: &RouteMessage| {
        let route = candidate_of(message)?.route;
        let is_address = route.kind == RouteKind::Local && route.prefix_len == 32;
        is_address.then_some((route.prefix, route.ifindex))
    };
    let local = messages.iter().filter(|it| table_of(it) == TABLE_LOCAL);
    local.filter_map(address_of).collect()
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
    !selects
        && rule.header.action == RuleAction::ToTable
        && DEFAULT_RULES.contains(&(priority, table))
}

fn best_of_table(messages: &[RouteMessage], table: u32) -> BTreeMap<Prefix, Candidate> {
    let mut best: BTreeMap<Prefix, Candidate> = BTreeMap::new();
    for message in messages.iter().filter(|message| table_of(message) == table) {
        let Some(candidate) = candidate_of(message) else {
            continue;
        };
        let prefix = (candidate.route.prefix, candidate.route.prefix_len);
        let better = best
            .get(&prefix)
            .is_none_or(|known| candidate.metric < known.metric);
        if better {
            best.insert(prefix, candidate);
        }
    }
    best
}

/// Whether a route already chosen, from an earlier table, matches all of `prefix`.
fn is_hidden(chosen: &BTreeMap<Prefix, Route>, (addr, length): Prefix) -> bool {
    (0..=length).any(|shorter| chosen.contains_key(&(network(addr, shorter), shorter)))
}

fn network(addr: Ipv4Addr, length: u8) -> Ipv4Addr {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(length.min(32)))
        .unwrap_or(0);
    Ipv4Addr::from_bits(addr.to_bits() & mask)
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
/// service only, or a next hop the kernel would not use.
fn candidate_of(message: &RouteMessage) -> Option<Candidate> {
    let header = &message.header;
    let length = header.destination_prefix_length;
    if header.address_family != AddressFamily::Inet
        || length > 32
        || header.tos != 0
        || header.flags.contains(RouteFlags::Cloned)
    {
        return None;
    }
    let (mut prefix, mut metric) = (Ipv4Addr::UNSPECIFIED, 0);
    let mut hop = Hop {
        dead: header.flags.contains(RouteFlags::Dead),
        ..Hop::default()
    };
    hop.read(&message.attributes);
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(RouteAddress::Inet(addr)) = attribute {
            prefix = *addr;
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
    let kind = if hop.unusable || kind == RouteKind::Unicast && hop.ifindex == 0 {
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
    gateway: Option<Ipv4Addr>,
    dead: bool,
    /// Needs what a redirect at TC cannot give: an IPv6 gateway or an encapsulation.
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
            } else if let RouteAttribute::Gateway(RouteAddress::Inet(addr)) = attribute {
                self.gateway = Some(*addr);
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
mod tests {
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    #[test]
    fn the_lowest_metric_of_a_prefix_wins() {
        let routes = convert(&[
            unicast("10.0.0.0/8", 20, 2, Some("192.0.2.2")),
            unicast("10.0.0.0/8", 10, 3, Some("192.0.2.3")),
            unicast("10.0.0.0/8", 30, 4, None),
        ]);
        assert_eq!(
            routes,
            [route(
                "10.0.0.0/8",
                RouteKind::Unicast,
                3,
                Some("192.0.2.3")
            )]
        );
    }

    #[test]
    fn kinds_map_to_local_unicast_and_unusable() {
        for (kind, expected) in [
            (RouteType::Local, RouteKind::Local),
            (RouteType::Unicast, RouteKind::Unicast),
            (RouteType::BlackHole, RouteKind::Unusable),
            (RouteType::Unreachable, RouteKind::Unusable),
            (RouteType::Prohibit, RouteKind::Unusable),
            (RouteType::Broadcast, RouteKind::Unusable),
            (RouteType::Multicast, RouteKind::Unusable),
            (RouteType::Throw, RouteKind::Unusable),
            (RouteType::Other(99), RouteKind::Unusable),
        ] {
            let mut message = unicast("10.1.0.0/16", 0, 2, None);
            message.header.kind = kind;
            let [only] = convert(&[message])[..] else {
                panic!("one route")
            };
            assert_eq!(only.kind, expected);
            assert_eq!(
                only.ifindex,
                if expected == RouteKind::Unusable {
                    0
                } else {
                    2
                }
            );
        }
    }

    #[test]
    fn of_a_multipath_route_the_first_living_next_hop_is_taken() {
        let mut message = unicast("0.0.0.0/0", 0, 0, None);
        message.attributes.push(RouteAttribute::MultiPath(vec![
            next_hop(2, "192.0.2.2", RouteNextHopFlags::Dead),
            next_hop(3, "192.0.2.3", RouteNextHopFlags::empty()),
            next_hop(4, "192.0.2.4", RouteNextHopFlags::empty()),
        ]));
        let expected = route("0.0.0.0/0", RouteKind::Unicast, 3, Some("192.0.2.3"));
        assert_eq!(convert(&[message]), [expected]);
    }

    #[test]
    fn a_dead_route_gives_way_to_a_worse_metric() {
        let mut dead = unicast("10.0.0.0/8", 1, 2, None);
        dead.header.flags = RouteFlags::Dead;
        let routes = convert(&[dead, unicast("10.0.0.0/8", 9, 3, None)]);
        assert_eq!(routes, [route("10.0.0.0/8", RouteKind::Unicast, 3, None)]);
    }

    #[test]
    fn an_earlier_table_hides_what_it_matches_completely() {
        let mut local = unicast("10.0.0.0/8", 0, 1, None);
        local.header.kind = RouteType::Local;
        local.header.table = 255;
        let mut fallback = unicast("0.0.0.0/0", 0, 9, None);
        fallback
            .attributes
            .push(RouteAttribute::Table(TABLE_DEFAULT));
        let routes = convert(&[
            fallback,
            unicast("0.0.0.0/0", 50, 2, None),
            unicast("10.1.0.0/16", 0, 3, None),
            local,
        ]);
        assert_eq!(
            routes,
            [
                route("0.0.0.0/0", RouteKind::Unicast, 2, None),
                route("10.0.0.0/8", RouteKind::Local, 1, None),
            ]
        );
    }

    #[test]
    fn an_address_is_known_on_every_interface_that_has_it() {
        let local = |prefix: &str, ifindex| {
            let mut message = unicast(prefix, 0, ifindex, None);
            message.header.table = 255;
            message.header.kind = RouteType::Local;
            message
        };
        let messages = [
            local("192.0.2.100/32", 2),
            local("192.0.2.100/32", 1),
            local("127.0.0.0/8", 1),
            unicast("192.0.2.7/32", 0, 2, None),
        ];
        let vip = Ipv4Addr::new(192, 0, 2, 100);
        assert_eq!(addresses(&messages), BTreeSet::from([(vip, 1), (vip, 2)]));
    }

    #[test]
    fn other_tables_types_of_service_and_cache_entries_are_left_out() {
        let mut other = unicast("10.1.0.0/16", 0, 2, None);
        other.attributes.push(RouteAttribute::Table(1000));
        let mut tos = unicast("10.2.0.0/16", 0, 2, None);
        tos.header.tos = 0x10;
        let mut cached = unicast("10.3.0.0/16", 0, 2, None);
        cached.header.flags = RouteFlags::Cloned;
        assert_eq!(convert(&[other, tos, cached]), []);
    }

    #[test]
    fn a_gateway_of_the_other_family_cannot_be_used() {
        let mut message = unicast("10.0.0.0/8", 0, 2, None);
        message
            .attributes
            .push(RouteAttribute::Gateway(RouteAddress::Inet6(
                "fe80::1".parse().unwrap(),
            )));
        assert_eq!(
            convert(&[message]),
            [route("10.0.0.0/8", RouteKind::Unusable, 0, None)]
        );
    }

    #[test]
    fn only_the_three_rules_every_host_has_are_default() {
        for (priority, table) in DEFAULT_RULES {
            assert!(is_default_rule(&rule(priority, table)));
        }
        assert!(!is_default_rule(&rule(100, TABLE_MAIN)));
        assert!(!is_default_rule(&rule(32_766, 1000)));
        let mut marked = rule(32_766, TABLE_MAIN);
        marked.attributes.push(RuleAttribute::FwMark(1));
        assert!(!is_default_rule(&marked));
        let mut blackhole = rule(0, TABLE_LOCAL);
        blackhole.header.action = RuleAction::Blackhole;
        assert!(!is_default_rule(&blackhole));
    }

    fn parse_prefix(prefix: &str) -> Prefix {
        let (addr, length) = prefix.split_once('/').unwrap();
        (addr.parse().unwrap(), length.parse().unwrap())
    }

    fn route(prefix: &str, kind: RouteKind, ifindex: u32, gateway: Option<&str>) -> Route {
        let (prefix, prefix_len) = parse_prefix(prefix);
        let gateway = gateway.map(|addr| addr.parse().unwrap());
        Route {
            prefix,
            prefix_len,
            kind,
            ifindex,
            gateway,
        }
    }

    fn unicast(prefix: &str, metric: u32, ifindex: u32, gateway: Option<&str>) -> RouteMessage {
        let (addr, length) = parse_prefix(prefix);
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = length;
        message.header.table = 254;
        message.header.kind = RouteType::Unicast;
        if length > 0 {
            message
                .attributes
                .push(RouteAttribute::Destination(RouteAddress::Inet(addr)));
        }
        if metric > 0 {
            message.attributes.push(RouteAttribute::Priority(metric));
        }
        if ifindex > 0 {
            message.attributes.push(RouteAttribute::Oif(ifindex));
        }
        if let Some(gateway) = gateway {
            let gateway = RouteAddress::Inet(gateway.parse().unwrap());
            message.attributes.push(RouteAttribute::Gateway(gateway));
        }
        message
    }

    fn next_hop(ifindex: u32, gateway: &str, flags: RouteNextHopFlags) -> RouteNextHop {
        let mut hop = RouteNextHop::default();
        hop.flags = flags;
        hop.interface_index = ifindex;
        hop.attributes = vec![RouteAttribute::Gateway(RouteAddress::Inet(
            gateway.parse().unwrap(),
        ))];
        hop
    }

    fn rule(priority: u32, table: u32) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = AddressFamily::Inet;
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![RuleAttribute::Table(table)];
        if priority > 0 {
            rule.attributes.push(RuleAttribute::Priority(priority));
        }
        rule
    }
}
