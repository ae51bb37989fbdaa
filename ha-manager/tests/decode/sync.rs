//! Sync datagrams of kernels, all of them, field by field.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use crate::captures::{self, Recorded, decode, from_hex, json as json_of};

const TEMPLATE: u64 = 0x1000;
/// Port of the captures whose daemons have the default one.
const DEFAULT_PORT: u64 = 8848;
/// The backup of this capture hears another sync id: its table stays empty.
const DEAF: &str = "m_syncid_mismatch";

/// Protocol, client, virtual address, both with ports, and whether it is a template.
type Key = (u64, (IpAddr, u64), (IpAddr, u64), bool);

/// What a table or the last entry about a connection says: server, state, timeout or time left.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    dest: (IpAddr, u64),
    state: String,
    secs: Option<u64>,
}

#[test]
fn every_datagram_decodes_to_the_fields_of_its_bytes() {
    let (mut datagrams, mut entries) = (0, 0);
    for capture in captures::sync() {
        let Recorded { name, notes, .. } = &capture;
        let expected: Vec<&Value> = notes["datagrams"].as_array().unwrap().iter().collect();
        let records = decoded(&capture);
        assert_eq!(records.len(), expected.len(), "{name}");
        for (record, noted) in records.iter().zip(expected) {
            for field in ["src", "dst", "sport", "dport"] {
                assert_eq!(record[field], noted[field], "{name}");
            }
            let message = from_hex(noted["hex"].as_str().unwrap());
            let fields = by_offsets(&message);
            for (field, value) in fields.as_object().unwrap() {
                assert_eq!(&record[field], value, "{name}: {field}");
            }
            datagrams += 1;
            entries += record["entries"].as_array().unwrap().len();
        }
    }
    println!("{datagrams} datagrams, {entries} entries");
    assert_eq!((datagrams, entries), (69, 390));
}

#[test]
fn datagrams_have_the_distances_in_time_they_were_seen_at() {
    for capture in captures::sync() {
        let seen = |value: &Value, field: &str| value[field].as_f64().unwrap();
        let noted: Vec<f64> = capture.notes["datagrams"]
            .as_array()
            .unwrap()
            .iter()
            .map(|datagram| seen(datagram, "t"))
            .collect();
        let times: Vec<f64> = decoded(&capture)
            .iter()
            .map(|record| seen(record, "time"))
            .collect();
        for (noted, times) in noted.windows(2).zip(times.windows(2)) {
            let difference = (times[1] - times[0]) - (noted[1] - noted[0]);
            // Noted to the millisecond.
            assert!(difference.abs() < 0.002, "{}: {difference}", capture.name);
        }
    }
}

/// The tables of the kernels that received the datagrams, once from the wire and once replayed.
#[test]
fn the_last_entry_about_a_connection_is_what_the_kernels_backup_shows() {
    let (mut compared, mut unheard) = (0, 0);
    for capture in captures::sync() {
        let mut said = BTreeMap::new();
        for record in decoded(&capture) {
            for entry in record["entries"].as_array().unwrap() {
                said.insert(key_of(entry), said_by(entry));
            }
        }
        for table in ["backup", "replay_with_services"] {
            let text = capture.notes[table]["ip_vs_conn_sync"].as_str().unwrap();
            let rows = rows_of(text);
            if capture.name == DEAF {
                assert_eq!(rows.len(), 0);
                unheard += said.len();
                continue;
            }
            assert!(rows.keys().eq(said.keys()), "{}: {table}", capture.name);
            for (key, row) in rows {
                let said = &said[&key];
                assert_eq!(
                    (&row.dest, &row.state),
                    (&said.dest, &said.state),
                    "{key:?}"
                );
                // Version 0 says none.
                if let Some(timeout) = said.secs {
                    assert!(row.secs.unwrap() <= timeout, "{key:?}");
                }
                compared += 1;
            }
        }
    }
    println!("{compared} rows compared, {unheard} of a deaf backup");
    assert_eq!((compared, unheard), (476, 2));
}

/// The records of a capture as JSON, with the port its daemon was started with.
fn decoded(capture: &Recorded) -> Vec<Value> {
    let ports = capture.notes["datagrams"].as_array().unwrap().iter();
    let base = ports
        .map(|datagram| datagram["dport"].as_u64().unwrap())
        .min();
    let port = base.filter(|base| *base != DEFAULT_PORT);
    let (records, end) = decode(&capture.pcap, port.map(|port| port.try_into().unwrap()));
    end.unwrap();
    records.iter().map(json_of).collect()
}

/// The fields of a whole and right message, by the offsets of the protocol's description.
fn by_offsets(message: &[u8]) -> Value {
    let is_v1 = message.len() >= 8 && message[0] == 0 && message[5..8] == [1, 0, 0];
    let nr_conns = message[if is_v1 { 4 } else { 0 }];
    let mut at = if is_v1 { 8 } else { 4 };
    let mut entries = Vec::new();
    for _ in 0..nr_conns {
        let entry = &message[at..];
        let length = if is_v1 {
            be16(entry, 2) & 0xfff
        } else if be16(entry, 20) & 0x600 != 0 {
            48
        } else {
            24
        };
        let length = usize::try_from(length).unwrap();
        entries.push(if is_v1 {
            v1_by_offsets(&entry[..length])
        } else {
            v0_by_offsets(&entry[..length])
        });
        at += if is_v1 {
            length.next_multiple_of(4)
        } else {
            length
        };
    }
    json!({
        "kind": "sync",
        "version": u8::from(is_v1),
        "syncid": message[1],
        "size": message.len(),
        "nr_conns": nr_conns,
        "verdict": "ok",
        "entries": entries,
    })
}

fn v0_by_offsets(entry: &[u8]) -> Value {
    // No capture of a kernel has a sequence block.
    assert_eq!(entry.len(), 24);
    let (flags, state) = (be16(entry, 20), be16(entry, 22));
    json!({
        "protocol": entry[1],
        "cport": be16(entry, 2), "vport": be16(entry, 4), "dport": be16(entry, 6),
        "caddr": address(&entry[8..12]), "vaddr": address(&entry[12..16]),
        "daddr": address(&entry[16..20]),
        "flags": flags, "state": state, "state_name": state_name(entry[1], flags, state),
        "fwmark": 0, "timeout": null, "seq": null, "pe_name": null, "pe_data": null,
        "verdict": "ok",
    })
}

fn v1_by_offsets(entry: &[u8]) -> Value {
    let width = if entry[0] & 1 == 0 { 4 } else { 16 };
    let [caddr, vaddr, daddr] = [0, 1, 2].map(|nth| address(&entry[24 + nth * width..][..width]));
    let (flags, state) = (be32(entry, 4), be16(entry, 8));
    let (mut pe_name, mut pe_data) = (None, None);
    let mut options = &entry[24 + 3 * width..];
    while let [kind, length, rest @ ..] = options {
        let (data, rest) = rest.split_at(usize::from(*length));
        match kind {
            2 => {
                pe_data = Some(
                    data.iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect::<String>(),
                )
            }
            3 => pe_name = Some(std::str::from_utf8(data).unwrap()),
            other => panic!("option {other} in a capture"),
        }
        options = rest;
    }
    json!({
        "protocol": entry[1],
        "flags": flags, "state": state, "state_name": state_name(entry[1], flags, state),
        "cport": be16(entry, 10), "vport": be16(entry, 12), "dport": be16(entry, 14),
        "fwmark": be32(entry, 16), "timeout": be32(entry, 20),
        "caddr": caddr, "vaddr": vaddr, "daddr": daddr,
        "seq": null, "pe_name": pe_name, "pe_data": pe_data, "verdict": "ok",
    })
}

/// The states that occur in the captures, with the names of `/proc/net/ip_vs_conn`.
fn state_name(protocol: u8, flags: u64, state: u64) -> &'static str {
    match (protocol, flags & TEMPLATE != 0, state) {
        (_, true, 0) => "NONE",
        (_, true, 1) => "ASSURED",
        (6, _, 1) | (132, _, 8) => "ESTABLISHED",
        (6, _, 4) => "FIN_WAIT",
        (6, _, 5) => "TIME_WAIT",
        (6, _, 6) => "CLOSE",
        (6, _, 7) => "CLOSE_WAIT",
        (17, _, 0) => "UDP",
        (132, _, 9) => "S-SENT",
        (132, _, 10) => "S-RECEIVED",
        (132, _, 11) => "S-ACK-SENT",
        (132, _, 13) => "CLOSED",
        other => panic!("state {other:?} in a capture"),
    }
}

fn be16(bytes: &[u8], at: usize) -> u64 {
    u64::from(u16::from_be_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn be32(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn address(bytes: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(bytes) {
        Ok(v4) => Ipv4Addr::from(v4).into(),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()).into(),
    }
}

fn key_of(entry: &Value) -> Key {
    let end = |addr: &str, port: &str| (ip(&entry[addr]), entry[port].as_u64().unwrap());
    let template = entry["flags"].as_u64().unwrap() & TEMPLATE != 0;
    let protocol = entry["protocol"].as_u64().unwrap();
    (
        protocol,
        end("caddr", "cport"),
        end("vaddr", "vport"),
        template,
    )
}

fn said_by(entry: &Value) -> Said {
    Said {
        dest: (ip(&entry["daddr"]), entry["dport"].as_u64().unwrap()),
        state: entry["state_name"].as_str().unwrap().to_owned(),
        secs: entry["timeout"].as_u64(),
    }
}

fn ip(value: &Value) -> IpAddr {
    value.as_str().unwrap().parse().unwrap()
}

/// The rows of `/proc/net/ip_vs_conn_sync`, all of which came by sync.
fn rows_of(text: &str) -> BTreeMap<Key, Said> {
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [
            protocol,
            caddr,
            cport,
            vaddr,
            vport,
            daddr,
            dport,
            state,
            origin,
            secs,
        ] = words[..]
        else {
            panic!("row {line}")
        };
        assert_eq!(origin, "SYNC", "{line}");
        let number = |hex| u64::from_str_radix(hex, 16).unwrap();
        let addr = |text: &str| match text.parse::<Ipv6Addr>() {
            Ok(v6) => IpAddr::from(v6),
            Err(_) => Ipv4Addr::from(u32::from_str_radix(text, 16).unwrap()).into(),
        };
        let protocol = match protocol {
            "IP" => 0,
            "TCP" => 6,
            "UDP" => 17,
            "SCTP" => 132,
            other => panic!("protocol {other}"),
        };
        // No connection of the captures has the state NONE.
        let template = matches!(state, "NONE" | "ASSURED");
        let key = (
            protocol,
            (addr(caddr), number(cport)),
            (addr(vaddr), number(vport)),
            template,
        );
        let said = Said {
            dest: (addr(daddr), number(dport)),
            state: state.to_owned(),
            secs: Some(secs.parse().unwrap()),
        };
        (key, said)
    };
    text.lines().skip(1).map(row).collect()
}
