//! Two processors send packets of the same flows from both ends, in both families, while a third
//! hand edits services, applies entries and templates, expires them and flushes. After each batch,
//! when all is quiet, every counter equals a recount.
//!
//! `TANDEM_HAMMER_PACKETS` (per generator) and `TANDEM_HAMMER_SEED` change a run; the seed is
//! printed.

#![allow(clippy::print_stdout, reason = "figures of a run")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "modules of one test program")]

#[path = "../lab/mod.rs"]
mod lab;
mod meddle;
mod setup;
mod traffic;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dataplane::common::entry::ConnWord;
use dataplane::common::rules::transition::is_expired;
use dataplane::{DataPlane, TableSizes, timer_ns};
use lab::Lab;
use lab::recount::{overload_agrees, recount, taken};
use meddle::Hand;

/// Packets of each generator between two recounts.
const BATCH: u64 = 100_000;
/// How far an entry may be past its timer while the walk has other things to do, in nanoseconds.
const OVERDUE_NS: u64 = 3_000_000_000;

#[test]
fn counters_equal_a_recount_after_packets_edits_applied_entries_and_expiry_at_once() {
    let packets: u64 = setting("TANDEM_HAMMER_PACKETS").unwrap_or(600_000);
    let seed = setting("TANDEM_HAMMER_SEED").unwrap_or_else(|| timer_ns() | 1);
    println!("hammer: seed {seed}, {packets} packets from each of two generators");
    let lab = Lab::new();
    let mut options = lab.options(&["lo"]);
    options.sizes = TableSizes {
        services: 32,
        servers: 256,
        ..options.sizes
    };
    let mut plane = DataPlane::open(&options).expect("the data plane opens");
    setup::set_up(&mut plane);
    let offers = plane.offers().expect("the ring of offers");
    let mut hand = Hand {
        plane: &mut plane,
        random: Random::new(seed.rotate_left(17)),
        done: meddle::Done::default(),
        offers,
    };
    let sent = AtomicU64::new(0);
    let (mut left, mut batches) = (packets, 0);
    while left > 0 || (batches < 60 && !hand.done.is_enough()) {
        let packets = left.clamp(BATCH / 2, BATCH);
        left = left.saturating_sub(packets);
        batch(&mut hand, packets, seed.wrapping_add(batches), &sent);
        batches += 1;
        quiet(hand.plane, batches);
    }
    let done = hand.done;
    println!(
        "hammer: {} packets in {batches} batches, {done:?}",
        sent.load(Ordering::SeqCst)
    );
    assert!(done.is_enough(), "{done:?}");
    everything_expires(&mut plane);
    let counters = plane.counters();
    let moved: Vec<_> = counters.iter().filter(|(_, count)| *count > 0).collect();
    println!("hammer: {moved:?}");
    let counter = |name: &str| {
        let known = counters.iter().find(|(known, _)| *known == name);
        known.expect("a counter of that name").1
    };
    assert_eq!(counter("drop_internal"), 0);
    assert_eq!(counter("drop_failed"), 0);
    for name in [
        "template_created",
        "template_invalidated",
        "expiry_postponed",
        "conn_reused",
        "drop_server_gone",
        "drop_reply_collision",
    ] {
        assert!(counter(name) > 0, "the run must move {name}");
    }
    assert!(counter("conn_created") > 1000);
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// Generators and the meddling hand at once.
fn batch(hand: &mut Hand<'_>, packets: u64, seed: u64, sent: &AtomicU64) {
    let until = sent.load(Ordering::SeqCst) + 2 * packets;
    std::thread::scope(|scope| {
        for processor in 0..2 {
            let runner = hand.plane.runner().expect("a descriptor");
            scope.spawn(move || traffic::generate(&runner, processor, packets, seed, sent));
        }
        hand.meddle(sent, until);
    });
}

/// What must hold when nobody is at the tables.
fn quiet(plane: &mut DataPlane, batch: u64) {
    let found = recount(plane);
    println!("hammer: batch {batch}: {found:?}");
    overload_agrees(plane);
    let now_ns = timer_ns();
    for ipv6 in [false, true] {
        for one in taken(plane, ipv6) {
            assert!(
                !one.word.is(ConnWord::INIT | ConnWord::GONE),
                "{one:?} was left half made"
            );
        }
        let entries = taken(plane, ipv6);
        let overdue = entries.iter().filter(|one| {
            one.word.controls() == 0
                && !one.word.is(ConnWord::DEAD)
                && is_expired(one.deadline_ns + OVERDUE_NS, now_ns)
        });
        assert_eq!(overdue.count(), 0, "entries far past their timers");
    }
}

/// Some time after the last packet the walk leaves nothing behind: connections end, and a minute
/// later at most the templates that were postponed. They are given up at once here.
fn everything_expires(plane: &mut DataPlane) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        plane.expire_step(256);
        let connections = |ipv6| {
            let entries = taken(plane, ipv6).into_iter();
            entries.filter(|one| !one.template).count()
        };
        if connections(false) + connections(true) == 0 {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{:?} left",
            plane.connection_count()
        );
    }
    recount(plane);
    lab::recount::expire_all(plane);
    let found = recount(plane);
    assert_eq!((found.taken, found.keys), (0, 0));
    assert!(plane.server_conns().iter().all(|conns| *conns == 0));
    assert!(plane.server_persistent().iter().all(|count| *count == 0));
}

/// xorshift64*, so that a printed seed repeats the choices.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
