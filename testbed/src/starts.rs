//! Which of the directors that were started at once may have been master first.
//!
//! A start takes most of its time in the kernel's verifier, and ends when the processors have it. Who hears
//! nobody becomes master a master-down time after its election began (RFC 5798 §6.4.2), whether a better
//! one is about to or not: whose time is over first takes over first, and the best one follows, if it
//! preempts.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::drill::Drill;
use crate::wait::wait_until;

/// Loading the programs takes a few seconds, and ten times as many on an emulated processor.
const LIMIT: Duration = Duration::from_secs(90);
/// The thread that writes the log may be late, and an advert takes its time to be heard.
const TOLERANCE: Duration = Duration::from_millis(5);
/// `down_timer_adverts`.
const DOWN_TIMER_ADVERTS: u32 = 3;
/// How the log says that a router takes part.
const BEGUN: &str = ": backup name=";

/// A director's election began.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    director: String,
    priority: u8,
    /// Since the epoch.
    at: Duration,
}

impl Start {
    /// When it is master, if it hears nobody until then.
    fn master_at(&self, interval: Duration) -> Duration {
        let skew = interval * (256 - u32::from(self.priority)) / 256;
        self.at + interval * DOWN_TIMER_ADVERTS + skew
    }
}

impl Drill<'_> {
    /// Waits until every director takes part in an election that began after a moment, by its log:
    /// `starts_apart_ms` with the prefix.
    pub(crate) fn note_starts(&mut self, prefix: &str, after: Duration) -> Result<()> {
        let pair = self.scenario.pair.as_ref().context("no pair")?;
        let priorities = pair.priorities;
        let directors = &mut self.directors;
        let mut starts = wait_until("every director takes part in the election", LIMIT, || {
            let mut starts = Vec::new();
            for (director, priority) in directors.iter_mut().zip(priorities) {
                director.check_alive()?;
                let log = director.log_text();
                let begun = log.lines().filter(|line| line.contains(BEGUN));
                let Some(at) = begun.filter_map(time_of).find(|at| *at >= after) else {
                    return Ok(None);
                };
                let director = director.name().to_owned();
                starts.push(Start {
                    director,
                    priority,
                    at,
                });
            }
            Ok(Some(starts))
        })?;
        starts.sort_by_key(|start| start.at);
        let moments = || starts.iter().map(|start| start.at);
        let (first, last) = (moments().min(), moments().max());
        let apart = last.unwrap_or_default() - first.unwrap_or_default();
        let apart_ms = apart.as_secs_f64() * 1000.0;
        self.report
            .figure(format!("{prefix}starts_apart_ms"), apart_ms);
        let order: Vec<&str> = starts.iter().map(|start| start.director.as_str()).collect();
        let order = order.join(", ");
        self.starts = starts;
        self.event(format!("elections began {apart_ms:.0} ms apart: {order}"));
        Ok(())
    }
}

impl Drill<'_> {
    /// How long a director that was started waited until it took over: `election_ms` with the prefix.
    pub(crate) fn note_wait(&mut self, prefix: &str, director: &str, taken_over: Duration) {
        if let Some(start) = self.starts.iter().find(|start| start.director == director) {
            let waited = taken_over.saturating_sub(start.at).as_secs_f64() * 1000.0;
            self.report.figure(format!("{prefix}election_ms"), waited);
        }
    }

    /// How blackouts compare with the time until the takeover, however long the starts took: by method
    /// `udp_resumed_ms` after it, and `blackout_ratio` of TCP, which tries again after at most as long as
    /// it has been silent.
    pub(crate) fn note_blackouts(&mut self, prefix: &str, methods: &[&str]) {
        let Some(takeover) = self.report.found(&format!("{prefix}takeover_ms")) else {
            return;
        };
        for method in methods {
            let found = |name: &str| self.report.found(&format!("{prefix}{method}.{name}"));
            let (udp, tcp) = (found("udp_blackout_max_ms"), found("blackout_max_ms"));
            if let Some(udp) = udp {
                let name = format!("{prefix}{method}.udp_resumed_ms");
                self.report.figure(name, (udp - takeover).max(0.0));
            }
            if let Some(tcp) = tcp {
                let name = format!("{prefix}{method}.blackout_ratio");
                self.report.figure(name, tcp / takeover);
            }
        }
    }
}

/// When a line of a log was written, since the epoch: `2026-01-31T12:00:00.000000Z`, in UTC.
fn time_of(line: &str) -> Option<Duration> {
    let (date, time) = line.split_once('Z')?.0.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    // Years that begin in March end with the leap day.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (153 * month + 2) / 5 + day.checked_sub(1)?;
    let mut time = time.split(':');
    let hours: u64 = time.next()?.parse().ok()?;
    let minutes: u64 = time.next()?.parse().ok()?;
    let seconds: f64 = time.next()?.parse().ok()?;
    let whole = days.checked_sub(DAYS_BEFORE_EPOCH)? * 86_400 + hours * 3600 + minutes * 60;
    Some(Duration::from_secs(whole) + Duration::try_from_secs_f64(seconds).ok()?)
}

/// From the first of March of the year 0 to the first of January 1970.
const DAYS_BEFORE_EPOCH: u64 = 719_468;

/// How often each director takes over when all hear each other from the start and the best one preempts.
pub(crate) fn due_takeovers(starts: &[Start], interval: Duration) -> BTreeMap<String, u64> {
    let best = starts.iter().max_by_key(|start| start.priority);
    let first = starts.iter().map(|start| start.master_at(interval)).min();
    let due = |start: &Start| {
        let is_best = best.is_some_and(|best| best.director == start.director);
        let may_be_first =
            first.is_some_and(|first| start.master_at(interval) <= first + TOLERANCE);
        u64::from(is_best || may_be_first)
    };
    let counts = starts
        .iter()
        .map(|start| (start.director.clone(), due(start)));
    counts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_log_are_those_of_the_wall_clock() {
        for (text, secs) in [
            ("1970-01-01T00:00:00.000000Z", 0.0),
            ("2000-02-29T12:00:00.500000Z  INFO ready", 951_825_600.5),
            ("2026-11-22T01:13:02.437881Z", 1_795_309_982.437_881),
        ] {
            let expected = Duration::from_secs_f64(secs);
            let off = time_of(text).unwrap().abs_diff(expected);
            assert!(off < Duration::from_micros(2), "{text}");
        }
        for text in ["", "directord: ready: a on eth0", "now Z", "T:Z", "--T::Z"] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }

    /// At 100 ms the better one waits 341.4 ms, the other one 360.9 ms.
    #[test]
    fn the_lesser_one_takes_over_only_when_its_time_is_over_first() {
        let interval = Duration::from_millis(100);
        for (apart_ms, due) in [(0, 0), (14, 0), (16, 1), (141, 1)] {
            let start = |name: &str, priority, after_ms: u64| Start {
                director: name.to_owned(),
                priority,
                at: Duration::from_millis(1000 + after_ms),
            };
            let starts = [start("a", 150, apart_ms), start("b", 100, 0)];
            let expected = BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), due)]);
            assert_eq!(due_takeovers(&starts, interval), expected, "{apart_ms} ms");
        }
    }
}
