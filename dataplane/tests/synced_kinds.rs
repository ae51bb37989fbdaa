//! Every kind of entry the protocol knows is kept, shown and told on; and synchronisation keeps to its
//! share of the table.

mod lab;

use std::net::SocketAddr;

use dataplane::common::verdict::Verdict;
use dataplane::{DataPlane, Extra, OfferedConn, RouteKind, SyncedConn};
use ipvs_model::extra::{Pe, SeqPair, SeqRecord};
use ipvs_model::flags::{ConnFlags, ServiceFlags};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;
use lab::director::{DR, NAT, add_server, add_service, connections, recount, run, service, spec};
use lab::packets::{ACK, SYN, tcp, udp};
use lab::{Lab, let_deadlines_pass, local, route};

const CLIENT: &str = "10.100.0.5:40000";
const VIP: &str = "10.50.0.1:80";
const SERVER: &str = "10.200.0.11:8080";
const TCP: u8 = 6;
const UDP: u8 = 17;
const ESP: u8 = 50;
const AH: u8 = 51;
const ESTABLISHED: u8 = 1;
/// Places in the lab's tables.
const PLACES: u64 = 1024;

fn director(lab: &Lab) -> DataPlane {
    let mut plane = lab.open(&["lo"]);
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.1", 32), everywhere])
        .expect("routes");
    plane
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn entry(protocol: u8, flags: u32) -> SyncedConn {
    SyncedConn {
        protocol,
        client: addr(CLIENT),
        virt: addr(VIP),
        dest: addr(SERVER),
        flags: ConnFlags(flags | ConnFlags::SYNC),
        state: 0,
        fwmark: 0,
        timeout_secs: 60,
        extra: None,
    }
}

fn sip(data: &[u8]) -> SyncedConn {
    let template = entry(UDP, ConnFlags::TEMPLATE);
    SyncedConn {
        client: addr("10.100.0.5:0"),
        extra: Some(Box::new(Extra {
            seq: None,
            pe: Pe::new(b"sip", data),
        })),
        ..template
    }
}

fn shifted() -> SeqPair {
    let one = |init_seq, delta| SeqRecord {
        init_seq,
        delta,
        previous_delta: 0,
    };
    SeqPair {
        input: one(0x1122_3344, -3),
        output: one(0x5566_7788, 5),
    }
}

fn engine_data(plane: &DataPlane) -> Vec<Vec<u8>> {
    let listed = connections(plane).into_iter();
    let mut data: Vec<Vec<u8>> = listed
        .filter_map(|entry| entry.pe.map(|pe| pe.data().to_vec()))
        .collect();
    data.sort();
    data
}

fn drain(plane: &DataPlane) -> Vec<OfferedConn> {
    let mut reader = plane.offers().expect("the ring of offers");
    std::iter::from_fn(|| reader.next_offer()).collect()
}

fn walk(plane: &mut DataPlane) {
    while !plane.expire_step(u32::MAX).round_done {
        std::thread::yield_now();
    }
}

/// Every connection of it hangs under its client's template.
fn persistent_service(plane: &mut DataPlane) {
    let key = service(Protocol::Tcp, VIP);
    let spec = ipvs_model::service::ServiceSpec {
        flags: ServiceFlags(ServiceFlags::PERSISTENT),
        timeout_secs: 360,
        ..spec(Scheduler::Rr)
    };
    let add = dataplane::Edit::AddService { key, spec };
    plane.edit(&add).expect("a service");
    add_server(plane, key, SERVER, NAT, 1);
}

fn port_53() -> ServiceKey {
    service(Protocol::Udp, "10.50.0.1:53")
}

#[test]
fn connections_of_every_protocol_method_and_flag_are_kept() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let no_cport = SyncedConn {
        client: addr("10.100.0.5:0"),
        ..entry(TCP, ConnFlags::NO_CPORT)
    };
    let methods = (0..8).map(|method| SyncedConn {
        client: SocketAddr::new(addr(CLIENT).ip(), 41_000 + method),
        ..entry(UDP, method.into())
    });
    let mut entries = vec![entry(AH, 0), entry(ESP, 3), no_cport];
    entries.extend(methods);
    for kept in &entries {
        let report = plane.apply_synced(std::slice::from_ref(kept));
        assert_eq!(report.created, 1, "{kept:?} {report:?}");
    }
    let listed = connections(&plane);
    assert_eq!(listed.len(), entries.len());
    for kept in &entries {
        let found = listed
            .iter()
            .find(|entry| entry.protocol == kept.protocol && entry.client == kept.client);
        let found = found.unwrap_or_else(|| panic!("{kept:?}"));
        assert_eq!(found.flags.0 & 0x807, kept.flags.0 & 0x807, "{kept:?}");
    }
    for again in &entries {
        assert_eq!(plane.apply_synced(std::slice::from_ref(again)).updated, 1);
    }
    recount(&plane);
}

#[test]
fn packets_of_a_method_that_is_not_there_are_dropped_by_name() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    add_service(&mut plane, port_53(), Scheduler::Rr);
    for (at, method) in [2u16, 5, 6, 7].into_iter().enumerate() {
        let client = format!("10.100.0.5:{}", 42_000 + at);
        let conn = SyncedConn {
            client: addr(&client),
            virt: addr("10.50.0.1:53"),
            ..entry(UDP, method.into())
        };
        assert_eq!(plane.apply_synced(&[conn]).created, 1);
        let (verdict, _) = run(&plane, &udp(&client, "10.50.0.1:53").frame());
        assert_eq!(verdict, Verdict::Failed, "method {method}");
    }
}

#[test]
fn templates_of_one_client_with_other_engine_data_stand_side_by_side() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let (one, other) = (sip(b"call@lab"), sip(b"other@lab"));
    assert_eq!(plane.apply_synced(&[one.clone(), other]).created, 2);
    assert_eq!(plane.apply_synced(&[one]).updated, 1);
    let plain = SyncedConn {
        extra: None,
        ..sip(b"x")
    };
    assert_eq!(plane.apply_synced(&[plain]).created, 1);
    assert_eq!(
        engine_data(&plane),
        [b"call@lab".to_vec(), b"other@lab".to_vec()]
    );
    assert_eq!((plane.extra_count(), connections(&plane).len()), (2, 3));
}

#[test]
fn engine_data_outlive_the_daemon_and_end_with_their_template() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let short = SyncedConn {
        timeout_secs: 1,
        ..sip(b"short@lab")
    };
    plane.apply_synced(&[sip(b"long@lab")]);
    drop(plane);
    let mut plane = lab.open(&["lo"]);
    plane.apply_synced(&[short]);
    assert_eq!(
        engine_data(&plane),
        [b"long@lab".to_vec(), b"short@lab".to_vec()]
    );
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while plane.extra_count() > 1 {
        assert!(std::time::Instant::now() < deadline);
        let_deadlines_pass();
        walk(&mut plane);
    }
    assert_eq!(engine_data(&plane), [b"long@lab".to_vec()]);
}

#[test]
fn shifted_sequence_numbers_are_told_on() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, SERVER, NAT, 1);
    plane.set_sync_master(true);
    let flags = ConnFlags::IN_SEQ | ConnFlags::OUT_SEQ;
    let conn = |seq| SyncedConn {
        state: ESTABLISHED,
        extra: Some(Box::new(Extra { seq, pe: None })),
        ..entry(TCP, flags)
    };
    assert_eq!(plane.apply_synced(&[conn(Some(shifted()))]).created, 1);
    // An entry without records leaves them as they are.
    let silent = SyncedConn {
        extra: None,
        ..conn(None)
    };
    assert_eq!(plane.apply_synced(&[silent]).updated, 1);
    run(&plane, &tcp(CLIENT, VIP, ACK).frame());
    walk(&mut plane);
    let offers = drain(&plane);
    assert_eq!(offers.len(), 1, "{offers:?}");
    assert_eq!(u32::from(offers[0].offer.conn_flags) & 0x4600, flags);
    let seq = offers[0].extra.as_ref().and_then(|extra| extra.seq);
    assert_eq!(seq, Some(shifted()));
}

#[test]
fn synchronisation_keeps_to_its_share_of_the_table() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_share(50);
    let conn = |at: u16| SyncedConn {
        client: SocketAddr::new([10, 100, 0, 6].into(), 20_000 + at),
        ..entry(TCP, 3)
    };
    let all: Vec<SyncedConn> = (0..PLACES as u16).map(conn).collect();
    let report = plane.apply_synced(&all);
    assert_eq!((report.created, report.no_share), (PLACES / 2, PLACES / 2));
    // What is known is refreshed all the same.
    let report = plane.apply_synced(&all[..512]);
    assert_eq!(report.updated, 512, "{report:?}");
    // The rest is for connections made here.
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, SERVER, DR, 1);
    for port in 0..300 {
        let client = format!("10.100.0.7:{}", 1000 + port);
        let (verdict, _) = run(&plane, &tcp(&client, VIP, SYN).frame());
        assert_eq!(verdict, Verdict::Direct);
    }
    walk(&mut plane);
    assert_eq!(plane.apply_synced(&[conn(2000)]).no_share, 1);
    plane.set_sync_share(100);
    assert_eq!(plane.apply_synced(&[conn(2000)]).created, 1);
    recount(&plane);
}

#[test]
fn version_0_is_told_of_a_template_behind_its_connection_alone() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    persistent_service(&mut plane);
    plane.set_sync_master(true);
    for (version, offered) in [(0, [0, 0, 2, 0]), (1, [1, 1, 2, 1])] {
        plane.set_sync_version(version);
        let client = format!("10.100.{version}.5:40000");
        for (flags, count) in [SYN, ACK, ACK, ACK].into_iter().zip(offered) {
            run(&plane, &tcp(&client, VIP, flags).frame());
            assert_eq!(drain(&plane).len(), count, "version {version}");
        }
    }
}

#[test]
fn version_0_is_not_told_of_ipv6() {
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    let everywhere = route("::", 0, RouteKind::Unicast, 1, None);
    let vip = local("2001:db8::1", 128);
    plane.set_routes(&[vip, everywhere]).expect("routes");
    let key = service(Protocol::Udp, "[2001:db8::1]:53");
    let spec = lab::director::spec_of(Scheduler::Rr, true);
    plane
        .edit(&dataplane::Edit::AddService { key, spec })
        .expect("a service");
    add_server(&mut plane, key, "[fd00::11]:53", NAT, 1);
    plane.set_sync_master(true);
    for (version, offered) in [(0, 0), (1, 1)] {
        plane.set_sync_version(version);
        let client = format!("[2001:db8:{version}::5]:40000");
        for _ in 0..3 {
            run(&plane, &udp(&client, "[2001:db8::1]:53").frame());
        }
        assert_eq!(drain(&plane).len(), offered, "version {version}");
        plane.offer_all_again();
        walk(&mut plane);
        walk(&mut plane);
        assert_eq!(drain(&plane).len(), offered, "version {version}");
    }
}

#[test]
fn an_entry_that_names_the_port_refreshes_a_connection_that_has_none_yet() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let without = SyncedConn {
        client: addr("10.100.0.5:0"),
        ..entry(TCP, ConnFlags::NO_CPORT)
    };
    assert_eq!(plane.apply_synced(&[without]).created, 1);
    assert_eq!(plane.apply_synced(&[entry(TCP, 0)]).updated, 1);
    let listed = connections(&plane);
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0].client.port(), 0);
}

#[test]
fn a_connection_whose_client_has_port_zero_is_not_one_that_waits_for_a_port() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    // Somewhere there is one that waits, so that entries are looked up without a port too.
    let waits = SyncedConn {
        client: addr("10.100.0.6:0"),
        ..entry(TCP, ConnFlags::NO_CPORT)
    };
    let zero = SyncedConn {
        client: addr("10.100.0.5:0"),
        timeout_secs: 7,
        ..entry(TCP, 0)
    };
    assert_eq!(plane.apply_synced(&[waits, zero.clone()]).created, 2);
    let report = plane.apply_synced(&[entry(TCP, 0)]);
    assert_eq!((report.created, report.updated), (1, 0), "{report:?}");
    let listed = connections(&plane);
    let timer = |client: &str| {
        let found = listed.iter().find(|entry| entry.client == addr(client));
        found.map(|entry| entry.expires_secs <= 7)
    };
    assert_eq!(
        (timer("10.100.0.5:0"), timer(CLIENT)),
        (Some(true), Some(false))
    );
    // Its own entries refresh it.
    assert_eq!(plane.apply_synced(&[zero]).updated, 1);
    recount(&plane);
}

#[test]
fn a_port_that_is_not_sure_keeps_no_client_from_its_own_connection() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, "10.200.0.12:8080", NAT, 1);
    let unsure = entry(TCP, ConnFlags::NO_CPORT);
    assert_eq!(plane.apply_synced(&[unsure]).created, 1);
    let (verdict, _) = run(&plane, &tcp(CLIENT, VIP, SYN).frame());
    assert_eq!(verdict, Verdict::Masqueraded);
    assert_eq!(connections(&plane).len(), 2);
}

#[test]
fn a_share_holds_whatever_part_of_the_round_a_flood_falls_in() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_sync_share(50);
    let conn = |at: u16| SyncedConn {
        client: SocketAddr::new([10, 100, 0, 6].into(), at),
        ..entry(TCP, 3)
    };
    let mut port = 1000;
    // Half of the walk over the IPv4 table is behind when they come.
    plane.expire_step(PLACES as u32 / 2);
    for _ in 0..4 {
        let flood: Vec<SyncedConn> = (port..port + 1024).map(conn).collect();
        port += 1024;
        plane.apply_synced(&flood);
        while plane.expire_step(PLACES as u32 / 4).live.is_none() {
            std::thread::yield_now();
        }
    }
    let taken = u64::from(plane.connection_count().taken());
    assert_eq!(taken, PLACES / 2, "a half, and no more");
}

#[test]
fn persist_mode_holds_for_what_the_walk_offers_too() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    persistent_service(&mut plane);
    plane.set_sync_master(true);
    for flags in [SYN, ACK, ACK] {
        run(&plane, &tcp(CLIENT, VIP, flags).frame());
    }
    drain(&plane);
    let mut rules = dataplane::common::rules::sync::SyncRules::default();
    for (persist_mode, offered) in [(false, 2), (true, 1)] {
        rules.persist_mode = persist_mode;
        plane.set_sync_rules(&rules);
        plane.offer_all_again();
        walk(&mut plane);
        assert_eq!(drain(&plane).len(), offered, "persist mode {persist_mode}");
    }
}
