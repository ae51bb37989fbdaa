//! What a backup takes in: entries for each second of a processor, and what is lost at a steady rate.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::entries::Target;
use super::feed::{Fed, Feed, thread_time};
use super::{BACKUP, MASTER, per_second};
use crate::drill::Drill;

/// Entries of a steady rate that must not be lost.
const STEADY_RATE: u64 = 200_000;
const STEADY_SECS: u64 = 3;
/// Connections that are looked at first, which no other part has: as many as the caches of a
/// processor hold.
const FIRST_FEW: u32 = 6_000_000;
const FEW: u32 = 65_536;
/// Times that each of them is said again: as many entries as of the large table.
const FEW_TIMES: usize = 16;
/// Memory that no cache holds, about what a table of a million connections takes. Unit: words.
const MEMORY_WORDS: usize = 64 << 20;
const ACCESSES: u32 = 2_000_000;

/// How long it takes to read a word somewhere in a memory of the size of a large table, when where
/// is not known before the word before has been read: what every step through such a table costs at
/// least.
fn random_access_ns() -> f64 {
    let mask = MEMORY_WORDS - 1;
    let memory: Vec<u32> = (0..MEMORY_WORDS)
        .map(|at| u32::try_from(at.wrapping_mul(0x9E37_79B9) >> 7 & mask).unwrap_or(0))
        .collect();
    let begun = thread_time();
    let mut at = 0u64;
    for step in 0..ACCESSES {
        let index = usize::try_from(at).unwrap_or(0) & mask;
        let word = memory.get(index).copied().unwrap_or(0);
        at = (u64::from(word) ^ u64::from(step)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    }
    std::hint::black_box(at);
    let took = thread_time().saturating_sub(begun);
    took.as_secs_f64() * 1e9 / f64::from(ACCESSES)
}

impl Drill<'_> {
    /// New connections, and the same again in order and in any order: `receive.new.*`,
    /// `receive.known.*`, `receive.shuffled.*`; and again and again the same few:
    /// `receive.few_known.*`.
    pub(crate) fn receive_rates(&mut self, entries: u32) -> Result<()> {
        let servers = self.rate_servers();
        let target = Target {
            service: self.rate_service(),
            servers: &servers,
        };
        let datagrams = target.datagrams(0, entries);
        self.report
            .figure("reference.random_access_ns", random_access_ns());
        let idle = self.idle_cpu()?;
        self.report
            .figure("reference.idle_cpu_share", idle.as_secs_f64());
        let few = target.datagrams(FIRST_FEW, FEW);
        self.feed((MASTER, BACKUP), &few, Feed::Window)?;
        let few = std::iter::repeat_n(few, FEW_TIMES).flatten().collect();
        let shuffled = target.shuffled(entries);
        for (name, counter, datagrams) in [
            ("few_known", "applied_known", &few),
            ("new", "applied_new", &datagrams),
            ("known", "applied_known", &datagrams),
            ("shuffled", "applied_known", &shuffled),
        ] {
            let fed = self.feed((MASTER, BACKUP), datagrams, Feed::Window)?;
            self.note_receiving(name, counter, &fed, idle);
        }
        Ok(())
    }

    /// Processor time of the backup's daemon in a second without entries.
    fn idle_cpu(&mut self) -> Result<Duration> {
        use super::cpu::ThreadTimes;
        let pid = self.director(BACKUP)?.pid()?;
        let before = ThreadTimes::of(pid)?;
        crate::wait::pass_time_until(Instant::now() + Duration::from_secs(1))?;
        Ok(ThreadTimes::of(pid)?.since(&before).total())
    }

    /// What the daemon does in any case, the walk over its table above all, is not counted: `idle` is
    /// that in a second.
    fn note_receiving(&mut self, name: &str, counter: &str, fed: &Fed, idle: Duration) {
        let (receiving, owning) = fed.backup_cpu();
        let owning = owning.saturating_sub(idle.mul_f64(fed.took.as_secs_f64()));
        let (entries, applied) = (fed.entries, fed.count(counter));
        let figures = [
            ("per_core", per_second(applied, receiving + owning)),
            ("per_s", per_second(applied, fed.took)),
            ("thread_per_core", per_second(applied, receiving)),
            ("owner_per_core", per_second(applied, owning)),
            ("send_per_core", per_second(entries, fed.sender_cpu)),
        ];
        for (what, value) in figures {
            self.report.figure(format!("receive.{name}.{what}"), value);
        }
        self.count_figure(format!("receive.{name}.entries"), entries);
        self.count_figure(
            format!("receive.{name}.lost"),
            entries.saturating_sub(applied),
        );
        self.event(format!(
            "{entries} {name} entries: {applied} applied in {:.2} s; processor: {:.2} s receiving, {:.2} s \
             applying{}",
            fed.took.as_secs_f64(),
            receiving.as_secs_f64(),
            owning.as_secs_f64(),
            fed.losses()
        ));
    }

    /// A steady rate of new connections from `first` on: `NAME.lost`, and how many connections more
    /// were used.
    pub(crate) fn steady_loss(&mut self, name: &str, first: u32) -> Result<u32> {
        let servers = self.rate_servers();
        let target = Target {
            service: self.rate_service(),
            servers: &servers,
        };
        let entries = u32::try_from(STEADY_RATE * STEADY_SECS)?;
        let datagrams = target.datagrams(first, entries);
        let feed = Feed::Steady(STEADY_RATE);
        let fed = self.feed((MASTER, BACKUP), &datagrams, feed)?;
        let applied = fed.count("applied_new");
        let lost = u64::from(entries).saturating_sub(applied);
        self.count_figure(format!("{name}.lost"), lost);
        self.count_figure(format!("{name}.socket_drops"), fed.socket_drops());
        self.report
            .figure(format!("{name}.rate"), per_second(applied, fed.took));
        let (receiving, owning) = fed.backup_cpu();
        let share = (receiving + owning).as_secs_f64() / fed.took.as_secs_f64();
        self.report.figure(format!("{name}.cpu_share"), share);
        self.event(format!(
            "{name}: {entries} entries at {STEADY_RATE} a second: {lost} lost; {:.0} % of a processor{}",
            share * 100.0,
            fed.losses()
        ));
        Ok(entries)
    }
}
