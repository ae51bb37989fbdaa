//! A real backup beside a model of one: the same datagrams, the same tables.
//!
//! Random messages of both versions, about few connections many times, reach the sync backup of a
//! real data plane through its socket, and the model of `syncproto`'s tests, which was written from
//! the rules alone, through a receiver of its own. After every burst the tables, the counters of
//! real servers and what was counted about the messages must be the same. Services and servers come
//! and go meanwhile.
//!
//! `TANDEM_ORACLE_ENTRIES` says how many accepted entries; `TANDEM_ORACLE_SEED` repeats a run.
//!
//! What the data plane does otherwise on purpose (see the README) is in [`mirror`], by name.

#![expect(clippy::unwrap_used, reason = "a test ends there")]
#![allow(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test ends there"
)]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../sync/host.rs"]
mod host;
mod mirror;
#[allow(dead_code, reason = "the tests of the protocol use the rest")]
#[path = "../../../syncproto/tests/common/model.rs"]
mod model;
mod node;
mod plan;
#[allow(
    dead_code,
    clippy::print_stdout,
    reason = "the tests of the protocol use the rest"
)]
#[path = "../../../syncproto/tests/common/random.rs"]
mod random;
mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mirror::{Mirror, UnlikeKernel};
use node::Node;
use syncproto::conn::{Ends, SyncConn};
use syncproto::receiver::Receiver;
use syncproto::wire::WalkConfig;
use traffic::{Step, Traffic};

/// Accepted entries of a run.
const ENTRIES: u64 = 210_000;
/// Of a round: each has namespaces, a data plane and tables of its own.
const ENTRIES_OF_A_ROUND: u64 = 105_000;
/// Connections whose end a round waits for, where so many are about to end.
const EXPIRED_OF_A_ROUND: u64 = 4;
/// How long it waits for the next of them: longer than the short timeouts of [`traffic`].
const NEXT_END_MAX: Duration = Duration::from_secs(8);
/// Between two looks at the clock.
const PAUSE: Duration = Duration::from_millis(20);
/// Rounds that may be given up because the machine stood still.
const STANDSTILLS_MAX: u64 = 5;

fn number(variable: &str) -> Option<u64> {
    Some(std::env::var(variable).ok()?.parse().unwrap())
}

#[test]
fn a_backup_makes_of_every_message_what_the_rules_make_of_it() {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("TANDEM_ORACLE_SEED").unwrap_or_else(|| now().as_nanos() as u64);
    let entries = number("TANDEM_ORACLE_ENTRIES").unwrap_or(ENTRIES);
    println!(
        "again with: TANDEM_ORACLE_SEED={seed} TANDEM_ORACLE_ENTRIES={entries} \
         cargo test --release -p ha-manager --test oracle"
    );
    let begun = Instant::now();
    let mut sum = Told::default();
    let mut round = 0;
    while sum.entries < entries {
        let wanted = (entries - sum.entries).min(ENTRIES_OF_A_ROUND);
        // Namespaces end with their thread.
        let told = thread::spawn(move || run(seed.wrapping_add(round), wanted));
        match told.join().unwrap_or_else(|panic| resume_unwind(panic)) {
            Ok(told) => sum.add(&told),
            Err(Ended::StoodStill(lag)) => {
                println!("round {round} given up: the machine stood still for {lag:?}");
                sum.standstills += 1;
                assert!(sum.standstills <= STANDSTILLS_MAX);
            }
            Err(Ended::Wrong(what)) => panic!("seed {seed}, round {round}: {what}"),
        }
        round += 1;
    }
    println!("{sum:?}\nin {:.1} s", begun.elapsed().as_secs_f64());
    if entries >= ENTRIES {
        sum.assert_all_happened();
    }
}

/// What a run was made of: that it did not miss its point.
#[derive(Clone, Debug, Default)]
struct Told {
    entries: u64,
    messages: u64,
    edits: u64,
    comparisons: u64,
    rows_most: usize,
    expired: u64,
    standstills: u64,
    lag_most: Duration,
    /// Wall clock of what takes long. Unit: microseconds.
    took_us: BTreeMap<&'static str, u128>,
    /// Service and server of every binding that was seen.
    bound: BTreeSet<(usize, usize)>,
    outcomes: BTreeMap<&'static str, u64>,
    /// Messages left out, by reason.
    left_out: BTreeMap<&'static str, u64>,
    /// Deliberate differences that were met.
    unlike_kernel: BTreeMap<UnlikeKernel, u64>,
}

impl Told {
    fn add(&mut self, other: &Told) {
        self.entries += other.entries;
        self.messages += other.messages;
        self.edits += other.edits;
        self.comparisons += other.comparisons;
        self.rows_most = self.rows_most.max(other.rows_most);
        self.expired += other.expired;
        self.bound.extend(&other.bound);
        self.lag_most = self.lag_most.max(other.lag_most);
        for (what, took) in &other.took_us {
            *self.took_us.entry(what).or_default() += took;
        }
        for (sum, part) in [
            (&mut self.outcomes, &other.outcomes),
            (&mut self.left_out, &other.left_out),
        ] {
            part.iter()
                .for_each(|(name, count)| *sum.entry(name).or_default() += count);
        }
        for (what, count) in &other.unlike_kernel {
            *self.unlike_kernel.entry(*what).or_default() += count;
        }
    }

    fn took(&mut self, what: &'static str, begun: Instant) {
        *self.took_us.entry(what).or_default() += begun.elapsed().as_micros();
    }

    fn assert_all_happened(&self) {
        for outcome in ["created", "updated", "replaced", "late"] {
            let often = self.outcomes.get(outcome).copied().unwrap_or_default();
            assert!(often > 1000, "{outcome}: {often}");
        }
        let servers: usize = plan::services().iter().map(|it| it.servers.len()).sum();
        // By chance a few may have none.
        assert!(
            self.bound.len() * 10 >= servers * 8,
            "servers with a connection: {:?} of {servers}",
            self.bound
        );
        assert!(self.edits > 100, "edits: {}", self.edits);
        assert!(self.expired > 2, "expired: {}", self.expired);
    }
}

enum Ended {
    /// Longer than timers allow.
    StoodStill(Duration),
    Wrong(String),
}

/// What was done, for the report of a failure.
enum Done {
    Message(Vec<u8>, Vec<SyncConn>),
    Edit(String),
}

fn run(seed: u64, entries: u64) -> Result<Told, Ended> {
    let mut node = Node::new();
    let mut mirror = Mirror::new(node.now_ms());
    let mut receiver = Receiver::new(node::config());
    let mut traffic = Traffic::new(seed);
    let mut told = Told::default();
    let mut done = Vec::new();
    while receiver.counters().entries < entries {
        let mut sent_ms = None;
        for step in traffic.burst() {
            match step {
                Step::Edit(edit) => {
                    let begun = Instant::now();
                    node.edit(&edit);
                    told.took("edits", begun);
                    mirror.edit(&edit);
                    done.push(Done::Edit(format!("{edit:?}")));
                    told.edits += 1;
                }
                Step::Message(bytes) => {
                    let conns = heard(&bytes);
                    let now_ms = node.now_ms();
                    sent_ms.get_or_insert(now_ms);
                    mirror.pass_to(now_ms);
                    if let Some(reason) = mirror.refuses(&conns) {
                        *told.left_out.entry(reason).or_default() += 1;
                        continue;
                    }
                    node.send(&bytes);
                    receiver.receive(&bytes, |conn| mirror.apply(&conn));
                    done.push(Done::Message(bytes, conns));
                    told.messages += 1;
                }
            }
        }
        let begun = Instant::now();
        let settled = node.settle(receiver.counters(), mirror.outcomes());
        told.took("settle", begun);
        let lag = Duration::from_millis(node.now_ms() - sent_ms.unwrap());
        told.lag_most = told.lag_most.max(lag);
        if settled.is_ok() && lag > mirror::STANDSTILL {
            return Err(Ended::StoodStill(lag));
        }
        look(&mut node, &mut mirror, settled, &mut told)
            .map_err(|(what, about)| Ended::Wrong(story(&what, about.as_ref(), &done)))?;
    }
    let settled = see_some_end(&mut node, &mut mirror, &receiver);
    look(&mut node, &mut mirror, settled, &mut told)
        .map_err(|(what, about)| Ended::Wrong(story(&what, about.as_ref(), &done)))?;
    told.entries = receiver.counters().entries;
    told.outcomes.clone_from(mirror.outcomes());
    told.expired = mirror.expired;
    told.bound.clone_from(&mirror.bound);
    told.unlike_kernel.clone_from(&mirror.unlike_kernel);
    Ok(told)
}

/// Compares the tables, and then what was counted: what is different in a table says more.
fn look(
    node: &mut Node,
    mirror: &mut Mirror,
    settled: Result<(), String>,
    told: &mut Told,
) -> Result<(), (String, Option<mirror::About>)> {
    let begun = Instant::now();
    let seen = node.look();
    told.took("look", begun);
    let begun = Instant::now();
    let same = mirror.compare(&seen, told.lag_most);
    let same = same.map_err(|wrong| (wrong.what, wrong.about));
    same.and(settled.map_err(|what| (what, None)))?;
    told.took("compare", begun);
    told.comparisons += 1;
    told.rows_most = told.rows_most.max(seen.entries.len());
    Ok(())
}

/// However fast the machine is, some connections have ended before the last comparison.
fn see_some_end(node: &mut Node, mirror: &mut Mirror, receiver: &Receiver) -> Result<(), String> {
    while mirror.expired < EXPIRED_OF_A_ROUND
        && mirror.next_end_within(NEXT_END_MAX.as_millis() as u64)
    {
        thread::sleep(PAUSE);
        mirror.pass_to(node.now_ms());
    }
    node.settle(receiver.counters(), mirror.outcomes())
}

/// What a message says to those who hear it.
fn heard(bytes: &[u8]) -> Vec<SyncConn> {
    let mut conns = Vec::new();
    Receiver::new(WalkConfig { ..node::config() }).receive(bytes, |conn| conns.push(conn));
    conns
}

/// What went wrong, and all that was done about the connection it went wrong with.
fn story(what: &str, about: Option<&mirror::About>, done: &[Done]) -> String {
    let mut text = format!("after {} steps: {what}\n", done.len());
    let first = done
        .len()
        .saturating_sub(if about.is_some() { 4000 } else { 12 });
    for step in &done[first..] {
        match (step, about) {
            (Done::Edit(edit), _) => writeln!(text, "edit {edit}").unwrap(),
            (Done::Message(bytes, conns), about) => {
                let meant: Vec<&SyncConn> = (conns.iter())
                    .filter(|conn| about.is_none_or(|about| about.is_of(conn)))
                    .collect();
                if !meant.is_empty() {
                    writeln!(text, "message {}", hex(bytes)).unwrap();
                    meant.iter().for_each(|conn| text.push_str(&line(conn)));
                }
            }
        }
    }
    text
}

fn line(conn: &SyncConn) -> String {
    let Ends { client, virt, dest } = Ends {
        client: conn.addresses.client(),
        virt: conn.addresses.virt(),
        dest: conn.addresses.dest(),
    };
    format!(
        "  {} {client} {virt} {dest} flags {:#x} state {} mark {} {} s{}{}\n",
        conn.protocol,
        conn.flags,
        conn.state,
        conn.fwmark,
        conn.timeout_secs,
        if conn.seq.is_some() { " seq" } else { "" },
        if conn.pe.is_some() { " pe" } else { "" },
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
