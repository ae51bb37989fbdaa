use super::*;

/// As if the maps held these.
fn table(routes: &[Route]) -> Routes {
    let mut table = Routes::default();
    for route in routes {
        table.in_force.insert(route.key(), Some(*route));
        table.count(route.key(), true);
    }
    table
}

fn route(prefix: &str, prefix_len: u8, kind: RouteKind, gateway: Option<&str>) -> Route {
    let gateway = gateway.map(|text| text.parse().unwrap());
    Route {
        prefix: prefix.parse().unwrap(),
        prefix_len,
        kind,
        ifindex: 7,
        gateway,
    }
}

fn via(table: &Routes, addr: &str) -> Option<String> {
    let hop = table.next_hop(addr.parse().unwrap())?;
    assert_eq!(hop.ifindex, 7);
    Some(hop.via.to_string())
}

#[test]
fn the_longest_prefix_wins() {
    let table = table(&[
        route("0.0.0.0", 0, RouteKind::Unicast, Some("10.0.0.254")),
        route("10.0.0.0", 24, RouteKind::Unicast, None),
        route("10.0.0.1", 32, RouteKind::Local, None),
        route("10.0.1.0", 24, RouteKind::Unusable, None),
    ]);
    assert_eq!(via(&table, "192.0.2.1").as_deref(), Some("10.0.0.254"));
    assert_eq!(via(&table, "10.0.0.9").as_deref(), Some("10.0.0.9"));
    assert_eq!(via(&table, "10.0.0.1"), None);
    assert_eq!(via(&table, "10.0.1.1"), None);
    assert!(table.is_local("10.0.0.1".parse().unwrap()));
    assert!(!table.is_local("::a00:1".parse().unwrap()));
}

#[test]
fn both_families_have_routes_of_the_same_length() {
    let table = table(&[
        route("::", 0, RouteKind::Unicast, Some("fe80::1")),
        route("2001:db8::", 32, RouteKind::Unicast, None),
        route("2001:db8::1", 128, RouteKind::Local, None),
        route("10.0.0.1", 32, RouteKind::Local, None),
    ]);
    assert_eq!(via(&table, "2001:db9::1").as_deref(), Some("fe80::1"));
    assert_eq!(via(&table, "2001:db8::2").as_deref(), Some("2001:db8::2"));
    assert!(table.is_local("2001:db8::1".parse().unwrap()));
    assert_eq!(via(&table, "192.0.2.1"), None);
}

#[test]
fn without_a_route_there_is_no_next_hop() {
    assert_eq!(via(&Routes::default(), "10.0.0.1"), None);
}
