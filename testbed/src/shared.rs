//! What the threads of a client have in common.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::line::{Answerer, Line};
use crate::meter::{FlowOutcome, Marks};
use crate::order::{FlowProgress, LoadOrder, Message, Outcome, Try};
use crate::scenario::LoadKind;
use crate::traffic::Answer;
use crate::wait::monotonic_ns;

/// Failures beyond this number are counted but not described.
const DESCRIBED_MAX: usize = 5;
/// Connections of a load that are kept one by one in its outcome.
const TRIES_MAX: usize = 100_000;

/// What the threads of a load have in common.
pub(crate) struct Shared<'a> {
    pub(crate) order: &'a LoadOrder,
    pub(crate) marks: Marks,
    tally: Mutex<Tally>,
    steering: (Mutex<Steering>, Condvar),
    pub(crate) next: AtomicU64,
    flows: Vec<FlowState>,
}

#[derive(Default)]
struct Tally {
    outcome: Outcome,
    latencies_us: Vec<u32>,
    ports: Vec<Option<u16>>,
    is_ready: bool,
}

/// What the drill wants.
#[derive(Clone, Copy, Default)]
pub(crate) struct Steering {
    pub(crate) stop: bool,
    /// How often idle flows were to be used.
    pub(crate) uses: u32,
}

#[derive(Default)]
struct FlowState {
    done: AtomicU64,
    is_broken: AtomicBool,
    last_ns: AtomicU64,
}

impl<'a> Shared<'a> {
    pub(crate) fn new(order: &'a LoadOrder) -> Shared<'a> {
        let flows = match order.kind {
            LoadKind::Connections | LoadKind::EndlessConnections => 1,
            LoadKind::Flows | LoadKind::IdleFlows | LoadKind::Streams => order.count as usize,
        };
        Shared {
            order,
            marks: Marks::default(),
            tally: Mutex::new(Tally {
                ports: vec![None; flows],
                ..Tally::default()
            }),
            steering: Default::default(),
            next: AtomicU64::new(0),
            flows: (0..flows).map(|_| FlowState::default()).collect(),
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, why: String) {
        let mut tally = self.tally();
        tally.outcome.failed += 1;
        if tally.outcome.failures.len() < DESCRIBED_MAX {
            tally.outcome.failures.push(why);
        }
    }

    pub(crate) fn opened(&self) {
        self.tally().outcome.connections += 1;
    }

    /// Requests answered so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.tally().outcome.rounds
    }

    /// A datagram has no answer.
    pub(crate) fn lost_one(&self) {
        self.tally().outcome.lost += 1;
    }

    pub(crate) fn was_reset(&self) {
        self.tally().outcome.resets += 1;
    }

    pub(crate) fn sent_again(&self, segments: u64) {
        self.tally().outcome.retransmissions += segments;
    }

    pub(crate) fn wrong_bytes(&self, bytes: u64) {
        self.tally().outcome.wrong_bytes += bytes;
    }

    pub(crate) fn flow_finished(&self, flow: FlowOutcome) {
        self.tally().outcome.flows.push(flow);
    }

    pub(crate) fn flow_broken(&self, flow: u32) {
        if let Some(flow) = self.flows.get(flow as usize) {
            flow.is_broken.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn flow_went_on(&self, flow: u32, done: u64) {
        if let Some(flow) = self.flows.get(flow as usize) {
            flow.done.store(done, Ordering::Relaxed);
            flow.last_ns.store(monotonic_ns(), Ordering::Relaxed);
        }
    }

    /// Reports `ready` when this was the last flow to be so.
    pub(crate) fn flow_ready(&self, flow: u32, port: u16) {
        let ports = {
            let mut tally = self.tally();
            if let Some(known) = tally.ports.get_mut(flow as usize) {
                known.get_or_insert(port);
            }
            let ports: Option<Vec<u16>> = tally.ports.iter().copied().collect();
            if tally.is_ready {
                None
            } else {
                tally.is_ready = ports.is_some();
                ports
            }
        };
        if let Some(ports) = ports {
            // The parent is gone if it cannot be told; then the input ends the load.
            let _ = say(&Message::Ready(ports));
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.steering().stop
    }

    fn steering(&self) -> Steering {
        *self
            .steering
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn steer(&self, change: impl FnOnce(&mut Steering)) {
        let (steering, changed) = &self.steering;
        change(&mut steering.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    /// Waits for the pause between two requests; true when the load is to end.
    pub(crate) fn pause_or_stop(&self, until: Instant) -> bool {
        self.wait(Some(until), |_| false).stop
    }

    /// Waits until a time, for a condition, or for the end of the load.
    pub(crate) fn wait(
        &self,
        until: Option<Instant>,
        condition: impl Fn(Steering) -> bool,
    ) -> Steering {
        let (steering, changed) = &self.steering;
        let mut now = steering.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if now.stop || condition(*now) || left.is_some_and(|left| left.is_zero()) {
                return *now;
            }
            now = match left {
                Some(left) => {
                    let woken = changed.wait_timeout(now, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
                None => changed.wait(now).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, answer: &Answer, wrong: u32, took: Duration) {
        let mut tally = self.tally();
        tally.outcome.rounds += 1;
        tally.outcome.wrong_bytes += u64::from(wrong) + u64::from(answer.wrong);
        tally
            .latencies_us
            .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn note_server(&self, line: &mut Line, answer: &Answer) -> bool {
        match line.note_server(answer) {
            Answerer::First(server) => {
                let outcome = &mut self.tally().outcome;
                if !self.order.sources.is_empty()
                    && let Some(source) = line.source()
                {
                    let servers = outcome.by_source.entry(source).or_default();
                    servers.insert(server.clone());
                }
                *outcome.by_server.entry(server).or_default() += 1;
                false
            }
            Answerer::Same => false,
            Answerer::Other => {
                self.tally().outcome.moved += 1;
                true
            }
        }
    }

    pub(crate) fn note_try(&self, begun_ns: u64, is_answered: bool) {
        if self.marks.phase() == 0 {
            return;
        }
        let mut tally = self.tally();
        if tally.outcome.tries.len() < TRIES_MAX {
            tally.outcome.tries.push(Try {
                begun_ns,
                took_us: (monotonic_ns() - begun_ns) / 1000,
                is_answered,
            });
        }
    }

    pub(crate) fn progress(&self) -> Vec<FlowProgress> {
        let progress = self.flows.iter().map(|flow| FlowProgress {
            done: flow.done.load(Ordering::Relaxed),
            is_broken: flow.is_broken.load(Ordering::Relaxed),
        });
        progress.collect()
    }

    /// Bytes of streams are counted by phase.
    pub(crate) fn begin_streams_anew(&self) {
        if self.order.kind == LoadKind::Streams {
            for flow in &self.flows {
                flow.done.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The shortest time from the last progress of a living flow to `at_ns`.
    pub(crate) fn quiet_ms(&self, at_ns: u64) -> f64 {
        let living = self
            .flows
            .iter()
            .filter(|flow| !flow.is_broken.load(Ordering::Relaxed));
        let quiet = living.map(|flow| at_ns.saturating_sub(flow.last_ns.load(Ordering::Relaxed)));
        Duration::from_nanos(quiet.min().unwrap_or_default()).as_secs_f64() * 1000.0
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let mut tally = self.tally();
        tally.latencies_us.sort_unstable();
        let middle = tally
            .latencies_us
            .get(tally.latencies_us.len() / 2)
            .copied();
        let last = tally.latencies_us.last().copied();
        let ms = |us: Option<u32>| f64::from(us.unwrap_or_default()) / 1000.0;
        Outcome {
            latency_p50_ms: ms(middle),
            latency_max_ms: ms(last),
            ..tally.outcome.clone()
        }
    }
}

/// Tells the parent.
///
/// # Errors
/// It is gone.
pub(crate) fn say(message: &Message) -> Result<()> {
    let line = serde_json::to_string(message)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
