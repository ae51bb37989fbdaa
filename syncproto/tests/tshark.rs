//! Wireshark's dissector on what we send: somebody else's reading of the format.
//!
//! The dissector knows no options of version 1 (4.0.17 calls a kernel's messages malformed in which
//! an entry follows one with options), so they are left out here.
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what is skipped is said")]

mod common;

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{self, Command};
use std::time::{Duration, Instant};

use common::random::Random;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::limits::DEFAULT_PAYLOAD_IPV4;
use syncproto::wire::Version;

#[test]
fn a_dissector_sees_the_entries_that_were_packed() {
    let mut random = Random::new(86);
    let messages: Vec<_> = (0..60).map(|_| message(&mut random)).collect();
    let path = std::env::temp_dir().join(format!("syncproto-{}.pcap", process::id()));
    write_capture(&path, &messages);
    let dissected = dissect(&path);
    fs::remove_file(&path).unwrap();
    let lines = match dissected {
        Ok(lines) => lines,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: what a dissector sees: tshark is not installed");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(lines.len(), messages.len());
    for (line, message) in lines.iter().zip(&messages) {
        let columns: Vec<_> = line.split('\t').collect();
        let [protocols, malformed, size, client_ports] = columns[..] else {
            panic!("{line}");
        };
        assert!(protocols.ends_with(":ipvs"), "{line}");
        assert_eq!(malformed, "", "{line}");
        assert_eq!(size, message.bytes.len().to_string(), "{line}");
        let expected: Vec<_> = message.client_ports.iter().map(u16::to_string).collect();
        assert_eq!(client_ports, expected.join(","), "{line}");
    }
}

struct Packet {
    bytes: Vec<u8>,
    client_ports: Vec<u16>,
}

/// A message of either version, filled.
fn message(random: &mut Random) -> Packet {
    let version = [Version::V0, Version::V1][random.below(2)];
    let mut buffer = SyncBuffer::new(Layout {
        version,
        maxlen: DEFAULT_PAYLOAD_IPV4,
        ..Layout::default()
    });
    let mut client_ports = Vec::new();
    loop {
        let mut conn = random.conn(version == Version::V1);
        if version == Version::V1 {
            (conn.seq, conn.pe) = (None, None);
        }
        if buffer.push(&conn, now()) != Packed::Stored {
            break;
        }
        client_ports.push(conn.addresses.client().port());
    }
    Packet {
        bytes: buffer.message().to_vec(),
        client_ports,
    }
}

fn write_capture(path: &Path, messages: &[Packet]) {
    let header = PcapHeader {
        datalink: DataLink::IPV4,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(File::create(path).unwrap(), header).unwrap();
    for message in messages {
        let packet = ip_packet(&message.bytes);
        let packet = PcapPacket::new(Duration::ZERO, packet.len() as u32, &packet);
        writer.write_packet(&packet).unwrap();
    }
}

/// From 10.0.0.1 to 224.0.0.81:8848, without checksums, which nobody asked for.
fn ip_packet(payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len() as u16).to_be_bytes();
    let total_len = (28 + payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, total_len[0], total_len[1], 0, 0, 0, 0, 1, 17, 0, 0];
    packet.extend_from_slice(&[10, 0, 0, 1, 224, 0, 0, 81]);
    packet.extend_from_slice(&[0x9c, 0x40, 0x22, 0x90, udp_len[0], udp_len[1], 0, 0]);
    packet.extend_from_slice(payload);
    packet
}

/// A line a packet: protocols, whether it is malformed, size, client ports.
fn dissect(path: &Path) -> io::Result<Vec<String>> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(path).args(["-T", "fields"]);
    for field in [
        "frame.protocols",
        "_ws.malformed",
        "ipvs.size",
        "ipvs.cport",
    ] {
        tshark.args(["-e", field]);
    }
    let done = tshark.output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{said}");
    let text = String::from_utf8(done.stdout).unwrap();
    Ok(text.lines().map(str::to_owned).collect())
}

#[expect(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
