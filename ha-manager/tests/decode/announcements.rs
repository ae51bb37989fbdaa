//! Which frames are of a kind that is decoded, by frames made here.

use std::time::Duration;

use ha_manager::decode::capture::Captured;
use ha_manager::decode::{Decoder, Record};
use serde_json::{Value, json};

use crate::captures::{from_hex, json as json_of};

const BROADCAST: &str = "ffffffffffff";
const ROUTER: &str = "020000000101";
const HOST: &str = "020000000303";
const ALL_NODES: &str = "333300000001";

#[test]
fn an_arp_announces_when_it_asks_for_its_own_address_or_tells_everybody() {
    let vip = "c0000264";
    let arp = |to: &str, operation: &str, sender: &str, target: &str| {
        format!("{to}{ROUTER}0806 0001080006040{operation} {ROUTER}{sender}{HOST}{target}")
    };
    let announced = json!({"kind": "garp", "time": 1.5, "addr": "192.0.2.100",
        "mac": "02:00:00:00:01:01"});
    for (frame, expected) in [
        (arp(BROADCAST, "001", vip, vip), Some(&announced)),
        (arp(HOST, "001", vip, vip), Some(&announced)),
        (arp(BROADCAST, "002", vip, vip), Some(&announced)),
        // An answer to one host, a question, a probe, a reply in RARP.
        (arp(HOST, "002", vip, vip), None),
        (arp(BROADCAST, "001", "c0000201", vip), None),
        (arp(BROADCAST, "001", "00000000", "00000000"), None),
        (arp(BROADCAST, "004", vip, vip), None),
    ] {
        assert_eq!(decode(&frame).as_ref(), expected, "{frame}");
    }
}

#[test]
fn a_neighbour_advertisement_announces_when_nobody_asked() {
    let vip = "20010db8000000000000000000000100";
    let na = |ttl: &str, kind: &str, flags: &str, options: &str| {
        let length = 24 + options.len() / 2;
        format!(
            "{ALL_NODES}{ROUTER}86dd 60000000{length:04x}3a{ttl} {vip} ff020000000000000000000000000001 \
             {kind}00 0000 {flags}000000 {vip} {options}"
        )
    };
    let announced = |mac| json!({"kind": "na", "time": 1.5, "addr": "2001:db8::100", "mac": mac});
    let option = "0201020000000909";
    for (frame, expected) in [
        (
            na("ff", "88", "20", option),
            Some(announced("02:00:00:00:09:09")),
        ),
        (
            na("ff", "88", "20", ""),
            Some(announced("02:00:00:00:01:01")),
        ),
        // Solicited, routed, another message, an option of no length.
        (na("ff", "88", "60", option), None),
        (na("fe", "88", "20", option), None),
        (na("ff", "87", "20", option), None),
        (na("ff", "88", "20", "0200020000000909"), None),
    ] {
        assert_eq!(decode(&frame), expected, "{frame}");
    }
}

#[test]
fn sync_datagrams_are_known_by_port_or_group() {
    let default = Decoder::new(None);
    let other = Decoder::new(Some(9500));
    let last = Decoder::new(Some(65_500));
    for (group, port, decoders) in [
        ("e0000051", 8848, [true, true, true]),
        ("e0000051", 1, [true, true, true]),
        ("e0000109", 8847, [false; 3]),
        ("e0000109", 8848, [true, true, true]),
        ("e0000109", 8911, [true, true, true]),
        ("e0000109", 8912, [false; 3]),
        ("e0000109", 9500, [false, true, false]),
        ("e0000109", 9563, [false, true, false]),
        ("e0000109", 9564, [false; 3]),
        ("e0000109", 65_535, [false, false, true]),
    ] {
        let frame = bytes(&sync_v1(group, port, ""));
        let found =
            [&default, &other, &last].map(|decoder| decoder.decode(captured(&frame)).is_some());
        assert_eq!(found, decoders, "{group} {port}");
    }
}

#[test]
fn tags_and_extension_headers_are_passed_over() {
    let plain = decode(&sync_v1("e0000051", 8848, "")).unwrap();
    assert_eq!(
        (&plain["verdict"], &plain["nr_conns"]),
        (&json!("ok"), &json!(1))
    );
    assert_eq!(
        decode(&sync_v1("e0000051", 8848, "8100 0064")).unwrap(),
        plain
    );
    let both = sync_v1("e0000051", 8848, "88a8 0064 8100 0065");
    assert_eq!(decode(&both).unwrap(), plain);
    let three = sync_v1("e0000051", 8848, "88a8 0064 8100 0065 8100 0066");
    assert_eq!(decode(&three), None);

    let entries = plain["entries"].clone();
    let v6 = |next: u8, extensions: &str| {
        let payload = format!("{extensions} ffff2290 0034 0000 {V1_MESSAGE}").replace(' ', "");
        let length = payload.len() / 2;
        let addresses = "fe800000000000000000000000000001 ff020000000000000000000000000051";
        format!("333300000051{ROUTER}86dd 60000000{length:04x}{next:02x}01 {addresses} {payload}")
    };
    for frame in [
        v6(17, ""),
        v6(0, "1100 000000000000"),
        v6(60, "2b00 000000000000 1101 000000000000 0000000000000000"),
        // A whole packet in one fragment.
        v6(44, "1100 0000 00000001"),
    ] {
        assert_eq!(decode(&frame).unwrap()["entries"], entries, "{frame}");
    }
    // The first of several fragments is shown and not decoded, the others are not even UDP.
    let first = decode(&v6(44, "1100 0001 00000001")).unwrap();
    assert_eq!(
        (&first["verdict"], &first["entries"]),
        (&json!("fragment"), &json!([]))
    );
    assert_eq!(decode(&v6(44, "1100 0008 00000001")), None);
}

#[test]
fn what_is_wrong_stands_in_capitals() {
    let text = |message: &str| {
        let frame = bytes(&sync_of("e0000051", 8848, "", message));
        Decoder::new(None)
            .decode(captured(&frame))
            .unwrap()
            .to_string()
    };
    let head = "00:00:01.500000 SYNC 10.3.0.1:65535 > 224.0.0.81:8848";
    let entry =
        "  TCP  ESTABLISHED 10.0.0.5:40000        > 10.0.0.1:80           > 10.0.0.2:80           ";
    assert_eq!(
        text(V1_MESSAGE),
        format!("{head}  v1 syncid 51, 44 bytes, 1 entry\n{entry}Masq 900s")
    );
    // A method there is none of, an unknown state, more entries than there are.
    let method = V1_MESSAGE.replace("00000000 0001", "00000007 0001");
    assert_eq!(
        text(&method),
        format!("{head}  v1 syncid 51, 44 bytes, 1 entry\n{entry}fwd-7 900s")
    );
    let state = V1_MESSAGE.replace("00000000 0001", "00000000 000b");
    let unknown = entry.replace("ESTABLISHED", "ERR!       ");
    assert_eq!(
        text(&state),
        format!(
            "{head}  v1 syncid 51, 44 bytes, 1 entry\n{unknown}Masq 900s SKIPPED: unknown state"
        )
    );
    let more = V1_MESSAGE.replace("002c 0101", "002c 0201");
    assert_eq!(
        text(&more),
        format!(
            "{head}  v1 syncid 51, 44 bytes, 2 entries\n{entry}Masq 900s\n  \
             STOPPED, the rest is dropped: no room for an entry"
        )
    );
    let size = V1_MESSAGE.replace("002c 0101", "002d 0101");
    assert_eq!(
        text(&size),
        format!(
            "{head}  v1 syncid 51, 45 bytes, 1 entry\n  \
             REFUSED: size field differs from the length of the message"
        )
    );
    assert_eq!(
        text("0001"),
        format!("{head}\n  REFUSED: message shorter than a header")
    );
    assert_eq!(
        text("0033 0008 0102 0000"),
        format!(
            "{head}  v0 syncid 51, 8 bytes, 0 entries, \
             OF NO KNOWN VERSION (its byte is 2), no effect on a backup"
        )
    );
}

/// A TCP connection, established, masqueraded.
const V1_MESSAGE: &str = "0033 002c 0101 0000 00060024 00000000 0001 9c40 0050 0050 00000000 \
                          00000384 0a000005 0a000001 0a000002";

fn sync_v1(group: &str, port: u16, tags: &str) -> String {
    sync_of(group, port, tags, V1_MESSAGE)
}

fn sync_of(group: &str, port: u16, tags: &str, message: &str) -> String {
    let length = message.replace(' ', "").len() / 2;
    let (ip, udp) = (28 + length, 8 + length);
    format!(
        "01005e000051{ROUTER}{tags} 0800 4500{ip:04x} 00000000 0111 0000 0a030001 {group} \
         ffff{port:04x} {udp:04x} 0000 {message} "
    )
}

fn bytes(frame: &str) -> Vec<u8> {
    from_hex(frame)
}

fn captured(frame: &[u8]) -> Captured<'_> {
    Captured {
        at: Duration::from_millis(1500),
        frame,
    }
}

fn decode(frame: &str) -> Option<Value> {
    let frame = bytes(frame);
    let record: Option<Record> = Decoder::new(None).decode(captured(&frame));
    record.as_ref().map(json_of)
}
