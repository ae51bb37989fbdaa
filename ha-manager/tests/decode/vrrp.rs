//! Advertisements and announcements of keepalived, frame by frame.

use serde_json::{Value, json};

use crate::captures::{self, decode, json as json_of};

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
        "vrrp" if is_ipv6 => Some((1, frame, advert_ipv6(frame))),
        "vrrp" => Some((0, frame, advert(frame))),
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

fn advert(frame: &Value) -> Value {
    let noted = &frame["vrrp"];
    let is_v2 = noted["version"] == 2;
    let interval = match noted["adver_int_s"].as_u64() {
        Some(secs) => secs * 100,
        None => noted["max_adver_int_cs"].as_u64().unwrap(),
    };
    let auth_type = is_v2.then(|| noted["auth_type"].clone());
    // In the order in which a receiver tries them.
    let forms = if is_v2 {
        &[("csum_no_pseudo", "rfc3768")][..]
    } else {
        &[
            ("csum_v4_pseudo", "rfc5798"),
            ("csum_no_pseudo", "rfc9568"),
            ("csum_v4_pseudo_mcast_dst", "old_unicast"),
        ]
    };
    let form = forms
        .iter()
        .find(|(field, _)| noted[field] == noted["checksum"]);
    json!({
        "kind": "vrrp",
        "src": frame["ip_src"],
        "dst": frame["ip_dst"],
        "ttl": frame["ttl"],
        "version": noted["version"],
        "vrid": noted["vrid"],
        "priority": noted["priority"],
        "addrs": noted["addrs"],
        "advert_int_cs": interval,
        "auth_type": auth_type,
        "checksum_ok": true,
        "checksum_form": form.unwrap().1,
        "verdict": "ok",
    })
}

/// Not read, and said so.
fn advert_ipv6(frame: &Value) -> Value {
    json!({
        "kind": "vrrp",
        "src": frame["ip_src"],
        "dst": frame["ip_dst"],
        "ttl": frame["hop_limit"],
        "version": null,
        "checksum_ok": false,
        "verdict": "ipv6",
    })
}
