//! Sequences of TCP packets leave connections in the states and with the timers that were recorded
//! on a kernel director.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use dataplane::{DataPlane, RouteKind, Tunable};
use ipvs_model::entry::ConnEntry;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use lab::director::{DR, NAT, add_server, add_service, connections, service, state_of};
use lab::packets::{ACK, FIN, PSH, RST, SYN, tcp};
use lab::{Lab, fixture, local, route};
use serde_json::Value;

const VIP: &str = "10.50.0.1:80";
const SERVER: &str = "10.200.0.11:80";

#[test]
fn tcp_states_by_masquerading_are_the_recorded_ones() {
    replay("tcp_nat");
}

#[test]
fn tcp_states_by_direct_routing_are_the_recorded_ones() {
    replay("tcp_dr");
}

#[test]
fn first_packets_start_the_recorded_connections() {
    replay("tcp_nat_first");
}

#[test]
fn tcp_states_under_secure_tcp_are_the_recorded_ones() {
    replay("tcp_nat_secure3");
    replay("tcp_dr_secure3");
}

#[test]
fn tcp_states_under_sloppy_tcp_are_the_recorded_ones() {
    replay("tcp_nat_sloppy");
    replay("tcp_dr_sloppy");
}

/// Replays every sequence of a recording and compares state and timer after every packet.
fn replay(name: &str) {
    let recording = fixture(&format!("states/{name}.json"));
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    set_up(&mut plane, &recording);
    let sequences = recording["sequences"].as_array().unwrap();
    let (mut steps, mut wrong) = (0, Vec::new());
    for (sequence, port) in sequences.iter().zip(10_001..) {
        let events = sequence[0].as_array().unwrap();
        let results = sequence[1].as_array().unwrap();
        assert_eq!(events.len(), results.len(), "{sequence}");
        for (at, (event, expected)) in events.iter().zip(results).enumerate() {
            let event = event.as_str().unwrap();
            plane.test_run(&frame(event, port), 1, 1).unwrap();
            let found = connections(&plane)
                .into_iter()
                .find(|entry| entry.client.port() == port);
            if !is_as_recorded(found.as_ref(), expected) {
                let found = found.map(|entry| (state_of(&entry), entry.expires_secs));
                wrong.push(format!("{events:?} step {at}: {expected}, here {found:?}"));
            }
            steps += 1;
        }
    }
    println!("{name}: {} sequences, {steps} steps", sequences.len());
    assert!(steps > 0, "{name} is empty");
    assert!(
        wrong.is_empty(),
        "{name}: {} of {steps} steps differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn set_up(plane: &mut DataPlane, recording: &Value) {
    let everywhere = route("0.0.0.0", 0, RouteKind::Unicast, 1, None);
    plane
        .set_routes(&[local("10.50.0.1", 32), everywhere])
        .unwrap();
    for (name, value) in recording["sysctl"].as_object().unwrap() {
        let tunable = match name.as_str() {
            "secure_tcp" => Tunable::SecureTcp,
            "sloppy_tcp" => Tunable::SloppyTcp,
            other => panic!("sysctl {other}"),
        };
        plane.set_tunable(tunable, value.as_u64().unwrap() as u32);
    }
    let method = match recording["mode"].as_str().unwrap() {
        "nat" => NAT,
        "dr" => DR,
        other => panic!("mode {other}"),
    };
    let key = service(Protocol::Tcp, VIP);
    add_service(plane, key, Scheduler::Rr);
    add_server(plane, key, SERVER, method, 1);
}

/// The packet of an event: `c:S` is a SYN from the client, `s:FA` a FIN+ACK from the server.
fn frame(event: &str, port: u16) -> Vec<u8> {
    let (side, letters) = event.split_once(':').unwrap();
    let flags = letters.chars().map(|letter| match letter {
        'S' => SYN,
        'A' => ACK,
        'F' => FIN,
        'R' => RST,
        'P' => PSH,
        other => panic!("flag {other}"),
    });
    let flags = flags.fold(0, |all, flag| all | flag);
    let client = format!("10.100.0.5:{port}");
    match side {
        "c" => tcp(&client, VIP, flags).frame(),
        "s" => tcp(SERVER, &client, flags).frame(),
        other => panic!("side {other}"),
    }
}

/// The recording shows whole seconds left, mostly one less than the timeout.
fn is_as_recorded(found: Option<&ConnEntry>, expected: &Value) -> bool {
    match (found, expected.as_array()) {
        (None, None) => true,
        (Some(found), Some(expected)) => {
            let seconds = expected[1].as_u64().unwrap();
            state_of(found) == expected[0].as_str().unwrap()
                && u64::from(found.expires_secs).abs_diff(seconds) <= 1
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}
