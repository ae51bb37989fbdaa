//! The recordings of kernel masters and what kernel backups made of them: `golden/sync`.
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "says what was compared")]

mod common;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use common::listing::{configure, counts, listed, listed_counts, rows};
use common::model::Backup;
use common::{conns, hex, list, option_of, recordings, tests_dir, text};
use pcap_file::pcap::PcapReader;
use serde_json::Value;
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::limits::master_maxlen;
use syncproto::refusal::Refusal;
use syncproto::sender::{Sender, SenderConfig};
use syncproto::wire::{SeqOrder, Version, WalkConfig, walk};

#[test]
fn captures_decode_without_a_refusal_where_the_backup_heard_them() {
    let (mut messages, mut entries) = (0, 0);
    for capture in captures() {
        for message in &capture.messages {
            if capture.master_id != capture.backup.sync_id && capture.backup.sync_id != 0 {
                let refused = walk(message, &capture.backup).err();
                assert_eq!(refused, Some(Refusal::MessageSyncId), "{}", capture.name);
                continue;
            }
            messages += 1;
            entries += conns(message, &capture.backup).len();
        }
    }
    println!("{messages} messages with {entries} entries");
    assert!(messages > 50 && entries > 200);
}

#[test]
fn captures_encode_to_the_same_bytes() {
    let now = now();
    for capture in captures() {
        let mut sender = Sender::new(capture.sender());
        let mut buffer = SyncBuffer::new(capture.layout());
        for message in &capture.messages {
            let heard = WalkConfig::default();
            buffer.clear();
            for conn in conns(message, &heard) {
                sender.push(&conn, now);
                assert_eq!(buffer.push(&conn, now), Packed::Stored, "{}", capture.name);
            }
            assert_eq!(buffer.message(), message, "{}", capture.name);
            sender.flush();
            let sent = sender.poll_transmit(now).unwrap();
            assert_eq!(sent.message(), message, "{}", capture.name);
            sender.recycle(sent);
            assert!(sender.poll_transmit(now).is_none(), "{}", capture.name);
        }
    }
}

#[test]
fn messages_are_closed_where_the_kernel_closes_them() {
    let now = now();
    // Two whose messages were filled, with another maxlen and with the other family.
    let names = ["m_group_port_ttl", "v1_tcp6_dr_persist"];
    let filled = captures().into_iter().filter(|c| names.contains(&&*c.name));
    let mut compared = 0;
    for capture in filled {
        let mut sender = Sender::new(capture.sender());
        let heard = WalkConfig::default();
        for message in &capture.messages {
            conns(message, &heard)
                .iter()
                .for_each(|conn| sender.push(conn, now));
        }
        sender.flush();
        for message in &capture.messages {
            assert_eq!(sender.poll_transmit(now).unwrap().message(), message);
        }
        assert!(sender.poll_transmit(now).is_none());
        compared += 1;
    }
    assert_eq!(compared, names.len());
}

#[test]
fn captures_make_the_table_that_the_kernel_showed() {
    let (mut rows_seen, mut counted) = (0, 0);
    for capture in captures() {
        let unconfigured = capture.replayed(Backup::default());
        let listing = lines(&unconfigured);
        // Replayed into an empty backup: exactly these.
        let replayed = listed(text(&capture.json["replay_without_services"], "ip_vs_conn"));
        assert!(listing.iter().eq(replayed.keys()), "{}", capture.name);
        // The backup of the day: none but these, less what had expired.
        for line in listed(text(&capture.json["backup"], "ip_vs_conn")).keys() {
            assert!(listing.contains(line), "{}: {line}", capture.name);
        }
        rows_seen += listing.len();

        // Replayed into a backup with the services of the master: the same, and the counts.
        let mut configured = Backup::default();
        for command in list(&capture.json, "commands") {
            if text(command, "on") == "di" {
                configure(&mut configured, text(command, "cmd"));
            }
        }
        let configured = capture.replayed(configured);
        let replay = &capture.json["replay_with_services"];
        let replayed = listed(text(replay, "ip_vs_conn"));
        assert!(
            lines(&configured).iter().eq(replayed.keys()),
            "{}",
            capture.name
        );
        let recorded = listed_counts(text(replay, "ipvsadm_Ln"));
        assert_eq!(counts(&configured), recorded, "{}", capture.name);
        counted += recorded.len();
    }
    println!("{rows_seen} rows, {counted} counts of real servers");
    assert!(rows_seen > 150 && counted > 60);
}

#[test]
fn the_flags_say_the_method_that_the_real_server_has() {
    let mut compared = 0;
    for capture in captures() {
        let methods = methods(text(&capture.json["master"], "ipvsadm_Ln"));
        for message in &capture.messages {
            for conn in conns(message, &WalkConfig::default()) {
                let dest = conn.addresses.dest().ip().to_string();
                let method = conn.flags & 0x7;
                let servers = &methods[&dest];
                assert!(servers.contains(&method), "{}: {conn:?}", capture.name);
                // Replies pass the director with masquerading, and when it is the server itself.
                let itself = conn.addresses.dest().ip() == conn.addresses.virt().ip();
                let no_output = method != 0 && !itself;
                assert_eq!(conn.flags & 0x80 != 0, no_output, "{}", capture.name);
                if conn.protocol == 6 {
                    let active = !conn.is_template() && conn.state == 1;
                    assert_eq!(conn.flags & 0x100 == 0, active, "{}", capture.name);
                }
                assert_eq!(conn.flags & 0x2060, 0, "{}: {conn:?}", capture.name);
                compared += 1;
            }
        }
    }
    println!("{compared} entries");
    assert!(compared > 200);
}

#[test]
fn the_recorded_payloads_are_those_of_the_frames() {
    let mut frames = 0;
    for capture in captures() {
        let path = tests_dir().join(format!("golden/sync/{}.pcap", capture.name));
        let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
        let mut payloads = Vec::new();
        while let Some(packet) = reader.next_packet() {
            payloads.push(udp_payload(&packet.unwrap().data).to_vec());
        }
        frames += payloads.len();
        assert_eq!(payloads, capture.messages, "{}", capture.name);
    }
    println!("{frames} frames");
}

struct Capture {
    name: String,
    json: Value,
    version: Version,
    master_id: u8,
    maxlen: usize,
    backup: WalkConfig,
    messages: Vec<Vec<u8>>,
}

impl Capture {
    fn layout(&self) -> Layout {
        Layout {
            version: self.version,
            sync_id: self.master_id,
            seq_order: SeqOrder::Little,
            maxlen: self.maxlen,
        }
    }

    /// A backup after all messages of the capture that it takes.
    fn replayed(&self, mut backup: Backup) -> Backup {
        for message in &self.messages {
            if walk(message, &self.backup).is_ok() {
                for conn in conns(message, &self.backup) {
                    backup.apply(&conn);
                    backup.check();
                }
            }
        }
        backup
    }

    fn sender(&self) -> SenderConfig {
        SenderConfig {
            version: self.version,
            sync_id: self.master_id,
            maxlen: self.maxlen,
            seq_order: SeqOrder::Little,
            ..SenderConfig::default()
        }
    }
}

/// All of the folder: nothing in it is unsupported.
fn captures() -> Vec<Capture> {
    let captures: Vec<_> = recordings("sync").into_iter().map(capture).collect();
    assert_eq!(captures.len(), 42);
    captures
}

fn capture((name, json): (String, Value)) -> Capture {
    let started = |role: &str| {
        let mut commands = list(&json, "commands")
            .iter()
            .map(|command| text(command, "cmd"));
        let wanted = format!("--start-daemon {role}");
        commands.find(|command| command.contains(&wanted)).unwrap()
    };
    let master = started("master");
    let version = match text(&json["sysctl_master"], "sync_version") {
        "0" => Version::V0,
        "1" => Version::V1,
        other => panic!("{other}"),
    };
    let messages = list(&json, "datagrams")
        .iter()
        .map(|datagram| hex(text(datagram, "hex")));
    let backup = WalkConfig {
        sync_id: option_of(started("backup"), "--syncid").unwrap() as u8,
        seq_order: SeqOrder::Little,
        ..WalkConfig::default()
    };
    Capture {
        version,
        master_id: option_of(master, "--syncid").unwrap() as u8,
        maxlen: master_maxlen(
            option_of(master, "--sync-maxlen").unwrap_or(0),
            master.contains("--mcast-group ff"),
        ),
        backup,
        messages: messages.collect(),
        name,
        json,
    }
}

fn lines(backup: &Backup) -> Vec<String> {
    rows(backup).into_keys().collect()
}

/// Forwarding methods by address of the real server, from a listing of `ipvsadm -Ln`.
fn methods(listing: &str) -> BTreeMap<String, Vec<u32>> {
    let mut methods: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let servers = listing.lines().filter(|line| line.starts_with("  -> "));
    for server in servers.skip(1) {
        let words: Vec<_> = server.split_whitespace().collect();
        let (address, _port) = words[1].rsplit_once(':').unwrap();
        let address = address.trim_matches(['[', ']']);
        let method = match words[2] {
            "Masq" => 0,
            "Local" => 1,
            "Tunnel" => 2,
            "Route" => 3,
            other => panic!("{other}"),
        };
        methods.entry(address.to_owned()).or_default().push(method);
    }
    methods
}

/// Of an Ethernet frame that has nothing but IPv4 without options, or IPv6, and UDP.
fn udp_payload(frame: &[u8]) -> &[u8] {
    let (ip, udp) = match u16::from_be_bytes([frame[12], frame[13]]) {
        0x0800 => {
            let to = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
            assert!(to.is_multicast());
            (14, 34)
        }
        0x86dd => {
            let to: [u8; 16] = frame[38..54].try_into().unwrap();
            assert!(Ipv6Addr::from(to).is_multicast());
            (14, 54)
        }
        other => panic!("{other:#06x}"),
    };
    assert!(frame.len() > ip);
    let length = usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
    &frame[udp + 8..udp + length]
}

#[expect(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
