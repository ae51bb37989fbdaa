//! What the codec costs an entry: packed by a sender, and unpacked by a receiver.
//!
//! Each figure is the best of several rounds over a fixed number of plain IPv4 entries, in
//! messages of the default length, on one thread and without sockets. `cargo bench -p syncproto`.

#![allow(clippy::print_stdout, reason = "the figures are the program's output")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::hint::black_box;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use syncproto::buffer::SyncBuffer;
use syncproto::conn::{Addresses, Ends, SyncConn};
use syncproto::receiver::Receiver;
use syncproto::sender::{Sender, SenderConfig};
use syncproto::wire::{Version, WalkConfig};

const ENTRIES: u32 = 1 << 20;
const ROUNDS: u32 = 7;

fn main() {
    let conns: Vec<_> = (0..4096).map(conn).collect();
    for version in [Version::V0, Version::V1] {
        let config = SenderConfig {
            version,
            flush_age: Duration::from_millis(5),
            ..SenderConfig::default()
        };
        let mut sender = Sender::new(config);
        let (mut packed, mut unpacked) = (Duration::MAX, Duration::MAX);
        let mut kept = Vec::new();
        for _ in 0..ROUNDS {
            packed = packed.min(pack(&mut sender, &conns));
            kept = messages(&mut sender, &conns);
            unpacked = unpacked.min(unpack(&kept));
        }
        let count: u64 = kept.iter().map(|message| u64::from(message.count())).sum();
        println!("{version:?} pack:   {}", figure(packed, u64::from(ENTRIES)));
        println!("{version:?} unpack: {}", figure(unpacked, count));
    }
}

/// As a sender thread does it: what is due is taken after every batch of entries and given back.
fn pack(sender: &mut Sender, conns: &[SyncConn]) -> Duration {
    let start = Instant::now();
    let mut left = ENTRIES as usize;
    while left > 0 {
        let now = Instant::now();
        for conn in conns.iter().take(left.min(256)) {
            sender.push(black_box(conn), now);
        }
        left = left.saturating_sub(256);
        while let Some(message) = sender.poll_transmit(now) {
            black_box(message.message());
            sender.recycle(message);
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

/// Time for as many entries as the messages have, from many times that.
fn unpack(messages: &[SyncBuffer]) -> Duration {
    const REPEAT: u32 = 64;
    let mut receiver = Receiver::new(WalkConfig::default());
    let start = Instant::now();
    for _ in 0..REPEAT {
        for message in messages {
            receiver.receive(black_box(message.message()), |conn| {
                black_box(conn);
            });
        }
    }
    let took = start.elapsed();
    assert_eq!(receiver.counters().refused.total(), 0);
    took / REPEAT
}

fn figure(took: Duration, entries: u64) -> String {
    let nanos = took.as_nanos() as f64 / entries as f64;
    format!(
        "{nanos:6.1} ns an entry, {:5.1} M entries/s",
        1000.0 / nanos
    )
}

fn conn(index: u32) -> SyncConn {
    let end = |address: u32, port| SocketAddrV4::new(address.into(), port);
    SyncConn {
        protocol: 6,
        addresses: Addresses::V4(Ends {
            client: end(0x0a00_0000 | index, index as u16),
            virt: end(0xc000_020a, 80),
            dest: end(0xac10_0000 | index & 0xff, 8080),
        }),
        flags: 0x0100,
        state: 1,
        fwmark: 0,
        timeout_secs: 900,
        seq: None,
        pe: None,
    }
}
