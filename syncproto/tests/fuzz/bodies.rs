//! What the fuzz targets do with their bytes: `fuzz/` makes up new ones, `tests/corpus.rs` replays
//! those that were kept.
//!
//! The first byte of an input says how the receiver is set up, see [`Setup`]; the rest is a
//! message, or in [`apply`] several. A wrong size field ends everything at once, so most set-ups
//! put the right one in.
#![allow(dead_code, reason = "each target has one of the bodies")]
#![allow(clippy::unwrap_used, reason = "a target ends there")]

#[path = "../common/model.rs"]
mod model;
mod naive;

use std::net::SocketAddr;
use std::time::Instant;

use model::{Applied, Backup, Server, Service, ServiceKey};
use naive::Said;
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{SeqPair, SyncConn};
use syncproto::limits::ENTRIES_MAX;
use syncproto::receiver::Receiver;
use syncproto::refusal::{Consequence, Refusal};
use syncproto::sender::{Sender, SenderConfig};
use syncproto::wire::{Format, Header, Message, SeqOrder, Version, WalkConfig, walk};

pub(crate) type Body = fn(&[u8]);

/// Name and body of each target.
pub(crate) const TARGETS: [(&str, Body); 4] = [
    ("apply", apply),
    ("decode_v0", decode_v0),
    ("decode_v1", decode_v1),
    ("round_trip", round_trip),
];

/// Version 0: whatever is not a version 1 message.
pub(crate) fn decode_v0(input: &[u8]) {
    let Some((setup, mut message)) = setup(input) else {
        return;
    };
    if let [0, _, _, _, _, 1, 0, 0, ..] = message[..] {
        message[0] = 1;
    }
    decode(&setup.walk, &message);
}

/// Version 1: the header is made to say so.
pub(crate) fn decode_v1(input: &[u8]) {
    let Some((setup, mut message)) = setup(input) else {
        return;
    };
    if let [zero, _, _, _, _, version @ ..] = &mut message[..]
        && let Some(version) = version.first_chunk_mut::<3>()
    {
        *zero = 0;
        *version = [1, 0, 0];
    }
    decode(&setup.walk, &message);
}

/// What is accepted comes back when it is sent again, in order and unchanged.
pub(crate) fn round_trip(input: &[u8]) {
    let Some((setup, message)) = setup(input) else {
        return;
    };
    let Some(Header {
        sync_id, format, ..
    }) = Header::read(&message)
    else {
        return;
    };
    let version = match format {
        Format::V0 { .. } => Version::V0,
        Format::V1 { .. } => Version::V1,
        Format::Foreign { .. } => return,
    };
    let mut accepted = Vec::new();
    Receiver::new(setup.walk).receive(&message, |conn| accepted.push(conn));
    let layout = Layout {
        version,
        sync_id,
        seq_order: setup.walk.seq_order,
        // What one message said fits one, less what was refused.
        maxlen: message.len(),
    };
    let mut buffer = SyncBuffer::new(layout);
    // Small ones, so that there are several.
    let mut sender = Sender::new(SenderConfig {
        version,
        sync_id,
        maxlen: 200,
        seq_order: layout.seq_order,
        ..SenderConfig::default()
    });
    for conn in &mut accepted {
        assert_eq!(buffer.push(conn, now()), Packed::Stored);
        sender.push(conn, now());
        // The one flag that is never sent.
        conn.flags &= !0x40;
    }
    let mut receiver = Receiver::new(setup.walk);
    let mut heard = Vec::new();
    if !accepted.is_empty() {
        assert!(buffer.message().len() <= message.len());
        receiver.receive(buffer.message(), |conn| heard.push(conn));
        assert_eq!(heard, accepted, "in one message");
    }
    sender.flush();
    heard.clear();
    while let Some(part) = sender.poll_transmit(now()) {
        assert!(part.message().len() <= 200 || part.count() == 1);
        receiver.receive(part.message(), |conn| heard.push(conn));
    }
    assert_eq!(heard, accepted, "in several messages");
    assert_eq!(receiver.counters().refused.total(), 0);
    assert_eq!(receiver.counters().trailing_bytes, 0);
}

/// Messages one after the other into a backup, each as long as its size field says; before each a
/// byte of time that passes, in units of four seconds.
pub(crate) fn apply(input: &[u8]) {
    let Some((&first, mut rest)) = input.split_first() else {
        return;
    };
    let setup = Setup::of(first);
    let mut backup = Backup {
        services: if first & 0x20 != 0 {
            services()
        } else {
            Vec::new()
        },
        ..Backup::default()
    };
    let mut receiver = Receiver::new(setup.walk);
    let (mut accepted, mut made, mut gone) = (0, 0, 0);
    while let Some((&wait, bytes)) = rest.split_first() {
        backup.advance(u64::from(wait) * 4000);
        let said = Header::read(bytes).map_or(0, |header| usize::from(header.size));
        let (message, following) =
            bytes.split_at(said.clamp(1, bytes.len().max(1)).min(bytes.len()));
        rest = following;
        let read = naive::read(message, &setup.walk);
        let mut expected = read.entries.iter().flatten();
        receiver.receive(message, |conn| {
            assert_eq!(Some(&said_by(&conn)), expected.next());
            accepted += 1;
            let before = backup.rows.len();
            let key = model::key_of(&conn);
            let applied = backup.apply(&conn);
            match applied {
                Applied::Created => {
                    made += 1;
                    assert_eq!(backup.rows.len(), before + 1);
                }
                Applied::Replaced => (made, gone) = (made + 1, gone + 1),
                Applied::Updated | Applied::Late => assert_eq!(backup.rows.len(), before),
            }
            if let (Applied::Created | Applied::Replaced, Some(row)) =
                (applied, backup.rows.get(&key))
            {
                assert_eq!(row.dest, conn.addresses.dest());
            }
            backup.check();
        });
        assert_eq!(expected.next(), None);
        assert!(backup.rows.len() <= made - gone, "rows that nobody made");
    }
    assert_eq!(receiver.counters().entries, accepted);
}

/// How a receiver is set up by the first byte of an input.
struct Setup {
    walk: WalkConfig,
    /// Whether a right size field is put in.
    sized: bool,
}

impl Setup {
    fn of(byte: u8) -> Setup {
        let set = |bit: u8| byte & bit != 0;
        Setup {
            walk: WalkConfig {
                sync_id: if set(0x02) { 5 } else { 0 },
                seq_order: if set(0x04) {
                    SeqOrder::Big
                } else {
                    SeqOrder::Little
                },
                ipv6: !set(0x08),
                engines: if set(0x10) { &[] } else { &["sip"] },
            },
            sized: !set(0x01),
        }
    }
}

fn setup(input: &[u8]) -> Option<(Setup, Vec<u8>)> {
    let (&first, message) = input.split_first()?;
    let setup = Setup::of(first);
    let mut message = message.to_vec();
    message.truncate(65_507);
    if let (true, true) = (setup.sized, message.len() >= 4) {
        let size = (message.len() as u16).to_be_bytes();
        message[2..4].copy_from_slice(&size);
    }
    Some((setup, message))
}

/// The codec says what the second reading says; and keeps within the message.
fn decode(config: &WalkConfig, message: &[u8]) {
    let expected = naive::read(message, config);
    let opened = walk(message, config);
    let refused = opened.as_ref().err().map(|refusal| refusal.name());
    assert_eq!(refused, expected.refused);
    let mut receiver = Receiver::new(*config);
    let mut heard = Vec::new();
    receiver.receive(message, |conn| heard.push(conn));
    let counters = receiver.counters();
    let mut walk = match opened {
        Err(refusal) => {
            assert_eq!(refusal.consequence(), Consequence::Message);
            assert_eq!((counters.messages, counters.refused.total()), (0, 1));
            return;
        }
        Ok(Message::Foreign(whole)) => {
            assert_eq!(whole, message);
            assert_eq!(message.first(), Some(&0));
            assert!(expected.entries.is_empty() && heard.is_empty());
            assert_eq!(
                (counters.foreign_messages, counters.refused.total()),
                (1, 0)
            );
            return;
        }
        Ok(Message::Entries(walk)) => walk,
    };
    assert_eq!(walk.trailing().is_some(), expected.entries.is_empty());
    let mut read = Vec::new();
    let mut stopped = false;
    for entry in &mut walk {
        assert!(!stopped, "an entry after a stop");
        let conn = match entry {
            Ok(entry) => {
                for (kind, data) in entry.ignored {
                    assert!(kind & 0x40 != 0 && !data.is_empty());
                }
                let conn = entry.conn();
                assert_eq!(conn.as_ref().err(), entry.verdict.as_ref().err());
                conn
            }
            Err(refusal) => {
                stopped = true;
                assert_eq!(refusal.consequence(), Consequence::Stop);
                Err(refusal)
            }
        };
        read.push(conn);
    }
    assert!(read.len() <= ENTRIES_MAX);
    assert_eq!(walk.trailing().is_none(), stopped);
    let names = |refusal: &Refusal| refusal.name();
    let said: Vec<_> = read
        .iter()
        .map(|conn| conn.as_ref().map(said_by).map_err(names))
        .collect();
    assert_eq!(said, expected.entries);
    let accepted: Vec<_> = read.into_iter().flatten().collect();
    assert_eq!(heard, accepted, "the receiver and the walk");
    let refused = expected.entries.iter().filter(|entry| entry.is_err());
    assert_eq!(counters.refused.total(), refused.count() as u64);
    assert_eq!(counters.entries, accepted.len() as u64);
    assert!(counters.trailing_bytes <= message.len() as u64);
}

fn said_by(conn: &SyncConn) -> Said {
    let words = |pair: SeqPair| {
        let [input, output] = [pair.input, pair.output].map(|record| {
            let [delta, previous] = [record.delta, record.previous_delta].map(|d| d as u32);
            [record.init_seq, delta, previous]
        });
        [
            input[0], input[1], input[2], output[0], output[1], output[2],
        ]
    };
    Said {
        protocol: conn.protocol,
        ends: [
            conn.addresses.client(),
            conn.addresses.virt(),
            conn.addresses.dest(),
        ],
        flags: conn.flags,
        state: conn.state,
        fwmark: conn.fwmark,
        timeout_secs: conn.timeout_secs,
        seq: conn.seq.map(words),
        pe: conn
            .pe
            .as_ref()
            .map(|pe| (pe.name().to_vec(), pe.data().to_vec())),
    }
}

/// What the recordings were made with, and more of every kind.
fn services() -> Vec<Service> {
    let address = |protocol, addr: &str| ServiceKey::Address {
        protocol,
        addr: addr.parse().unwrap(),
    };
    let mark = |mark, ipv6| ServiceKey::Mark { mark, ipv6 };
    let service = |key, servers: &[(&str, u32)]| Service {
        key,
        servers: servers
            .iter()
            .map(|(addr, method)| server(addr, *method))
            .collect(),
    };
    vec![
        service(
            address(6, "10.50.0.1:80"),
            &[("10.200.0.12:80", 3), ("10.200.0.11:80", 0)],
        ),
        service(address(17, "10.50.0.1:0"), &[("10.200.0.11:0", 2)]),
        service(address(6, "10.50.0.1:21"), &[("10.200.0.11:21", 0)]),
        service(
            mark(7, false),
            &[("10.200.0.11:0", 0), ("10.200.0.12:0", 3)],
        ),
        service(
            address(6, "[fd00:50::1]:80"),
            &[("[fd00:200::11]:80", 0), ("[fd00:200::12]:80", 1)],
        ),
        service(mark(7, true), &[("[fd00:200::11]:0", 2)]),
    ]
}

fn server(addr: &str, method: u32) -> Server {
    Server {
        addr: addr.parse::<SocketAddr>().unwrap(),
        method,
        active: 0,
        total: 0,
        persistent: 0,
    }
}

#[allow(clippy::disallowed_methods, reason = "some time to begin with")]
fn now() -> Instant {
    Instant::now()
}
