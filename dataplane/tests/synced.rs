//! What a synchronised entry does to the table (`ip_vs_sync.c: ip_vs_proc_conn`).

mod lab;

use std::net::SocketAddr;

use dataplane::common::rules::directing::{Inputs, Mode, Role};
use dataplane::common::verdict::Verdict;
use dataplane::{ApplyReport, DataPlane, RouteKind, SyncedConn, Tunable};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::sync::{SyncRole, SyncSpec};
use lab::director::{
    DR, NAT, add_server, add_service, connections, delete_server, recount, run, server_view,
    service,
};
use lab::packets::{ACK, SYN, TCP, UDP, tcp, udp};
use lab::{Lab, local, route};

const CLIENT: &str = "10.100.0.5:40000";
const VIP: &str = "10.50.0.1:80";
const FIRST: &str = "10.200.0.11:8080";
const SECOND: &str = "10.200.0.12:8080";

const ESTABLISHED: u8 = 1;
const TIME_WAIT: u8 = 5;

fn director(lab: &Lab) -> DataPlane {
    let mut plane = lab.open(&["lo"]);
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.1", 32), everywhere])
        .expect("routes");
    plane
}

/// With a service of two servers.
fn configured(lab: &Lab) -> DataPlane {
    let mut plane = director(lab);
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, FIRST, NAT, 1);
    add_server(&mut plane, key, SECOND, NAT, 1);
    plane
}

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An established connection to the first server, as it is stored on receipt.
fn established() -> SyncedConn {
    SyncedConn {
        protocol: TCP,
        client: addr(CLIENT),
        virt: addr(VIP),
        dest: addr(FIRST),
        flags: ConnFlags(ConnFlags::SYNC),
        state: ESTABLISHED,
        fwmark: 0,
        timeout_secs: 900,
        extra: None,
    }
}

fn ended(conn: SyncedConn) -> SyncedConn {
    SyncedConn {
        flags: ConnFlags(conn.flags.0 | ConnFlags::INACTIVE),
        state: TIME_WAIT,
        timeout_secs: 120,
        ..conn
    }
}

fn apply(plane: &mut DataPlane, conn: SyncedConn) -> ApplyReport {
    plane.apply_synced(&[conn])
}

fn only(plane: &DataPlane) -> ConnEntry {
    let entries = connections(plane);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.into_iter().next().expect("one")
}

fn counts(plane: &DataPlane, server: &str) -> (u32, u32) {
    let view = server_view(plane, &service(Protocol::Tcp, VIP), server);
    (view.active, view.inactive)
}

#[test]
fn a_new_connection_is_made_bound_and_counted() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    let report = apply(&mut plane, established());
    assert_eq!((report.created, report.updated), (1, 0));
    let entry = only(&plane);
    assert!(entry.bound);
    assert_eq!((entry.state, entry.flags.0), (ESTABLISHED, ConnFlags::SYNC));
    assert_eq!(
        entry.in_pkts, 3,
        "the packet counter starts at the threshold"
    );
    assert!((899..=900).contains(&entry.expires_secs));
    assert_eq!(
        (counts(&plane, FIRST), counts(&plane, SECOND)),
        ((1, 0), (0, 0))
    );
    recount(&plane);
}

#[test]
fn packets_of_a_synchronised_connection_go_both_ways() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    apply(&mut plane, established());
    let (verdict, _) = run(&plane, &tcp(CLIENT, VIP, ACK).frame());
    assert_eq!(verdict, Verdict::Masqueraded);
    let (verdict, _) = run(&plane, &tcp(FIRST, CLIENT, ACK).frame());
    assert_eq!(verdict, Verdict::Reply);
}

#[test]
fn without_its_service_a_connection_is_kept_unbound_and_still_forwarded() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    assert_eq!(apply(&mut plane, established()).created, 1);
    assert!(!only(&plane).bound);
    let (verdict, _) = run(&plane, &tcp(CLIENT, VIP, ACK).frame());
    assert_eq!(verdict, Verdict::Masqueraded);
    recount(&plane);
}

#[test]
fn an_unbound_connection_binds_at_the_next_message_about_it() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    apply(&mut plane, established());
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, FIRST, NAT, 1);
    assert!(!only(&plane).bound, "not by itself");
    assert_eq!(apply(&mut plane, established()).replaced, 1);
    assert!(only(&plane).bound);
    assert_eq!(counts(&plane, FIRST), (1, 0));
    recount(&plane);
}

#[test]
fn a_known_connection_takes_state_activity_and_timer() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    apply(&mut plane, established());
    assert_eq!(apply(&mut plane, ended(established())).updated, 1);
    let entry = only(&plane);
    assert_eq!(entry.state, TIME_WAIT);
    assert!(entry.flags.contains(ConnFlags::INACTIVE));
    assert!((119..=120).contains(&entry.expires_secs));
    assert_eq!(counts(&plane, FIRST), (0, 1));
    assert_eq!(apply(&mut plane, established()).updated, 1);
    assert_eq!(counts(&plane, FIRST), (1, 0));
    recount(&plane);
}

#[test]
fn another_real_server_replaces_the_connection() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    apply(&mut plane, established());
    let moved = SyncedConn {
        dest: addr(SECOND),
        ..established()
    };
    assert_eq!(apply(&mut plane, moved).replaced, 1);
    assert_eq!(only(&plane).dest.to_string(), SECOND);
    assert_eq!(
        (counts(&plane, FIRST), counts(&plane, SECOND)),
        ((0, 0), (1, 0))
    );
    recount(&plane);
}

#[test]
fn the_late_end_of_a_replaced_connection_is_ignored() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    apply(&mut plane, established());
    let late = ended(SyncedConn {
        dest: addr(SECOND),
        ..established()
    });
    assert_eq!(apply(&mut plane, late).late, 1);
    let entry = only(&plane);
    assert_eq!(
        (entry.dest.to_string(), entry.state),
        (FIRST.into(), ESTABLISHED)
    );
    recount(&plane);
}

#[test]
fn a_connection_with_traffic_here_is_guarded_while_this_node_directs() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    run(&plane, &tcp(CLIENT, VIP, SYN).frame());
    let before = only(&plane);
    for conn in [established(), ended(established())] {
        for dest in [FIRST, SECOND] {
            let dest = addr(dest);
            let report = apply(
                &mut plane,
                SyncedConn {
                    dest,
                    ..conn.clone()
                },
            );
            assert_eq!(report.guarded, 1, "{dest} {report:?}");
        }
    }
    assert_eq!(
        (only(&plane).state, only(&plane).dest),
        (before.state, before.dest)
    );
    plane.set_tunable(Tunable::ApplyGuardSecs, 0);
    let dest = before.dest;
    let report = apply(
        &mut plane,
        SyncedConn {
            dest,
            ..established()
        },
    );
    assert_eq!(report.updated, 1, "without the guard, as the kernel");
}

#[test]
fn what_only_synchronisation_touched_is_not_guarded() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    apply(&mut plane, established());
    assert_eq!(apply(&mut plane, ended(established())).updated, 1);
}

#[test]
fn a_standby_that_only_replies_takes_every_entry() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    run(&plane, &tcp(CLIENT, VIP, SYN).frame());
    plane.set_directing(Inputs {
        mode: Mode::Vrrp,
        role: Role::Standby,
        backup_daemon_runs: true,
        backup_only: true,
    });
    let report = apply(&mut plane, established());
    assert_eq!(report.guarded, 0, "{report:?}");
}

#[test]
fn the_method_is_that_of_the_server_configured_here() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let key = service(Protocol::Udp, "10.50.0.1:53");
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, "10.200.0.13:53", DR, 1);
    let conn = SyncedConn {
        protocol: UDP,
        virt: addr("10.50.0.1:53"),
        dest: addr("10.200.0.13:53"),
        flags: ConnFlags(ConnFlags::SYNC | ConnFlags::INACTIVE),
        state: 0,
        timeout_secs: 0,
        ..established()
    };
    assert_eq!(apply(&mut plane, conn).created, 1);
    let entry = only(&plane);
    let expected = 3 | ConnFlags::SYNC | ConnFlags::NOOUTPUT | ConnFlags::INACTIVE;
    assert_eq!(entry.flags.0, expected);
    assert!(
        (299..=300).contains(&entry.expires_secs),
        "the timeout of UDP here"
    );
    let (verdict, _) = run(&plane, &udp(CLIENT, "10.50.0.1:53").frame());
    assert_eq!(verdict, Verdict::Direct);
    recount(&plane);
}

#[test]
fn a_connection_of_a_removed_server_is_kept_unbound() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    delete_server(&mut plane, service(Protocol::Tcp, VIP), FIRST);
    assert_eq!(apply(&mut plane, established()).created, 1);
    assert!(!only(&plane).bound);
}

#[test]
fn running_sync_daemons_are_recorded_for_a_restart() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    let spec = SyncSpec {
        interface: "a-name-of-15-by".into(),
        sync_id: 7,
        maxlen: 1472,
        group: Some(std::net::Ipv4Addr::new(224, 0, 0, 81).into()),
        port: 8848,
        ttl: 1,
    };
    plane.record_sync_daemon(SyncRole::Backup, Some(&spec));
    drop(plane);
    let mut plane = lab.open(&["lo"]);
    assert_eq!(plane.recorded_sync_daemon(SyncRole::Backup), Some(spec));
    assert_eq!(plane.recorded_sync_daemon(SyncRole::Master), None);
    plane.record_sync_daemon(SyncRole::Backup, None);
    assert_eq!(plane.recorded_sync_daemon(SyncRole::Backup), None);
}

#[test]
fn a_batch_larger_than_a_region_is_applied_whole() {
    let lab = Lab::new();
    let mut plane = configured(&lab);
    let conns: Vec<SyncedConn> = (0..1000)
        .map(|port| SyncedConn {
            client: SocketAddr::new([10, 100, 0, 6].into(), 20_000 + port),
            ..established()
        })
        .collect();
    plane.set_sync_share(100);
    let report = plane.apply_synced(&conns);
    assert_eq!(report.created + report.table_full, 1000, "{report:?}");
    assert_eq!(u64::from(counts(&plane, FIRST).0), report.created);
    recount(&plane);
}
