//! What became of the flows of a pair: figures by method and phase.
//!
//! Methods are `nat` and `direct`; of two groups of addresses each has its own figures as well, under
//! `group0` and `group1`. A flow is *kept* when it went on after the fault to its end with
//! every byte right; *broken* is every other flow that was alive at the fault.

use std::time::Duration;

use anyhow::Result;

use crate::capture::{Origin, Record};
use crate::drill::Drill;
use crate::frame::Content;
use crate::meter::FlowOutcome;
use crate::order::{Outcome, Try};
use crate::phase::Phase;
use crate::plan;
use crate::report::number;
use crate::scenario::{Forwarding, LoadKind, LoadSpec, Protocol};
use crate::table::table;

/// How the report begins to say what became of flows that were not synchronised.
pub(crate) const OFF: &str = "synchronisation is off:";
/// What a busy flow has to move each way after a fault. Unit: bytes.
const MUCH: u64 = 1_000_000;
pub(crate) const METHODS: [Forwarding; 2] = [Forwarding::Masquerading, Forwarding::DirectRouting];

impl Drill<'_> {
    /// Ends every background load and takes all figures.
    pub(crate) fn conclude(&mut self) -> Result<()> {
        for running in self.background.values_mut() {
            running.tell_stop()?;
        }
        for (name, running) in std::mem::take(&mut self.background) {
            let outcome = running.finish()?;
            let load = self.scenario.load_spec(&name)?;
            self.take_outcome(load, &outcome)?;
            self.outcomes.insert(name, outcome);
        }
        let phases = self.phases.clone();
        for (index, phase) in phases.iter().enumerate() {
            let of_method = METHODS.map(|method| {
                let wanted = |load: &LoadSpec| Ok(self.method_of(load)? == method);
                (method.name().to_owned(), self.sum(phase, index, wanted))
            });
            let of_group = self.groups_apart().map(|group| {
                let wanted = |load: &LoadSpec| Ok(self.group_of(load)? == group);
                (format!("group{group}"), self.sum(phase, index, wanted))
            });
            let sums: Vec<_> = of_method.into_iter().chain(of_group).collect();
            for (name, sum) in sums {
                let mut sum = sum?;
                if sum.is_empty() {
                    continue;
                }
                for (figure, value) in sum.figures(phase) {
                    let figure = format!("{}{name}.{figure}", phase.prefix);
                    self.report.figure(figure, value);
                }
            }
            self.note_forwarded_when_dead(phase)?;
        }
        if !self.starts.is_empty() {
            let methods = METHODS.map(Forwarding::name);
            for phase in &phases {
                self.note_blackouts(&phase.prefix, &methods);
            }
        }
        self.note_tables(&phases);
        Ok(())
    }

    /// Everything of some loads in a phase.
    fn sum(
        &self,
        phase: &Phase,
        index: usize,
        wanted: impl Fn(&LoadSpec) -> Result<bool>,
    ) -> Result<Sum> {
        let mut sum = Sum::default();
        for (name, outcome) in &self.outcomes {
            let load = self.scenario.load_spec(name)?;
            if wanted(load)? {
                let protocol = self.scenario.service(&load.service)?.protocol;
                sum.add(load, protocol, outcome, phase, index + 1);
            }
        }
        Ok(sum)
    }

    /// One group has everything.
    fn groups_apart(&self) -> std::ops::Range<u8> {
        match self.scenario.groups() {
            1 => 0..0,
            groups => 0..groups,
        }
    }

    /// The group of addresses that a load goes to.
    fn group_of(&self, load: &LoadSpec) -> Result<u8> {
        let service = self.scenario.service(&load.service)?;
        Ok(plan::group_of(service.address.ip()))
    }

    /// What reached the director and left it after it had to be silent, its lease having ended.
    fn note_forwarded_when_dead(&mut self, phase: &Phase) -> Result<()> {
        let (Some(dead), Some(capture)) = (phase.dead, &self.capture) else {
            return Ok(());
        };
        capture.settle()?;
        let from = dead.wall + Duration::from_millis(self.scenario.director.lease_ms);
        let service = self.service_addresses();
        let mut claimed = self.scenario.virtual_addresses();
        claimed.extend(self.scenario.inside_virtual_addresses());
        let count = |origin: Origin, wanted: &dyn Fn(&Content) -> bool| {
            capture.count(|record: &Record| {
                let back = phase.returned.is_some_and(|at| record.at >= at.wall);
                let within = record.at > from && !back;
                let its_own = capture.link(record).starts_with(&phase.director);
                within && its_own && record.origin == origin && wanted(&record.content)
            })
        };
        let counts = [
            (
                "offered",
                count(Origin::Others, &|content| content.is_service(&service)),
            ),
            (
                "sent",
                count(Origin::Director, &|content| content.is_service(&service)),
            ),
            (
                "claims",
                count(Origin::Director, &|content| content.answers_for(&claimed)),
            ),
        ];
        for (name, value) in counts {
            self.count_figure(format!("{}old.{name}", phase.prefix), value);
        }
        Ok(())
    }

    fn note_tables(&mut self, phases: &[Phase]) {
        let mut text = String::new();
        for phase in phases {
            let what = match phase.fault {
                Some(fault) => format!("{} of {}", fault.name(), phase.director),
                None => format!("return of {}", phase.director),
            };
            text.push_str(&table(&what, &phase.prefix, self.report));
        }
        self.report.note(text);
        let without = self.scenario.pair.as_ref().is_some_and(|pair| !pair.sync);
        if without && !phases.is_empty() {
            let figure = |name: &str| number(self.report.found(name).unwrap_or_default());
            let sentence = format!(
                "{OFF} {} of {} NAT flows broken, {} of {} direct-routing flows broken",
                figure("nat.broken"),
                figure("nat.flows"),
                figure("direct.broken"),
                figure("direct.flows"),
            );
            self.report.conclude(&sentence);
        }
    }
}

/// Everything of one method, or one group of addresses, in one phase.
#[derive(Debug, Default)]
struct Sum {
    flows: u64,
    kept: u64,
    covered: u64,
    covered_broken: u64,
    wrong_bytes: u64,
    busy: u64,
    inflight_both: u64,
    moved_1mb: u64,
    idle: u64,
    idle_used: u64,
    idle_quiet_ms: Option<f64>,
    udp: u64,
    udp_kept: u64,
    tries: Vec<Try>,
    blackouts_us: Vec<u64>,
    udp_blackouts_us: Vec<u64>,
}

impl Sum {
    fn is_empty(&self) -> bool {
        self.flows + self.udp == 0 && self.tries.is_empty()
    }

    fn add(
        &mut self,
        load: &LoadSpec,
        protocol: Protocol,
        outcome: &Outcome,
        phase: &Phase,
        index: usize,
    ) {
        let began = phase.begun.monotonic_ns;
        // Those under way at the fault as well.
        let ended_in = |one: &&Try| one.begun_ns + one.took_us * 1000 >= began;
        self.tries
            .extend(outcome.tries.iter().filter(ended_in).copied());
        self.wrong_bytes += outcome.wrong_bytes;
        // A flow that had ended before the phase is not the phase's to keep.
        let alive = |flow: &&FlowOutcome| !matches!(flow.error, Some((at, _)) if at < index);
        let in_flight = phase.in_flight.get(&load.name);
        for flow in outcome.flows.iter().filter(alive) {
            let kept = u64::from(flow.kept(index));
            if protocol == Protocol::Udp {
                self.udp += 1;
                self.udp_kept += kept;
                if kept == 1 {
                    self.udp_blackouts_us.push(flow.phase(index).gap_us);
                }
                continue;
            }
            self.flows += 1;
            self.kept += kept;
            let covered = phase.covered.as_ref();
            if covered.is_some_and(|ports| ports.contains(&flow.port)) {
                self.covered += 1;
                self.covered_broken += 1 - kept;
            }
            let did = flow.phase(index);
            match load.kind {
                LoadKind::Streams => {
                    self.busy += 1;
                    let both = in_flight.is_some_and(|ports| ports.contains(&flow.port));
                    self.inflight_both += u64::from(both);
                    self.moved_1mb += u64::from(kept == 1 && did.up.min(did.down) >= MUCH);
                    if kept == 1 {
                        self.blackouts_us.push(did.gap_us);
                    }
                }
                LoadKind::IdleFlows => {
                    self.idle += 1;
                    let used = did.rounds >= u64::from(load.use_rounds);
                    self.idle_used += u64::from(kept == 1 && used);
                    let quiet = phase.quiet_ms.get(&load.name).copied();
                    self.idle_quiet_ms = match (self.idle_quiet_ms, quiet) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    };
                }
                LoadKind::Flows | LoadKind::Connections | LoadKind::EndlessConnections => {}
            }
        }
    }

    fn figures(&mut self, phase: &Phase) -> Vec<(&'static str, f64)> {
        self.blackouts_us.sort_unstable();
        let over = phase.taken_over_ns.unwrap_or(u64::MAX);
        let (during, after): (Vec<Try>, Vec<Try>) =
            self.tries.iter().partition(|one| one.begun_ns <= over);
        let failed = |tries: &[Try]| tries.iter().filter(|one| !one.is_answered).count() as u64;
        let answered = self.tries.iter().filter(|one| one.is_answered);
        let slowest = answered.map(|one| one.took_us).max().unwrap_or_default();
        let mut figures = vec![
            ("flows", count(self.flows)),
            ("kept", count(self.kept)),
            ("broken", count(self.flows - self.kept)),
            ("wrong_bytes", count(self.wrong_bytes)),
            ("busy", count(self.busy)),
            ("moved_1mb", count(self.moved_1mb)),
            ("idle", count(self.idle)),
            ("idle_used", count(self.idle_used)),
            ("udp", count(self.udp)),
            ("udp_kept", count(self.udp_kept)),
            ("new_tried", count(during.len() as u64)),
            ("new_failed", count(failed(&during))),
            ("later_tried", count(after.len() as u64)),
            ("later_failed", count(failed(&after))),
            ("new_slowest_ms", count(slowest) / 1000.0),
        ];
        // A director that comes back is no fault: nothing was counted.
        if phase.fault.is_some() {
            figures.push(("inflight_both", count(self.inflight_both)));
        }
        figures.extend(self.idle_quiet_ms.map(|ms| ("idle_quiet_ms", ms)));
        if phase.covered.is_some() {
            figures.push(("covered", count(self.covered)));
            figures.push(("covered_broken", count(self.covered_broken)));
        }
        self.udp_blackouts_us.sort_unstable();
        for (name, values, percent) in [
            ("blackout_p50_ms", &self.blackouts_us, 50),
            ("blackout_p99_ms", &self.blackouts_us, 99),
            ("blackout_max_ms", &self.blackouts_us, 100),
            ("udp_blackout_p50_ms", &self.udp_blackouts_us, 50),
            ("udp_blackout_max_ms", &self.udp_blackouts_us, 100),
        ] {
            if let Some(us) = percentile(values, percent) {
                figures.push((name, count(us) / 1000.0));
            }
        }
        figures
    }
}

/// The smallest value that `percent` of the sorted values do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// Counts of a drill stay far below 2^52.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact for every count a drill reaches"
)]
fn count(of: u64) -> f64 {
    of as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::meter::FlowPhase;
    use crate::scenario::Scenario;
    use crate::step::Fault;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<u64> = (1..=200).collect();
        assert_eq!(percentile(&values, 50), Some(100));
        assert_eq!(percentile(&values, 99), Some(198));
        assert_eq!(percentile(&values, 100), Some(200));
        assert_eq!(percentile(&[7], 50), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn flows_of_a_phase_are_those_alive_when_it_began() {
        let scenario = Scenario::load("failover").unwrap();
        let load = scenario.load_spec("nat-busy").unwrap();
        let flow = |port, error, up| FlowOutcome {
            port,
            error,
            wrong_bytes: 0,
            phases: vec![
                FlowPhase::default(),
                FlowPhase {
                    up,
                    down: MUCH,
                    gap_us: u64::from(port),
                    ..FlowPhase::default()
                },
            ],
        };
        let outcome = Outcome {
            flows: vec![
                flow(1, None, MUCH),
                flow(2, None, MUCH - 1),
                flow(3, Some((1, "reset".to_owned())), MUCH),
                flow(4, Some((0, "reset".to_owned())), 0),
            ],
            ..Outcome::default()
        };
        let mut phase = Phase::begin("", "director1", Some(Fault::KillNode));
        phase.in_flight.insert("nat-busy".to_owned(), [1, 3].into());
        phase.covered = Some([1, 3, 4].into());
        let mut sum = Sum::default();
        sum.add(load, Protocol::Tcp, &outcome, &phase, 1);
        let figures: BTreeMap<&str, f64> = sum.figures(&phase).into_iter().collect();
        let expected = [
            ("flows", 3.0),
            ("kept", 2.0),
            ("broken", 1.0),
            ("inflight_both", 2.0),
            ("moved_1mb", 1.0),
            ("covered", 2.0),
            ("covered_broken", 1.0),
            ("blackout_max_ms", 0.002),
        ];
        for (name, value) in expected {
            assert!((figures[name] - value).abs() < 1e-9, "{name}: {figures:?}");
        }
    }
}
