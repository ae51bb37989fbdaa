//! The client: loads a virtual service, verifies every byte, and reports as JSON lines.
//!
//! Runs as a process of its own inside the client's namespace. Lines on its input steer it:
//! `progress` asks for the rounds of each flow, `stop` (or the end of the input) ends the load.
//! Lines on its output: `{"ready":..}` when each flow has had an answer, `{"progress":..}`, and at
//! the end `{"outcome":..}`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::scenario::{LoadKind, Protocol};
use crate::traffic::{ANSWER_LEN, Answer, REQUEST_LEN, Request, next_word, retransmissions};

/// The hidden subcommand.
pub(crate) const LOAD: &str = "__load";
/// Failures beyond this number are counted but not described.
const DESCRIBED_MAX: usize = 5;

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
    /// Flows that were answered by another server than before.
    pub(crate) moved: u64,
    pub(crate) latency_p50_ms: f64,
    pub(crate) latency_max_ms: f64,
    pub(crate) by_server: BTreeMap<String, u64>,
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    Ready(bool),
    /// Rounds done, by flow.
    Progress(Vec<u64>),
    Outcome(Box<Outcome>),
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
            LoadKind::Flows => order.count,
        };
        let running: Vec<_> = (0..workers)
            .map(|index| {
                let shared = &shared;
                scope.spawn(move || match order.kind {
                    LoadKind::Connections | LoadKind::EndlessConnections => connections(shared),
                    LoadKind::Flows => flow(shared, index),
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

struct Shared<'a> {
    order: &'a LoadOrder,
    tally: Mutex<Tally>,
    stop: (Mutex<bool>, Condvar),
    next: AtomicU64,
    rounds: Vec<AtomicU64>,
}

#[derive(Default)]
struct Tally {
    outcome: Outcome,
    latencies_us: Vec<u32>,
    ready: u32,
}

impl<'a> Shared<'a> {
    fn new(order: &'a LoadOrder) -> Shared<'a> {
        let flows = if order.kind == LoadKind::Flows {
            order.count
        } else {
            1
        };
        Shared {
            order,
            tally: Mutex::default(),
            stop: (Mutex::new(false), Condvar::new()),
            next: AtomicU64::new(0),
            rounds: (0..flows).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, why: String) {
        let mut tally = self.tally();
        tally.outcome.failed += 1;
        if tally.outcome.failures.len() < DESCRIBED_MAX {
            tally.outcome.failures.push(why);
        }
    }

    /// Waits for the pause between two requests; true when the load is to end.
    fn pause_or_stop(&self, until: Instant) -> bool {
        let (stop, changed) = &self.stop;
        let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if *stopped || left.is_zero() {
                return *stopped;
            }
            stopped = changed
                .wait_timeout(stopped, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn request_stop(&self) {
        let (stop, changed) = &self.stop;
        *stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Counts an answer and reports `ready` when it was the last first one.
    fn answered(&self, flow: u32, answer: &Answer, wrong: u32, took: Duration) {
        let all_ready = {
            let mut tally = self.tally();
            tally.outcome.rounds += 1;
            tally.outcome.wrong_bytes += u64::from(wrong) + u64::from(answer.wrong);
            tally
                .latencies_us
                .push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
            let first = self
                .rounds
                .get(flow as usize)
                .map(|n| n.fetch_add(1, Ordering::Relaxed));
            if first == Some(0) {
                tally.ready += 1;
            }
            first == Some(0) && tally.ready as usize == self.rounds.len()
        };
        if all_ready {
            // The parent is gone if it cannot be told; then the input ends the load.
            let _ = say(&Message::Ready(true));
        }
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
fn connections(shared: &Shared<'_>) {
    let pause = Duration::from_millis(shared.order.interval_ms);
    let endless = shared.order.kind == LoadKind::EndlessConnections;
    // A datagram's source port could be drawn again at once and meet its old connection: sockets
    // stay open to the end, so that each request is a connection of its own.
    let mut kept = Vec::new();
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        if !endless && number >= u64::from(shared.order.count) {
            return;
        }
        let next_at = Instant::now() + pause;
        let mut line = match Line::open(shared.order, number) {
            Ok(line) => line,
            Err(error) => {
                shared.fail(format!("connection {number}: {error}"));
                if shared.pause_or_stop(next_at) {
                    return;
                }
                continue;
            }
        };
        shared.tally().outcome.connections += 1;
        exchange(shared, &mut line, 0);
        if let (Socket::Udp(socket), false) = (&line.socket, endless) {
            kept.extend(socket.try_clone());
        }
        line.finish(shared);
        if shared.pause_or_stop(next_at) {
            return;
        }
    }
}

/// One long-lived connection with a request at every interval.
fn flow(shared: &Shared<'_>, index: u32) {
    let pause = Duration::from_millis(shared.order.interval_ms);
    let mut line = match Line::open(shared.order, u64::from(index)) {
        Ok(line) => line,
        Err(error) => return shared.fail(format!("flow {index}: {error}")),
    };
    shared.tally().outcome.connections += 1;
    loop {
        let next_at = Instant::now() + pause;
        if !exchange(shared, &mut line, index) {
            break;
        }
        if shared.pause_or_stop(next_at) {
            break;
        }
    }
    line.finish(shared);
}

/// One round; false when the connection cannot go on.
fn exchange(shared: &Shared<'_>, line: &mut Line, flow: u32) -> bool {
    let begun = Instant::now();
    match line.round() {
        Ok((answer, wrong)) => {
            line.note_server(shared, &answer);
            shared.answered(flow, &answer, wrong, begun.elapsed());
            true
        }
        Err(error) => {
            let mut tally = shared.tally();
            if error.kind() == io::ErrorKind::ConnectionReset {
                tally.outcome.resets += 1;
            }
            if line.is_datagram() {
                tally.outcome.lost += 1;
                return true;
            }
            drop(tally);
            let number = line.request.connection;
            shared.fail(format!(
                "connection {number}, round {}: {error}",
                line.request.round
            ));
            false
        }
    }
}

/// A connection to the service.
struct Line {
    socket: Socket,
    request: Request,
    patience: Duration,
    server: Option<String>,
    server_retransmissions: u32,
}

enum Socket {
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Line {
    fn open(order: &LoadOrder, number: u64) -> io::Result<Line> {
        let address = SocketAddr::V4(order.address);
        let patience = Duration::from_millis(order.patience_ms);
        let socket = match order.protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect_timeout(&address, patience)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Socket::Tcp(stream)
            }
            Protocol::Udp => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(address)?;
                Socket::Udp(socket)
            }
        };
        let mut seed = order.seed ^ number.rotate_left(32);
        let seed = next_word(&mut seed);
        let request = Request {
            connection: number,
            seed,
            round: 0,
            up: order.up,
            down: order.down,
        };
        Ok(Line {
            socket,
            request,
            patience,
            server: None,
            server_retransmissions: 0,
        })
    }

    fn is_datagram(&self) -> bool {
        matches!(self.socket, Socket::Udp(_))
    }

    /// Sends the next request and verifies its answer; gives the number of wrong bytes.
    fn round(&mut self) -> io::Result<(Answer, u32)> {
        self.request.round += 1;
        let request = self.request;
        let (answer, wrong) = match &mut self.socket {
            Socket::Tcp(stream) => round_tcp(stream, &request)?,
            Socket::Udp(socket) => round_udp(socket, &request, self.patience)?,
        };
        if (answer.connection, answer.round) != (request.connection, request.round) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "answer to another request",
            ));
        }
        self.server_retransmissions = answer.retransmissions;
        Ok((answer, wrong))
    }

    fn note_server(&mut self, shared: &Shared<'_>, answer: &Answer) {
        match &self.server {
            None => {
                let mut tally = shared.tally();
                *tally
                    .outcome
                    .by_server
                    .entry(answer.server.clone())
                    .or_default() += 1;
                self.server = Some(answer.server.clone());
            }
            Some(server) if *server != answer.server => shared.tally().outcome.moved += 1,
            Some(_) => {}
        }
    }

    fn finish(self, shared: &Shared<'_>) {
        let own = match &self.socket {
            Socket::Tcp(stream) => retransmissions(stream).unwrap_or_default(),
            Socket::Udp(_) => 0,
        };
        let both = u64::from(own) + u64::from(self.server_retransmissions);
        shared.tally().outcome.retransmissions += both;
    }
}

fn round_tcp(stream: &mut TcpStream, request: &Request) -> io::Result<(Answer, u32)> {
    stream.write_all(&request.encode())?;
    request.up_stream().send(stream, request.up as usize)?;
    let mut header = [0; ANSWER_LEN];
    stream.read_exact(&mut header)?;
    let answer = Answer::decode(&header)?;
    let wrong = request
        .down_stream()
        .receive(stream, request.down as usize)?;
    Ok((answer, wrong))
}

fn round_udp(
    socket: &UdpSocket,
    request: &Request,
    patience: Duration,
) -> io::Result<(Answer, u32)> {
    let mut datagram = vec![0; REQUEST_LEN + request.up as usize];
    let (head, body) = datagram.split_at_mut(REQUEST_LEN);
    head.copy_from_slice(&request.encode());
    request.up_stream().fill(body);
    socket.send(&datagram)?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let len = socket.recv(&mut buffer)?;
        let reply = buffer.get(..len).unwrap_or_default();
        let Some((header, body)) = reply.split_at_checked(ANSWER_LEN) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "answer is cut"));
        };
        let answer = Answer::decode(header)?;
        // The late answer to a request that counts as lost already.
        if answer.connection == request.connection && answer.round < request.round {
            continue;
        }
        let missing = (request.down as usize).abs_diff(body.len());
        let wrong = request.down_stream().count_wrong(body);
        return Ok((answer, wrong + u32::try_from(missing).unwrap_or(u32::MAX)));
    }
}

fn obey(shared: &Shared<'_>) {
    for line in io::stdin().lock().lines().map_while(io::Result::ok) {
        match line.as_str() {
            "progress" => {
                let rounds = shared
                    .rounds
                    .iter()
                    .map(|n| n.load(Ordering::Relaxed))
                    .collect();
                if say(&Message::Progress(rounds)).is_err() {
                    break;
                }
            }
            _ => return shared.request_stop(),
        }
    }
    // A load with an end of its own needs nobody to steer it.
    if shared.order.kind == LoadKind::Connections {
        return;
    }
    shared.request_stop();
}

fn say(message: &Message) -> Result<()> {
    let line = serde_json::to_string(message)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}
