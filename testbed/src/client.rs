//! The client: loads a virtual service, verifies every byte, and reports as JSON lines.
//!
//! Runs as a process of its own inside the client's namespace.
//!
//! | line on its input | meaning | line on its output |
//! | --- | --- | --- |
//! | | each flow has had an answer | `{"ready": PORTS}` |
//! | `progress` | how far is each flow? | `{"progress": [..]}` |
//! | `phase NANOSECONDS` | a phase began at this time of the monotonic clock | `{"quiet": MILLISECONDS}` |
//! | `use` | idle flows are to be used | |
//! | `stop`, or the end of the input | the load is to end | `{"outcome": ..}` |

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::duplex;
use crate::line::{Answerer, Line};
use crate::meter::{FlowMeter, FlowOutcome, Marks};
use crate::scenario::{LoadKind, Protocol};
use crate::traffic::{Answer, Request, next_word};
use crate::wait::monotonic_ns;

/// The hidden subcommand.
pub(crate) const LOAD: &str = "__load";
/// Failures beyond this number are counted but not described.
const DESCRIBED_MAX: usize = 5;
/// Requests at the beginning of an idle flow: more packets than the threshold of synchronisation.
const OPENING_ROUNDS: u32 = 5;
/// Connections of a load that are kept one by one in its outcome.
const TRIES_MAX: usize = 100_000;

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct LoadOrder {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddrV4,
    pub(crate) kind: LoadKind,
    pub(crate) count: u32,
    pub(crate) parallel: u32,
    pub(crate) interval_ms: u64,
    pub(crate) up: u32,
    pub(crate) down: u32,
    pub(crate) patience_ms: u64,
    #[serde(default)]
    pub(crate) use_rounds: u32,
    pub(crate) seed: u64,
}

/// What a load saw.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) connections: u64,
    pub(crate) failed: u64,
    /// Requests answered.
    pub(crate) rounds: u64,
    /// Datagrams without an answer.
    pub(crate) lost: u64,
    pub(crate) wrong_bytes: u64,
    pub(crate) resets: u64,
    /// Segments sent again, by both ends.
    pub(crate) retransmissions: u64,
    /// Answers on a flow that came from another server than its first one.
    pub(crate) moved: u64,
    pub(crate) latency_p50_ms: f64,
    pub(crate) latency_max_ms: f64,
    pub(crate) by_server: BTreeMap<String, u64>,
    pub(crate) failures: Vec<String>,
    /// Every flow of a load of flows.
    pub(crate) flows: Vec<FlowOutcome>,
    /// Connections that ended after the first phase.
    pub(crate) tries: Vec<Try>,
}

/// One new connection.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Try {
    /// On the monotonic clock.
    pub(crate) begun_ns: u64,
    pub(crate) took_us: u64,
    pub(crate) is_answered: bool,
}

/// How far a flow is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct FlowProgress {
    /// Answers; bytes both ways in the present phase for streams.
    pub(crate) done: u64,
    pub(crate) is_broken: bool,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// The client's port of each flow; 0 where it could not be opened.
    Ready(Vec<u16>),
    Progress(Vec<FlowProgress>),
    /// The shortest time since a flow's last answer. Unit: milliseconds.
    Quiet(f64),
    Outcome(Box<Outcome>),
}

impl LoadOrder {
    /// What connection `number` says first; its bytes are its own.
    pub(crate) fn request(&self, number: u64) -> Request {
        let mut seed = self.seed ^ number.rotate_left(32);
        Request {
            connection: number,
            seed: next_word(&mut seed),
            round: 0,
            up: self.up,
            down: self.down,
        }
    }
}

/// Carries out the order; prints the messages.
///
/// # Errors
/// Output is gone.
pub(crate) fn load(order: &LoadOrder) -> Result<()> {
    let shared = Shared::new(order);
    thread::scope(|scope| -> Result<()> {
        let workers = match order.kind {
            LoadKind::Connections | LoadKind::EndlessConnections => order.parallel,
            LoadKind::Flows | LoadKind::IdleFlows => order.count,
            LoadKind::Streams => 1,
        };
        let running: Vec<_> = (0..workers)
            .map(|index| {
                let shared = &shared;
                scope.spawn(move || match order.kind {
                    LoadKind::Connections | LoadKind::EndlessConnections => {
                        connections(shared, index);
                    }
                    LoadKind::Flows => flow(shared, index),
                    LoadKind::IdleFlows => idle_flow(shared, index),
                    LoadKind::Streams => duplex::run(shared),
                })
            })
            .collect();
        let shared = &shared;
        // Ends with the input, which the parent closes when it has read the outcome.
        scope.spawn(move || obey(shared));
        for worker in running {
            if worker.join().is_err() {
                shared.fail("a worker panicked".to_owned());
            }
        }
        say(&Message::Outcome(Box::new(shared.outcome())))
    })
}

/// What the threads of a load have in common.
pub(crate) struct Shared<'a> {
    pub(crate) order: &'a LoadOrder,
    pub(crate) marks: Marks,
    tally: Mutex<Tally>,
    steering: (Mutex<Steering>, Condvar),
    next: AtomicU64,
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
struct Steering {
    stop: bool,
    /// How often idle flows were to be used.
    uses: u32,
}

#[derive(Default)]
struct FlowState {
    done: AtomicU64,
    is_broken: AtomicBool,
    last_ns: AtomicU64,
}

impl<'a> Shared<'a> {
    fn new(order: &'a LoadOrder) -> Shared<'a> {
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

    fn steer(&self, change: impl FnOnce(&mut Steering)) {
        let (steering, changed) = &self.steering;
        change(&mut steering.lock().unwrap_or_else(PoisonError::into_inner));
        changed.notify_all();
    }

    /// Waits for the pause between two requests; true when the load is to end.
    fn pause_or_stop(&self, until: Instant) -> bool {
        self.wait(Some(until), |_| false).stop
    }

    /// Waits until a time, for a condition, or for the end of the load.
    fn wait(&self, until: Option<Instant>, condition: impl Fn(Steering) -> bool) -> Steering {
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
    fn answered(&self, answer: &Answer, wrong: u32, took: Duration) {
        let mut tally = self.tally();
        tally.outcome.rounds += 1;
        tally.outcome.wrong_bytes += u64::from(wrong) + u64::from(answer.wrong);
        tally
            .latencies_us
            .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    fn note_server(&self, line: &mut Line, answer: &Answer) -> bool {
        match line.note_server(answer) {
            Answerer::First(server) => {
                *self.tally().outcome.by_server.entry(server).or_default() += 1;
                false
            }
            Answerer::Same => false,
            Answerer::Other => {
                self.tally().outcome.moved += 1;
                true
            }
        }
    }

    fn note_try(&self, begun_ns: u64, is_answered: bool) {
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

    fn progress(&self) -> Vec<FlowProgress> {
        let progress = self.flows.iter().map(|flow| FlowProgress {
            done: flow.done.load(Ordering::Relaxed),
            is_broken: flow.is_broken.load(Ordering::Relaxed),
        });
        progress.collect()
    }

    /// Bytes of streams are counted by phase.
    fn begin_streams_anew(&self) {
        if self.order.kind == LoadKind::Streams {
            for flow in &self.flows {
                flow.done.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The shortest time from the last progress of a living flow to `at_ns`.
    fn quiet_ms(&self, at_ns: u64) -> f64 {
        let living = self
            .flows
            .iter()
            .filter(|flow| !flow.is_broken.load(Ordering::Relaxed));
        let quiet = living.map(|flow| at_ns.saturating_sub(flow.last_ns.load(Ordering::Relaxed)));
        Duration::from_nanos(quiet.min().unwrap_or_default()).as_secs_f64() * 1000.0
    }

    fn outcome(&self) -> Outcome {
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

/// One connection after the other, until there are enough or the load is stopped.
fn connections(shared: &Shared<'_>, worker: u32) {
    let order = shared.order;
    let pause = Duration::from_millis(order.interval_ms);
    let endless = order.kind == LoadKind::EndlessConnections;
    // Workers take turns, so that connections come at even intervals.
    if endless && shared.pause_or_stop(Instant::now() + pause * worker / order.parallel) {
        return;
    }
    // A datagram's source port could be drawn again at once and meet its old connection: sockets
    // stay open to the end, so that each request is a connection of its own.
    let mut kept = Vec::new();
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if !endless && number >= u64::from(order.count) {
            return;
        }
        let next_at = Instant::now() + pause;
        let begun_ns = monotonic_ns();
        let mut line = match Line::open(order, number) {
            Ok(line) => line,
            Err(error) => {
                shared.note_try(begun_ns, false);
                shared.fail(format!("connection {number}: {error}"));
                if shared.pause_or_stop(next_at) {
                    return;
                }
                continue;
            }
        };
        shared.opened();
        let result = exchange(shared, &mut line);
        let is_answered = matches!(result, Exchange::Answered { .. });
        shared.note_try(begun_ns, is_answered);
        if is_answered {
            let done = shared.tally().outcome.rounds;
            shared.flow_went_on(0, done);
            shared.flow_ready(0, line.port());
        }
        if !endless {
            kept.extend(line.datagram_socket());
        }
        shared.sent_again(line.retransmissions());
        if shared.pause_or_stop(next_at) {
            return;
        }
    }
}

/// One long-lived connection with a request at every interval.
fn flow(shared: &Shared<'_>, index: u32) {
    let pause = Duration::from_millis(shared.order.interval_ms);
    let Some(mut flow) = MeteredFlow::open(shared, index) else {
        return;
    };
    loop {
        let next_at = Instant::now() + pause;
        if !flow.round() {
            break;
        }
        if flow.rounds > 0 {
            shared.flow_ready(index, flow.line.port());
        }
        if shared.pause_or_stop(next_at) {
            break;
        }
    }
    flow.finish();
}

/// One long-lived connection that is used only when asked for, after a few requests at first.
fn idle_flow(shared: &Shared<'_>, index: u32) {
    let Some(mut flow) = MeteredFlow::open(shared, index) else {
        return;
    };
    let mut uses = 0;
    let mut rounds = OPENING_ROUNDS;
    loop {
        let goes_on = (0..rounds).all(|_| flow.round());
        shared.flow_ready(index, flow.line.port());
        if !goes_on {
            break;
        }
        let next = shared.wait(None, |now| now.uses > uses);
        if next.stop {
            break;
        }
        uses = next.uses;
        rounds = shared.order.use_rounds;
    }
    flow.finish();
}

struct MeteredFlow<'a> {
    shared: &'a Shared<'a>,
    index: u32,
    line: Line,
    rounds: u64,
    meter: FlowMeter<'a>,
}

impl<'a> MeteredFlow<'a> {
    fn open(shared: &'a Shared<'a>, index: u32) -> Option<MeteredFlow<'a>> {
        match Line::open(shared.order, u64::from(index)) {
            Ok(line) => {
                shared.opened();
                let meter = FlowMeter::new(&shared.marks, line.port());
                Some(MeteredFlow {
                    shared,
                    index,
                    line,
                    rounds: 0,
                    meter,
                })
            }
            Err(error) => {
                shared.fail(format!("flow {index}: {error}"));
                shared.flow_broken(index);
                shared.flow_ready(index, 0);
                None
            }
        }
    }

    /// One round; false when the flow cannot go on.
    fn round(&mut self) -> bool {
        match exchange(self.shared, &mut self.line) {
            Exchange::Answered { wrong, moved } => {
                self.rounds += 1;
                self.meter.answered(moved);
                self.meter.wrong(wrong);
                self.shared.flow_went_on(self.index, self.rounds);
                true
            }
            Exchange::Lost => true,
            Exchange::Broken(why) => {
                self.meter.ended(why);
                self.shared.flow_broken(self.index);
                false
            }
        }
    }

    /// Keeps the connection open until the load is stopped, whatever became of it.
    fn finish(self) {
        self.shared.flow_ready(self.index, self.line.port());
        self.shared.wait(None, |now| now.stop);
        self.shared.sent_again(self.line.retransmissions());
        self.shared.flow_finished(self.meter.finish());
    }
}

enum Exchange {
    Answered {
        wrong: u64,
        moved: bool,
    },
    /// A datagram without an answer.
    Lost,
    Broken(String),
}

/// One round.
fn exchange(shared: &Shared<'_>, line: &mut Line) -> Exchange {
    let begun = Instant::now();
    match line.round() {
        Ok((answer, wrong)) => {
            let moved = shared.note_server(line, &answer);
            shared.answered(&answer, wrong, begun.elapsed());
            Exchange::Answered {
                wrong: u64::from(wrong) + u64::from(answer.wrong),
                moved,
            }
        }
        Err(error) => {
            if error.kind() == io::ErrorKind::ConnectionReset {
                shared.was_reset();
            }
            if line.is_datagram() {
                shared.tally().outcome.lost += 1;
                return Exchange::Lost;
            }
            shared.fail(format!("{}: {error}", line.describe()));
            Exchange::Broken(error.to_string())
        }
    }
}

fn obey(shared: &Shared<'_>) {
    for line in io::stdin().lock().lines().map_while(io::Result::ok) {
        let reply = match line.split_once(' ').unwrap_or((&line, "")) {
            ("progress", _) => Message::Progress(shared.progress()),
            ("phase", at) => {
                let at_ns = at.parse().unwrap_or_else(|_| monotonic_ns());
                shared.marks.begin_phase(at_ns);
                shared.begin_streams_anew();
                Message::Quiet(shared.quiet_ms(at_ns))
            }
            ("use", _) => {
                shared.steer(|now| now.uses += 1);
                continue;
            }
            _ => return shared.steer(|now| now.stop = true),
        };
        if say(&reply).is_err() {
            break;
        }
    }
    // A load with an end of its own needs nobody to steer it.
    if shared.order.kind == LoadKind::Connections {
        return;
    }
    shared.steer(|now| now.stop = true);
}

fn say(message: &Message) -> Result<()> {
    let line = serde_json::to_string(message)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
