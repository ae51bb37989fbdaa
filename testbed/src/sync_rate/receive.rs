//! What a backup takes in: entries for each second of a processor, and what is lost at a steady rate.

use std::time::{Duration, Instant};

use anyhow::Result;
use syncproto::receiver::Receiver;
use syncproto::wire::WalkConfig;

use super::entries::Target;
use super::feed::{Fed, Feed, thread_time};
use super::{BACKUP, MASTER, per_second};
use crate::drill::Drill;

/// Entries of a steady rate that must not be lost.
const STEADY_RATE: u64 = 200_000;
const STEADY_SECS: u64 = 4;

impl Drill<'_> {
    /// New connections, and the same again: `receive.new.*`, `receive.known.*`.
    pub(crate) fn receive_rates(&mut self, entries: u32) -> Result<()> {
        let servers = self.rate_servers();
        let target = Target {
            service: self.rate_service(),
            servers: &servers,
        };
        let begun = thread_time();
        let datagrams = target.datagrams(0, entries);
        let encoding = thread_time().saturating_sub(begun);
        let begun = thread_time();
        let mut receiver = Receiver::new(WalkConfig::default());
        let mut heard = 0;
        for datagram in &datagrams {
            receiver.receive(datagram, |_| heard += 1);
        }
        let decoding = thread_time().saturating_sub(begun);
        self.count_figure("reference.decoded", heard);
        self.report
            .figure("reference.encode_per_s", per_second(heard, encoding));
        self.report
            .figure("reference.decode_per_s", per_second(heard, decoding));

        let idle = self.idle_cpu()?;
        self.report
            .figure("reference.idle_cpu_share", idle.as_secs_f64());
        for (name, counter) in [("new", "applied_new"), ("known", "applied_known")] {
            let fed = self.feed((MASTER, BACKUP), &datagrams, entries.into(), Feed::Window)?;
            self.note_receiving(name, counter, entries.into(), &fed);
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

    fn note_receiving(&mut self, name: &str, counter: &str, entries: u64, fed: &Fed) {
        let (receiving, owning) = fed.backup_cpu();
        let applied = fed.count(counter);
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
        self.count_figure(
            format!("receive.{name}.lost"),
            entries.saturating_sub(applied),
        );
        self.event(format!(
            "{entries} {name} entries: {applied} applied in {:.2} s; processor: {:.2} s receiving, {:.2} s \
             applying; {} datagrams dropped by the socket",
            fed.took.as_secs_f64(),
            receiving.as_secs_f64(),
            owning.as_secs_f64(),
            fed.socket_drops
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
        let fed = self.feed((MASTER, BACKUP), &datagrams, entries.into(), feed)?;
        let applied = fed.count("applied_new");
        let lost = u64::from(entries).saturating_sub(applied);
        self.count_figure(format!("{name}.lost"), lost);
        self.count_figure(format!("{name}.socket_drops"), fed.socket_drops);
        self.report
            .figure(format!("{name}.rate"), per_second(applied, fed.took));
        let (receiving, owning) = fed.backup_cpu();
        let share = (receiving + owning).as_secs_f64() / fed.took.as_secs_f64();
        self.report.figure(format!("{name}.cpu_share"), share);
        self.event(format!(
            "{name}: {entries} entries at {STEADY_RATE} a second: {lost} lost, {} datagrams dropped by the \
             socket; {:.0} % of a processor",
            fed.socket_drops,
            share * 100.0
        ));
        Ok(entries)
    }
}
