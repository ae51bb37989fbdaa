//! Packets leave the director byte for byte as they were recorded on a kernel director (6.1).

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]

mod lab;

use dataplane::{AttachMode, DataPlane, Edit, Tunable};
use ipvs_model::entry::ConnEntry;
use lab::director::{connections, state_of, verdict_counts, verdict_since};
use lab::ipvsadm::{carry_out, is_tunnelling};
use lab::recount::{expire_all, recount};
use lab::sides::{Side, Sides};
use lab::{fixture, fixture_names, has_tcx, packets};

/// What cannot be replayed yet beside servers by tunnel, and why.
const LEFT_OUT: [(&str, &str); 4] = [
    ("fragments", "fragments of a virtual address are dropped"),
    ("icmp6_nat", ICMP_PASSES),
    ("icmp_dr", ICMP_PASSES),
    ("icmp_nat", ICMP_PASSES),
];
const ICMP_PASSES: &str = "ICMP about connections is left to the stack";
const TUNNEL: &str = "servers by tunnel are refused";

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
    recordings: usize,
    steps: usize,
    packets: usize,
    wrong: Vec<String>,
}

fn replay_all(attach: AttachMode) {
    let mut sides = Sides::dual();
    let mut plane = sides.open(attach);
    let mut totals = Totals::default();
    let mut left_out = Vec::new();
    for name in fixture_names("forward") {
        let recording = fixture(&format!("forward/{name}.json"));
        let known = LEFT_OUT.iter().find(|(known, _)| *known == name);
        let setup = recording["setup"].as_array().unwrap();
        let tunnel = setup.iter().any(|one| is_tunnelling(one.as_str().unwrap()));
        match (known, tunnel) {
            (Some((_, why)), _) => left_out.push(format!("{name} ({why})")),
            (None, true) => left_out.push(format!("{name} ({TUNNEL})")),
            (None, false) => {
                clear(&mut plane);
                replay(&name, &recording, &mut sides, &mut plane, &mut totals);
                recount(&plane);
            }
        }
    }
    println!(
        "{attach:?}: {} recordings, {} steps, {} packets out",
        totals.recordings, totals.steps, totals.packets
    );
    println!(
        "{attach:?}: left out {}: {}",
        left_out.len(),
        left_out.join(", ")
    );
    assert!(totals.recordings >= 11, "{totals:?}");
    assert!(totals.wrong.is_empty(), "{}", totals.wrong.join("\n"));
}

/// No services, no connections, and tunables as at the start.
fn clear(plane: &mut DataPlane) {
    plane.edit(&Edit::Flush).unwrap();
    expire_all(plane);
    plane.set_tunable(Tunable::ConnReuseMode, 1);
    plane.set_tunable(Tunable::ExpireNodestConn, 0);
}

fn replay(
    name: &str,
    recording: &serde_json::Value,
    sides: &mut Sides,
    plane: &mut DataPlane,
    totals: &mut Totals,
) {
    for command in recording["setup"].as_array().unwrap() {
        carry_out(plane, command.as_str().unwrap());
    }
    sides.drain();
    for step in recording["steps"].as_array().unwrap() {
        if let Some(command) = step["command"].as_str() {
            carry_out(plane, command);
            continue;
        }
        let note = step["note"].as_str().unwrap();
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
        if out != expected {
            let text = format!("{name}, {note}, {verdict}: {out:?}, recorded {expected:?}");
            totals.wrong.push(text);
        }
        totals.steps += 1;
        totals.packets += out.len();
    }
    totals.recordings += 1;
    let at_end = recording["ip_vs_conn_at_end"].as_str().unwrap();
    compare_tables(name, at_end, &connections(plane));
}

/// Whole packets; the identification of IPv4 packets that the director makes itself, and their flow
/// label in IPv6, are not the same twice.
///
/// DIFFERS: an ICMPv6 error comes from the virtual address, as an ICMP error does; the kernel's comes
/// from the interface it leaves by. So the source and the checksum over it are not compared.
fn normal((side, mut packet): (Side, Vec<u8>)) -> (Side, String) {
    assert!(packets::checksums_hold(&packet), "{packet:02x?}");
    let (protocol, at) = packets::transport_of(&packet);
    match (protocol, packet.get(at)) {
        (packets::ICMP, Some(3 | 11)) => {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        (packets::ICMPV6, Some(1 | 3)) => {
            packet[1] &= 0xf0;
            packet[2..4].fill(0);
            packet[8..24].fill(0);
            packet[at + 2..at + 4].fill(0);
        }
        _ => {}
    }
    let text = packet.iter().map(|byte| format!("{byte:02x}"));
    (side, text.collect())
}

fn bytes(hex: &serde_json::Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(pair).collect()
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
    let protocol = match entry.protocol {
        packets::TCP => "TCP",
        packets::SCTP => "SCTP",
        _ => "UDP",
    };
    let shown = |addr: std::net::SocketAddr| match addr {
        std::net::SocketAddr::V4(addr) => {
            format!("{:08X} {:04X}", u32::from(*addr.ip()), addr.port())
        }
        std::net::SocketAddr::V6(addr) => {
            let groups = addr.ip().segments().map(|group| format!("{group:04x}"));
            format!("{} {:04X}", groups.join(":"), addr.port())
        }
    };
    let (client, virt, dest) = (shown(entry.client), shown(entry.virt), shown(entry.dest));
    format!(
        "{protocol} {client} {virt} {dest} {} {}",
        state_of(entry),
        entry.expires_secs
    )
}
