//! What goes out by the virtual MAC address is what keepalived sends for the same configuration.

use std::fs;
use std::path::Path;

use crate::lan::{Lan, Recording, Sent};

/// The whole capture is one router that hears nobody: adverts with announcements after the first,
/// and priority zero at its stop.
fn frames_are_those_of(case: &str, vmac: [u8; 6], section: &str) {
    let lan = Lan::new();
    if vmac[4] == 2 {
        lan.a.ip("addr add 2001:db8:1::1/64 dev eth0 nodad");
    }
    let mut recording = Recording::start();
    let director = lan.a.direct(&format!(
        "[[vrrp]]\nname = \"VI_1\"\ninterface = \"eth0\"\nvrid = 51\npriority = 150\n{section}"
    ));
    lan.a.becomes("active");
    let priority = |sent: &Sent| {
        let at = if sent.bytes[12] == 8 { 36 } else { 56 };
        sent.is_advert().then(|| sent.bytes[at])
    };
    let adverts = |frames: &[Sent], wanted| {
        let priorities = frames.iter().filter_map(priority);
        priorities.filter(|priority| *priority == wanted).count()
    };
    recording.wait_for("a second advert", |frames| adverts(frames, 150) > 1);
    let log = director.stop();
    recording.wait_for("priority zero", |frames| adverts(frames, 0) > 0);
    recording.read();
    // Of the interface below, what is no advert is the host's own business.
    let ours = recording.frames.iter();
    let ours = ours.filter(|sent| sent.is_from(vmac) || sent.is_advert());
    let ours: Vec<String> = ours.map(|sent| comparable(&sent.bytes)).collect();
    assert_eq!(turns(ours), turns(golden(case)), "{log}");
    let left = lan.a.ip("-o link show");
    assert!(!left.contains("vrrp"), "{left}");
}

/// In hexadecimal, without what counts up: the identification and the header's checksum of IPv4, the
/// flow label of IPv6.
fn comparable(frame: &[u8]) -> String {
    let mut frame = frame.to_vec();
    match (frame[12], frame[13]) {
        (0x08, 0x00) => {
            frame[18..20].fill(0);
            frame[24..26].fill(0);
        }
        (0x86, 0xdd) => {
            frame[15] &= 0xf0;
            frame[16..18].fill(0);
        }
        _ => {}
    }
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adverts that follow each other are one; how many there are depends on how long it runs.
fn turns(mut frames: Vec<String>) -> Vec<String> {
    frames.dedup_by(|next, before| next == before && next.starts_with("01005e000012"));
    frames.dedup_by(|next, before| next == before && next.starts_with("333300000012"));
    frames
}

fn golden(case: &str) -> Vec<String> {
    let path = format!("../vrrp/tests/golden/{case}.json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let recorded: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let frames = recorded["frames"].as_array().unwrap().iter();
    frames
        .map(|frame| {
            let hex = frame["frame_hex"].as_str().unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            comparable(&bytes)
        })
        .collect()
}

const IPV4: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
const IPV6: [u8; 6] = [0, 0, 0x5e, 0, 2, 51];

#[test]
fn adverts_and_announcements_come_from_the_virtual_address() {
    let section = "vmac = true\nvips = [\"192.0.2.100/24\"]\n";
    frames_are_those_of("v3-v4-vmac", IPV4, section);
}

#[test]
fn adverts_come_from_the_address_below_where_that_is_wanted() {
    let section = "vmac = true\nvmac_xmit_base = true\nvips = [\"192.0.2.100/24\"]\n";
    frames_are_those_of("v3-v4-vmac-xmitbase", IPV4, section);
}

#[test]
fn adverts_of_ipv6_come_from_the_virtual_address() {
    let section = "vmac = true\nvips = [\"fe80::100/64\", \"2001:db8:1::100/64\"]\n";
    frames_are_those_of("v3-v6-vmac", IPV6, section);
}
