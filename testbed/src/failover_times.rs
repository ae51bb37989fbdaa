//! How long a failover takes, ours and keepalived's in one run.
//!
//! A trial is an event that happens to the master at a random moment between two of its adverts, and the
//! time from there to the first gratuitous ARP of the backup on a third port of the bridge. Both
//! programs have their trials in turn, in pairs of their own, and the nth trial of both at the same
//! phase of the interval: most of the time is waiting for the master's next advert, so without that the
//! medians would differ by what was drawn.
//!
//! The clock starts before the system call that kills, stops, or sets the port down.

mod sheet;

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::capture::wall_clock;
use crate::report::Report;
use crate::routers::ear::{Heard, What};
use crate::routers::{Kind, Pair, Which, Wish};
use crate::run::Run;
use crate::traffic::next_word;
use crate::wait::check_interrupt;

/// After which the backup has failed, beside the longest master-down time.
const TAKEOVER_SLACK: Duration = Duration::from_secs(5);
/// The rest of a wait is spent awake, so that a timer's slack does not spread the phases.
const AWAKE: Duration = Duration::from_micros(300);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    pub(crate) rows: Vec<Row>,
    pub(crate) events: Vec<Event>,
}

/// One interval.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Row {
    /// Unit: milliseconds.
    pub(crate) advert_ms: u64,
    /// Of each event and program.
    pub(crate) trials: usize,
    /// Pairs of each program at once. With one, a trial of one program never meets one of the other.
    pub(crate) pairs: usize,
}

/// What happens to the master.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Event {
    /// SIGKILL of all its processes.
    Kill,
    /// Its port of the bridge goes down.
    LinkDown,
    /// SIGTERM.
    Stop,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Event::Kill => "kill",
            Event::LinkDown => "link-down",
            Event::Stop => "stop",
        }
    }
}

/// What a trial showed.
#[derive(Clone, Copy, Debug)]
struct Trial {
    event: Event,
    kind: Kind,
    /// From the event to the first gratuitous ARP.
    garp: Duration,
    /// From the event to the master's advert that it gives up, where it says so. Unit: milliseconds.
    said_ms: Option<f64>,
    /// From the moment at which the backup's timer had to end to its first advert; negative is early.
    /// Unit: milliseconds.
    late_ms: f64,
    /// From the backup's first advert to its first gratuitous ARP. Unit: milliseconds.
    promotion_ms: f64,
}

/// A trial that is to be made.
#[derive(Clone, Copy, Debug)]
struct Task {
    event: Event,
    /// Of the interval, from the master's last advert: 0 to 1.
    phase: f64,
}

/// Carries out all rows.
///
/// # Errors
/// A trial could not be carried out.
pub(crate) fn carry_out(plan: &Plan, seed: u64, run: &Run, report: &mut Report) -> Result<()> {
    let mut all = Vec::new();
    for row in &plan.rows {
        let tasks = tasks(row, &plan.events, seed);
        let trials = if row.pairs > 1 {
            at_once(row, &tasks, run)?
        } else {
            in_turn(row, &tasks, run, report)?
        };
        crate::say(&report.event(format!("{} trials at {} ms", trials.len(), row.advert_ms)));
        sheet::figures(row, &plan.events, &trials, report);
        all.push((*row, trials));
    }
    report.note(sheet::table(&all, &plan.events));
    Ok(())
}

/// The same trials for both programs, events in turn.
fn tasks(row: &Row, events: &[Event], seed: u64) -> Vec<Task> {
    let mut state = seed ^ row.advert_ms.rotate_left(32);
    let rounds = (0..row.trials).flat_map(|_| events.iter().copied());
    rounds
        .map(|event| Task {
            event,
            phase: unit(next_word(&mut state)),
        })
        .collect()
}

/// The two programs take turns, and take turns to be first.
fn in_turn(row: &Row, tasks: &[Task], run: &Run, report: &mut Report) -> Result<Vec<Trial>> {
    let mut pairs = [Kind::Ours, Kind::Keepalived].map(|kind| (kind, None));
    for (kind, pair) in &mut pairs {
        *pair = Some(up(run, row, *kind, 0)?);
    }
    crate::say(&report.event(format!("both pairs are up, {} ms", row.advert_ms)));
    let mut trials = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        for (kind, pair) in &mut pairs {
            let pair = pair.as_mut().context("no pair")?;
            trials.push(attempt(pair, *kind, task, row)?);
        }
        pairs.reverse();
        if (index + 1) % 10 == 0 {
            crate::say(&report.event(format!("{} of {} trials", index + 1, tasks.len())));
        }
    }
    Ok(trials)
}

/// Several pairs of both programs at once, each with its share.
fn at_once(row: &Row, tasks: &[Task], run: &Run) -> Result<Vec<Trial>> {
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for kind in [Kind::Ours, Kind::Keepalived] {
            for number in 0..row.pairs {
                let done = &done;
                threads.push(scope.spawn(move || -> Result<()> {
                    let mut pair = up(run, row, kind, number)?;
                    for task in tasks.iter().skip(number).step_by(row.pairs) {
                        let trial = attempt(&mut pair, kind, task, row)?;
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.push(trial);
                    }
                    Ok(())
                }));
            }
        }
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a thread panicked"),
            }
        }
        Ok(())
    })?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn up<'a>(run: &'a Run, row: &Row, kind: Kind, number: usize) -> Result<Pair<'a>> {
    let wish = Wish {
        name: format!("{}-{}-{number}", kind.name(), row.advert_ms),
        kind,
        advert_ms: row.advert_ms,
        globals: &[],
    };
    Pair::up(run, &wish).with_context(|| wish.name.clone())
}

/// One trial, and everything as it was before.
fn attempt(pair: &mut Pair<'_>, kind: Kind, task: &Task, row: &Row) -> Result<Trial> {
    let what = || {
        let name = task.event.name();
        format!("{} at {} ms, {}", name, row.advert_ms, kind.name())
    };
    check_interrupt()?;
    let found = happen(pair, task, row).with_context(|| format!("{}\n{}", what(), pair.logs()));
    let trial = found.with_context(what)?;
    let restored = match task.event {
        Event::Kill | Event::Stop => pair.start(Which::Master),
        Event::LinkDown => pair.set_port(true),
    };
    restored.and_then(|()| pair.settle()).with_context(what)?;
    Ok(Trial { kind, ..trial })
}

fn happen(pair: &mut Pair<'_>, task: &Task, row: &Row) -> Result<Trial> {
    let interval = Duration::from_millis(row.advert_ms);
    if task.event == Event::Kill {
        pair.prepare_kill()?;
    }
    let first = pair.ear.wait(
        "an advert",
        wall_clock(),
        interval * 4 + TAKEOVER_SLACK,
        |heard| {
            heard
                .iter()
                .find(|one| one.is_advert_of(Which::Master))
                .copied()
        },
    )?;
    wait_for_wall(first.at + interval.mul_f64(task.phase));
    let begun = wall_clock();
    match task.event {
        Event::Kill => pair.kill()?,
        Event::LinkDown => pair.set_port(false)?,
        Event::Stop => pair.stop()?,
    }
    let limit = interval * 5 + TAKEOVER_SLACK;
    // Whatever b announced when it was master before is not meant.
    let (advert, garp) = pair.ear.wait("a takeover", begun, limit, |heard| {
        let at = heard
            .iter()
            .position(|one| one.is_advert_of(Which::Backup))?;
        let advert = heard.get(at)?.at;
        let after = heard.get(at..)?;
        let garp = after
            .iter()
            .find(|one| one.by == Which::Backup && one.what == What::Announcement)?;
        Some((advert, garp.at))
    })?;
    let (last, due) = due(pair, task.event, interval, advert)?;
    let said_ms = (task.event == Event::Stop).then(|| signed_ms(last, begun));
    Ok(Trial {
        event: task.event,
        kind: Kind::Ours,
        garp: garp.saturating_sub(begun),
        said_ms,
        late_ms: signed_ms(advert, due),
        promotion_ms: signed_ms(garp, advert),
    })
}

/// The last advert of the master, and when the timer of the backup had to end that it had started.
fn due(
    pair: &Pair<'_>,
    event: Event,
    interval: Duration,
    advert: Duration,
) -> Result<(Duration, Duration)> {
    let skew = interval.mul_f64(f64::from(256 - u16::from(crate::routers::PRIORITIES[1])) / 256.0);
    let of_master =
        |one: &Heard| one.by == Which::Master && matches!(one.what, What::Advert { .. });
    let last = pair.ear.last_before(advert, of_master);
    let last = last.context("no advert of the master")?;
    let gave_up = last.what == What::Advert { priority: 0 };
    ensure!(
        gave_up == (event == Event::Stop),
        "the master's last advert does not fit {}: {last:?}",
        event.name()
    );
    let wait = if gave_up { skew } else { interval * 3 + skew };
    Ok((last.at, last.at + wait))
}

/// Waits until a moment of the wall clock, the last of it awake.
fn wait_for_wall(moment: Duration) {
    let left = moment.saturating_sub(wall_clock());
    let deadline = Instant::now() + left;
    thread::sleep(left.saturating_sub(AWAKE));
    while Instant::now() < deadline {
        std::hint::spin_loop();
    }
}

/// How much later than another moment. Unit: milliseconds.
fn signed_ms(moment: Duration, than: Duration) -> f64 {
    (moment.as_secs_f64() - than.as_secs_f64()) * 1000.0
}

/// A number from 0 to 1.
fn unit(word: u64) -> f64 {
    let top = u32::try_from(word >> 32).unwrap_or(u32::MAX);
    f64::from(top) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_programs_have_the_same_phases_and_another_seed_has_others() {
        let row = Row {
            advert_ms: 10,
            trials: 30,
            pairs: 1,
        };
        let events = [Event::Kill, Event::Stop];
        let phases = |seed| -> Vec<f64> {
            let tasks = tasks(&row, &events, seed);
            tasks.iter().map(|task| task.phase).collect()
        };
        assert_eq!(phases(1).len(), 60);
        assert_eq!(phases(1), phases(1));
        assert_ne!(phases(1), phases(2));
        assert!(phases(1).iter().all(|phase| (0.0..=1.0).contains(phase)));
    }
}
