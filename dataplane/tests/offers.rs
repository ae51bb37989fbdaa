//! Connections are marked until somebody has offered them.

mod lab;

use dataplane::{DataPlane, RouteKind};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use lab::director::{NAT, add_server, add_service, service};
use lab::packets::{ACK, FIN, SYN, tcp};
use lab::{Lab, local, route};

const CLIENT: &str = "10.100.0.5:40000";
const VIP: &str = "10.50.0.1:80";

fn director(lab: &Lab) -> DataPlane {
    let mut plane = lab.open(&["lo"]);
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.1", 32), everywhere])
        .expect("routes");
    let key = service(Protocol::Tcp, VIP);
    add_service(&mut plane, key, Scheduler::Rr);
    add_server(&mut plane, key, "10.200.0.11:8080", NAT, 1);
    plane
}

fn send(plane: &DataPlane, flags: u8) {
    plane
        .test_run(&tcp(CLIENT, VIP, flags).frame(), 1, 1)
        .expect("the program runs");
}

#[test]
fn nothing_is_marked_while_nobody_wants_offers() {
    let lab = Lab::new();
    let plane = director(&lab);
    send(&plane, SYN);
    send(&plane, ACK);
    assert!(plane.marked(0, 10).0.is_empty());
}

#[test]
fn a_new_connection_and_each_change_of_state_are_marked_until_offered() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_offers(true);
    for flags in [SYN, ACK, FIN | ACK] {
        send(&plane, flags);
        let (marked, next) = plane.marked(0, 10);
        assert_eq!((marked.len(), next), (1, None), "flags {flags:#x}");
        assert_eq!(plane.offered(&marked), 1);
        assert!(plane.marked(0, 10).0.is_empty());
        // The same state again is no news.
        send(&plane, flags);
        assert!(plane.marked(0, 10).0.is_empty(), "flags {flags:#x}");
    }
}

#[test]
fn a_change_after_the_reading_keeps_the_mark() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_offers(true);
    send(&plane, SYN);
    let (marked, _) = plane.marked(0, 10);
    send(&plane, ACK);
    assert_eq!(plane.offered(&marked), 0);
    let (marked, _) = plane.marked(0, 10);
    assert_eq!(marked.len(), 1);
    assert_eq!(marked[0].entry.state, 1, "established");
}

#[test]
fn marks_survive_a_restart_of_the_daemon() {
    let lab = Lab::new();
    let mut plane = director(&lab);
    plane.set_offers(true);
    send(&plane, SYN);
    drop(plane);
    let mut plane = lab.open(&["lo"]);
    assert!(plane.was_adopted());
    let (marked, _) = plane.marked(0, 10);
    assert_eq!(plane.offered(&marked), 1);
}
