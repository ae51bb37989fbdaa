//! The director at real devices: what it takes, what it leaves alone, and how it comes and goes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::fs;
use std::net::IpAddr;

use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use dataplane::common::rules::directing::{Inputs, Mode, Role};
use dataplane::common::verdict::Verdict;
use dataplane::{AttachMode, DataPlane, Lease, Options, RouteKind, TableSizes, boottime_ns};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;
use lab::director::*;
use lab::packets::*;
use lab::sides::{INTERFACES, Side, Sides, routes};
use lab::{has_tcx, ifindex, ip, route, sysctl};

const CLIENT: &str = "10.100.0.5:40000";
const VIP: &str = "10.50.0.1:80";
const NAT_SERVER: &str = "10.200.0.11:8080";
const DR_VIP: &str = "10.50.0.2:80";
const DR_SERVER: &str = "10.200.0.11:80";
const MODES: [AttachMode; 2] = [AttachMode::Tcx, AttachMode::Clsact];

fn key() -> ServiceKey {
    service(Protocol::Tcp, VIP)
}

/// One service by masquerading and one by direct routing.
fn add_services(plane: &mut DataPlane) {
    for (vip, server, method) in [(VIP, NAT_SERVER, NAT), (DR_VIP, DR_SERVER, DR)] {
        let key = service(Protocol::Tcp, vip);
        add_service(plane, key, Scheduler::Rr);
        add_server(plane, key, server, method, 1);
    }
}

/// Runs a test's body under both ways to attach, each in namespaces of its own.
fn under_both(body: fn(AttachMode)) {
    for mode in MODES {
        if mode == AttachMode::Tcx && !has_tcx("attaching") {
            continue;
        }
        let run = std::thread::spawn(move || body(mode));
        assert!(run.join().is_ok(), "under {mode:?}");
    }
}

/// Programs at an interface's ingress: by TCX, and our filters.
fn attached(interface: &str) -> (usize, usize) {
    let tcx = SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
    let tcx = tcx.map_or(0, |(_, programs)| programs.len());
    let filters = std::process::Command::new("tc")
        .args(["filter", "show", "dev", interface, "ingress"])
        .output()
        .unwrap();
    let filters = String::from_utf8(filters.stdout).unwrap();
    (tcx, filters.matches("handle 0x5444").count())
}

fn expected(mode: AttachMode) -> (usize, usize) {
    if mode == AttachMode::Clsact {
        (0, 1)
    } else {
        (1, 0)
    }
}

/// A packet that is sent to a server comes out there, once and with its new destination.
fn assert_masqueraded(sides: &mut Sides, flags: u8) {
    let packet = tcp(CLIENT, VIP, flags);
    let sent = Ip {
        dst: endpoint(NAT_SERVER),
        ttl: 63,
        ..packet.clone()
    };
    let out = sides.exchange(Side::Client, &packet.bytes());
    assert_eq!(out, [(Side::Server, sent.bytes())]);
}

/// The director's stack answers a packet to a closed port of a local address with a reset.
fn assert_reset_by_the_stack(sides: &mut Sides) {
    let out = sides.exchange(Side::Client, &tcp(CLIENT, VIP, SYN).bytes());
    assert_eq!(out.len(), 1, "{out:02x?}");
    let (side, packet) = &out[0];
    assert_eq!((*side, packet[33]), (Side::Client, RST | ACK));
}

#[test]
fn connections_need_no_forwarding_by_the_stack() {
    under_both(|mode| {
        let mut sides = Sides::new();
        sysctl("net.ipv4.ip_forward", "0");
        let mut plane = sides.open(mode);
        add_services(&mut plane);
        assert_masqueraded(&mut sides, SYN);
        let reply = tcp(NAT_SERVER, CLIENT, SYN | ACK);
        let sent = Ip {
            src: endpoint(VIP),
            ttl: 63,
            ..reply.clone()
        };
        let out = sides.exchange(Side::Server, &reply.bytes());
        assert_eq!(out, [(Side::Client, sent.bytes())]);

        let request = tcp(CLIENT, DR_VIP, SYN);
        let sent = Ip {
            ttl: 63,
            ..request.clone()
        };
        let out = sides.exchange(Side::Client, &request.bytes());
        assert_eq!(out, [(Side::Server, sent.bytes())]);
    });
}

/// Everything a listing shows, without what time alone changes.
fn record(plane: &DataPlane) -> String {
    let mut connections = connections(plane);
    for entry in &mut connections {
        entry.expires_secs = 0;
    }
    format!(
        "{:#?}\n{connections:#?}\n{:#?}",
        plane.list(None).unwrap(),
        plane.totals()
    )
}

#[test]
fn packets_flow_without_the_daemon_and_the_next_one_takes_over() {
    under_both(|mode| {
        let mut sides = Sides::new();
        let mut plane = sides.open(mode);
        assert!(!plane.was_adopted());
        add_services(&mut plane);
        edit_weight(&mut plane, key(), NAT_SERVER, 7);
        assert_masqueraded(&mut sides, SYN);
        let before = (record(&plane), plane.counters());
        drop(plane);

        let plane = DataPlane::open(&sides.options(mode)).unwrap();
        assert!(plane.was_adopted());
        let after = (record(&plane), plane.counters());
        assert_eq!(after, before, "nothing is lost between two daemons");
        drop(plane);

        // Nobody is there: old and new connections go on.
        assert_masqueraded(&mut sides, ACK);
        let request = tcp(CLIENT, DR_VIP, SYN);
        assert_eq!(sides.exchange(Side::Client, &request.bytes()).len(), 1);
        let mut plane = DataPlane::open(&sides.options(mode)).unwrap();
        assert_eq!(server_view(&plane, &key(), NAT_SERVER).stats.in_pkts, 2);
        assert_eq!(connections(&plane).len(), 2);

        // Before the routes are read, and after.
        assert_masqueraded(&mut sides, ACK);
        plane.set_routes(&routes()).unwrap();
        assert_masqueraded(&mut sides, ACK);
        recount(&plane);
    });
}

#[test]
fn pinned_tables_keep_their_size() {
    let sides = Sides::new();
    let made = sides.open(AttachMode::Auto).sizes();
    let sizes = TableSizes {
        connections_v4: 256,
        connections_v6: 512,
        services: 2,
        servers: 4,
        hash_tables: 1,
        cache_entries: 8,
    };
    let options = Options {
        sizes,
        ..sides.options(AttachMode::Auto)
    };
    assert_eq!(DataPlane::open(&options).unwrap().sizes(), made);
}

#[test]
fn a_standby_never_routes_a_packet_for_a_virtual_address_back() {
    const LAN_VIP: &str = "10.1.0.50:80";
    under_both(|mode| {
        let mut sides = Sides::new();
        ip("neigh add 10.1.0.50 lladdr 02:00:00:00:00:50 dev client0 nud permanent");
        let mut plane = sides.open(mode);
        let key = service(Protocol::Tcp, LAN_VIP);
        add_service(&mut plane, key, Scheduler::Rr);
        add_server(&mut plane, key, NAT_SERVER, NAT, 1);
        let standby = Inputs {
            mode: Mode::Raft,
            role: Role::Standby,
            backup_daemon_runs: true,
            backup_only: false,
        };
        let fragment = Ip {
            fragment: 0x2000,
            ..tcp(CLIENT, LAN_VIP, SYN)
        };
        for inputs in [
            standby,
            Inputs {
                role: Role::Active,
                ..standby
            },
        ] {
            plane.set_directing(inputs);
            for packet in [tcp(CLIENT, LAN_VIP, SYN), tcp(CLIENT, LAN_VIP, ACK)] {
                let before = verdict_counts(&plane);
                sides.tap(Side::Client).inject(&packet.bytes());
                assert_eq!(verdict_since(&plane, &before), Some(Verdict::VipNotLocal));
                assert_eq!(sides.drain(), []);
            }
            assert_eq!(sides.exchange(Side::Client, &fragment.bytes()), []);
        }
        // What would happen without the director.
        drop(plane);
        DataPlane::detach(&sides.options(mode).pin_dir).unwrap();
        let out = sides.exchange(Side::Client, &tcp(CLIENT, LAN_VIP, SYN).bytes());
        assert_eq!(out.len(), 1);
        assert_eq!(
            (out[0].0, &out[0].1[16..20]),
            (Side::Client, &[10, 1, 0, 50][..])
        );
    });
}

#[test]
fn frames_that_are_not_for_this_host_are_left_alone() {
    under_both(|mode| {
        let mut sides = Sides::new();
        ip("link set client0 promisc on");
        let mut plane = sides.open(mode);
        add_services(&mut plane);
        let packet = tcp(CLIENT, VIP, SYN).bytes();
        let own = sides.tap(Side::Client).mac;
        let tagged = [&[0, 5, 8, 0], &packet[..]].concat();
        let frames = [
            (
                frame([2, 0, 0, 0, 0, 0x77], 0x0800, &packet),
                Verdict::NotHost,
            ),
            (frame([0xff; 6], 0x0800, &packet), Verdict::NotHost),
            (frame(own, 0x8100, &tagged), Verdict::NotHost),
            (frame(own, 0x0800, &packet[..10]), Verdict::BadHeader),
        ];
        for (frame, verdict) in frames {
            let before = verdict_counts(&plane);
            sides.tap(Side::Client).inject_frame(&frame);
            assert_eq!(
                verdict_since(&plane, &before),
                Some(verdict),
                "{frame:02x?}"
            );
            assert!(
                sides.drain().iter().all(|(side, _)| *side == Side::Client),
                "{frame:02x?}"
            );
        }
        assert_eq!(connections(&plane), []);
        assert_masqueraded(&mut sides, SYN);
    });
}

#[test]
fn there_is_one_attachment_however_often_it_is_opened() {
    if !has_tcx("changing the way to attach") {
        return;
    }
    let mut sides = Sides::new();
    let [tcx, clsact] = MODES;
    for mode in [tcx, tcx, clsact, clsact, tcx] {
        let mut plane = sides.open(mode);
        if !plane.was_adopted() {
            add_services(&mut plane);
        }
        let kinds: Vec<_> = plane.attachments().iter().map(|one| one.kind).collect();
        let kind = if mode == tcx { "tcx" } else { "clsact" };
        assert_eq!(kinds, [kind; 2]);
        for interface in INTERFACES {
            assert_eq!(
                attached(interface),
                expected(mode),
                "{interface} under {mode:?}"
            );
        }
        let before = verdict_counts(&plane);
        sides
            .tap(Side::Client)
            .inject(&tcp(CLIENT, VIP, SYN).bytes());
        assert_eq!(verdict_since(&plane, &before), Some(Verdict::Masqueraded));
        assert_eq!(sides.drain().len(), 1);
    }
}

#[test]
fn an_interface_that_is_not_listed_any_more_is_let_go() {
    under_both(|mode| {
        let sides = Sides::new();
        drop(sides.open(mode));
        let options = Options {
            interfaces: vec!["server0".into()],
            ..sides.options(mode)
        };
        let plane = DataPlane::open(&options).unwrap();
        assert_eq!(
            (attached("client0"), attached("server0")),
            ((0, 0), expected(mode))
        );
        assert_eq!(plane.attachments().len(), 1);
    });
}

#[test]
fn detaching_leaves_nothing() {
    under_both(|mode| {
        let mut sides = Sides::new();
        let mut plane = sides.open(mode);
        add_services(&mut plane);
        assert_masqueraded(&mut sides, SYN);
        drop(plane);
        let pin_dir = sides.options(mode).pin_dir;
        let report = DataPlane::detach(&pin_dir).unwrap();
        assert!(
            report.removed.iter().any(|name| name.ends_with("-client0")),
            "{report:?}"
        );
        assert!(
            report.removed.iter().any(|name| name == "LAYOUT"),
            "{report:?}"
        );
        assert!(
            !pin_dir.exists(),
            "{:?}",
            fs::read_dir(&pin_dir).map(Iterator::count)
        );
        for interface in INTERFACES {
            assert_eq!(attached(interface), (0, 0), "{interface}");
        }
        assert_reset_by_the_stack(&mut sides);

        let plane = sides.open(mode);
        assert!(!plane.was_adopted() && connections(&plane).is_empty());
    });
}

#[test]
fn a_device_made_anew_is_attached_by_the_next_open() {
    under_both(|mode| {
        let mut sides = Sides::new();
        let mut plane = sides.open(mode);
        add_services(&mut plane);
        assert_masqueraded(&mut sides, SYN);
        drop(plane);
        let old = ifindex("client0");
        sides.plug_in(Side::Client);
        assert_ne!(ifindex("client0"), old);
        assert_eq!(attached("client0"), (0, 0));
        let plane = sides.open(mode);
        assert!(plane.was_adopted());
        assert_eq!(attached("client0"), expected(mode));
        assert_masqueraded(&mut sides, ACK);
        assert_eq!(connections(&plane).len(), 1);
    });
}

#[test]
fn a_device_made_anew_is_attached_by_a_running_daemon() {
    under_both(|mode| {
        let mut sides = Sides::new();
        let mut plane = sides.open(mode);
        add_services(&mut plane);
        assert_masqueraded(&mut sides, SYN);
        sides.plug_in(Side::Client);
        plane.reattach().unwrap();
        plane.set_routes(&routes()).unwrap();
        for interface in INTERFACES {
            assert_eq!(attached(interface), expected(mode), "{interface}");
        }
        assert_masqueraded(&mut sides, ACK);
        let client = plane
            .attachments()
            .into_iter()
            .find(|one| one.interface == "client0");
        assert_eq!(client.unwrap().ifindex, ifindex("client0"));
    });
}

/// Answers to an ARP request of a client for `target`.
fn arp_answers(sides: &mut Sides, target: &str) -> usize {
    let request = frame([0xff; 6], 0x0806, &arp(1, target));
    sides.tap(Side::Client).inject_frame(&request);
    let frames = sides.drain_frames();
    frames
        .iter()
        .filter(|(_, frame)| frame[12..14] == [8, 6])
        .count()
}

#[test]
fn a_lapsed_lease_stops_service_traffic_and_arp_for_virtual_addresses() {
    under_both(|mode| {
        let mut sides = Sides::new();
        let mut plane = sides.open(mode);
        add_services(&mut plane);
        assert_masqueraded(&mut sides, SYN);
        assert_eq!(
            (
                arp_answers(&mut sides, "10.50.0.1"),
                arp_answers(&mut sides, "10.1.0.1")
            ),
            (1, 1)
        );

        let lapsed = Lease {
            epoch: 5,
            deadline_boottime_ns: Some(boottime_ns() - 1),
        };
        assert!(plane.set_lease(lapsed));
        assert_eq!(
            (
                arp_answers(&mut sides, "10.50.0.1"),
                arp_answers(&mut sides, "10.1.0.1")
            ),
            (0, 1)
        );
        let request = tcp(CLIENT, VIP, ACK).bytes();
        let reply = tcp(NAT_SERVER, CLIENT, SYN | ACK).bytes();
        for (side, packet) in [(Side::Client, &request), (Side::Server, &reply)] {
            let before = verdict_counts(&plane);
            sides.tap(side).inject(packet);
            assert_eq!(verdict_since(&plane, &before), Some(Verdict::LeaseLapsed));
            assert_eq!(sides.drain(), []);
        }

        // The servers' gateway, which no service has.
        let gateway: IpAddr = "10.1.0.1".parse().expect("an address");
        plane.set_router_addresses(&[gateway]).expect("the map");
        assert_eq!(arp_answers(&mut sides, "10.1.0.1"), 0);
        drop(plane);
        let mut plane = sides.open(mode);
        assert_eq!(arp_answers(&mut sides, "10.1.0.1"), 0, "after a restart");
        plane.set_router_addresses::<IpAddr>(&[]).expect("the map");
        assert_eq!(arp_answers(&mut sides, "10.1.0.1"), 1);

        let earlier = Lease {
            epoch: 4,
            deadline_boottime_ns: None,
        };
        assert!(!plane.set_lease(earlier), "a lower epoch is refused");
        assert_eq!(plane.lease(), lapsed);
        assert!(plane.set_lease(Lease {
            deadline_boottime_ns: None,
            ..lapsed
        }));
        assert_eq!(arp_answers(&mut sides, "10.50.0.1"), 1);
        assert_masqueraded(&mut sides, ACK);
    });
}

#[test]
fn a_lease_lapses_with_nobody_there() {
    let mut sides = Sides::new();
    let mut plane = sides.open(AttachMode::Auto);
    add_services(&mut plane);
    let deadline = boottime_ns() + 300_000_000;
    assert!(plane.set_lease(Lease {
        epoch: 1,
        deadline_boottime_ns: Some(deadline)
    }));
    drop(plane);
    let packet = tcp(CLIENT, VIP, SYN).bytes();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let sent_at = boottime_ns();
        let out = sides.exchange(Side::Client, &packet);
        if sent_at > deadline {
            assert_eq!(out, [], "after the deadline");
            break;
        }
        assert!(
            out.len() == 1 || boottime_ns() > deadline,
            "before the deadline"
        );
        assert!(std::time::Instant::now() < end);
    }
}

#[test]
fn a_server_behind_another_route_is_followed() {
    let mut sides = Sides::new();
    let mut plane = sides.open(AttachMode::Auto);
    add_services(&mut plane);
    assert_masqueraded(&mut sides, SYN);
    // The way to the servers now leads over the clients' side.
    let mut changed = routes();
    changed.retain(|route| !route.prefix.to_string().starts_with("10.200."));
    let client = ifindex("client0");
    changed.push(route(
        "10.200.0.0",
        16,
        RouteKind::Unicast,
        client,
        Some("10.1.0.2"),
    ));
    plane.set_routes(&changed).unwrap();
    let out = sides.exchange(Side::Client, &tcp(CLIENT, VIP, ACK).bytes());
    assert_eq!(out.len(), 1);
    assert_eq!(
        (out[0].0, &out[0].1[16..20]),
        (Side::Client, &[10, 200, 0, 11][..])
    );
}
