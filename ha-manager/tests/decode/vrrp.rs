//! Advertisements and announcements of keepalived, frame by frame.

use std::time::Duration;

use ha_manager::decode::Decoder;
use ha_manager::decode::capture::Captured;
use serde_json::{Value, json};

use crate::captures::{self, decode, from_hex, json as json_of};

/// Advertisements in IPv4, in IPv6, gratuitous ARPs, unsolicited neighbour advertisements.
const ADVERTS: usize = 532;
const ADVERTS_IPV6: usize = 83;
const GARPS: usize = 420;
const NAS: usize = 65;

#[test]
fn every_frame_decodes_as_noted() {
    let mut counts = [0; 4];
    for capture in captures::vrrp() {
        let (records, end) = decode(&capture.pcap, None);
        end.unwrap();
        let noted = capture.notes["frames"].as_array().unwrap();
        let expected: Vec<(usize, &Value, Value)> = noted.iter().filter_map(expected).collect();
        assert_eq!(records.len(), expected.len(), "{}", capture.name);
        let mut origin = None;
        for (record, (kind, frame, fields)) in records.iter().map(json_of).zip(expected) {
            for (field, value) in fields.as_object().unwrap() {
                assert_eq!(
                    &record[field], value,
                    "{}: {field} of {frame}",
                    capture.name
                );
            }
            // Noted from the first action on.
            let offset = record["time"].as_f64().unwrap() - frame["t"].as_f64().unwrap();
            let origin = *origin.get_or_insert(offset);
            assert!((offset - origin).abs() < 1e-5, "{}: {frame}", capture.name);
            counts[kind] += 1;
        }
    }
    println!("{counts:?}");
    assert_eq!(counts, [ADVERTS, ADVERTS_IPV6, GARPS, NAS]);
}

/// What a noted frame has to be decoded to, if to anything.
fn expected(frame: &Value) -> Option<(usize, &Value, Value)> {
    let is_ipv6 = frame["ethertype"] == "86dd";
    match frame["kind"].as_str().unwrap() {
        "vrrp" => Some((usize::from(is_ipv6), frame, advert(frame, is_ipv6))),
        // Answers to one host are no announcements.
        "arp" if frame["op"] == 1 => {
            let fields = json!({"kind": "garp", "addr": frame["spa"], "mac": frame["sha"]});
            Some((2, frame, fields))
        }
        "na" if frame["flags_solicited"] == false => {
            let fields = json!({"kind": "na", "addr": frame["target"], "mac": frame["tlla"]});
            Some((3, frame, fields))
        }
        "arp" | "na" => None,
        other => panic!("a frame of kind {other}"),
    }
}

fn advert(frame: &Value, is_ipv6: bool) -> Value {
    let noted = &frame["vrrp"];
    let is_v2 = noted["version"] == 2;
    let interval = match noted["adver_int_s"].as_u64() {
        Some(secs) => secs * 100,
        None => noted["max_adver_int_cs"].as_u64().unwrap(),
    };
    let auth_type = is_v2.then(|| noted["auth_type"].clone());
    // In the order in which a receiver tries them.
    let forms = if is_ipv6 {
        &[("csum_v6_pseudo", "ipv6")][..]
    } else if is_v2 {
        &[("csum_no_pseudo", "rfc3768")][..]
    } else {
        &[
            ("csum_v4_pseudo", "rfc5798"),
            ("csum_no_pseudo", "rfc9568"),
            ("csum_v4_pseudo_mcast_dst", "old_unicast"),
        ][..]
    };
    let form = forms
        .iter()
        .find(|(field, _)| noted[field] == noted["checksum"]);
    json!({
        "kind": "vrrp",
        "src": frame["ip_src"],
        "dst": frame["ip_dst"],
        "ttl": frame[if is_ipv6 { "hop_limit" } else { "ttl" }],
        "version": noted["version"],
        "vrid": noted["vrid"],
        "priority": noted["priority"],
        "addrs": noted["addrs"],
        "advert_int_cs": interval,
        "auth_type": auth_type,
        "auth_sequence": frame["ah"]["seq"],
        "checksum_ok": true,
        "checksum_form": form.unwrap().1,
        "verdict": "ok",
    })
}

#[test]
fn people_are_told_what_is_not_usual() {
    let line_of = |name: &str| {
        let all = captures::vrrp().into_iter();
        let capture = all.into_iter().find(|capture| capture.name == name);
        let (records, _) = decode(&capture.unwrap().pcap, None);
        let line = records[0].to_string();
        // The time is when it was recorded.
        line.split_once(" VRRP ").unwrap().1.to_owned()
    };
    for (name, line) in [
        (
            "v2-none",
            "192.0.2.1 > 224.0.0.18  v2 vrid 51 prio 150 every 1.00s  192.0.2.100",
        ),
        (
            "v2-pass-2vip",
            "192.0.2.1 > 224.0.0.18  v2 vrid 51 prio 150 every 1.00s  192.0.2.100, 192.0.2.101  \
             password",
        ),
        (
            "v2-ah",
            "192.0.2.1 > 224.0.0.18  v2 vrid 51 prio 150 every 1.00s  192.0.2.100  \
             authentication header 1",
        ),
        (
            "v3-v4-unicast-oldcsum",
            "192.0.2.1 > 192.0.2.2  v3 vrid 51 prio 150 every 1.00s  192.0.2.100  \
             checksum old_unicast",
        ),
        (
            "v3-v6",
            "fe80::ff:fe00:101 > ff02::12  v3 vrid 51 prio 150 every 1.00s  fe80::100, \
             2001:db8:1::100",
        ),
    ] {
        assert_eq!(line_of(name), line);
    }
}

/// The first advertisement of the capture `v3-v6`, from its addresses on.
const ADDRESSES_V6: &str = "fe80000000000000 000000fffe000101 ff02000000000000 0000000000000012";
const MESSAGE_V6: &str = "3133960200640bfc fe800000000000000000000000000100 \
     20010db8000100000000000000000100";

fn judged(begin: &str, message: &str) -> Value {
    let hex = format!("333300000012 020000000101 86dd {begin} {ADDRESSES_V6} {message}");
    let frame = from_hex(&hex);
    let captured = Captured {
        at: Duration::ZERO,
        frame: &frame,
    };
    json_of(&Decoder::new(None).decode(captured).unwrap())
}

#[test]
fn advertisements_over_ipv6_are_judged_whatever_is_before_them() {
    let usual = judged("6c000000 0028 70 ff", MESSAGE_V6);
    let destination_options = format!("7000010400000000 {MESSAGE_V6}");
    let behind_options = judged("6c000000 0030 3c ff", &destination_options);
    for record in [usual, behind_options] {
        assert_eq!(record["verdict"], "ok");
        assert_eq!(record["checksum_form"], "ipv6");
        assert_eq!(record["addrs"], json!(["fe80::100", "2001:db8:1::100"]));
    }
    let first_fragment = format!("7000000100000001 {MESSAGE_V6}");
    let record = judged("6c000000 0030 2c ff", &first_fragment);
    assert_eq!(record["verdict"], "ip_header");
    let record = judged("6c000000 0029 70 ff", MESSAGE_V6);
    assert_eq!(record["verdict"], "truncated");
    let record = judged("6c000000 0028 70 fe", MESSAGE_V6);
    assert_eq!(record["verdict"], "ttl");
}
