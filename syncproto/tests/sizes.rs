//! Lengths, padding and bounds of messages, where recordings have no example of them.
#![allow(clippy::unwrap_used, reason = "a test ends there")]

mod common;

use std::net::{SocketAddrV4, SocketAddrV6};
use std::time::Instant;

use common::conns;
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{Addresses, Ends, Pe, SeqPair, SeqRecord, SyncConn};
use syncproto::limits::{ENTRIES_MAX, v0, v1};
use syncproto::wire::{SeqOrder, Version, WalkConfig};

#[test]
fn options_have_the_lengths_of_their_data_and_the_next_entry_is_aligned() {
    for ipv6 in [false, true] {
        for seq in [false, true] {
            for data_len in 1..=255 {
                let name_len = 1 + data_len % 16;
                let first = with_pe(conn(1, ipv6, seq), name_len, data_len);
                let fixed = if ipv6 { 72 } else { 36 };
                let options = if seq { 2 + 24 } else { 0 } + 2 + data_len + 2 + name_len;
                let length = fixed + options;
                assert!(length <= if ipv6 { 373 } else { 337 });

                let mut buffer = buffer(Version::V1, 9000);
                push(&mut buffer, &first);
                let message = buffer.message();
                assert_eq!(message.len(), 8 + length, "no padding after the last entry");
                assert_eq!(be16(message, 2), 8 + length);
                assert_eq!(be16(message, 8 + 2), length);

                let second = conn(2, !ipv6, false);
                push(&mut buffer, &second);
                let message = buffer.message();
                let begin = 8 + length.next_multiple_of(4);
                assert!(message[8 + length..begin].iter().all(|byte| *byte == 0));
                assert_eq!(
                    be16(message, 2),
                    message.len(),
                    "padding between entries counts"
                );
                assert_eq!(message[begin], u8::from(!ipv6), "type of the second");
                assert_eq!(conns(message, &any_engine(name_len)), [first, second]);
            }
        }
    }
}

#[test]
fn an_entry_goes_into_the_message_it_just_fits() {
    // Of 62 bytes, so with two of padding before what follows.
    let first = conn(1, false, true);
    let second = conn(2, false, false);
    for (maxlen, fits) in [(8 + 62 + 2 + 36, true), (8 + 62 + 2 + 36 - 1, false)] {
        let mut buffer = buffer(Version::V1, maxlen);
        push(&mut buffer, &first);
        let alone = buffer.message().to_vec();
        let packed = buffer.push(&second, now());
        assert_eq!(packed, if fits { Packed::Stored } else { Packed::Full });
        if !fits {
            assert_eq!(buffer.message(), alone, "what did not fit leaves no trace");
        }
    }
    // Version 0 has no padding.
    for (maxlen, fits) in [(4 + 48 + 24, true), (4 + 48 + 24 - 1, false)] {
        let mut buffer = buffer(Version::V0, maxlen);
        push(&mut buffer, &first);
        let packed = buffer.push(&second, now());
        assert_eq!(packed == Packed::Stored, fits);
    }
}

#[test]
fn an_entry_longer_than_a_message_has_one_alone() {
    let large = with_pe(conn(1, true, true), 16, 255);
    let mut buffer = buffer(Version::V1, 100);
    push(&mut buffer, &large);
    assert_eq!(buffer.message().len(), 8 + 373);
    assert!(buffer.is_full());
    assert_eq!(buffer.push(&conn(2, false, false), now()), Packed::Full);
    // And none beside others, though the message is not full.
    buffer.clear();
    push(&mut buffer, &conn(3, false, false));
    assert_eq!(buffer.push(&large, now()), Packed::Full);
    push(&mut buffer, &conn(4, false, false));
    assert_eq!(buffer.count(), 2);
}

#[test]
fn a_message_of_255_entries_is_full_whatever_room_is_left() {
    for (version, ipv6, header, entry) in [
        (Version::V0, false, v0::HEADER_LEN, v0::ENTRY_LEN),
        (Version::V1, false, v1::HEADER_LEN, v1::ENTRY_IPV4_LEN),
        (Version::V1, true, v1::HEADER_LEN, v1::ENTRY_IPV6_LEN),
    ] {
        let mut buffer = buffer(version, 65_507);
        let mut pushed = Vec::new();
        while !buffer.is_full() {
            pushed.push(conn(pushed.len() as u16, ipv6, false));
            push(&mut buffer, pushed.last().unwrap());
        }
        assert_eq!(pushed.len(), ENTRIES_MAX);
        assert_eq!(buffer.push(&conn(0, ipv6, false), now()), Packed::Full);
        assert_eq!(buffer.message().len(), header + ENTRIES_MAX * entry);
        let mut said = conns(buffer.message(), &WalkConfig::default());
        if version == Version::V0 {
            said.iter_mut().for_each(|conn| conn.timeout_secs = 900);
        }
        assert_eq!(said, pushed);
    }
}

#[test]
fn the_order_of_the_sequence_block_is_the_hosts_unless_it_is_said() {
    let said = conn(1, false, true);
    let host = if cfg!(target_endian = "big") {
        SeqOrder::Big
    } else {
        SeqOrder::Little
    };
    assert_eq!(
        (SeqOrder::default(), WalkConfig::default().seq_order),
        (host, host)
    );
    for (sent, heard) in [
        (SeqOrder::Big, SeqOrder::Big),
        (SeqOrder::Little, SeqOrder::Little),
        (SeqOrder::Big, SeqOrder::Little),
        (SeqOrder::Little, SeqOrder::Big),
    ] {
        let mut buffer = SyncBuffer::new(Layout {
            version: Version::V0,
            seq_order: sent,
            ..Layout::default()
        });
        push(&mut buffer, &said);
        let config = WalkConfig {
            seq_order: heard,
            ..WalkConfig::default()
        };
        let [read] = &conns(buffer.message(), &config)[..] else {
            panic!("one entry");
        };
        let expected = if sent == heard { seq() } else { swapped(seq()) };
        assert_eq!(read.seq, Some(expected), "{sent:?} heard as {heard:?}");
    }
    // Version 1 has an order of its own.
    let messages = [SeqOrder::Big, SeqOrder::Little].map(|seq_order| {
        let mut buffer = SyncBuffer::new(Layout {
            seq_order,
            ..Layout::default()
        });
        push(&mut buffer, &said);
        buffer.message().to_vec()
    });
    assert_eq!(messages[0], messages[1]);
}

#[test]
fn what_a_buffer_was_begun_with_holds_until_it_is_reset() {
    let mut buffer = buffer(Version::V1, 1472);
    push(&mut buffer, &conn(1, true, false));
    let layout = Layout {
        version: Version::V0,
        sync_id: 255,
        maxlen: 100,
        ..Layout::default()
    };
    buffer.reset(layout);
    assert!(buffer.message().is_empty() && buffer.begun().is_none());
    push(&mut buffer, &conn(2, false, false));
    assert_eq!(buffer.version(), Version::V0);
    assert_eq!(buffer.message()[..4], [1, 255, 0, 28]);
}

fn buffer(version: Version, maxlen: usize) -> SyncBuffer {
    SyncBuffer::new(Layout {
        version,
        maxlen,
        ..Layout::default()
    })
}

fn push(buffer: &mut SyncBuffer, conn: &SyncConn) {
    assert_eq!(buffer.push(conn, now()), Packed::Stored, "{conn:?}");
}

/// Told apart by its client port.
fn conn(port: u16, ipv6: bool, with_seq: bool) -> SyncConn {
    let v4 = |end: &str| end.parse::<SocketAddrV4>().unwrap();
    let v6 = |end: &str| end.parse::<SocketAddrV6>().unwrap();
    let mut addresses = if ipv6 {
        Addresses::V6(Ends {
            client: v6("[2001:db8:1::7]:0"),
            virt: v6("[2001:db8::10]:80"),
            dest: v6("[2001:db8:2::21]:8080"),
        })
    } else {
        Addresses::V4(Ends {
            client: v4("203.0.113.7:0"),
            virt: v4("192.0.2.10:80"),
            dest: v4("10.0.0.21:8080"),
        })
    };
    match &mut addresses {
        Addresses::V4(ends) => ends.client.set_port(port),
        Addresses::V6(ends) => ends.client.set_port(port),
    }
    SyncConn {
        protocol: 6,
        addresses,
        flags: if with_seq { 0x0600 } else { 0 },
        state: 1,
        fwmark: 0,
        timeout_secs: 900,
        seq: with_seq.then(seq),
        pe: None,
    }
}

/// With as much of an engine's name and data.
fn with_pe(conn: SyncConn, name_len: usize, data_len: usize) -> SyncConn {
    let pe = Pe::new(&NAME.as_bytes()[..name_len], &vec![b'd'; data_len]).unwrap();
    SyncConn {
        pe: Some(Box::new(pe)),
        ..conn
    }
}

/// Hears an engine whose name has that length.
fn any_engine(name_len: usize) -> WalkConfig {
    WalkConfig {
        engines: &ENGINES[name_len - 1..name_len],
        ..WalkConfig::default()
    }
}

fn seq() -> SeqPair {
    let record = |first: u32| SeqRecord {
        init_seq: first,
        delta: first as i32 + 1,
        previous_delta: -(first as i32) - 2,
    };
    SeqPair {
        input: record(0x0102_0304),
        output: record(0x1112_1314),
    }
}

fn swapped(pair: SeqPair) -> SeqPair {
    let swap = |record: SeqRecord| SeqRecord {
        init_seq: record.init_seq.swap_bytes(),
        delta: record.delta.swap_bytes(),
        previous_delta: record.previous_delta.swap_bytes(),
    };
    SeqPair {
        input: swap(pair.input),
        output: swap(pair.output),
    }
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

const NAME: &str = "abcdefghijklmnop";
static ENGINES: [&str; 16] = [
    "a",
    "ab",
    "abc",
    "abcd",
    "abcde",
    "abcdef",
    "abcdefg",
    "abcdefgh",
    "abcdefghi",
    "abcdefghij",
    "abcdefghijk",
    "abcdefghijkl",
    "abcdefghijklm",
    "abcdefghijklmn",
    "abcdefghijklmno",
    NAME,
];

#[expect(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
