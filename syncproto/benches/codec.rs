//! What the codec costs an entry: packed by a sender, and unpacked by a receiver.
//!
//! One line per kind of entry: version, family, with and without the rare parts. Each figure is the
//! best of several rounds over a fixed number of entries, in messages of the default length, on one
//! thread and without sockets. Beside each the time that copying the very same bytes takes, message
//! by message, in the same run: machines differ, the ratio does not much.
//! `cargo bench -p syncproto --bench codec`.

#![allow(clippy::print_stdout, reason = "the figures are the program's output")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::net::{SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use syncproto::buffer::SyncBuffer;
use syncproto::conn::{Addresses, Ends, Pe, SeqPair, SyncConn};
use syncproto::limits::DEFAULT_PAYLOAD_IPV4;
use syncproto::receiver::Receiver;
use syncproto::sender::{Sender, SenderConfig};
use syncproto::wire::{Version, WalkConfig};

/// Entries of a round. Less than 4 MB of messages, so that the reference copies from a cache too.
const ENTRIES: u32 = 1 << 15;
/// Times all of them are packed, and unpacked, in a round.
const REPEAT: u32 = 16;
const ROUNDS: u32 = 9;
/// Entries between two looks at what is due, as a sender thread does it.
const BATCH: usize = 256;

/// Of a kind of entry: its name, version, family, whether with sequence records, with engine data.
const KINDS: [(&str, Version, bool, bool, bool); 8] = [
    ("v0 IPv4", Version::V0, false, false, false),
    ("v0 IPv4 seq", Version::V0, false, true, false),
    ("v1 IPv4", Version::V1, false, false, false),
    ("v1 IPv4 seq", Version::V1, false, true, false),
    ("v1 IPv4 PE", Version::V1, false, false, true),
    ("v1 IPv4 seq PE", Version::V1, false, true, true),
    ("v1 IPv6", Version::V1, true, false, false),
    ("v1 IPv6 seq PE", Version::V1, true, true, true),
];

fn main() {
    println!(
        "{:16} {:>11} {:>9} {:>11} {:>9} {:>11} {:>7}",
        "per entry", "pack", "M/s", "unpack", "M/s", "copy", "bytes"
    );
    for (name, version, ipv6, seq, pe) in KINDS {
        let conns: Vec<_> = (0..ENTRIES)
            .map(|index| conn(index, ipv6, seq, pe))
            .collect();
        let mut sender = Sender::new(SenderConfig {
            version,
            flush_age: Duration::from_millis(5),
            queue_max: usize::MAX,
            ..SenderConfig::default()
        });
        let messages = messages(&mut sender, &conns);
        let bytes: usize = messages.iter().map(|message| message.message().len()).sum();
        let [mut packed, mut unpacked, mut copied] = [Duration::MAX; 3];
        for _ in 0..ROUNDS {
            packed = packed.min(pack(&mut sender, &conns));
            unpacked = unpacked.min(unpack(&messages));
            copied = copied.min(copy(&messages));
        }
        let [packed, unpacked, copied] = [packed, unpacked, copied].map(nanos);
        println!(
            "{name:16} {packed:8.1} ns {:9.1} {unpacked:8.1} ns {:9.1} {copied:8.1} ns {:7.1}",
            1000.0 / packed,
            1000.0 / unpacked,
            bytes as f64 / f64::from(ENTRIES),
        );
    }
}

/// What is due is taken after every batch of entries and given back.
fn pack(sender: &mut Sender, conns: &[SyncConn]) -> Duration {
    let start = Instant::now();
    for _ in 0..REPEAT {
        for batch in conns.chunks(BATCH) {
            let now = Instant::now();
            for conn in batch {
                sender.push(black_box(conn), now);
            }
            while let Some(message) = sender.poll_transmit(now) {
                black_box(message.message());
                sender.recycle(message);
            }
        }
    }
    start.elapsed()
}

fn messages(sender: &mut Sender, conns: &[SyncConn]) -> Vec<SyncBuffer> {
    let now = Instant::now();
    for conn in conns {
        sender.push(conn, now);
    }
    sender.flush();
    std::iter::from_fn(|| sender.poll_transmit(now)).collect()
}

fn unpack(messages: &[SyncBuffer]) -> Duration {
    let mut receiver = Receiver::new(WalkConfig::default());
    let start = Instant::now();
    for _ in 0..REPEAT {
        for message in messages {
            receiver.receive(black_box(message.message()), |conn| {
                black_box(&conn);
            });
        }
    }
    let took = start.elapsed();
    assert_eq!(receiver.counters().refused.total(), 0);
    assert_eq!(receiver.counters().entries, u64::from(ENTRIES * REPEAT));
    took
}

/// The reference: the bytes alone.
fn copy(messages: &[SyncBuffer]) -> Duration {
    let mut to = [0u8; DEFAULT_PAYLOAD_IPV4];
    let start = Instant::now();
    for _ in 0..REPEAT {
        for message in messages {
            let from = black_box(message.message());
            if let Some(to) = to.get_mut(..from.len()) {
                to.copy_from_slice(from);
            }
            black_box(&mut to);
        }
    }
    start.elapsed()
}

fn nanos(took: Duration) -> f64 {
    took.as_nanos() as f64 / f64::from(ENTRIES * REPEAT)
}

fn conn(index: u32, ipv6: bool, seq: bool, pe: bool) -> SyncConn {
    let end = |address: u32, port| SocketAddrV4::new(address.into(), port);
    let ends = Ends {
        client: end(0x0a00_0000 | index, index as u16),
        virt: end(0xc000_020a, 80),
        dest: end(0xac10_0000 | index & 0xff, 8080),
    };
    let wide = |end: SocketAddrV4| SocketAddrV6::new(end.ip().to_ipv6_mapped(), end.port(), 0, 0);
    let call_id = format!("a84b4c76e6{index:06}@pc.example.org");
    SyncConn {
        protocol: if pe { 17 } else { 6 },
        addresses: if ipv6 {
            Addresses::V6(Ends {
                client: wide(ends.client),
                virt: wide(ends.virt),
                dest: wide(ends.dest),
            })
        } else {
            Addresses::V4(ends)
        },
        flags: if pe { 0x1100 } else { 0x0100 } | if seq { 0x0600 } else { 0 },
        state: 1,
        fwmark: 0,
        timeout_secs: 900,
        seq: seq.then(SeqPair::default),
        pe: pe
            .then(|| Pe::new(b"sip", call_id.as_bytes()).map(Box::new))
            .flatten(),
    }
}
