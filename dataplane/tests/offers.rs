//! Connections are offered to the backup by the rules, in order, and no offer is lost.

mod lab;

use std::time::{Duration, Instant};

use dataplane::common::offer::{Offer4, Offer6, RING_BYTES};
use dataplane::common::rules::sync::SyncRules;
use dataplane::common::verdict::Event;
use dataplane::{DataPlane, Edit, RouteKind, SyncedConn};
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceSpec;
use ipvs_model::timeouts::Timeouts;
use lab::director::{DR, NAT, add_server, add_service, event_count, service, spec};
use lab::packets::{ACK, FIN, RST, SYN, TCP, tcp, udp};
use lab::{Lab, local, route};

const CLIENT: &str = "10.100.0.5:40000";
const VIP: &str = "10.50.0.1:80";
const SERVER: &str = "10.200.0.11:8080";
/// What the kernel takes for a record of the ring, with its head.
const RECORD_BYTES: u32 = 8 + size_of::<Offer4>() as u32;

const ESTABLISHED: u8 = 1;
const SYN_RECV: u8 = 3;
const CLOSE_WAIT: u8 = 7;
const CLOSE: u8 = 6;

fn director(lab: &Lab) -> DataPlane {
    let mut plane = lab.open(&["lo"]);
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.1", 32), everywhere])
        .expect("routes");
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, SERVER, NAT, 1);
    let key = service(Protocol::Udp, "10.50.0.1:53");
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, "10.200.0.12:53", DR, 1);
    plane
}

fn send(plane: &DataPlane, flags: u8) {
    send_from(plane, CLIENT, flags);
}

fn send_from(plane: &DataPlane, client: &str, flags: u8) {
    plane
        .test_run(&tcp(client, VIP, flags).frame(), 1, 1)
        .expect("the program runs");
}

fn reply(plane: &DataPlane, flags: u8) {
    plane
        .test_run(&tcp(SERVER, CLIENT, flags).frame(), 1, 1)
        .expect("the program runs");
}

/// What is in the ring now, and is taken out.
fn drain(plane: &DataPlane) -> Vec<Offer6> {
    let mut reader = plane.offers().expect("the ring of offers");
    std::iter::from_fn(|| reader.next_offer())
        .map(|offered| offered.offer)
        .collect()
}

fn states(plane: &DataPlane) -> Vec<u8> {
    drain(plane).iter().map(|offer| offer.state).collect()
}

/// A whole round of the walk; gives back how many it offered.
fn walk(plane: &mut DataPlane) -> u32 {
    let mut offered = 0;
    loop {
        let report = plane.expire_step(u32::MAX);
        offered += report.offered;
        if report.round_done {
            return offered;
        }
    }
}

#[test]
fn nothing_is_offered_without_a_master_daemon() {
    let lab = Lab::new();
    let plane = director(&lab);
    for flags in [SYN, ACK, ACK, ACK, FIN | ACK] {
        send(&plane, flags);
    }
    assert_eq!(drain(&plane), []);
}

#[test]
fn a_connection_is_offered_at_the_threshold_each_period_and_when_it_ends() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    send(&plane, SYN);
    reply(&plane, SYN | ACK);
    send(&plane, ACK);
    assert_eq!(drain(&plane), [], "two packets are below the threshold");
    send(&plane, ACK);
    let offers = drain(&plane);
    assert_eq!(offers.len(), 1, "the third packet is the threshold");
    let offer = offers[0];
    assert_eq!((offer.state, offer.timeout_secs), (ESTABLISHED, 900));
    assert_eq!((offer.conn_flags, offer.fwmark), (0, 0));
    assert_eq!(
        (offer.key.sport.to_host(), offer.key.dport.to_host()),
        (40000, 80)
    );
    assert_eq!(
        (offer.daddr[0].to_host(), offer.dport.to_host()),
        (0x0ac8_000b, 8080)
    );
    for _ in 4..53 {
        send(&plane, ACK);
    }
    assert_eq!(drain(&plane), [], "no packet from 4 to 52");
    send(&plane, ACK);
    assert_eq!(states(&plane), [ESTABLISHED], "packet 53 is one period on");
    send(&plane, FIN | ACK);
    assert_eq!(
        states(&plane),
        [CLOSE_WAIT],
        "a state that ends is told at once"
    );
    send(&plane, RST);
    assert_eq!(states(&plane), [CLOSE]);
    assert_eq!(event_count(&plane, Event::SyncOffered), 4);
}

#[test]
fn direct_routing_is_told_with_its_flags() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    let rules = SyncRules {
        threshold: 1,
        period: 10,
        ..SyncRules::default()
    };
    plane.set_sync_rules(&rules);
    let frame = udp(CLIENT, "10.50.0.1:53").frame();
    plane.test_run(&frame, 1, 1).expect("the program runs");
    let offers = drain(&plane);
    assert_eq!(offers.len(), 1, "one packet is the threshold here");
    // DROUTE, NOOUTPUT, INACTIVE.
    assert_eq!((offers[0].conn_flags, offers[0].timeout_secs), (0x183, 300));
}

#[test]
fn what_finds_no_room_in_the_ring_is_marked_and_offered_by_the_walk() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    let every = SyncRules {
        threshold: 0,
        period: 1,
        ..SyncRules::default()
    };
    plane.set_sync_rules(&every);
    send(&plane, SYN);
    reply(&plane, SYN | ACK);
    let runs = RING_BYTES / RECORD_BYTES + 10;
    for _ in 0..runs {
        send(&plane, ACK);
    }
    assert!(event_count(&plane, Event::SyncRingFull) > 0);
    // The end of the connection finds no room either.
    send(&plane, RST);
    let last = drain(&plane).pop().expect("the ring was full");
    assert_eq!(last.state, ESTABLISHED);
    assert_eq!(walk(&mut plane), 1);
    assert_eq!(states(&plane), [CLOSE], "as it is now");
    assert_eq!(walk(&mut plane), 0, "once told, it is not marked any more");
}

#[test]
fn marks_and_offers_survive_a_restart_of_the_daemon() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    for flags in [SYN, ACK, ACK] {
        send(&plane, flags);
    }
    drop(plane);
    let plane = lab.open(&["lo"]);
    assert!(plane.was_adopted() && plane.sync_master());
    assert_eq!(states(&plane), [ESTABLISHED]);
}

#[test]
fn a_connection_in_use_is_offered_again_before_the_peers_copy_ends() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    let short = Timeouts {
        tcp_secs: 0,
        tcp_fin_secs: 0,
        udp_secs: 8,
    };
    plane.set_timeouts(short).expect("timeouts");
    let send = |plane: &DataPlane| {
        let frame = udp(CLIENT, "10.50.0.1:53").frame();
        plane.test_run(&frame, 1, 1).expect("the program runs");
    };
    for _ in 0..3 {
        send(&plane);
    }
    assert_eq!(drain(&plane).len(), 1);
    assert_eq!(walk(&mut plane), 0, "just told");
    let told = Instant::now();
    // A quarter of the timeout is two seconds; packets are far from the next period.
    while walk(&mut plane) == 0 {
        assert!(told.elapsed() < Duration::from_secs(20));
        send(&plane);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(
        told.elapsed() >= Duration::from_millis(1900),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(drain(&plane).len(), 1);
    assert_eq!(walk(&mut plane), 0, "once");
}

#[test]
fn a_connection_of_the_peers_is_offered_once_it_is_used_here() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    let conn = SyncedConn {
        protocol: TCP,
        client: CLIENT.parse().expect("an address"),
        virt: VIP.parse().expect("an address"),
        dest: SERVER.parse().expect("an address"),
        flags: ConnFlags(ConnFlags::SYNC),
        state: ESTABLISHED,
        fwmark: 0,
        timeout_secs: 900,
        extra: None,
    };
    assert_eq!(plane.apply_synced(&[conn]).created, 1);
    plane.offer_all_again();
    assert_eq!(walk(&mut plane), 0, "it is the peer's to tell");
    send(&plane, ACK);
    assert_eq!(walk(&mut plane), 1);
    assert_eq!(states(&plane), [ESTABLISHED]);
    assert_eq!(walk(&mut plane), 0, "once");
}

#[test]
fn all_that_was_ever_offered_can_be_offered_again_and_nothing_else() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    for flags in [SYN, ACK, ACK] {
        send(&plane, flags);
    }
    // Below the threshold: nobody was told of it.
    send_from(&plane, "10.100.0.5:40001", SYN);
    assert_eq!(drain(&plane).len(), 1);
    assert_eq!(walk(&mut plane), 0);
    plane.offer_all_again();
    assert_eq!(walk(&mut plane), 1);
    let offers = drain(&plane);
    assert_eq!(offers.len(), 1);
    assert_eq!(offers[0].key.sport.to_host(), 40000);
    assert_eq!(walk(&mut plane), 0, "for one round only");
}

#[test]
fn what_is_offered_again_had_a_packet_since_and_is_not_the_peers() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    let clients = ["10.100.0.5:40000", "10.100.0.5:40001", "10.100.0.5:40002"];
    for client in &clients[..2] {
        for flags in [SYN, ACK, ACK] {
            send_from(&plane, client, flags);
        }
    }
    // The peer tells of the second: it has moved there. No guard, as on a node that stands by.
    plane.set_tunable(dataplane::Tunable::ApplyGuardSecs, 0);
    let entry = dataplane_entry(&plane, 40001);
    assert_eq!(plane.apply_synced(&[entry]).updated, 1);
    let later_ns = dataplane::timer_ns() + 1;
    while dataplane::timer_ns() < later_ns {
        std::thread::yield_now();
    }
    for flags in [SYN, ACK, ACK] {
        send_from(&plane, clients[2], flags);
    }
    drain(&plane);
    let ports = |plane: &DataPlane| {
        let mut ports: Vec<u16> = drain(plane)
            .iter()
            .map(|offer| offer.key.sport.to_host())
            .collect();
        ports.sort_unstable();
        ports
    };
    plane.offer_again_since(later_ns);
    walk(&mut plane);
    assert_eq!(ports(&plane), [40002]);
    plane.offer_again_since(later_ns);
    plane.offer_all_again();
    walk(&mut plane);
    assert_eq!(ports(&plane), [40000, 40002], "the earlier time counts");
}

fn dataplane_entry(plane: &DataPlane, port: u16) -> SyncedConn {
    let (entries, _) = plane.connections(0, 100);
    let found = entries.into_iter().find(|one| one.client.port() == port);
    let found = found.expect("listed");

    SyncedConn {
        protocol: found.protocol,
        client: found.client,
        virt: found.virt,
        dest: found.dest,
        flags: found.flags,
        state: found.state,
        fwmark: 0,
        timeout_secs: 900,
        extra: None,
    }
}

/// Before its first packet, and one of every kind: the peer has to know of them before they move there.
#[test]
fn while_a_role_is_handed_over_every_connection_is_told_from_its_first_packet_on() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    plane.tell_all(true);
    send(&plane, SYN);
    assert_eq!(states(&plane), [SYN_RECV], "at its first packet");
    send(&plane, SYN);
    assert_eq!(drain(&plane), [], "nothing new");
    reply(&plane, SYN | ACK);
    send(&plane, ACK);
    assert_eq!(states(&plane), [ESTABLISHED], "and at each new state");
    for _ in 4..=50 {
        send(&plane, ACK);
    }
    assert_eq!(drain(&plane), [], "no packet between");
    for _ in 51..=53 {
        send(&plane, ACK);
    }
    assert_eq!(states(&plane), [ESTABLISHED], "the period holds as ever");
    let frame = udp(CLIENT, "10.50.0.1:53").frame();
    for (expected, why) in [(1, "a datagram"), (0, "is told once")] {
        plane.test_run(&frame, 1, 1).expect("the program runs");
        assert_eq!(drain(&plane).len(), expected, "{why}");
    }
    plane.tell_all(false);
    send_from(&plane, "10.100.0.5:40001", SYN);
    assert_eq!(drain(&plane), [], "it is over");
}

#[test]
fn while_a_role_is_handed_over_the_walk_tells_what_had_too_few_packets_before() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_master(true);
    send(&plane, SYN);
    for flags in [SYN, ACK] {
        send_from(&plane, "10.100.0.5:40001", flags);
    }
    for flags in [SYN, ACK, ACK] {
        send_from(&plane, "10.100.0.5:40002", flags);
    }
    drain(&plane);
    assert_eq!(walk(&mut plane), 0);
    plane.tell_all(true);
    plane.offer_all_again();
    assert_eq!(walk(&mut plane), 3);
    let mut told: Vec<(u16, u8)> = drain(&plane)
        .iter()
        .map(|offer| (offer.key.sport.to_host(), offer.state))
        .collect();
    told.sort_unstable();
    let expected = [
        (40000, SYN_RECV),
        (40001, ESTABLISHED),
        (40002, ESTABLISHED),
    ];
    assert_eq!(told, expected);
    assert_eq!(walk(&mut plane), 0, "once");
}

/// An operator who has connections under a template left out (`sync_persist_mode`) means it.
#[test]
fn the_connections_of_a_template_are_left_to_it_in_a_handover_too() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let key = service(Protocol::Tcp, VIP);
    let spec = ServiceSpec {
        flags: ServiceFlags(ServiceFlags::PERSISTENT),
        timeout_secs: 300,
        ..spec(Scheduler::Rr)
    };
    plane
        .edit(&Edit::EditService { key, spec })
        .expect("an edit");
    plane.set_sync_master(true);
    plane.tell_all(true);
    let rules = SyncRules {
        persist_mode: true,
        ..SyncRules::default()
    };
    plane.set_sync_rules(&rules);
    send(&plane, SYN);
    let offers = drain(&plane);
    assert!(
        offers.iter().all(|offer| offer.key.is_template()),
        "{offers:?}"
    );
    assert!(!offers.is_empty());
    plane.set_sync_rules(&SyncRules::default());
    send_from(&plane, "10.100.0.5:40001", SYN);
    let offers = drain(&plane);
    assert!(
        offers.iter().any(|offer| !offer.key.is_template()),
        "{offers:?}"
    );
}
