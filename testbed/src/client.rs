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

use std::io::{self, BufRead};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::duplex;
use crate::line::Line;
use crate::meter::FlowMeter;
use crate::order::{LoadOrder, Message};
use crate::scenario::LoadKind;
use crate::shared::{Shared, say};
use crate::wait::monotonic_ns;

/// The hidden subcommand.
pub(crate) const LOAD: &str = "__load";
/// Requests at the beginning of an idle flow: more packets than the threshold of synchronisation.
const OPENING_ROUNDS: u32 = 5;

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
            let done = shared.rounds();
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
                shared.lost_one();
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
