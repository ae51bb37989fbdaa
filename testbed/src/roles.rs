//! Who is master, by status and by adverts on the wire.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::capture::{Capture, Origin, Record, wall_clock};
use crate::drill::Drill;
use crate::frame::Content;
use crate::phase::Moment;
use crate::starts::due_takeovers;
use crate::wait::{pass_time_until, wait_until};

/// Intervals for which only one director may have sent adverts.
const ALONE_INTERVALS: u32 = 5;
/// Intervals without an advert after which the next one begins a new time as master: one that is only
/// late does not.
const SILENT_INTERVALS: f64 = 2.5;
const LOOK: Duration = Duration::from_millis(20);

/// Adverts of one director: those with which it claims to be master.
type Adverts = BTreeMap<String, Vec<Duration>>;

impl Drill<'_> {
    pub(crate) fn split(&mut self, name: &str, seen: bool, limit_ms: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_millis(limit_ms);
        let shown = loop {
            let mut shown: Vec<String> = Vec::new();
            for director in self.directors.iter().filter(|one| one.is_running()) {
                let by = director.status()?.split_brain();
                if !by.is_empty() {
                    shown.push(format!("{} by {}", director.name(), by.join(", ")));
                }
            }
            let wanted = if seen { self.directors.len() } else { 0 };
            if shown.len() == wanted || Instant::now() > deadline {
                break shown;
            }
            pass_time_until(Instant::now() + LOOK)?;
        };
        self.count_figure(format!("{name}.split"), shown.len() as u64);
        self.event(match shown.as_slice() {
            [] => "nobody shows a split brain".to_owned(),
            all => format!("a split brain is shown: {}", all.join("; ")),
        });
        Ok(())
    }

    pub(crate) fn settled(&mut self, name: &str, limit_ms: u64) -> Result<()> {
        let begun = Moment::now();
        let interval = self.scenario.pair.as_ref().context("no pair")?.advert_ms;
        let interval = Duration::from_millis(interval);
        let capture = self.capture.as_ref().context("nothing is captured")?;
        let directors = &self.directors;
        let names: Vec<&str> = directors.iter().map(|one| one.name()).collect();
        let active = wait_until(
            "one director is active and alone",
            Duration::from_millis(limit_ms),
            || {
                let mut active = Vec::new();
                for director in directors.iter().filter(|one| one.is_running()) {
                    match director.status()?.role() {
                        Some("active") => active.push(director.name().to_owned()),
                        Some("standby") => {}
                        _ => return Ok(None),
                    }
                }
                let from = wall_clock().saturating_sub(interval * ALONE_INTERVALS);
                let sent = adverts(capture, &names, from);
                let alone: Vec<&String> = sent
                    .iter()
                    .filter(|(_, at)| !at.is_empty())
                    .map(|(name, _)| name)
                    .collect();
                if active.len() == 1 && alone == active.iter().collect::<Vec<_>>() {
                    return Ok(active.pop());
                }
                pass_time_until(Instant::now() + LOOK)?;
                Ok(None)
            },
        )?;
        let took = begun.elapsed_ms();
        let first = self.phases.first().context("nothing has happened yet")?;
        let all = adverts(capture, &names, Duration::ZERO);
        let from = first.begun.wall;
        let counts: Vec<(String, u64)> = all
            .into_iter()
            .map(|(director, at)| (director, takeovers(&at, from, interval)))
            .collect();
        let number = names.iter().position(|one| *one == active);
        let number = number.context("no such director")? as u64 + 1;
        self.report.figure(format!("{name}.settled_ms"), took);
        self.count_figure(format!("{name}.active"), number);
        let sum = counts.iter().map(|(_, count)| count).sum();
        self.count_figure(format!("{name}.takeovers"), sum);
        let due = due_takeovers(&self.starts, interval);
        for (director, count) in counts {
            self.count_figure(format!("{name}.takeovers.{director}"), count);
            if let Some(due) = due.get(&director) {
                let undue = count.saturating_sub(*due);
                self.count_figure(format!("{name}.undue.{director}"), undue);
            }
        }
        self.note_role_changes(name)?;
        self.event(format!(
            "{active} alone is active, {sum} takeovers since the first fault"
        ));
        Ok(())
    }
}

/// Times of the adverts of each director since a moment, as its own links carry them.
fn adverts(capture: &Capture, directors: &[&str], from: Duration) -> Adverts {
    let mut all: Adverts = directors
        .iter()
        .map(|name| ((*name).to_owned(), Vec::new()))
        .collect();
    capture.each(|record: &Record| {
        let claims = matches!(record.content, Content::Advert { priority: 1.., .. });
        if record.origin != Origin::Director || !claims || record.at < from {
            return;
        }
        let link = capture.link(record);
        let name = link.rsplit_once('-').map_or(link, |(name, _)| name);
        if let Some(times) = all.get_mut(name) {
            times.push(record.at);
        }
    });
    all
}

/// How often adverts begin after a moment, having been missing for some intervals.
fn takeovers(at: &[Duration], from: Duration, interval: Duration) -> u64 {
    let silence = interval.mul_f64(SILENT_INTERVALS);
    let before = std::iter::once(None).chain(at.iter().map(Some));
    let begun = at.iter().zip(before).filter(|(now, before)| {
        let late = before.is_none_or(|before| now.saturating_sub(*before) > silence);
        late && **now >= from
    });
    begun.count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_is_an_advert_after_a_silence_and_not_a_late_one() {
        let interval = Duration::from_millis(100);
        let times = |of: &[u64]| -> Vec<Duration> {
            of.iter().map(|ms| Duration::from_millis(*ms)).collect()
        };
        let from = Duration::from_millis(1000);
        let at = times(&[500, 600, 700, 900, 1000, 1100, 1300, 1700, 1800]);
        assert_eq!(takeovers(&at, from, interval), 1);
        assert_eq!(takeovers(&at, Duration::ZERO, interval), 2);
        assert_eq!(takeovers(&times(&[1400, 1500]), from, interval), 1);
        assert_eq!(takeovers(&[], from, interval), 0);
    }
}
