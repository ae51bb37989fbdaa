use netlink_packet_route::route::RouteNextHop;

use super::*;

fn read(messages: &[RouteMessage]) -> (Vec<Route>, BTreeSet<(IpAddr, u32)>) {
    let mut reading = Reading::default();
    for message in messages {
        reading.add(message);
    }
    reading.finish()
}

fn convert(messages: &[RouteMessage]) -> Vec<Route> {
    read(messages).0
}

fn addresses(messages: &[RouteMessage]) -> BTreeSet<(IpAddr, u32)> {
    read(messages).1
}

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
    let vip: IpAddr = "192.0.2.100".parse().unwrap();
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
fn both_families_are_in_one_list_and_neither_hides_the_other() {
    let mut local = unicast("2001:db8::1/128", 0, 1, None);
    local.header.kind = RouteType::Local;
    local.header.table = 255;
    let mut of_default = unicast("2001:db8:9::/48", 0, 2, None);
    of_default
        .attributes
        .push(RouteAttribute::Table(TABLE_DEFAULT));
    let mut of_sources = unicast("2001:db8:8::/48", 0, 2, None);
    of_sources.header.source_prefix_length = 64;
    let routes = convert(&[
        unicast("::/0", 1024, 2, Some("fe80::1")),
        unicast("2001:db8::/64", 256, 3, None),
        unicast("0.0.0.0/0", 0, 4, None),
        of_default,
        of_sources,
        local.clone(),
    ]);
    assert_eq!(
        routes,
        [
            route("0.0.0.0/0", RouteKind::Unicast, 4, None),
            route("::/0", RouteKind::Unicast, 2, Some("fe80::1")),
            route("2001:db8::/64", RouteKind::Unicast, 3, None),
            route("2001:db8::1/128", RouteKind::Local, 1, None),
        ]
    );
    let own = "2001:db8::1".parse().unwrap();
    assert_eq!(addresses(&[local]), BTreeSet::from([(own, 1)]));
}

#[test]
fn only_the_rules_every_host_has_are_default() {
    for (priority, table) in DEFAULT_RULES {
        assert!(is_default_rule(&rule(priority, table)));
    }
    assert!(!is_default_rule(&rule(100, TABLE_MAIN)));
    assert!(!is_default_rule(&rule(32_766, 1000)));
    for (priority, table) in DEFAULT_RULES {
        let mut rule = rule(priority, table);
        rule.header.family = AddressFamily::Inet6;
        assert_eq!(is_default_rule(&rule), table != TABLE_DEFAULT);
    }
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
    message.header.address_family = match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.destination_prefix_length = length;
    message.header.table = 254;
    message.header.kind = RouteType::Unicast;
    if length > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(of(addr)));
    }
    if metric > 0 {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    if ifindex > 0 {
        message.attributes.push(RouteAttribute::Oif(ifindex));
    }
    if let Some(gateway) = gateway {
        let gateway = of(gateway.parse().unwrap());
        message.attributes.push(RouteAttribute::Gateway(gateway));
    }
    message
}

fn of(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(addr) => RouteAddress::Inet(addr),
        IpAddr::V6(addr) => RouteAddress::Inet6(addr),
    }
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
