//! Packets leave the director byte for byte as they were recorded on a kernel director.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use dataplane::common::entry::ConnWord;
use dataplane::{AttachMode, DataPlane, Edit, Tunable};
use ipvs_model::entry::ConnEntry;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::ServiceKey;
use lab::director::{
    DR, NAT, add_server, connections, delete_server, edit_weight, service, spec, state_of,
    verdict_counts, verdict_since,
};
use lab::sides::{Side, Sides};
use lab::{fixture, has_tcx, packets};

/// Recordings, and by note the steps that are left out because their protocol is not served.
const RECORDINGS: [(&str, &[&str]); 8] = [
    ("tcp_nat", &[]),
    ("tcp_dr", &[]),
    ("udp_nat", &[]),
    ("no_server", &["TCP6 SYN"]),
    ("dest_gone", &[]),
    ("reuse_mode0", &[]),
    ("reuse_mode1", &[]),
    ("reuse_mode2", &[]),
];

#[test]
fn packets_forwarded_by_a_tcx_program_are_the_recorded_ones() {
    if has_tcx("forwarding") {
        replay_all(AttachMode::Tcx);
    }
}

#[test]
fn packets_forwarded_by_a_clsact_filter_are_the_recorded_ones() {
    replay_all(AttachMode::Clsact);
}

#[derive(Debug, Default)]
struct Totals {
    steps: usize,
    packets: usize,
    left_out: Vec<String>,
}

fn replay_all(attach: AttachMode) {
    let mut sides = Sides::new();
    let mut plane = sides.open(attach);
    let mut totals = Totals::default();
    for (name, left_out) in RECORDINGS {
        clear(&mut plane);
        replay(name, left_out, &mut sides, &mut plane, &mut totals);
    }
    println!(
        "{attach:?}: {} recordings, {} steps, {} packets out; left out: {:?}",
        RECORDINGS.len(),
        totals.steps,
        totals.packets,
        totals.left_out
    );
}

/// No services, no connections, and tunables as at the start.
fn clear(plane: &mut DataPlane) {
    plane.edit(&Edit::Flush).unwrap();
    let places = (0..plane.sizes().connections_v4)
        .map(|index| (index, ConnWord(plane.conn4(index).word).generation()));
    let places: Vec<_> = places.collect();
    plane.expire_now(&places);
    while !plane.expire_step(u32::MAX).round_done {}
    assert_eq!(plane.connection_count().taken, 0);
    plane.set_tunable(Tunable::ConnReuseMode, 1);
    plane.set_tunable(Tunable::ExpireNodestConn, 0);
}

fn replay(
    name: &str,
    left_out: &[&str],
    sides: &mut Sides,
    plane: &mut DataPlane,
    totals: &mut Totals,
) {
    let recording = fixture(&format!("forward/{name}.json"));
    for command in recording["setup"].as_array().unwrap() {
        carry_out(plane, command.as_str().unwrap(), &mut totals.left_out);
    }
    sides.drain();
    for step in recording["steps"].as_array().unwrap() {
        if let Some(command) = step["command"].as_str() {
            carry_out(plane, command, &mut totals.left_out);
            continue;
        }
        let note = step["note"].as_str().unwrap();
        if left_out.contains(&note) {
            totals.left_out.push(format!("{name}: {note}"));
            continue;
        }
        let from = Side::from_name(step["from"].as_str().unwrap());
        let before = verdict_counts(plane);
        sides.tap(from).inject(&bytes(&step["in"]));
        let verdict = verdict_since(plane, &before);
        let verdict = verdict
            .unwrap_or_else(|| panic!("{name}, {note}: not seen"))
            .name();
        let out: Vec<_> = sides.drain().into_iter().map(normal).collect();
        let expected: Vec<_> = step["out"]
            .as_array()
            .unwrap()
            .iter()
            .map(|out| {
                (
                    Side::from_name(out["at"].as_str().unwrap()),
                    bytes(&out["hex"]),
                )
            })
            .map(normal)
            .collect();
        assert_eq!(out, expected, "{name}, {note}, {verdict}");
        totals.steps += 1;
        totals.packets += out.len();
    }
    let at_end = recording["ip_vs_conn_at_end"].as_str().unwrap();
    compare_tables(name, at_end, &connections(plane));
}

/// Whole packets; the identification of what the director makes itself is not the same twice.
fn normal((side, mut packet): (Side, Vec<u8>)) -> (Side, String) {
    assert!(packets::checksums_hold(&packet), "{packet:02x?}");
    let is_error = packet[9] == 1 && matches!(packet[20], 3 | 11);
    if is_error {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    let text = packet.iter().map(|byte| format!("{byte:02x}"));
    (side, text.collect())
}

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(pair).collect()
}

/// Carries out a command of a recording: `ipvsadm` with the options that occur, or a tunable.
fn carry_out(plane: &mut DataPlane, command: &str, left_out: &mut Vec<String>) {
    let words: Vec<&str> = command.split_whitespace().collect();
    if words[0] == "echo" {
        let name = words[2].rsplit('/').next().unwrap();
        let tunable = match name {
            "conn_reuse_mode" => Tunable::ConnReuseMode,
            "expire_nodest_conn" => Tunable::ExpireNodestConn,
            other => panic!("tunable {other}"),
        };
        plane.set_tunable(tunable, words[1].parse().unwrap());
        return;
    }
    assert_eq!(words[0], "ipvsadm", "{command}");
    let after = |option: &str| {
        let at = words.iter().position(|word| *word == option);
        at.map(|at| words[at + 1])
    };
    if command.contains('[') {
        left_out.push(format!("IPv6: {command}"));
        return;
    }
    let key: ServiceKey = match (after("-t"), after("-u")) {
        (Some(addr), None) => service(Protocol::Tcp, addr),
        (None, Some(addr)) => service(Protocol::Udp, addr),
        _ => panic!("service of {command}"),
    };
    let method = if words.contains(&"-g") { DR } else { NAT };
    match words[1] {
        "-A" => {
            let scheduler = Scheduler::from_name(after("-s").unwrap()).unwrap();
            let spec = spec(scheduler);
            plane.edit(&Edit::AddService { key, spec }).unwrap();
        }
        "-a" => add_server(plane, key, after("-r").unwrap(), method, 1),
        "-e" => {
            let weight = after("-w").unwrap().parse().unwrap();
            edit_weight(plane, key, after("-r").unwrap(), weight);
        }
        "-d" => delete_server(plane, key, after("-r").unwrap()),
        other => panic!("ipvsadm {other}"),
    }
}

/// The connections at the end: addresses, state, and the timer in whole seconds.
fn compare_tables(name: &str, recorded: &str, found: &[ConnEntry]) {
    let columns = |line: &str| {
        line.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let mut recorded: Vec<_> = recorded.lines().skip(1).map(columns).collect();
    let mut found: Vec<_> = found.iter().map(|entry| columns(&line_of(entry))).collect();
    recorded.sort();
    found.sort();
    assert_eq!(
        recorded.len(),
        found.len(),
        "{name}: {recorded:?}, here {found:?}"
    );
    for (recorded, found) in recorded.iter().zip(&found) {
        assert_eq!(recorded[..8], found[..8], "{name}");
        let seconds = |columns: &[String]| columns[8].parse::<u32>().unwrap();
        assert!(
            seconds(recorded).abs_diff(seconds(found)) <= 1,
            "{name}: {recorded:?}, here {found:?}"
        );
    }
}

/// As `/proc/net/ip_vs_conn` shows an entry.
fn line_of(entry: &ConnEntry) -> String {
    let protocol = if entry.protocol == packets::TCP {
        "TCP"
    } else {
        "UDP"
    };
    let hex = |addr: std::net::SocketAddr| match addr {
        std::net::SocketAddr::V4(addr) => {
            format!("{:08X} {:04X}", u32::from(*addr.ip()), addr.port())
        }
        std::net::SocketAddr::V6(addr) => panic!("{addr}"),
    };
    let (client, virt, dest) = (hex(entry.client), hex(entry.virt), hex(entry.dest));
    format!(
        "{protocol} {client} {virt} {dest} {} {}",
        state_of(entry),
        entry.expires_secs
    )
}
