//! Random connections there and back; damaged and random bytes.
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "says how to have a failure again")]

mod common;

use std::time::Instant;

use common::random::Random;
use common::{conns, hex, list, recordings, text};
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::limits::{ENTRIES_MAX, v1};
use syncproto::receiver::Receiver;
use syncproto::wire::{Header, Message, SeqOrder, Version, WalkConfig, walk};

#[test]
fn connections_come_back_as_they_went() {
    let mut random = Random::new(81);
    let mut stored = 0;
    for round in 0..20_000 {
        let layout = Layout {
            version: [Version::V0, Version::V1][random.below(2)],
            sync_id: random.next() as u8,
            seq_order: [SeqOrder::Big, SeqOrder::Little][random.below(2)],
            maxlen: 1 + random.below(3000),
        };
        let mut buffer = SyncBuffer::new(layout);
        let mut pushed = Vec::new();
        loop {
            let conn = random.conn(layout.version == Version::V1);
            match buffer.push(&conn, now()) {
                Packed::Stored => pushed.push(conn),
                Packed::Full => break,
                Packed::NotCarried => panic!("{conn:?}"),
            }
            let alone = pushed.len() == 1;
            assert!(alone || buffer.message().len() <= layout.maxlen, "{round}");
        }
        let config = WalkConfig {
            seq_order: layout.seq_order,
            ..WalkConfig::default()
        };
        assert_eq!(conns(buffer.message(), &config), pushed, "round {round}");
        let header = Header::read(buffer.message()).unwrap();
        assert_eq!(header.sync_id, layout.sync_id);
        assert_eq!(usize::from(header.size), buffer.message().len());
        stored += pushed.len();
    }
    println!("{stored} connections");
}

#[test]
fn no_message_counts_more_than_255_entries() {
    let mut random = Random::new(82);
    for version in [Version::V0, Version::V1] {
        let mut buffer = SyncBuffer::new(Layout {
            version,
            maxlen: usize::MAX,
            ..Layout::default()
        });
        let mut pushed = 0;
        while buffer.push(&random.conn(false), now()) == Packed::Stored {
            pushed += 1;
            assert_eq!(buffer.is_full(), pushed == ENTRIES_MAX);
        }
        assert_eq!(pushed, ENTRIES_MAX);
        assert!(buffer.message().len() <= 65_507);
    }
}

#[test]
fn damaged_bytes_are_walked_to_an_end() {
    let mut random = Random::new(83);
    let originals = originals();
    let mut receiver = Receiver::new(WalkConfig::default());
    let mut message = Vec::new();
    for _ in 0..1_200_000 {
        message.clear();
        message.extend_from_slice(&originals[random.below(originals.len())]);
        damage(&mut message, &mut random);
        check(&message);
        receiver.receive(&message, |_| ());
    }
    let counters = receiver.counters();
    let named: Vec<_> = counters.iter().filter(|(_, count)| *count > 0).collect();
    println!("{named:?}");
    assert!(counters.entries > 0 && counters.refused.total() > 0);
}

#[test]
fn random_bytes_are_walked_to_an_end() {
    let mut random = Random::new(84);
    for _ in 0..200_000 {
        let length = random.below(200);
        let mut message = random.bytes(length);
        match random.below(3) {
            0 => {}
            version => {
                fix_size(&mut message);
                if version == 2 && message.len() >= v1::HEADER_LEN {
                    message[0] = 0;
                    message[5..8].copy_from_slice(&[1, 0, 0]);
                }
            }
        }
        check(&message);
    }
}

#[test]
fn every_truncation_of_every_message_is_walked_to_an_end() {
    for message in originals() {
        for length in 0..message.len() {
            let mut message = message[..length].to_vec();
            let says = Header::read(&message).map(|header| usize::from(header.size));
            let opened = walk(&message, &WalkConfig::default());
            assert_eq!(opened.is_ok(), says == Some(length));
            fix_size(&mut message);
            check(&message);
        }
    }
}

/// All that can be read of a message is read, and stays within it.
fn check(message: &[u8]) {
    let config = WalkConfig::default();
    let Ok(Message::Entries(mut walk)) = walk(message, &config) else {
        return;
    };
    let mut walked = 0;
    for entry in &mut walk {
        walked += 1;
        let Ok(entry) = entry else { continue };
        let ignored: usize = entry.ignored.map(|(_, data)| data.len()).sum();
        let engine = entry.pe_data.map_or(0, <[u8]>::len);
        assert!(ignored + engine < message.len());
        assert_eq!(entry.conn().err(), entry.verdict.err());
    }
    assert!(walked <= ENTRIES_MAX);
    assert!(
        walk.trailing()
            .is_none_or(|bytes| bytes.len() <= message.len())
    );
}

fn damage(message: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        let at = random.below(message.len().max(1));
        match random.below(8) {
            0 => message.truncate(at),
            1 => message.insert(at, random.next() as u8),
            2 if at < message.len() => {
                message.remove(at);
            }
            3 => message.extend_from_within(at..),
            _ if at < message.len() => message[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
    message.truncate(4096);
    // A wrong size ends everything at once: most keep a right one.
    if !random.one_in(8) {
        fix_size(message);
    }
}

fn fix_size(message: &mut [u8]) {
    let size = (message.len() as u16).to_be_bytes();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&size);
    }
}

/// Everything that was recorded or injected.
fn originals() -> Vec<Vec<u8>> {
    let recorded = |folder: &str, key: &str| -> Vec<Vec<u8>> {
        let recordings = recordings(folder);
        let steps = recordings.iter().flat_map(|(_, json)| list(json, key));
        steps
            .filter(|step| step.get("hex").is_some())
            .map(|step| hex(text(step, "hex")))
            .collect()
    };
    [recorded("sync", "datagrams"), recorded("inject", "steps")].concat()
}

#[expect(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
