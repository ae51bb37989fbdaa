//! Takeovers although the master lives, when a processor is busy.
//!
//! Both routers and busy loops share one processor for a time, and one session: where a kernel schedules
//! sessions as groups, nothing of that favours the routers. A takeover is counted when the backup
//! says so itself, and beside it when its adverts begin on the wire; the larger number counts.
//!
//! Of ours that is half of it: whoever owns the addresses and the data plane is another thread than the
//! one that advertises, and gives the role up when its lease has lapsed. The peer sees nothing of that,
//! clients do. A lapse is counted when either node becomes active, by the epoch of its lease.

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::capture::wall_clock;
use crate::netns::{end, own_executable, tie_to};
use crate::report::Report;
use crate::routers::ear::{Heard, What};
use crate::routers::{Kind, Pair, Which, Wish};
use crate::run::Run;
use crate::sync_rate::cpu::pin_thread;
use crate::wait::{check_interrupt, pass_time_until};

/// The hidden subcommand of a busy loop.
pub(crate) const BURN: &str = "__burn";

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Plan {
    /// Unit: milliseconds.
    advert_ms: u64,
    /// Busy loops, a part for each number.
    loops: Vec<usize>,
    /// How long they run. Unit: milliseconds.
    load_ms: u64,
    /// The one that everything shares.
    processor: usize,
}

/// A program as it is started.
struct Contender {
    /// In figures.
    name: &'static str,
    title: &'static str,
    kind: Kind,
    globals: &'static [&'static str],
}

const CONTENDERS: [Contender; 4] = [
    Contender {
        name: "ours",
        title: "directord",
        kind: Kind::Ours,
        globals: &[],
    },
    Contender {
        name: "plain",
        title: "keepalived",
        kind: Kind::Keepalived,
        globals: &[],
    },
    Contender {
        name: "rt",
        title: "keepalived, vrrp_rt_priority 50",
        kind: Kind::Keepalived,
        globals: &["vrrp_rt_priority 50"],
    },
    Contender {
        name: "rt-1s",
        title: "the same, vrrp_rlimit_rttime 1 s",
        kind: Kind::Keepalived,
        globals: &["vrrp_rt_priority 50", "vrrp_rlimit_rttime 1000000"],
    },
];

/// What one of them did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Seen {
    takeovers: u64,
    /// How often either node became active; nothing for a program that does not count it.
    lapses: Option<u64>,
    adverts: u64,
    largest_gap_ms: f64,
    /// Processes of the two that died and were started again.
    restarts: u64,
}

/// Carries out all combinations.
///
/// # Errors
/// A router could not be started.
pub(crate) fn carry_out(plan: &Plan, run: &Run, report: &mut Report) -> Result<()> {
    let load = Duration::from_millis(plan.load_ms);
    let expected = plan.load_ms.checked_div(plan.advert_ms).unwrap_or(0);
    let mut text = format!(
        "\n{} ms adverts, both routers and the loops on one processor for {:.0} s ({expected} adverts due)\n\
         loops  program                            takeovers  lapses  adverts  largest gap, ms  killed\n",
        plan.advert_ms,
        load.as_secs_f64()
    );
    for loops in &plan.loops {
        for contender in &CONTENDERS {
            check_interrupt()?;
            let what = || format!("{} with {loops} loops", contender.title);
            let seen = look(plan, *loops, load, contender, run).with_context(what)?;
            let prefix = format!("loops-{loops}.{}", contender.name);
            for (figure, value) in [
                ("takeovers", whole(seen.takeovers)),
                ("adverts", whole(seen.adverts)),
                ("largest_gap_ms", seen.largest_gap_ms),
                ("killed", whole(seen.restarts)),
            ] {
                report.figure(format!("{prefix}.{figure}"), value);
            }
            if let Some(lapses) = seen.lapses {
                report.figure(format!("{prefix}.lapses"), whole(lapses));
            }
            let lapses = seen.lapses.map_or("-".to_owned(), |it| it.to_string());
            writeln!(
                text,
                "{loops:5}  {:<33}  {:9}  {lapses:>6}  {:7}  {:15.1}  {:6}",
                contender.title, seen.takeovers, seen.adverts, seen.largest_gap_ms, seen.restarts
            )?;
            crate::say(&report.event(format!("{}: {} takeovers", what(), seen.takeovers)));
        }
    }
    report.note(text);
    Ok(())
}

fn look(
    plan: &Plan,
    loops: usize,
    load: Duration,
    contender: &Contender,
    run: &Run,
) -> Result<Seen> {
    let wish = Wish {
        name: format!("{}-{loops}", contender.name),
        kind: contender.kind,
        advert_ms: plan.advert_ms,
        globals: contender.globals,
    };
    let mut pair = Pair::up(run, &wish)?;
    pair.pin(plan.processor)?;
    pair.settle()?;
    let both = [Which::Master, Which::Backup];
    let restarts = |pair: &mut Pair<'_>| -> Result<u64> {
        both.into_iter().map(|which| pair.restarts(which)).sum()
    };
    let before = pair.became_master(Which::Backup)?;
    let promoted_before = pair.promotions()?;
    let died_before = restarts(&mut pair)?;
    let from = wall_clock();
    busy(loops, plan.processor, load, run)?;
    let to = wall_clock();
    // An advert that was sent may not have been read yet.
    pair.ear
        .wait("an advert after the load", to, load, |heard| {
            (!heard.is_empty()).then_some(())
        })?;
    let said = pair.became_master(Which::Backup)?.saturating_sub(before);
    let mut heard = pair.ear.since(from);
    heard.retain(|one| one.at < to);
    let mut seen = watch(&heard, from, to);
    seen.takeovers = seen.takeovers.max(said);
    seen.restarts = restarts(&mut pair)?.saturating_sub(died_before);
    // Without the load: whoever gave the role up takes it again.
    let promoted = pair.promotions()?;
    seen.lapses = promoted.zip(promoted_before).map(|(now, then)| now - then);
    Ok(seen)
}

/// What the adverts of a time show.
fn watch(heard: &[Heard], from: Duration, to: Duration) -> Seen {
    let mut seen = Seen::default();
    let (mut last, mut backup_is_master) = (from, false);
    for one in heard {
        let What::Advert { priority } = one.what else {
            continue;
        };
        match one.by {
            Which::Master => {
                seen.adverts += 1;
                let gap = one.at.saturating_sub(last);
                seen.largest_gap_ms = seen.largest_gap_ms.max(ms(gap));
                last = one.at;
                backup_is_master = false;
            }
            Which::Backup => {
                let takes = priority > 0 && !backup_is_master;
                seen.takeovers += u64::from(takes);
                backup_is_master = priority > 0;
            }
        }
    }
    seen.largest_gap_ms = seen.largest_gap_ms.max(ms(to.saturating_sub(last)));
    seen
}

/// So many processes that do nothing else for a time, on one processor.
fn busy(loops: usize, processor: usize, time: Duration, run: &Run) -> Result<()> {
    let mut children = Loops(Vec::new());
    for _ in 0..loops {
        let mut command = Command::new(own_executable()?);
        command.arg(BURN).arg(processor.to_string());
        command.args(["--parent", &std::process::id().to_string()]);
        let child = command
            .stdin(Stdio::null())
            .spawn()
            .context("a busy loop")?;
        run.record(child.id())?;
        children.0.push(child);
    }
    pass_time_until(Instant::now() + time)?;
    for child in &mut children.0 {
        ensure!(child.try_wait()?.is_none(), "a busy loop ended by itself");
    }
    Ok(())
}

/// Ended when dropped.
struct Loops(Vec<Child>);

impl Drop for Loops {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(end);
    }
}

/// The life of a busy loop, run as the hidden subcommand.
///
/// # Errors
/// No such processor.
pub(crate) fn burn(processor: usize, parent: i32) -> Result<()> {
    tie_to(Pid::from_raw(parent))?;
    pin_thread(&[processor])?;
    loop {
        std::hint::spin_loop();
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Far below 2^52.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact for every count a drill reaches"
)]
fn whole(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_takeover_is_a_first_advert_of_the_backup_after_one_of_the_master() {
        let at = |ms, by, priority| Heard {
            at: Duration::from_millis(ms),
            by,
            what: What::Advert { priority },
        };
        let (master, backup) = (Which::Master, Which::Backup);
        let heard = [
            at(10, master, 150),
            at(50, backup, 100),
            at(60, backup, 100),
            at(61, master, 150),
            at(71, master, 150),
            at(110, backup, 100),
            at(111, backup, 0),
            at(112, master, 150),
        ];
        let end = Duration::from_millis(120);
        let seen = watch(&heard, Duration::ZERO, end);
        assert_eq!((seen.takeovers, seen.adverts), (2, 4));
        assert!((seen.largest_gap_ms - 51.0).abs() < 1e-6, "{seen:?}");
        let nobody = watch(&[], Duration::ZERO, end);
        assert!((nobody.largest_gap_ms - 120.0).abs() < 1e-6, "{nobody:?}");
    }
}
