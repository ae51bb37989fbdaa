//! What single packets do not show: full tables, servers that leave and come back, budgets, and
//! how connections spread over servers. All through the real program.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use dataplane::common::TcpState;
use dataplane::common::batch::{BatchItem, BatchResult};
use dataplane::common::key::{Address, Be16, Be32, FlowKey4};
use dataplane::common::service::ServerRecord;
use dataplane::common::settings::icmp_bucket;
use dataplane::common::verdict::{Event, Verdict};
use dataplane::{DataPlane, Edit, Options, RouteKind, TableSizes};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{EditError, ServiceKey};
use ipvs_model::stats::Stats;
use lab::director::*;
use lab::packets::*;
use lab::{Lab, let_deadlines_pass, local, route};

const VIP: &str = "10.50.0.1:80";
const SERVERS: [&str; 3] = ["10.200.0.11:8080", "10.200.0.12:8080", "10.200.0.13:8080"];

/// A director that reaches everything over `lo`, with one service.
fn director(lab: &Lab, scheduler: Scheduler) -> (DataPlane, ServiceKey) {
    with_sizes(lab, scheduler, lab.options(&["lo"]).sizes)
}

fn with_sizes(lab: &Lab, scheduler: Scheduler, sizes: TableSizes) -> (DataPlane, ServiceKey) {
    let options = Options {
        sizes,
        ..lab.options(&["lo"])
    };
    let mut plane = DataPlane::open(&options).unwrap();
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.0", 16), everywhere])
        .unwrap();
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, scheduler);
    (plane, key)
}

fn from_client(port: u16, flags: u8) -> Vec<u8> {
    tcp(&format!("10.100.0.5:{port}"), VIP, flags).frame()
}

fn from_server(server: &str, port: u16, flags: u8) -> Vec<u8> {
    tcp(server, &format!("10.100.0.5:{port}"), flags).frame()
}

/// Opens connections until the table has no free place; gives back their client ports.
fn fill(plane: &DataPlane) -> Vec<u16> {
    let places = plane.sizes().connections_v4;
    let mut ports = Vec::new();
    for port in 1024..=u16::MAX {
        if plane.connection_count().taken() == places {
            return ports;
        }
        let (verdict, _) = run(plane, &from_client(port, SYN));
        if verdict == Verdict::Masqueraded {
            let (verdict, _) = run(plane, &from_client(port, ACK));
            assert_eq!(verdict, Verdict::Masqueraded);
            ports.push(port);
        } else {
            // Places are drawn at random, so the last ones may be missed.
            assert_eq!(verdict, Verdict::TableFull);
        }
    }
    panic!("{:?} after all ports", plane.connection_count());
}

const TINY: TableSizes = TableSizes {
    connections_v4: 256,
    connections_v6: 256,
    services: 16,
    servers: 64,
    hash_tables: 4,
    cache_entries: 16,
};

#[test]
fn a_full_table_refuses_new_connections_and_keeps_old_ones() {
    let lab = Lab::new();
    let (mut plane, key) = with_sizes(&lab, Scheduler::Rr, TINY);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    let ports = fill(&plane);
    assert_eq!(ports.len(), 256);
    let stats = plane.totals();
    assert_eq!(run(&plane, &from_client(80, SYN)).0, Verdict::TableFull);
    assert_eq!(plane.totals(), stats, "a refused connection is not counted");
    assert_eq!(plane.connection_count().live(), 256);
    for port in ports {
        assert_eq!(run(&plane, &from_client(port, ACK)).0, Verdict::Masqueraded);
    }
    let server = server_view(&plane, &key, SERVERS[0]);
    assert_eq!((server.active, server.inactive), (256, 0));
    recount(&plane);
}

#[test]
fn a_full_table_of_expired_connections_serves_without_the_walk() {
    let lab = Lab::new();
    let (mut plane, key) = with_sizes(&lab, Scheduler::Rr, TINY);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    plane.set_tcp_timeout(TcpState::Established, 900);
    let ports = fill(&plane);
    plane.set_tcp_timeout(TcpState::Established, 0);
    for port in &ports {
        assert_eq!(
            run(&plane, &from_client(*port, ACK)).0,
            Verdict::Masqueraded
        );
    }
    let count = plane.connection_count();
    assert_eq!((count.live(), count.taken()), (0, 256));
    let_deadlines_pass();
    let reclaimed = event_count(&plane, Event::Reclaimed);
    // No further: with few expired places left a search may miss them.
    for port in 100..300 {
        assert_eq!(
            run(&plane, &from_client(port, SYN)).0,
            Verdict::Masqueraded,
            "port {port}"
        );
    }
    assert_eq!(event_count(&plane, Event::Reclaimed), reclaimed + 200);
    let server = server_view(&plane, &key, SERVERS[0]);
    assert_eq!(server.active + server.inactive, 256);
    assert_eq!(plane.connection_count().live(), 200);
    recount(&plane);
}

#[test]
fn the_walk_frees_what_has_expired() {
    let lab = Lab::new();
    let (mut plane, key) = with_sizes(&lab, Scheduler::Rr, TINY);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    for port in 1000..1050 {
        run(&plane, &from_client(port, SYN));
    }
    plane.set_tcp_timeout(TcpState::Established, 0);
    for port in 1000..1020 {
        run(&plane, &from_client(port, ACK));
    }
    let_deadlines_pass();
    let (mut expired, mut swept) = (0, 0);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let report = plane.expire_step(64);
        expired += report.expired;
        swept += report.swept;
        if report.round_done {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{expired} expired, {swept} swept"
        );
    }
    assert_eq!((expired, swept), (20, 20));
    let count = plane.connection_count();
    assert_eq!((count.live(), count.taken()), (30, 30));
    recount(&plane);
}

#[test]
fn a_server_that_comes_back_has_its_connections_and_counters() {
    let lab = Lab::new();
    let (mut plane, key) = director(&lab, Scheduler::Rr);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    for port in 1000..1005 {
        run(&plane, &from_client(port, SYN));
        run(&plane, &from_server(SERVERS[0], port, SYN | ACK));
    }
    for port in [1000, 1001] {
        run(&plane, &from_client(port, ACK));
    }
    run(&plane, &from_client(1001, RST));
    let before = server_view(&plane, &key, SERVERS[0]);
    assert_eq!((before.active, before.inactive), (4, 1));
    let slot = plane.server_slot(&key, SERVERS[0].parse().unwrap());

    delete_server(&mut plane, key, SERVERS[0]);
    assert_eq!(run(&plane, &from_client(1000, ACK)).0, Verdict::ServerGone);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    let after = server_view(&plane, &key, SERVERS[0]);
    assert_eq!(
        (after.active, after.inactive),
        (before.active, before.inactive)
    );
    assert_eq!(after.stats, before.stats);
    assert_eq!(plane.server_slot(&key, SERVERS[0].parse().unwrap()), slot);
    assert_eq!(run(&plane, &from_client(1000, ACK)).0, Verdict::Masqueraded);
    recount(&plane);
}

#[test]
fn the_place_of_a_removed_server_is_not_given_away_while_it_has_connections() {
    let lab = Lab::new();
    let sizes = TableSizes { servers: 8, ..TINY };
    let (mut plane, key) = with_sizes(&lab, Scheduler::Rr, sizes);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    run(&plane, &from_client(1000, SYN));
    delete_server(&mut plane, key, SERVERS[0]);
    for host in 21..28 {
        add_server(&mut plane, key, &format!("10.200.0.{host}:8080"), NAT, 1);
    }
    let edit = Edit::AddServer {
        service: key,
        server: "10.200.0.28:8080".parse().unwrap(),
        spec: server_spec(NAT, 1),
    };
    assert!(matches!(plane.edit(&edit), Err(EditError::NoSpace(_))));
    assert_eq!(run(&plane, &from_client(1000, ACK)).0, Verdict::ServerGone);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    assert_eq!(run(&plane, &from_client(1000, ACK)).0, Verdict::Masqueraded);
}

#[test]
fn a_place_used_again_is_no_server_of_connections_that_meant_the_one_before() {
    let lab = Lab::new();
    let sizes = TableSizes { servers: 8, ..TINY };
    let (mut plane, key) = with_sizes(&lab, Scheduler::Rr, sizes);
    add_server(&mut plane, key, SERVERS[0], NAT, 1);
    let (slot, generation) = plane
        .server_slot(&key, SERVERS[0].parse().unwrap())
        .unwrap();
    delete_server(&mut plane, key, SERVERS[0]);
    // The first round sees it unused, a later one frees it after two minutes; they are over here.
    walk_a_round(&mut plane);
    seen_unused_long_ago(&lab, slot);
    walk_a_round(&mut plane);
    // The other free places come first.
    for host in 21..28 {
        add_server(&mut plane, key, &format!("10.200.0.{host}:8080"), NAT, 1);
    }
    add_server(&mut plane, key, SERVERS[1], NAT, 1);
    let used_again = plane
        .server_slot(&key, SERVERS[1].parse().unwrap())
        .unwrap();
    assert_eq!(used_again.0, slot, "the place is used again");
    assert_ne!(used_again.1, generation);

    // A connection that another director scheduled before all this.
    let (caddr, cport) = be("10.100.0.5:1000");
    let (vaddr, vport) = be(VIP);
    let (daddr, dport) = be(SERVERS[0]);
    let mut items = [BatchItem {
        key: FlowKey4::flow(caddr, cport, vaddr, vport, TCP).to_words(),
        daddr: daddr.to_words(),
        family: 2,
        dport,
        server: slot,
        server_generation: generation,
        timeout_secs: 60,
        state: TcpState::Established as u8,
        ..BatchItem::default()
    }];
    plane.apply(&mut items);
    assert_eq!(
        BatchResult::from_number(items[0].result),
        Some(BatchResult::Created)
    );
    assert_eq!(run(&plane, &from_client(1000, ACK)).0, Verdict::ServerGone);
}

fn be(text: &str) -> (Be32, Be16) {
    let addr: std::net::SocketAddrV4 = text.parse().unwrap();
    let port = Be16::from_host(addr.port());
    (Be32::from_host(u32::from(*addr.ip())), port)
}

fn walk_a_round(plane: &mut DataPlane) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !plane.expire_step(1024).round_done {
        assert!(Instant::now() < deadline, "the round does not end");
    }
}

fn seen_unused_long_ago(lab: &Lab, slot: u32) {
    let pin = lab.bpffs.join("director/SERVERS");
    let pinned = MapData::from_pin(pin).unwrap();
    let mut servers = Array::<_, ServerRecord>::try_from(Map::Array(pinned)).unwrap();
    let mut record = servers.get(&slot, 0).unwrap();
    assert_ne!(record.trash_since_ns, 0, "the first round saw it unused");
    record.trash_since_ns = 1;
    servers.set(slot, record, 0).unwrap();
}

#[test]
fn icmp_errors_stop_when_their_budget_is_used_up() {
    let lab = Lab::new();
    let (plane, _) = director(&lab, Scheduler::Rr);
    let start = Instant::now();
    let mut sent = 0;
    loop {
        let (verdict, _) = run(&plane, &from_client(1000, SYN));
        if verdict != Verdict::NoServer {
            assert_eq!(verdict, Verdict::IcmpSuppressed);
            break;
        }
        sent += 1;
        assert!(sent < 100_000, "the budget is never used up");
    }
    // The clock of the refill moves in ticks of up to ten milliseconds.
    let refilled = start.elapsed().as_millis() as u32 + 10;
    assert!(sent >= icmp_bucket::BURST, "{sent} errors");
    assert!(
        sent <= icmp_bucket::BURST + refilled,
        "{sent} errors in {refilled} ms"
    );
}

/// Opens connections from `ports` and counts them by server, in the order of the list.
fn spread(plane: &DataPlane, key: &ServiceKey, ports: std::ops::Range<u16>) -> Vec<usize> {
    let mut by_server = BTreeMap::new();
    for port in ports.clone() {
        assert_eq!(run(plane, &from_client(port, SYN)).0, Verdict::Masqueraded);
    }
    for entry in connections(plane) {
        if ports.contains(&entry.client.port()) {
            *by_server.entry(entry.dest).or_default() += 1;
        }
    }
    let servers = view(plane, key).service.servers;
    servers
        .iter()
        .map(|server| by_server.get(&server.key).copied().unwrap_or(0))
        .collect()
}

/// A director with the three servers and these weights, in list order (the last added first).
fn three(lab: &Lab, scheduler: Scheduler, weights: [u32; 3]) -> (DataPlane, ServiceKey) {
    let (mut plane, key) = director(lab, scheduler);
    for (server, weight) in SERVERS.iter().zip(weights).rev() {
        add_server(&mut plane, key, server, NAT, weight);
    }
    (plane, key)
}

#[test]
fn rr_gives_every_server_its_turn() {
    let lab = Lab::new();
    let (mut plane, key) = three(&lab, Scheduler::Rr, [1, 5, 1]);
    assert_eq!(spread(&plane, &key, 1000..1030), [10, 10, 10]);
    edit_weight(&mut plane, key, SERVERS[1], 0);
    assert_eq!(spread(&plane, &key, 2000..2030), [15, 0, 15]);
    delete_server(&mut plane, key, SERVERS[0]);
    assert_eq!(spread(&plane, &key, 3000..3010), [0, 10]);
}

#[test]
fn wrr_gives_turns_by_weight() {
    let lab = Lab::new();
    let (mut plane, key) = three(&lab, Scheduler::Wrr, [3, 2, 1]);
    assert_eq!(spread(&plane, &key, 1000..1060), [30, 20, 10]);
    edit_weight(&mut plane, key, SERVERS[0], 0);
    assert_eq!(spread(&plane, &key, 2000..2030), [0, 20, 10]);
}

#[test]
fn wlc_evens_out_connections_by_weight() {
    let lab = Lab::new();
    let (mut plane, key) = three(&lab, Scheduler::Wlc, [1, 1, 2]);
    assert_eq!(spread(&plane, &key, 1000..1040), [10, 10, 20]);
    // A server without connections gets all until it has its share.
    add_server(&mut plane, key, "10.200.0.14:8080", NAT, 1);
    assert_eq!(spread(&plane, &key, 2000..2010), [10, 0, 0, 0]);
}

#[test]
fn statistics_are_packets_and_ip_bytes_of_director_service_and_server() {
    let lab = Lab::new();
    let (mut plane, key) = three(&lab, Scheduler::Rr, [1, 1, 1]);
    let mut expected = Stats::default();
    for (port, len) in (1000..1030).zip([0, 1, 7, 100, 1000, 1400].into_iter().cycle()) {
        run(&plane, &from_client(port, SYN));
        let entry = connections(&plane)
            .into_iter()
            .find(|one| one.client.port() == port);
        let client = format!("10.100.0.5:{port}");
        let payload = vec![7; len];
        let request = Ip {
            payload: payload.clone(),
            ..tcp(&client, VIP, PSH | ACK)
        };
        let server = entry.expect("a connection").dest.to_string();
        let reply = Ip {
            payload,
            ..tcp(&server, &client, PSH | ACK)
        };
        run(&plane, &request.frame());
        run(&plane, &reply.frame());
        expected = expected.plus(Stats {
            conns: 1,
            in_pkts: 2,
            out_pkts: 1,
            in_bytes: 40 + 40 + len as u64,
            out_bytes: 40 + len as u64,
        });
    }
    let servers = |plane: &DataPlane| {
        let views = view(plane, &key).servers;
        views
            .iter()
            .fold(Stats::default(), |all, server| all.plus(server.stats))
    };
    assert_eq!(plane.totals(), expected);
    assert_eq!(view(&plane, &key).stats, expected);
    assert_eq!(servers(&plane), expected);
    assert!(
        view(&plane, &key)
            .servers
            .iter()
            .all(|server| server.stats.conns == 10)
    );

    plane.zero(Some(&key)).unwrap();
    assert_eq!(view(&plane, &key).stats, Stats::default());
    assert_eq!(servers(&plane), Stats::default());
    assert_eq!(
        plane.totals(),
        expected,
        "zeroing a service leaves the director's"
    );
    plane.zero(None).unwrap();
    assert_eq!(plane.totals(), Stats::default());
    run(&plane, &from_client(1000, ACK));
    let one = Stats {
        in_pkts: 1,
        in_bytes: 40,
        ..Stats::default()
    };
    assert_eq!(
        (plane.totals(), view(&plane, &key).stats, servers(&plane)),
        (one, one, one)
    );
}
