//! Two directors that tell each other their connections over a link that loses, delays, duplicates
//! and reorders, on a clock of our own: thousands of short lives, each from a seed.
//!
//! ```text
//!   packets -> decide -> Sender per port -> link -> Receiver per port -> table of the backup
//!      node 0 ------------------------------------------------------> node 1
//!      node 0 <------------------------------------------------------ node 1
//! ```
//!
//! What decides, packs and unpacks is the real code; the table is the model that recordings of a
//! kernel were held against (`syncproto/tests/common/model.rs`).
#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(
    clippy::print_stdout,
    reason = "says what was simulated, and how to have it again"
)]

#[path = "../../../syncproto/tests/common/model.rs"]
mod model;
#[path = "../../../syncproto/tests/common/random.rs"]
#[allow(dead_code, reason = "its connections are for the codec")]
mod random;

mod link;
mod node;
mod traffic;
mod verdict;

use std::time::Duration;

use link::{Faults, Link};
use node::{Node, NodeConfig};
use random::Random;
use verdict::{Kept, Promises};

/// Seeds of a kind of scenario.
const SEEDS: u64 = 400;

/// What a scenario does beside traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plot {
    /// Node 0 tells, node 1 hears.
    OneWay,
    /// In the middle node 0 goes, and node 1 takes over what it heard of.
    HandOver,
    /// As that, but node 0 throws away what it has not sent, and node 1 does not wait.
    TakeOver,
    /// Both tell and both hear, under different sync ids.
    BothAtOnce,
}

#[test]
fn a_link_without_faults_makes_the_backup_equal_to_what_was_offered() {
    for (first, plot) in [
        (0, Plot::OneWay),
        (10_000, Plot::HandOver),
        (20_000, Plot::BothAtOnce),
    ] {
        let mut kept = Kept::default();
        each_seed(first, SEEDS, |random| {
            kept.add(&live(
                random,
                plot,
                Faults::NONE,
                Promises {
                    complete: true,
                    in_order: true,
                },
            ));
        });
        println!("{plot:?} without faults: {kept}");
        assert!(
            kept.connections > 1000 && kept.heard == kept.connections,
            "{kept}"
        );
    }
}

#[test]
fn losses_leave_what_was_offered_and_their_computed_share() {
    for (first, loss) in [(30_000, 0.01), (40_000, 0.05), (50_000, 0.3)] {
        let mut kept = Kept::default();
        let faults = Faults {
            loss,
            ..Faults::NONE
        };
        each_seed(first, SEEDS, |random| {
            kept.add(&live(
                random,
                Plot::OneWay,
                faults,
                Promises {
                    complete: false,
                    in_order: true,
                },
            ));
        });
        println!("loss {:4.1} %: {kept}", loss * 100.0);
        kept.check_against_expectation();
    }
}

#[test]
fn duplicates_and_reordering_make_nothing_up() {
    let faults = Faults {
        duplicate: 0.1,
        jitter_ms: 120,
        ..Faults::NONE
    };
    for (first, plot) in [(60_000, Plot::OneWay), (70_000, Plot::BothAtOnce)] {
        let mut kept = Kept::default();
        each_seed(first, SEEDS, |random| {
            kept.add(&live(
                random,
                plot,
                faults,
                Promises {
                    complete: false,
                    in_order: false,
                },
            ));
        });
        println!("{plot:?} with duplicates and reordering: {kept}");
        assert!(kept.heard == kept.connections, "nothing was lost: {kept}");
    }
}

#[test]
fn everything_at_once_adds_up() {
    let faults = Faults {
        loss: 0.1,
        duplicate: 0.1,
        jitter_ms: 300,
    };
    for (first, plot) in [(80_000, Plot::TakeOver), (90_000, Plot::BothAtOnce)] {
        let mut kept = Kept::default();
        each_seed(first, SEEDS, |random| {
            kept.add(&live(
                random,
                plot,
                faults,
                Promises {
                    complete: false,
                    in_order: false,
                },
            ));
        });
        println!("{plot:?} with every fault: {kept}");
        assert!(kept.connections > 1000);
    }
}

/// Runs a scenario for each seed; `SYNC_SIMULATION_SEED` runs its seed alone.
fn each_seed(first: u64, count: u64, mut scenario: impl FnMut(&mut Random)) {
    let only = std::env::var("SYNC_SIMULATION_SEED");
    let only: Option<u64> = only.ok().map(|seed| seed.parse().unwrap());
    for seed in first..first + count {
        if only.is_some_and(|only| only != seed) {
            continue;
        }
        let _replay = Replay(seed);
        scenario(&mut Random::seeded(seed));
    }
}

/// Says how to have a failure again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "again with: SYNC_SIMULATION_SEED={} cargo test --release -p tests --test sync_simulation",
                self.0
            );
        }
    }
}

/// A life of two directors, and what became of the connections they offered.
fn live(random: &mut Random, plot: Plot, faults: Faults, promises: Promises) -> Kept {
    let config = NodeConfig::random(random, faults);
    let mut nodes = [0, 1].map(|index| {
        let sync_id = if plot == Plot::BothAtOnce {
            1 + index
        } else {
            0
        };
        Node::new(config, sync_id)
    });
    let hears = if plot == Plot::BothAtOnce {
        [2, 1]
    } else {
        [0, 0]
    };
    nodes[0].start_master(random);
    nodes[1].start_backup(hears[1]);
    if plot == Plot::BothAtOnce {
        nodes[1].start_master(random);
        nodes[0].start_backup(hears[0]);
    }
    let mut link = Link::new(faults);
    let steps = 200 + random.below(200);
    let change_at = steps / 2;
    for step in 0..steps {
        if step == change_at && matches!(plot, Plot::HandOver | Plot::TakeOver) {
            if plot == Plot::HandOver {
                nodes[0].flush(&mut link, random);
                drain(&mut nodes, &mut link, random);
            } else {
                nodes[0].discard();
            }
            nodes[0].stop_master();
            nodes[1].stop_backup();
            nodes[1].take_over();
            nodes[0].start_backup(hears[0]);
        }
        for node in &mut nodes {
            node.traffic(random);
        }
        if random.one_in(60) {
            let version = node::any_version(random);
            nodes.iter_mut().for_each(|node| node.set_version(version));
        }
        let ms = random.below(config.pace_ms) as u64;
        advance(&mut nodes, &mut link, ms, random);
    }
    // The traffic stops: after the flush age everything has been sent, and then it arrives.
    advance(
        &mut nodes,
        &mut link,
        config.flush_age.as_millis() as u64,
        random,
    );
    for node in &mut nodes {
        assert_eq!(node.pending(), 0, "left in a buffer after the flush age");
    }
    drain(&mut nodes, &mut link, random);
    nodes.iter_mut().for_each(Node::check);
    verdict::check_counters(&nodes, &link);
    let [a, b] = &nodes;
    let mut kept = verdict::check_tables(a, b, &link, 0, promises);
    kept.add(&verdict::check_tables(b, a, &link, 1, promises));
    kept
}

/// Lets time pass for everybody.
fn advance(nodes: &mut [Node; 2], link: &mut Link, ms: u64, random: &mut Random) {
    for (index, node) in nodes.iter_mut().enumerate() {
        node.advance(ms);
        node.transmit(index, link, random);
    }
    link.now_ms += ms;
    while let Some(datagram) = link.next_due() {
        nodes[1 - datagram.from].hear(&datagram, link);
    }
}

/// Lets everything on the link arrive.
fn drain(nodes: &mut [Node; 2], link: &mut Link, random: &mut Random) {
    while let Some(due_ms) = link.last_due_ms() {
        let ms = due_ms.saturating_sub(link.now_ms).max(1);
        advance(nodes, link, ms, random);
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
