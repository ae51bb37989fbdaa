//! Addresses and routes of both families in a network namespace of the test's own thread.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use dataplane::RouteKind;
use ha_manager::addresses::{Addresses, Assigned};
use ha_manager::netlink::Follower;
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};

#[tokio::test]
async fn addresses_of_both_families_are_added_listed_and_removed_again() {
    let ifindex = own_namespace();
    let mut addresses = Addresses::open().unwrap();
    let at = |address: &str, prefix_len| Assigned {
        ifindex,
        address: address.parse().unwrap(),
        prefix_len,
    };
    let wanted = [
        at("192.0.2.100", 32),
        at("2001:db8::100", 128),
        at("2001:db8:1::254", 64),
    ];
    for _ in 0..2 {
        addresses.add(&wanted).unwrap();
    }
    let mut listed = addresses.list().unwrap();
    listed.retain(|found| wanted.contains(found));
    listed.sort_unstable();
    assert_eq!(listed, wanted);
    // Usable at once; alone in its prefix it is no source of this host's own traffic.
    let shown = ip("-6 -o addr show dev lan0 scope global");
    let flags = |address: &str| {
        let line = shown.lines().find(|line| line.contains(address)).unwrap();
        ["tentative", "nodad", "deprecated"].map(|flag| line.contains(flag))
    };
    assert_eq!(flags("2001:db8::100/128"), [false, true, true], "{shown}");
    assert_eq!(flags("2001:db8:1::254/64"), [false, true, false], "{shown}");
    for _ in 0..2 {
        addresses.remove(&wanted).unwrap();
    }
    let left = addresses.list().unwrap();
    assert!(left.iter().all(|found| !wanted.contains(found)), "{left:?}");
}

/// Of two addresses of a subnet the first is the primary one, which takes the other along: the host's own,
/// say, that came later, or one of another virtual router.
#[test]
fn an_address_that_is_removed_takes_no_other_of_its_subnet_along() {
    let ifindex = own_namespace();
    let setting = "/proc/sys/net/ipv4/conf/lan0/promote_secondaries";
    let others = "/proc/sys/net/ipv4/conf/all/promote_secondaries";
    for path in [setting, others] {
        std::fs::write(path, "0").unwrap();
    }
    let mut addresses = Addresses::open().unwrap();
    let at = |nth: u8| Assigned {
        ifindex,
        address: IpAddr::from([10, 0, 0, nth]),
        prefix_len: 24,
    };
    addresses.add(&[at(254)]).unwrap();
    ip("addr add 10.0.0.1/24 dev lan0");
    addresses.add(&[at(253)]).unwrap();
    addresses.remove(&[at(254)]).unwrap();
    let mut left = addresses.list().unwrap();
    left.retain(|found| found.ifindex == ifindex && found.address.is_ipv4());
    left.sort_unstable();
    assert_eq!(left, [at(1), at(253)]);
    assert_eq!(std::fs::read_to_string(setting).unwrap().trim(), "0");
    addresses.remove(&[at(253), at(1)]).unwrap();
    assert!(
        !addresses
            .list()
            .unwrap()
            .iter()
            .any(|it| it.address.is_ipv4() && it.ifindex == ifindex)
    );
}

/// A role may have as many, and clients wait for all of them.
#[test]
fn hundreds_of_addresses_come_and_go_within_milliseconds() {
    let ifindex = own_namespace();
    let mut addresses = Addresses::open().unwrap();
    let at = |nth: u8| Assigned {
        ifindex,
        address: IpAddr::from([192, 0, 2, nth]),
        prefix_len: 32,
    };
    let wanted: Vec<Assigned> = (1..=255).map(at).collect();
    let ours = |found: &Assigned| wanted.contains(found);
    let mut took = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        addresses.add(&wanted).unwrap();
        took.push(begun.elapsed());
        assert_eq!(
            addresses
                .list()
                .unwrap()
                .iter()
                .filter(|at| ours(at))
                .count(),
            255
        );
        // Some of them are gone already, and that is no error.
        addresses.remove(&wanted[..10]).unwrap();
        addresses.remove(&wanted).unwrap();
        assert!(!addresses.list().unwrap().iter().any(ours));
    }
    let least = took.iter().min().unwrap();
    println!("255 addresses added in {took:?}");
    assert!(*least < Duration::from_millis(20), "{took:?}");
    // What was refused is named, and the others are there.
    let mut some = wanted[..100].to_vec();
    some[70].ifindex = 9999;
    let error = addresses.add(&some).unwrap_err().to_string();
    assert!(error.starts_with("192.0.2.71/32: "), "{error}");
    assert_eq!(
        addresses
            .list()
            .unwrap()
            .iter()
            .filter(|at| ours(at))
            .count(),
        99
    );
}

#[tokio::test]
async fn routes_of_both_families_are_seen() {
    let ifindex = own_namespace();
    ip("addr add 192.0.2.1/24 dev lan0");
    ip("addr add 2001:db8::1/64 dev lan0 nodad");
    ip("route add 10.0.0.0/8 via 192.0.2.9");
    ip("route add default via fe80::1 dev lan0");
    ip("route add unreachable 2001:db8:f::/48");
    ip("-6 rule add to 2001:db8:e::/48 lookup 100");
    let follower = Follower::start(0).await.unwrap();
    let state = follower.state();
    let found = |prefix: &str, prefix_len| {
        let prefix: IpAddr = prefix.parse().unwrap();
        let mut routes = state.routes.routes().iter();
        let route = routes.find(|it| it.prefix == prefix && it.prefix_len == prefix_len);
        let route = route.unwrap_or_else(|| panic!("{prefix}/{prefix_len}: {:?}", state.routes));
        let gateway = route.gateway.map(|gateway| gateway.to_string());
        (route.kind, route.ifindex, gateway)
    };
    let via = |gateway: &str| Some(gateway.to_owned());
    assert_eq!(found("192.0.2.1", 32), (RouteKind::Local, ifindex, None));
    assert_eq!(found("2001:db8::1", 128), (RouteKind::Local, ifindex, None));
    assert_eq!(found("2001:db8::", 64), (RouteKind::Unicast, ifindex, None));
    assert_eq!(found("10.0.0.0", 8).2, via("192.0.2.9"));
    assert_eq!(
        found("::", 0),
        (RouteKind::Unicast, ifindex, via("fe80::1"))
    );
    assert_eq!(found("2001:db8:f::", 48), (RouteKind::Unusable, 0, None));
    assert_eq!(state.local("2001:db8::1".parse().unwrap()), Some(ifindex));
    let order = |route: &dataplane::Route| (route.prefix, route.prefix_len);
    assert!(state.routes.routes().is_sorted_by_key(order));
    assert_eq!(state.extra_rules, 1);
}

#[tokio::test]
async fn a_host_with_ipv6_switched_off_has_its_ipv4_routes() {
    let ifindex = own_namespace();
    ip("addr add 192.0.2.1/24 dev lan0");
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    let follower = Follower::start(0).await.unwrap();
    let own = "192.0.2.1".parse().unwrap();
    assert_eq!(follower.state().local(own), Some(ifindex));
    // An address that cannot be had is an error with its name.
    let vip = Assigned {
        ifindex,
        address: "2001:db8::100".parse().unwrap(),
        prefix_len: 128,
    };
    let error = Addresses::open().unwrap().add(&[vip]).unwrap_err();
    assert!(
        error.to_string().starts_with("2001:db8::100/128: "),
        "{error}"
    );
}

#[tokio::test]
async fn a_change_of_an_ipv6_route_is_followed() {
    let ifindex = own_namespace();
    ip("addr add 2001:db8::1/64 dev lan0 nodad");
    let follower = Follower::start(0).await.unwrap();
    let (to_owner, mut pictures) = tokio::sync::mpsc::channel(16);
    let following = follower.run(to_owner);
    let vip: IpAddr = "2001:db8::100".parse().unwrap();
    for (change, place) in [
        ("addr add 2001:db8::100/128 dev lan0 nodad", Some(ifindex)),
        ("addr del 2001:db8::100/128 dev lan0", None),
    ] {
        ip(change);
        let seen = async {
            while let Some(command) = pictures.recv().await {
                if let ha_manager::daemon::Command::Network(state) = command
                    && state.local(vip) == place
                {
                    return;
                }
            }
            panic!("the follower ended");
        };
        let in_time = tokio::time::timeout(Duration::from_secs(10), seen).await;
        assert!(in_time.is_ok(), "{change}");
    }
    drop(following);
}

/// With an interface `lan0`; gives its index.
fn own_namespace() -> u32 {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    ip("link set lo up");
    ip("link add lan0 type veth peer name lan1");
    ip("link set lan1 up");
    ip("link set lan0 up");
    if_nametoindex("lan0").unwrap()
}

fn ip(words: &str) -> String {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {error}");
    String::from_utf8(output.stdout).unwrap()
}
