//! Every captured frame of keepalived 2.2.7 against the bytes of this crate.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what is not supported yet is said")]

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};

use captures::{bytes, case, names, pcap};
use pcap_file::pcap::PcapReader;
use serde_json::Value;
use vrrp::wire::arp::{Announcement, announcement, gratuitous};
use vrrp::wire::checksum::ChecksumForm;
use vrrp::wire::ndp::unsolicited;
use vrrp::wire::v3::{Advert, Expected, Identification, receive};
use vrrp::wire::{GROUP, MacAddr, Refusal, inspect};
use vrrp::{Config, Interval, Priority};

mod captures;

const ETHERNET_LEN: usize = 14;
const SENDERS: [(&str, &str); 2] = [("192.0.2.1", "a"), ("192.0.2.2", "b")];

/// What a router of this crate does not speak yet; [`inspect`] reads what of it is IPv4.
const NOT_YET: [(&str, &str); 14] = [
    ("v2-ah", "version 2"),
    ("v2-ah-pair", "version 2"),
    ("v2-none", "version 2"),
    ("v2-pass-2vip", "version 2"),
    ("v2-sync-group", "version 2, sync groups"),
    ("v2-v4-unicast-pass", "version 2, unicast"),
    ("v2-v6", "version 2, IPv6"),
    ("v3-v4-unicast", "unicast"),
    ("v3-v4-unicast-csum-auto", "unicast"),
    ("v3-v4-unicast-oldcsum", "unicast"),
    ("v3-v6", "IPv6"),
    ("v3-v6-100ms-pair", "IPv6"),
    ("v3-v6-unicast", "IPv6, unicast"),
    ("v3-v6-vmac", "IPv6"),
];

/// The cases of version 3, IPv4, multicast.
fn supported() -> Vec<String> {
    let not_yet: BTreeSet<_> = NOT_YET.into_iter().map(|(name, _)| name).collect();
    let all = names();
    assert!(not_yet.iter().all(|name| all.contains(*name)));
    all.into_iter()
        .filter(|name| !not_yet.contains(name.as_str()))
        .collect()
}

#[test]
fn what_is_not_supported_yet_is_listed() {
    for (name, why) in NOT_YET {
        println!("not yet: {name}: {why}");
    }
    println!("supported {}, not yet {}", supported().len(), NOT_YET.len());
    assert_eq!((supported().len(), NOT_YET.len()), (21, 14));
}

#[test]
fn adverts_of_version_3_decode_and_are_written_the_same() {
    let mut adverts = 0;
    for name in supported() {
        let case = case(&name);
        for frame in case.frames().iter().filter(|frame| frame["kind"] == "vrrp") {
            let (_, router) = SENDERS
                .into_iter()
                .find(|(address, _)| frame["ip_src"] == *address)
                .unwrap();
            let config = case.config(router).unwrap();
            is_the_same_advert(&name, frame, &config);
            adverts += 1;
        }
    }
    assert_eq!(adverts, 436);
}

fn is_the_same_advert(name: &str, frame: &Value, config: &Config) {
    let packet = &bytes(frame["frame_hex"].as_str().unwrap())[ETHERNET_LEN..];
    let fields = &frame["vrrp"];
    let source: Ipv4Addr = frame["ip_src"].as_str().unwrap().parse().unwrap();
    let number = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
    let priority = Priority(u8::try_from(number(&fields["priority"])).unwrap());
    // Tracking changes the priority, giving up makes it zero.
    if name != "v3-v4-track-script" && priority != Priority::RESIGNED {
        assert_eq!(priority, config.priority(), "{name}");
    }
    let expected = Expected {
        vrid: config.vrid(),
        addresses: config.addresses(),
        running: true,
    };
    let accepted = receive(packet, packet.len(), &expected).unwrap();
    let centis = number(&fields["max_adver_int_cs"]);
    assert_eq!(accepted.heard.source, source);
    assert_eq!(accepted.heard.priority, priority);
    assert_eq!(
        accepted.heard.interval,
        Interval::from_centis(centis).unwrap()
    );
    assert_eq!(accepted.form, ChecksumForm::Rfc5798);
    let advert = Advert {
        vrid: config.vrid(),
        priority,
        interval: config.interval(),
        addresses: config.addresses(),
    };
    let identification = Identification::from(number(&frame["ip_id"]));
    assert_eq!(advert.to_packet(source, identification), packet, "{name}");
}

#[test]
fn identifications_count_from_one_in_every_run() {
    for name in supported() {
        let case = case(&name);
        for (address, _) in SENDERS {
            let mut next = Identification::FIRST;
            for frame in case.frames() {
                if frame["kind"] != "vrrp" || frame["ip_src"] != address {
                    continue;
                }
                let found = u16::try_from(frame["ip_id"].as_u64().unwrap()).unwrap();
                let found = Identification::from(found);
                let is_restart = found == Identification::FIRST;
                assert!(found == next || is_restart, "{name}");
                next = found.next();
            }
        }
    }
}

#[test]
fn announcements_are_the_same_to_the_byte() {
    let mut announcements = 0;
    for name in names() {
        for frame in case(&name).frames() {
            if frame["kind"] != "arp" {
                continue;
            }
            let whole = bytes(frame["frame_hex"].as_str().unwrap());
            let found = announcement(&whole[ETHERNET_LEN..]);
            if frame["op"] != 1 {
                // The other router's answer.
                assert_eq!(found, None, "{name}");
                continue;
            }
            let addr = frame["spa"].as_str().unwrap().parse().unwrap();
            let mac = mac(frame["sha"].as_str().unwrap());
            assert_eq!(found, Some(Announcement { addr, mac }), "{name}");
            assert_eq!(gratuitous(addr, mac).as_slice(), whole, "{name}");
            announcements += 1;
        }
    }
    assert_eq!(announcements, 420);
}

#[test]
fn neighbour_advertisements_are_the_same_to_the_byte() {
    let (mut advertisements, mut answers) = (0, 0);
    for name in names() {
        for frame in case(&name).frames().iter().filter(|f| f["kind"] == "na") {
            if frame["flags_solicited"] == true {
                answers += 1;
                continue;
            }
            let addr = frame["target"].as_str().unwrap().parse().unwrap();
            let mac = mac(frame["tlla"].as_str().unwrap());
            let is_router = frame["flags_router"].as_bool().unwrap();
            let whole = bytes(frame["frame_hex"].as_str().unwrap());
            assert_eq!(
                unsolicited(addr, mac, is_router).as_slice(),
                whole,
                "{name}"
            );
            advertisements += 1;
        }
    }
    assert_eq!((advertisements, answers), (65, 1));
}

#[test]
fn every_ipv4_advert_is_read_as_it_was_by_others() {
    let (mut read, mut of_ipv6) = (0, 0);
    for name in names() {
        for frame in case(&name).frames().iter().filter(|f| f["kind"] == "vrrp") {
            let packet = &bytes(frame["frame_hex"].as_str().unwrap())[ETHERNET_LEN..];
            if frame["ethertype"] != "0800" {
                assert_eq!(inspect(packet), None);
                of_ipv6 += 1;
                continue;
            }
            is_read_the_same(&name, frame, packet);
            read += 1;
        }
    }
    println!("not yet: {of_ipv6} adverts over IPv6");
    assert_eq!((read, of_ipv6), (532, 83));
}

fn is_read_the_same(name: &str, frame: &Value, packet: &[u8]) {
    let found = inspect(packet).unwrap();
    let fields = &frame["vrrp"];
    assert_eq!(frame["ip_src"], found.src.to_string(), "{name}");
    assert_eq!(frame["ip_dst"], found.dst.to_string(), "{name}");
    assert_eq!(frame["ttl"], found.ttl, "{name}");
    assert_eq!(fields["version"], found.version.unwrap(), "{name}");
    assert_eq!(fields["vrid"], found.vrid.unwrap(), "{name}");
    assert_eq!(fields["priority"], found.priority.unwrap(), "{name}");
    let addrs = fields["addrs"].as_array().unwrap();
    let addrs: Vec<IpAddr> = addrs
        .iter()
        .map(|a| a.as_str().unwrap().parse().unwrap())
        .collect();
    let found_addrs: Vec<_> = found.addrs.iter().copied().map(IpAddr::V4).collect();
    assert_eq!(addrs, found_addrs, "{name}");
    let interval = match fields["adver_int_s"].as_u64() {
        Some(seconds) => seconds * 100,
        None => fields["max_adver_int_cs"].as_u64().unwrap(),
    };
    assert_eq!(interval, u64::from(found.advert_int_cs.unwrap()), "{name}");
    assert_eq!(
        fields["auth_type"].as_u64(),
        found.auth_type.map(u64::from),
        "{name}"
    );
    assert_eq!(
        found.checksum_form,
        Some(expected_form(fields, found.dst)),
        "{name}"
    );
    assert!(found.checksum_ok());
    assert_eq!(found.verdict, Ok::<_, Refusal>(()), "{name}");
}

/// The form by the recomputations recorded with the frame.
fn expected_form(fields: &Value, dst: Ipv4Addr) -> ChecksumForm {
    let sum = &fields["checksum"];
    if fields["version"] == 2 {
        assert_eq!(*sum, fields["csum_no_pseudo"]);
        return ChecksumForm::Rfc3768;
    }
    if *sum == fields["csum_v4_pseudo"] {
        return ChecksumForm::Rfc5798;
    }
    assert!(dst != GROUP && *sum == fields["csum_v4_pseudo_mcast_dst"]);
    ChecksumForm::OldUnicast
}

#[test]
fn the_capture_files_hold_the_frames() {
    for name in names() {
        let mut reader = PcapReader::new(File::open(pcap(&name)).unwrap()).unwrap();
        let mut packets = BTreeSet::new();
        while let Some(packet) = reader.next_packet() {
            packets.insert(packet.unwrap().data.into_owned());
        }
        for frame in case(&name).frames() {
            let whole = bytes(frame["frame_hex"].as_str().unwrap());
            assert!(packets.contains(&whole), "{name}");
        }
    }
}

fn mac(text: &str) -> MacAddr {
    let octets: Vec<_> = text
        .split(':')
        .map(|o| u8::from_str_radix(o, 16).unwrap())
        .collect();
    MacAddr(octets.try_into().unwrap())
}
