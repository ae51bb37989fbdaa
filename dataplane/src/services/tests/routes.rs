//! Pictures of the host's routes, taken over in turns.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use aya::maps::lpm_trie::Key;

use super::bench::*;
use super::*;
use crate::RouteTable;
use crate::routes::Prefix;

/// More than one turn takes over.
const MANY: u32 = 3000;

fn unicast(prefix: IpAddr, prefix_len: u8, ifindex: u32) -> Route {
    Route {
        prefix,
        prefix_len,
        kind: RouteKind::Unicast,
        ifindex,
        gateway: None,
    }
}

/// `count` networks with the interface that leads to them, and a default route.
fn networks(count: u32, ifindex: u32) -> Vec<Route> {
    let network = |at: u32| Ipv4Addr::from_bits(0x1400_0000 | at << 8);
    let networks = (0..count).map(|at| unicast(network(at).into(), 24, ifindex));
    networks.chain([unicast([0; 4].into(), 0, 2)]).collect()
}

/// One turn, as the data plane has it.
fn turn(plane: &mut Plane, changed: &mut usize) -> bool {
    if !plane.services.catch_up(&plane.maps, &plane.routes) {
        return false;
    }
    let mut touched: Vec<Prefix> = Vec::new();
    let done = plane.routes.go_on(&mut plane.maps, &mut touched).unwrap();
    plane.services.touch(&touched);
    *changed += touched.len();
    plane.services.catch_up(&plane.maps, &plane.routes) && done
}

fn held(plane: &Plane) -> BTreeMap<Prefix, u32> {
    let keys: Vec<Key<u32>> = plane.maps.routes4.keys().flatten().collect();
    let held = keys.iter().map(|key| {
        let addr = Ipv4Addr::from(u32::from_be(key.data()));
        let record = plane.maps.routes4.get(key, 0).unwrap();
        ((addr.into(), key.prefix_len() as u8), record.ifindex)
    });
    held.collect()
}

fn expected(routes: &[Route]) -> BTreeMap<Prefix, u32> {
    let of = |route: &Route| ((route.prefix, route.prefix_len), route.ifindex);
    routes.iter().map(of).collect()
}

#[test]
fn a_bulk_change_takes_many_turns_and_each_route_is_changed_once() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    for (routes, changes) in [
        // With the prefixes of all there is, once.
        (networks(MANY, 3), MANY as usize + 1 + 2),
        (networks(MANY, 4), MANY as usize),
        (networks(MANY, 4), 0),
        (networks(10, 4), MANY as usize - 10),
    ] {
        plane.routes.begin(RouteTable::new(&routes, 0).unwrap());
        let (mut changed, mut turns, mut most) = (0, 0, 0);
        loop {
            let before = changed;
            let done = turn(&mut plane, &mut changed);
            turns += 1;
            most = most.max(changed - before);
            if done {
                break;
            }
            assert!(turns < 100, "it goes on for ever");
        }
        assert_eq!(changed, changes);
        assert!(most <= 1002, "{most} changes in one turn");
        assert_eq!(held(&plane), expected(&routes));
    }
}

#[test]
fn a_new_picture_in_the_middle_of_another_is_taken_over_whole() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let mut changed = 0;
    let bulk = networks(MANY, 3);
    plane.routes.begin(RouteTable::new(&bulk, 0).unwrap());
    assert!(!turn(&mut plane, &mut changed));
    let few = networks(20, 5);
    plane.routes.begin(RouteTable::new(&few, 0).unwrap());
    while !turn(&mut plane, &mut changed) {}
    assert_eq!(held(&plane), expected(&few));
}

/// The map has no room for old and new together, and in the end no place is left but those reserved.
#[test]
fn a_full_table_is_replaced_by_another_full_table() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let network = |at: u32| Ipv4Addr::from_bits(0x1400_0000 | at << 8);
    let full = |from: u32, ifindex| -> Vec<Route> {
        let networks = (from..from + 66_000).map(network);
        networks.map(|at| unicast(at.into(), 24, ifindex)).collect()
    };
    let vip: IpAddr = [192, 0, 2, 100].into();
    for (from, ifindex) in [(0, 3), (66_000, 4)] {
        let table = RouteTable::new(&full(from, ifindex), 1).unwrap();
        assert_eq!(table.routes().len(), 65_535);
        plane.routes.begin(table.clone());
        let mut changed = 0;
        // Addresses are placed at any time, also while there is no room for a route.
        for at in 0.. {
            let place = (at % 2 == 0).then_some(7);
            let mut touched = Vec::new();
            let places = BTreeMap::from([(vip, place)]);
            let Plane { maps, routes, .. } = &mut plane;
            routes.place(maps, &places, &mut touched).unwrap();
            // Before the first picture nothing is in force.
            let is_read = from > 0 || at > 0;
            assert_eq!(plane.routes.is_local(vip), is_read && place.is_some());
            if turn(&mut plane, &mut changed) && place.is_some() {
                break;
            }
        }
        let mut expected = expected(table.routes());
        expected.insert((vip, 32), 7);
        assert_eq!(held(&plane), expected);
    }
}

/// The default route changes: all servers follow, some of them in each turn, and a server of another
/// family or with a route of its own keeps what it has.
#[test]
fn servers_follow_their_routes_in_turns_too() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let key = at(Protocol::Tcp, "192.0.2.1:80");
    add(&mut plane, key, Scheduler::Rr);
    for server in 0..4500u32 {
        let addr = Ipv4Addr::from_bits(0x0a00_0000 | server);
        add_server(&mut plane, key, &format!("{addr}:80"), weight(1));
    }
    let own = unicast([10, 0, 0, 9].into(), 32, 9);
    plane.set_routes(&[unicast([0; 4].into(), 0, 2), own]);
    let hop = |plane: &Plane, server: &str| {
        let (slot, _) = place(plane, &key, server);
        plane.maps.servers.read(slot).next_hop as u32
    };
    let hops =
        |plane: &Plane| ["10.0.0.0:80", "10.0.17.147:80", "10.0.0.9:80"].map(|at| hop(plane, at));
    assert_eq!(hops(&plane), [2, 2, 9]);
    let changed = [unicast([0; 4].into(), 0, 3), own];
    plane.routes.begin(RouteTable::new(&changed, 0).unwrap());
    let mut changed = 0;
    assert!(!turn(&mut plane, &mut changed));
    assert_eq!((changed, hops(&plane)), (1, [3, 2, 9]));
    assert!(turn(&mut plane, &mut changed));
    assert_eq!((changed, hops(&plane)), (1, [3, 3, 9]));
}

/// A virtual address comes and goes while a bulk change is half done.
#[test]
fn a_placed_address_is_local_at_once_whatever_the_pictures_say() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    let vip: IpAddr = [192, 0, 2, 100].into();
    let key = at(Protocol::Tcp, "192.0.2.100:80");
    add(&mut plane, key, Scheduler::Rr);
    let is_local = |plane: &Plane| {
        let id = plane.id(&key);
        plane.maps.services.read(id).flags & ServiceRecord::VIP_LOCAL != 0
    };
    // A host that has the address all the same, say on another interface.
    let mut routes = networks(MANY, 3);
    routes.push(Route {
        kind: RouteKind::Local,
        ..unicast(vip, 32, 5)
    });
    plane.set_routes(&routes);
    assert!(is_local(&plane));
    let give = |plane: &mut Plane, at: Option<u32>| {
        let mut touched = Vec::new();
        let places = BTreeMap::from([(vip, at)]);
        let Plane {
            maps,
            services,
            routes,
        } = plane;
        routes.place(maps, &places, &mut touched).unwrap();
        services.follow(maps, routes, &touched);
        (touched.len(), held(plane).get(&(vip, 32)).copied())
    };
    assert_eq!(
        (give(&mut plane, None), is_local(&plane)),
        ((1, None), false)
    );
    for route in &mut routes {
        route.ifindex += 10;
    }
    plane.routes.begin(RouteTable::new(&routes, 0).unwrap());
    let mut changed = 0;
    assert!(!turn(&mut plane, &mut changed));
    assert_eq!(
        (give(&mut plane, Some(7)), is_local(&plane)),
        ((1, Some(7)), true)
    );
    assert_eq!(give(&mut plane, Some(7)), (0, Some(7)));
    while !turn(&mut plane, &mut changed) {}
    assert_eq!(
        (held(&plane).get(&(vip, 32)), is_local(&plane)),
        (Some(&7), true)
    );
    assert_eq!(
        (give(&mut plane, None), is_local(&plane)),
        ((1, None), false)
    );
}

#[test]
fn what_a_daemon_before_left_is_replaced() {
    let bpffs = Bpffs::new();
    let mut plane = bpffs.open();
    plane.set_routes(&networks(100, 3));
    drop(plane);
    let mut plane = bpffs.open();
    let routes = networks(50, 3);
    plane.set_routes(&routes);
    assert_eq!(held(&plane), expected(&routes));
}
