//! A capture as what a master is to do, and what it is to send.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ha_manager::config::SyncTunables;
use ipvs_model::sync::SyncSpec;
use serde_json::Value;
use syncproto::conn::SyncConn;
use syncproto::wire::{Message, Version, WalkConfig, walk};

use crate::golden::{Recording, list, option, payload, text};
use crate::lab::packets::{ACK, FIN, Ip, PSH, RST, SYN, sctp, tcp, udp};

pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Commands that make the services and marks.
    pub(crate) commands: Vec<String>,
    pub(crate) tunables: SyncTunables,
    pub(crate) spec: SyncSpec,
    /// Frames by the time they come in at, from the first one on.
    pub(crate) packets: Vec<(Duration, Vec<u8>)>,
    /// The kernel's messages.
    pub(crate) messages: Vec<Vec<u8>>,
}

impl Scenario {
    pub(crate) fn new(capture: &Recording) -> Scenario {
        let json = &capture.json;
        let commands = list(json, "commands").iter();
        let commands = commands.filter(|command| command["on"] == "di");
        let (starts, commands): (Vec<String>, Vec<String>) = commands
            .map(|command| text(command, "cmd").to_owned())
            .filter(|line| !line.starts_with("sysctl"))
            .partition(|line| line.contains("--start-daemon"));
        let packets = list(json, "packets");
        let time = |packet: &Value| packet["t"].as_f64().unwrap();
        let begin = packets.first().map_or(0.0, time);
        Scenario {
            name: capture.name.clone(),
            commands,
            tunables: tunables(&json["sysctl_master"]),
            spec: spec(&starts[0]),
            packets: packets
                .iter()
                .map(|packet| {
                    let time = Duration::from_secs_f64(time(packet) - begin);
                    (time, frame(text(packet, "pkt")))
                })
                .collect(),
            messages: list(json, "datagrams").iter().map(payload).collect(),
        }
    }

    /// From the first packet to the last.
    pub(crate) fn length(&self) -> Duration {
        self.packets
            .last()
            .map_or(Duration::ZERO, |(time, _)| *time)
    }
}

fn tunables(sysctl: &Value) -> SyncTunables {
    let number = |name: &str| text(sysctl, name).parse::<u32>().unwrap();
    let (threshold, period) = text(sysctl, "sync_threshold")
        .split_once([' ', '\t'])
        .unwrap();
    for (name, value) in [("sloppy_tcp", 0), ("sloppy_sctp", 0), ("secure_tcp", 0)] {
        assert_eq!(number(name), value);
    }
    SyncTunables {
        threshold: threshold.parse().unwrap(),
        period: period.trim().parse().unwrap(),
        refresh_secs: number("sync_refresh_period"),
        retries: number("sync_retries"),
        persist_mode: number("sync_persist_mode") != 0,
        ports: number("sync_ports").try_into().unwrap(),
        version: match number("sync_version") {
            0 => Version::V0,
            _ => Version::V1,
        },
        ..SyncTunables::default()
    }
}

/// What `ipvsadm --start-daemon master` is told.
fn spec(line: &str) -> SyncSpec {
    let number = |name: &str| option(line, name).map_or(0, |text| text.parse::<u16>().unwrap());
    let group = option(line, "--mcast-group").map(|text| text.parse::<IpAddr>().unwrap());
    SyncSpec {
        interface: option(line, "--mcast-interface").unwrap().to_owned(),
        sync_id: number("--syncid").try_into().unwrap(),
        maxlen: number("--sync-maxlen"),
        group,
        port: number("--mcast-port"),
        ttl: number("--mcast-ttl").try_into().unwrap(),
    }
}

/// The frame of `TCP a:p > b:q [flags] len n`, `UDP a:p > b:q len n` or
/// `SCTP a:p > b:q chunk type`.
fn frame(packet: &str) -> Vec<u8> {
    let words: Vec<&str> = packet.split_whitespace().collect();
    let (src, dst) = (end(words[1]), end(words[3]));
    let after = |word: &str| {
        let at = words.iter().position(|known| *known == word)?;
        words[at + 1].parse::<usize>().ok()
    };
    let packet = match words[0] {
        "TCP" => tcp(&src, &dst, flags(words[4])),
        "UDP" => udp(&src, &dst),
        "SCTP" => return sctp(&src, &dst, after("chunk").unwrap() as u8).frame(),
        other => panic!("{other}"),
    };
    let payload = vec![b'x'; after("len").unwrap_or(0)];
    Ip { payload, ..packet }.frame()
}

/// The recordings write IPv6 addresses without brackets.
fn end(text: &str) -> String {
    let (addr, port) = text.rsplit_once(':').unwrap();
    SocketAddr::new(addr.parse().unwrap(), port.parse().unwrap()).to_string()
}

fn flags(text: &str) -> u8 {
    let letters = text.trim_matches(['[', ']']).chars();
    let flags = letters.map(|letter| match letter {
        'S' => SYN,
        'A' => ACK,
        'F' => FIN,
        'R' => RST,
        'P' => PSH,
        other => panic!("flag {other}"),
    });
    flags.fold(0, |all, flag| all | flag)
}

/// The entries of messages, in order.
pub(crate) fn entries(messages: &[Vec<u8>]) -> Vec<SyncConn> {
    let mut all = Vec::new();
    for message in messages {
        let Ok(Message::Entries(entries)) = walk(message, &WalkConfig::default()) else {
            panic!("{message:02x?}");
        };
        all.extend(entries.map(|entry| entry.unwrap().conn().unwrap()));
    }
    all
}

/// What identifies a connection: protocol, client, virtual service, template.
type Key = (u8, SocketAddr, SocketAddr, bool);

fn key(conn: &SyncConn) -> Key {
    let ends = &conn.addresses;
    (
        conn.protocol,
        ends.client(),
        ends.virt(),
        conn.is_template(),
    )
}

/// Connections that were spoken of on more ports than one; `messages` are those of each port.
pub(crate) fn on_two_ports(messages: &[Vec<Vec<u8>>]) -> Vec<String> {
    let mut ports = BTreeMap::new();
    let mut wrong = Vec::new();
    for (port, messages) in messages.iter().enumerate() {
        for conn in entries(messages) {
            let first = *ports.entry(key(&conn)).or_insert(port);
            if first != port {
                wrong.push(format!("  ports {first} and {port}: {}", brief(&conn)));
            }
        }
    }
    wrong
}

/// What the two masters said of each connection, where it is not the same.
pub(crate) fn differences(kernels: &[SyncConn], ours: &[SyncConn]) -> Vec<String> {
    let mut by_key: BTreeMap<Key, [Vec<&SyncConn>; 2]> = BTreeMap::new();
    for (side, entries) in [kernels, ours].into_iter().enumerate() {
        for conn in entries {
            by_key.entry(key(conn)).or_default()[side].push(conn);
        }
    }
    let unlike = by_key.values().filter(|[kernels, ours]| kernels != ours);
    let said = |entries: &[&SyncConn]| -> String {
        let lines = entries.iter().map(|conn| format!("    {}\n", brief(conn)));
        lines.collect()
    };
    unlike
        .map(|[kernels, ours]| format!("  want\n{}  got\n{}", said(kernels), said(ours)))
        .collect()
}

fn brief(conn: &SyncConn) -> String {
    let ends = &conn.addresses;
    format!(
        "{} {} > {} > {} flags {:#x} state {} mark {} timeout {} {:?} {:?}",
        conn.protocol,
        ends.client(),
        ends.virt(),
        ends.dest(),
        conn.flags,
        conn.state,
        conn.fwmark,
        conn.timeout_secs,
        conn.seq,
        conn.pe,
    )
}
