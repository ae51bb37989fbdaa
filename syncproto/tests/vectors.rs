//! Messages worked out by hand, both ways, and a receiver's verdict on damaged ones: `vectors`.
#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::Instant;

use common::{conns, hex, tests_dir};
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{Addresses, Ends, Pe, SeqPair, SeqRecord, SyncConn};
use syncproto::limits::DEFAULT_PAYLOAD_IPV4;
use syncproto::receiver::Receiver;
use syncproto::refusal::Refusal;
use syncproto::wire::{Format, Header, Message, SeqOrder, Version, WalkConfig, walk};

#[test]
fn each_worked_message_is_what_it_says() {
    let worked = worked();
    let text = fs::read_to_string(tests_dir().join("vectors/messages.hex")).unwrap();
    let mut messages: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for block in text.split("\n\n").skip(1) {
        let (name, bytes) = block.split_once('\n').unwrap();
        messages.insert(name.trim_start_matches("# "), hex(bytes));
    }
    assert_eq!(messages.len(), worked.len());
    for (name, (layout, expected)) in &worked {
        let message = &messages[name];
        let config = WalkConfig {
            sync_id: layout.sync_id,
            seq_order: layout.seq_order,
            ..WalkConfig::default()
        };
        assert_eq!(&conns(message, &config), expected, "{name}");
        let mut buffer = SyncBuffer::new(*layout);
        for conn in expected {
            assert_eq!(buffer.push(conn, now()), Packed::Stored);
        }
        assert_eq!(buffer.message(), message, "{name}");
        assert_eq!(usize::from(buffer.count()), expected.len());
    }
}

#[test]
fn a_receiver_accepts_and_refuses_as_the_kernel_does() {
    let text = fs::read_to_string(tests_dir().join("vectors/receiver.hex")).unwrap();
    let mut cases = 0;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split(" | ").collect();
        let [case, sync_id, accepted, refusal, message] = columns[..] else {
            panic!("{line}");
        };
        let config = WalkConfig {
            sync_id: sync_id.parse().unwrap(),
            ..WalkConfig::default()
        };
        let mut receiver = Receiver::new(config);
        let mut conns = 0;
        receiver.receive(&hex(message), |_| conns += 1);
        assert_eq!(conns, accepted.parse::<u64>().unwrap(), "{case}");
        let counters = receiver.counters();
        assert_eq!(counters.entries, conns, "{case}");
        let named: Vec<_> = Refusal::ALL
            .iter()
            .filter(|refusal| counters.refused.of(**refusal) != 0)
            .map(|refusal| refusal.name())
            .collect();
        let expected: Vec<_> = [refusal].into_iter().filter(|name| *name != "-").collect();
        assert_eq!(named, expected, "{case}");
        assert!(counters.refused.total() <= 1, "{case}");
        cases += 1;
    }
    assert_eq!(cases, 45);
}

#[test]
fn what_a_receiver_does_not_understand_is_reported_without_effect() {
    let config = WalkConfig::default();
    // Version byte 2; version 1 with a spare that is not 0.
    for (message, version, spare) in [("0005000802020000", 2, 0), ("0005000802010102", 1, 0x0102)] {
        let message = hex(message);
        let format = Header::read(&message).unwrap().format;
        assert_eq!(format, Format::Foreign { version, spare });
        assert!(matches!(walk(&message, &config), Ok(Message::Foreign(whole)) if whole == message));
        let mut receiver = Receiver::new(config);
        receiver.receive(&message, |conn| panic!("{conn:?}"));
        assert_eq!(receiver.counters().foreign_messages, 1);
        assert_eq!(receiver.counters().messages, 1);
    }
    // An option 0x45, an option 0xc1, then bytes after the last entry.
    let entry = "0006002b 00000000 00019c40 00501f90 00000000 00000384
                 cb007107 c000020a 0a000015 4502aabb c101cc 00";
    let message = hex(&format!("00050039 01010000 {entry} 010203 0405"));
    let mut walk = common::entries(&message, &config);
    assert_eq!(walk.trailing(), None);
    let entry = walk.next().unwrap().unwrap();
    let ignored: Vec<_> = entry.ignored.collect();
    assert_eq!(ignored, [(0x45, &[0xaa, 0xbb][..]), (0xc1, &[0xcc][..])]);
    assert_eq!(entry.verdict, Ok(()));
    assert!(walk.next().is_none());
    assert_eq!(walk.trailing(), Some(&[1, 2, 3, 4, 5][..]));
    let mut receiver = Receiver::new(config);
    receiver.receive(&message, |_| ());
    let counters: BTreeMap<_, _> = receiver.counters().iter().collect();
    assert_eq!(
        (counters["trailing_bytes"], counters["ignored_options"]),
        (5, 2)
    );
    assert_eq!((counters["entries"], counters["refused_state"]), (1, 0));
}

#[test]
fn entries_of_a_stopped_message_leave_no_trailing_bytes() {
    let message = hex(
        "00050050 02010000 00061024 00000000 00019c40 00501f90 00000000 00000384
         cb007107 c000020a 0a000015 00060024 00000183 0004c822 01bb01bb 00000000
         00000078 c6336409 c000020a c0000215",
    );
    let mut walk = common::entries(&message, &WalkConfig::default());
    assert_eq!(walk.next().unwrap().unwrap_err(), Refusal::EntryVersion);
    assert!(walk.next().is_none());
    assert_eq!(walk.trailing(), None);
}

#[test]
fn what_follows_an_unknown_mandatory_option_is_not_looked_at() {
    // Then an option that runs past the entry, or a stray byte, would stop the walk.
    for (length, options) in [("2b", "0502aabb 02ff41 00"), ("29", "0502aabb 02 000000")] {
        let first = "00000000 00019c40 00501f90 00000000 00000384 cb007107 c000020a 0a000015";
        let message = hex(&format!(
            "00050058 02010000 000600{length} {first} {options} 00060024 {first}"
        ));
        let entries = common::entries(&message, &WalkConfig::default());
        let verdicts: Vec<_> = entries.map(|entry| entry.map(|e| e.verdict)).collect();
        assert_eq!(verdicts, [Ok(Err(Refusal::OptionUnknown)), Ok(Ok(()))]);
    }
}

#[test]
fn an_entry_needs_room_for_the_smallest_whatever_its_own_length_says() {
    // 35 bytes are left, of which the entry claims 20.
    let mut message = hex(
        "0005002b 01010000 00060014 00000000 00019c40 00501f90 00000000 00000384
         cb007107 c000020a 0a0000",
    );
    let first = |message: &[u8]| {
        let entries = common::entries(message, &WalkConfig::default());
        entries.map(|entry| entry.map(|_| ())).next()
    };
    assert_eq!(first(&message), Some(Err(Refusal::EntryNoRoom)));
    message.push(0x15);
    message[3] += 1;
    assert_eq!(first(&message), Some(Err(Refusal::EntryShort)));
}

#[test]
fn a_backup_without_ipv6_skips_what_is_well_formed() {
    let ipv4_only = WalkConfig {
        ipv6: false,
        ..WalkConfig::default()
    };
    let (layout, mut conns) = worked().remove("v1 IPv6 UDP tunnel").unwrap();
    conns.push(tcp());
    let mut buffer = SyncBuffer::new(layout);
    for conn in &conns {
        buffer.push(conn, now());
    }
    let verdicts: Vec<_> = common::entries(buffer.message(), &ipv4_only)
        .map(|entry| entry.unwrap().verdict)
        .collect();
    assert_eq!(verdicts, [Err(Refusal::Ipv6), Ok(())]);
}

#[test]
fn version_0_says_what_it_can() {
    let layout = Layout {
        version: Version::V0,
        maxlen: DEFAULT_PAYLOAD_IPV4,
        ..Layout::default()
    };
    let mut buffer = SyncBuffer::new(layout);
    let (_, ipv6) = worked().remove("v1 IPv6 UDP tunnel").unwrap();
    assert_eq!(buffer.push(&ipv6[0], now()), Packed::NotCarried);
    assert!(buffer.message().is_empty() && buffer.begun().is_none());
    // The block follows from the flags: there without records, and absent with them.
    let flagged = SyncConn {
        flags: 0x0001_0640,
        ..tcp()
    };
    let unflagged = SyncConn {
        seq: Some(SeqPair::default()),
        fwmark: 7,
        ..tcp()
    };
    buffer.push(&flagged, now());
    buffer.push(&unflagged, now());
    assert_eq!(buffer.message().len(), 4 + 48 + 24);
    let read = conns(buffer.message(), &WalkConfig::default());
    let said = SyncConn {
        timeout_secs: 0,
        ..tcp()
    };
    let flagged = SyncConn {
        flags: 0x0600,
        seq: Some(SeqPair::default()),
        ..said.clone()
    };
    assert_eq!(read, [flagged, said]);
}

/// The connections of `messages.hex`.
fn worked() -> BTreeMap<&'static str, (Layout, Vec<SyncConn>)> {
    let layout = |version, sync_id, seq_order| Layout {
        version,
        sync_id,
        seq_order,
        maxlen: DEFAULT_PAYLOAD_IPV4,
    };
    let v0 = |sync_id, seq_order| layout(Version::V0, sync_id, seq_order);
    let v1 = |sync_id| layout(Version::V1, sync_id, SeqOrder::HOST);
    let without_timeout = |conn| SyncConn {
        timeout_secs: 0,
        ..conn
    };
    let with_seq = vec![without_timeout(ftp())];
    BTreeMap::from([
        (
            "v0 one TCP NAT ESTABLISHED, syncid 5",
            (v0(5, SeqOrder::HOST), vec![without_timeout(tcp())]),
        ),
        (
            "v0 with sequence options, little-endian sender",
            (v0(0, SeqOrder::Little), with_seq.clone()),
        ),
        (
            "v0 with sequence options, big-endian sender",
            (v0(0, SeqOrder::Big), with_seq),
        ),
        (
            "v1 one TCP NAT ESTABLISHED, syncid 5, 900 s",
            (v1(5), vec![tcp()]),
        ),
        ("v1 two entries", (v1(5), vec![tcp(), direct()])),
        ("v1 fwmark template, assured", (v1(0), vec![mark()])),
        (
            "v1 sequence option then padding then next entry",
            (v1(1), vec![ftp(), tcp()]),
        ),
        ("v1 IPv6 UDP tunnel", (v1(9), vec![tunnel()])),
        (
            "v1 SIP template with PE data and name",
            (v1(0), vec![sip()]),
        ),
    ])
}

fn v4(client: &str, virt: &str, dest: &str) -> Addresses {
    let end = |end: &str| end.parse::<SocketAddrV4>().unwrap();
    Addresses::V4(Ends {
        client: end(client),
        virt: end(virt),
        dest: end(dest),
    })
}

fn tcp() -> SyncConn {
    SyncConn {
        protocol: 6,
        addresses: v4("203.0.113.7:40000", "192.0.2.10:80", "10.0.0.21:8080"),
        flags: 0,
        state: 1,
        fwmark: 0,
        timeout_secs: 900,
        seq: None,
        pe: None,
    }
}

fn direct() -> SyncConn {
    SyncConn {
        addresses: v4("198.51.100.9:51234", "192.0.2.10:443", "192.0.2.21:443"),
        flags: 0x0183,
        state: 4,
        timeout_secs: 120,
        ..tcp()
    }
}

fn ftp() -> SyncConn {
    let record = |init_seq, delta, previous_delta| SeqRecord {
        init_seq,
        delta,
        previous_delta,
    };
    SyncConn {
        addresses: v4("203.0.113.7:40000", "192.0.2.10:21", "10.0.0.21:21"),
        flags: 0x0600,
        seq: Some(SeqPair {
            input: record(0x1122_3344, -3, 0),
            output: record(0x5566_7788, 5, 2),
        }),
        ..tcp()
    }
}

fn mark() -> SyncConn {
    SyncConn {
        protocol: 0,
        addresses: v4("203.0.113.0:0", "0.0.0.7:0", "10.0.0.21:0"),
        flags: 0x1100,
        fwmark: 7,
        timeout_secs: 360,
        ..tcp()
    }
}

fn sip() -> SyncConn {
    let pe = Pe::new(b"sip", b"a84b4c76e66710@pc").unwrap();
    SyncConn {
        protocol: 17,
        addresses: v4("203.0.113.7:0", "192.0.2.10:5060", "10.0.0.21:5060"),
        flags: 0x1100,
        state: 0,
        timeout_secs: 360,
        pe: Some(Box::new(pe)),
        ..tcp()
    }
}

fn tunnel() -> SyncConn {
    let end = |end: &str| match end.parse().unwrap() {
        SocketAddr::V6(end) => SocketAddrV6::new(*end.ip(), end.port(), 0, 0),
        SocketAddr::V4(end) => panic!("{end}"),
    };
    SyncConn {
        protocol: 17,
        addresses: Addresses::V6(Ends {
            client: end("[2001:db8:1::7]:5000"),
            virt: end("[2001:db8::10]:53"),
            dest: end("[2001:db8:2::21]:53"),
        }),
        flags: 0x0182,
        state: 0,
        timeout_secs: 300,
        ..tcp()
    }
}

#[expect(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
