//! Progress of one flow over the phases of a drill.
//!
//! A fault begins a new *phase*; its moment is a *mark*. Marks reach a client a little after the
//! fault, so gaps in the progress are kept with their times and judged at the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::wait::monotonic_ns;

/// Shorter gaps are not kept. Unit: nanoseconds.
const GAP_MIN_NS: u64 = 2_000_000;
/// Gaps kept of one flow; a flow that has more of them does nothing but stand still.
const GAPS_MAX: usize = 50_000;

/// When the phases began, on the monotonic clock. Phase 0 has no mark.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    at_ns: Mutex<Vec<u64>>,
    count: AtomicUsize,
}

impl Marks {
    /// Begins a phase.
    pub(crate) fn begin_phase(&self, at_ns: u64) {
        self.locked(|marks| marks.push(at_ns));
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn phase(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Beginnings of all phases, the first at 0.
    pub(crate) fn begins(&self) -> Vec<u64> {
        self.locked(|marks| std::iter::once(0).chain(marks.iter().copied()).collect())
    }

    fn locked<T>(&self, work: impl FnOnce(&mut Vec<u64>) -> T) -> T {
        work(&mut self.at_ns.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A flow as its client saw it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct FlowOutcome {
    /// The client's port.
    pub(crate) port: u16,
    /// Why it ended before its time, and in which phase.
    pub(crate) error: Option<(usize, String)>,
    pub(crate) wrong_bytes: u64,
    pub(crate) phases: Vec<FlowPhase>,
}

/// What a flow did in one phase.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct FlowPhase {
    /// Bytes that the other end has acknowledged, and bytes that came from it.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Requests answered.
    pub(crate) rounds: u64,
    /// Answers that came from another server than the first one.
    pub(crate) moved: u64,
    /// Longest time without progress, up or down, that reaches into the phase. Unit: microseconds.
    pub(crate) gap_us: u64,
}

impl FlowOutcome {
    pub(crate) fn phase(&self, phase: usize) -> FlowPhase {
        self.phases.get(phase).copied().unwrap_or_default()
    }

    /// Whether the flow went on in a phase and did not end in it or before.
    pub(crate) fn kept(&self, phase: usize) -> bool {
        let ended = self.error.as_ref().is_some_and(|(at, _)| *at <= phase);
        let now = self.phase(phase);
        !ended && self.wrong_bytes == 0 && now.moved == 0 && (now.rounds > 0 || now.down > 0)
    }
}

/// Keeps the books of one flow.
#[derive(Debug)]
pub(crate) struct FlowMeter<'a> {
    marks: &'a Marks,
    outcome: FlowOutcome,
    last_up_ns: u64,
    last_down_ns: u64,
    gaps: Vec<(u64, u64)>,
}

impl<'a> FlowMeter<'a> {
    pub(crate) fn new(marks: &'a Marks, port: u16) -> FlowMeter<'a> {
        let now = monotonic_ns();
        FlowMeter {
            marks,
            outcome: FlowOutcome {
                port,
                ..FlowOutcome::default()
            },
            last_up_ns: now,
            last_down_ns: now,
            gaps: Vec::new(),
        }
    }

    /// The other end has acknowledged bytes.
    pub(crate) fn sent(&mut self, bytes: u64) {
        let now = monotonic_ns();
        self.note_gap(self.last_up_ns, now);
        self.last_up_ns = now;
        self.present().up += bytes;
    }

    pub(crate) fn received(&mut self, bytes: u64) {
        let now = monotonic_ns();
        self.note_gap(self.last_down_ns, now);
        self.last_down_ns = now;
        self.present().down += bytes;
    }

    pub(crate) fn answered(&mut self, moved: bool) {
        self.received(0);
        let present = self.present();
        present.rounds += 1;
        present.moved += u64::from(moved);
    }

    pub(crate) fn wrong(&mut self, bytes: u64) {
        self.outcome.wrong_bytes += bytes;
    }

    /// The first error of a flow is its end.
    pub(crate) fn ended(&mut self, why: String) {
        let phase = self.marks.phase();
        self.outcome.error.get_or_insert((phase, why));
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.outcome.error.is_some()
    }

    /// Bytes that went both ways in the present phase.
    pub(crate) fn both_ways(&mut self) -> u64 {
        let present = self.present();
        present.up.min(present.down)
    }

    pub(crate) fn finish(mut self) -> FlowOutcome {
        self.present();
        let begins = self.marks.begins();
        for (index, phase) in self.outcome.phases.iter_mut().enumerate() {
            let from = begins.get(index).copied().unwrap_or(u64::MAX);
            let to = begins.get(index + 1).copied().unwrap_or(u64::MAX);
            let inside = self.gaps.iter().filter(|(a, b)| *b > from && *a < to);
            let longest = inside.map(|(a, b)| b - a).max().unwrap_or_default();
            phase.gap_us = longest / 1000;
        }
        self.outcome
    }

    fn note_gap(&mut self, from: u64, to: u64) {
        if to.saturating_sub(from) >= GAP_MIN_NS && self.gaps.len() < GAPS_MAX {
            self.gaps.push((from, to));
        }
    }

    fn present(&mut self) -> &mut FlowPhase {
        let phase = self.marks.phase();
        if self.outcome.phases.len() <= phase {
            self.outcome.phases.resize(phase + 1, FlowPhase::default());
        }
        let last = self.outcome.phases.len() - 1;
        &mut self.outcome.phases[last.min(phase)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_in_each_phase_it_reaches_into() {
        let marks = Marks::default();
        let mut meter = FlowMeter::new(&marks, 1);
        meter.note_gap(1_000_000, 9_000_000);
        // The mark arrives later than the progress after it.
        meter.note_gap(10_000_000, 70_000_000);
        marks.begin_phase(20_000_000);
        meter.note_gap(80_000_000, 83_000_000);
        let outcome = meter.finish();
        assert_eq!(outcome.phases[0].gap_us, 60_000);
        assert_eq!(outcome.phases[1].gap_us, 60_000);
    }

    #[test]
    fn progress_is_booked_to_the_phase_in_which_it_happens() {
        let marks = Marks::default();
        let mut meter = FlowMeter::new(&marks, 1);
        meter.sent(10);
        meter.received(7);
        marks.begin_phase(monotonic_ns());
        meter.sent(5);
        meter.received(6);
        assert_eq!(meter.both_ways(), 5);
        let outcome = meter.finish();
        assert_eq!((outcome.phases[0].up, outcome.phases[0].down), (10, 7));
        assert_eq!((outcome.phases[1].up, outcome.phases[1].down), (5, 6));
    }

    #[test]
    fn a_flow_is_kept_when_it_went_on_unharmed() {
        let went_on = FlowPhase {
            down: 1,
            ..FlowPhase::default()
        };
        let still = FlowPhase::default();
        let flow = |error, wrong_bytes, last| FlowOutcome {
            port: 1,
            error,
            wrong_bytes,
            phases: vec![went_on, last],
        };
        assert!(flow(None, 0, went_on).kept(1));
        assert!(!flow(None, 0, still).kept(1), "it stands still");
        assert!(!flow(None, 1, went_on).kept(1), "a byte is wrong");
        let reset = Some((1, "reset".to_owned()));
        assert!(!flow(reset.clone(), 0, went_on).kept(1));
        assert!(flow(reset, 0, went_on).kept(0), "it ended later");
    }
}
