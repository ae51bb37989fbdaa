//! Datagrams of a running master, as tshark and as `directord decode` see them.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use ha_manager::decode::capture::Captured;
use ha_manager::decode::live::Live;
use ha_manager::decode::{Decoder, EntryRecord, Record, SyncRecord};
use pcap_file::pcap::{PcapPacket, PcapWriter};

use crate::dissection::{Dissected, DissectedEntry, dissect, tshark_is_missing};
use crate::host::{Host, LAN_MAC, elsewhere};

const LIMIT: Duration = Duration::from_secs(30);
/// Client ports, a connection each: enough for several datagrams.
const PORTS: std::ops::Range<u16> = 20_000..20_100;
/// At which packet a connection is offered: the default.
const THRESHOLD: u32 = 3;

#[test]
fn tshark_dissects_what_a_master_sends_as_decode_does() {
    if let Some(why) = tshark_is_missing() {
        println!("skipped: {why}");
        return;
    }
    let host = Host::new();
    host.admin("-A -u 10.78.0.100:53 -s rr");
    host.admin("-a -u 10.78.0.100:53 -r 10.78.0.2:5353 -m");
    host.admin("-A -u 10.78.0.100:54 -s rr");
    host.admin("-a -u 10.78.0.100:54 -r 10.78.0.2:54 -g");
    host.admin("--start-daemon master --mcast-interface sync0 --syncid 51");
    let frames = listen("sync1");
    let neighbour = format!("neigh add 10.78.0.100 lladdr {LAN_MAC} nud permanent dev lan1");
    elsewhere("lan1", &["addr add 10.78.0.2/24 dev lan1", &neighbour], ask);

    let (mut pcap, mut records) = (PcapWriter::new(Vec::new()).unwrap(), Vec::new());
    let mut clients = BTreeSet::new();
    let deadline = Instant::now() + LIMIT;
    let decoder = Decoder::new(None);
    while clients.len() < 2 * PORTS.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let (at, frame) = frames.recv_timeout(left).unwrap();
        let Some(Record::Sync(record)) = decoder.decode(Captured { at, frame: &frame }) else {
            continue;
        };
        for entry in &record.entries {
            check(entry);
            clients.insert((entry.vport, entry.cport));
        }
        let length = frame.len().try_into().unwrap();
        pcap.write_packet(&PcapPacket::new(at, length, &frame))
            .unwrap();
        records.push(record);
    }
    let dissected = dissect(&pcap.into_writer());
    assert_eq!(
        dissected,
        records.iter().map(as_dissected).collect::<Vec<_>>()
    );
    println!("{} datagrams, {} connections", records.len(), clients.len());
}

/// Each connection is offered once, with the values of its service.
fn check(entry: &EntryRecord) {
    let json = serde_json::to_value(entry).unwrap();
    assert_eq!(
        (&json["verdict"], &json["state_name"]),
        (&"ok".into(), &"UDP".into())
    );
    assert_eq!(
        (entry.protocol, entry.timeout, entry.fwmark),
        (17, Some(300), 0)
    );
    assert_eq!(entry.caddr.to_string(), "10.78.0.2");
    assert_eq!(
        (entry.vaddr.to_string(), entry.daddr.to_string()),
        ("10.78.0.100".into(), "10.78.0.2".into())
    );
    assert!(PORTS.contains(&entry.cport));
    let (dport, method) = if entry.vport == 53 {
        (5353, 0)
    } else {
        (54, 3)
    };
    assert_eq!((entry.dport, entry.flags & 7), (dport, method));
}

/// A record of ours in the form of the dissection.
fn as_dissected(record: &SyncRecord) -> Dissected {
    let entry = |entry: &EntryRecord| DissectedEntry {
        protocol: entry.protocol.into(),
        flags: entry.flags,
        state: entry.state.into(),
        ports: [entry.cport, entry.vport, entry.dport].map(u32::from),
        fwmark_and_timeout: entry.timeout.map(|timeout| (entry.fwmark, timeout)),
    };
    let addresses =
        |entry: &EntryRecord| -> [IpAddr; 3] { [entry.caddr, entry.vaddr, entry.daddr] };
    Dissected {
        sync_id: record.syncid.unwrap().into(),
        size: record.size.unwrap().into(),
        count: record.nr_conns.unwrap().into(),
        entries: record.entries.iter().map(entry).collect(),
        addresses_ipv4: record.entries.iter().map(addresses).collect(),
        addresses_ipv6: Vec::new(),
        seqs: Vec::new(),
    }
}

/// Frames of an interface from now on.
fn listen(interface: &str) -> mpsc::Receiver<(Duration, Vec<u8>)> {
    let mut live = Live::open(interface, &Decoder::new(None)).unwrap();
    let (seen, frames) = mpsc::channel();
    // It waits for frames until the test's process ends.
    thread::spawn(move || {
        while let Ok(Captured { at, frame }) = live.next_frame() {
            if seen.send((at, frame.to_vec())).is_err() {
                return;
            }
        }
    });
    frames
}

/// Three packets for each connection.
fn ask() {
    for port in PORTS {
        let socket = UdpSocket::bind(("10.78.0.2", port)).unwrap();
        for service in ["10.78.0.100:53", "10.78.0.100:54"] {
            for _ in 0..THRESHOLD {
                socket.send_to(b"question", service).unwrap();
            }
        }
    }
}
