//! Sequences of TCP and SCTP packets leave connections in the states and with the timers that were
//! recorded on a kernel director (6.1).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use dataplane::{DataPlane, RouteKind};
use ipvs_model::entry::ConnEntry;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use lab::director::{DR, NAT, add_server, add_service, connections, recount, service, state_of};
use lab::ipvsadm::tunable;
use lab::packets::{ACK, FIN, PSH, RST, SYN, sctp, tcp};
use lab::{Lab, fixture, fixture_names, local, route};
use serde_json::Value;

/// What cannot be replayed yet, and why.
const LEFT_OUT: [(&str, &str); 1] = [("tcp_tun", "servers by tunnel are refused")];

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

#[test]
fn sctp_states_by_masquerading_are_the_recorded_ones() {
    replay("sctp_nat");
}

#[test]
fn sctp_states_from_established_are_the_recorded_ones() {
    replay("sctp_nat_est");
}

#[test]
fn sctp_states_by_direct_routing_are_the_recorded_ones() {
    replay("sctp_dr");
}

#[test]
fn every_recording_is_replayed_or_left_out_by_name() {
    let source = include_str!("golden_states.rs");
    for name in fixture_names("states") {
        let replayed = source.contains(&format!("replay(\"{name}\")"));
        let left_out = LEFT_OUT.iter().find(|(known, _)| *known == name);
        assert!(replayed != left_out.is_some(), "{name}");
        if let Some((name, why)) = left_out {
            let recording = fixture(&format!("states/{name}.json"));
            let sequences = recording["sequences"].as_array().unwrap();
            println!("left out: {name}, {} sequences: {why}", sequences.len());
        }
    }
}

/// Replays every sequence of a recording in both families and compares state and timer after every
/// packet. The recordings are of IPv4; the rules of the states do not look at the family.
fn replay(name: &str) {
    for ipv6 in [false, true] {
        replay_in(name, ipv6);
    }
}

fn replay_in(name: &str, ipv6: bool) {
    let recording = fixture(&format!("states/{name}.json"));
    let protocol = match recording["proto"].as_str().unwrap() {
        "tcp" => Protocol::Tcp,
        "sctp" => Protocol::Sctp,
        other => panic!("protocol {other}"),
    };
    let lab = Lab::new();
    let mut plane = lab.open(&["lo"]);
    let ends = Ends::new(protocol, ipv6);
    set_up(&mut plane, &recording, &ends);
    let sequences = recording["sequences"].as_array().unwrap();
    let (mut steps, mut wrong) = (0, Vec::new());
    for (sequence, port) in sequences.iter().zip(10_001..) {
        let events = sequence[0].as_array().unwrap();
        let results = sequence[1].as_array().unwrap();
        assert_eq!(events.len(), results.len(), "{sequence}");
        for (at, (event, expected)) in events.iter().zip(results).enumerate() {
            let event = event.as_str().unwrap();
            plane.test_run(&ends.frame(event, port), 1, 1).unwrap();
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
    recount(&plane);
    let family = if ipv6 { "IPv6" } else { "IPv4" };
    println!(
        "{name}, {family}: {} sequences, {steps} steps",
        sequences.len()
    );
    assert!(steps > 0, "{name} is empty");
    assert!(
        wrong.is_empty(),
        "{name}, {family}: {} of {steps} steps differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// Who talks to whom.
struct Ends {
    protocol: Protocol,
    client: &'static str,
    vip: &'static str,
    server: &'static str,
}

impl Ends {
    fn new(protocol: Protocol, ipv6: bool) -> Ends {
        let (client, vip, server) = if ipv6 {
            ("[fd00:100::5]", "[fd00:50::1]:80", "[fd00:200::11]:80")
        } else {
            ("10.100.0.5", "10.50.0.1:80", "10.200.0.11:80")
        };
        Ends {
            protocol,
            client,
            vip,
            server,
        }
    }

    /// The packet of an event: `c:S` is a SYN from the client, `s:FA` a FIN+ACK from the server, and
    /// `c:1` an INIT of SCTP from the client.
    fn frame(&self, event: &str, port: u16) -> Vec<u8> {
        let (side, what) = event.split_once(':').unwrap();
        let client = format!("{}:{port}", self.client);
        let (src, dst) = match side {
            "c" => (client.as_str(), self.vip),
            "s" => (self.server, client.as_str()),
            other => panic!("side {other}"),
        };
        if self.protocol == Protocol::Sctp {
            return sctp(src, dst, what.parse().unwrap()).frame();
        }
        let flags = what.chars().map(|letter| match letter {
            'S' => SYN,
            'A' => ACK,
            'F' => FIN,
            'R' => RST,
            'P' => PSH,
            other => panic!("flag {other}"),
        });
        tcp(src, dst, flags.fold(0, |all, flag| all | flag)).frame()
    }
}

fn set_up(plane: &mut DataPlane, recording: &Value, ends: &Ends) {
    let routes = [
        local("10.50.0.1", 32),
        local("fd00:50::1", 128),
        route("0.0.0.0", 0, RouteKind::Unicast, 1, None),
        route("::", 0, RouteKind::Unicast, 1, None),
    ];
    plane.set_routes(&routes).unwrap();
    for (name, value) in recording["sysctl"].as_object().unwrap() {
        plane.set_tunable(tunable(name), value.as_u64().unwrap() as u32);
    }
    let method = match recording["mode"].as_str().unwrap() {
        "nat" => NAT,
        "dr" => DR,
        other => panic!("mode {other}"),
    };
    let key = service(ends.protocol, ends.vip);
    add_service(plane, key, Scheduler::Rr);
    add_server(plane, key, ends.server, method, 1);
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
