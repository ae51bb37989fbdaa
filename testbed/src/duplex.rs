//! Connections that stream in both directions at once, as fast as their buffers allow.
//!
//! Both ends always have more to send than the connection takes, so at any moment data is on the
//! way, unacknowledged, in both directions. Send buffers are small: the window of a flow, and with
//! it its share of the links, stays small too.
//!
//! ```text
//! client  | opening 32 | bytes of the up stream until its end |
//! server  | block 4096 | block 4096 | ... | report |
//! block   | 'D' | 4095 bytes of the down stream |
//! report  | 'E' | bytes received 8 | of them wrong 8 | retransmissions 4 |
//! ```

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::meter::FlowMeter;
use crate::shared::Shared;
use crate::traffic::{REQUEST_LEN, Request, Stream, retransmissions};

const BLOCK: usize = 4096;
const DATA: u8 = b'D';
const REPORT: u8 = b'E';
const REPORT_LEN: usize = 20;
/// Asked of the kernel, which doubles it for its own needs. Unit: bytes.
const SEND_BUFFER: usize = 4 << 10;
/// Connections that are opened at once.
const OPENERS: u32 = 16;
const CHUNK: usize = 16 << 10;
/// Reads of one connection before the others have their turn. Writes are one block at a time: more
/// would be gathered in one large packet, whatever the size of the buffer.
const TURNS: usize = 4;
/// Time between two looks at what the drill wants.
const ORDERS_POLL_MS: u8 = 10;
/// Between two looks at all connections, so that each look finds several that can go on.
const GATHER: Duration = Duration::from_millis(2);
/// Between two looks at what the other end has acknowledged.
const ACKNOWLEDGED_POLL: Duration = Duration::from_millis(10);

/// The server's end: streams down and verifies the stream up until the client ends it.
///
/// # Errors
/// The connection broke, or does not begin with an opening.
pub(crate) fn serve(mut stream: TcpStream, opening: &[u8; REQUEST_LEN]) -> io::Result<()> {
    let request = Request::decode_duplex(opening)?;
    setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER)?;
    stream.set_nonblocking(true)?;
    let (mut up, mut down) = (request.up_stream(), request.down_stream());
    let mut out = Outgoing::default();
    let mut chunk = vec![0; CHUNK];
    let (mut received, mut wrong) = (0u64, 0u64);
    let mut up_ended = false;
    loop {
        let mut wanted = PollFlags::POLLOUT;
        wanted.set(PollFlags::POLLIN, !up_ended);
        poll(
            &mut [PollFd::new(stream.as_fd(), wanted)],
            PollTimeout::NONE,
        )?;
        if out.is_sent() {
            if up_ended {
                break;
            }
            out.refill_block(&mut down);
        }
        out.send(&mut stream)?;
        match attempt(stream.read(&mut chunk))? {
            Some(0) => up_ended = true,
            Some(len) => {
                received += len as u64;
                wrong += u64::from(up.count_wrong(chunk.get(..len).unwrap_or_default()));
            }
            None => {}
        }
    }
    stream.set_nonblocking(false)?;
    let mut report = vec![REPORT];
    report.extend(received.to_be_bytes());
    report.extend(wrong.to_be_bytes());
    report.extend(retransmissions(&stream)?.to_be_bytes());
    stream.write_all(&report)
}

/// Bytes that are still to be given to a connection.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    fn is_sent(&self) -> bool {
        self.sent == self.bytes.len()
    }

    fn refill_block(&mut self, from: &mut Stream) {
        self.bytes.resize(BLOCK, 0);
        self.sent = 0;
        if let Some((kind, data)) = self.bytes.split_first_mut() {
            *kind = DATA;
            from.fill(data);
        }
    }

    fn refill(&mut self, from: &mut Stream) {
        self.bytes.resize(BLOCK, 0);
        self.sent = 0;
        from.fill(&mut self.bytes);
    }

    /// Gives what the connection takes; the number of bytes it took.
    fn send(&mut self, to: &mut TcpStream) -> io::Result<usize> {
        let rest = self.bytes.get(self.sent..).unwrap_or_default();
        let len = attempt(to.write(rest))?.unwrap_or_default();
        self.sent += len;
        Ok(len)
    }
}

/// None when the connection would have to wait.
fn attempt(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(len) => Ok(Some(len)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The client's end of all flows of a load, on the calling thread, until the load is stopped.
pub(crate) fn run(shared: &Shared<'_>) {
    let mut flows = open_all(shared);
    let mut chunk = vec![0; CHUNK];
    let mut give_up: Option<Instant> = None;
    let mut look_at = Instant::now();
    loop {
        if Instant::now() >= look_at {
            look_at = Instant::now() + ACKNOWLEDGED_POLL;
            let open = flows.iter_mut().filter(|flow| flow.is_open());
            open.for_each(Flow::note_acknowledged);
        }
        if give_up.is_none() && shared.is_stopped() {
            give_up = Some(Instant::now() + Duration::from_millis(shared.order.patience_ms));
            flows.iter_mut().for_each(Flow::end_up_stream);
        }
        if give_up.is_some_and(|at| Instant::now() > at) {
            for flow in flows.iter_mut().filter(|flow| flow.is_open()) {
                flow.broken("no report at the end".to_owned());
            }
        }
        let mut open: Vec<&mut Flow<'_>> = flows.iter_mut().filter(|flow| flow.is_open()).collect();
        if open.is_empty() && give_up.is_some() {
            break;
        }
        let mut waiting: Vec<PollFd<'_>> = open.iter().map(|flow| flow.poll_fd()).collect();
        thread::sleep(GATHER);
        // Interrupted or not, every connection is looked at.
        let _ = poll(&mut waiting, PollTimeout::from(ORDERS_POLL_MS));
        let ready: Vec<bool> = waiting.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        drop(waiting);
        for (flow, ready) in open.iter_mut().zip(ready) {
            if ready {
                flow.take_turns(&mut chunk);
            }
        }
    }
    flows.into_iter().for_each(Flow::finish);
}

fn open_all<'a>(shared: &'a Shared<'a>) -> Vec<Flow<'a>> {
    thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS)
            .map(|first| {
                scope.spawn(move || {
                    let own = (first..shared.order.count).step_by(OPENERS as usize);
                    own.filter_map(|index| match Flow::open(shared, index) {
                        Ok(flow) => Some(flow),
                        Err(error) => {
                            shared.flow_broken(index);
                            shared.flow_ready(index, 0);
                            shared.fail(format!("flow {index}: {error}"));
                            None
                        }
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        let opened = openers.into_iter().filter_map(|opener| opener.join().ok());
        opened.flatten().collect()
    })
}

struct Flow<'a> {
    shared: &'a Shared<'a>,
    index: u32,
    stream: TcpStream,
    up: Stream,
    down: Stream,
    out: Outgoing,
    /// Bytes given to the connection that are part of the up stream.
    sent: u64,
    acknowledged: u64,
    up_ended: bool,
    /// Position in the block that is coming in.
    block_at: usize,
    report: Option<Vec<u8>>,
    is_ready: bool,
    is_finished: bool,
    meter: FlowMeter<'a>,
}

impl<'a> Flow<'a> {
    fn open(shared: &'a Shared<'a>, index: u32) -> io::Result<Flow<'a>> {
        let order = shared.order;
        let patience = Duration::from_millis(order.patience_ms);
        let mut stream = TcpStream::connect_timeout(&order.address, patience)?;
        setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER)?;
        let request = order.request(u64::from(index));
        stream.write_all(&request.encode_duplex())?;
        stream.set_nonblocking(true)?;
        shared.opened();
        let port = stream.local_addr()?.port();
        Ok(Flow {
            shared,
            index,
            stream,
            up: request.up_stream(),
            down: request.down_stream(),
            out: Outgoing::default(),
            sent: 0,
            acknowledged: 0,
            up_ended: false,
            block_at: 0,
            report: None,
            is_ready: false,
            is_finished: false,
            meter: FlowMeter::new(&shared.marks, port),
        })
    }

    fn is_open(&self) -> bool {
        !self.is_finished && !self.meter.is_ended()
    }

    fn poll_fd(&self) -> PollFd<'_> {
        let mut wanted = PollFlags::POLLIN;
        wanted.set(PollFlags::POLLOUT, !self.up_ended);
        PollFd::new(self.stream.as_fd(), wanted)
    }

    fn take_turns(&mut self, chunk: &mut [u8]) {
        let mut turn = || -> io::Result<()> {
            self.send_some()?;
            for _ in 0..TURNS {
                if !self.receive_some(chunk)? {
                    break;
                }
            }
            Ok(())
        };
        if let Err(error) = turn() {
            if error.kind() == ErrorKind::ConnectionReset {
                self.shared.was_reset();
            }
            self.broken(error.to_string());
        }
    }

    fn send_some(&mut self) -> io::Result<()> {
        if self.up_ended {
            return Ok(());
        }
        if self.out.is_sent() {
            self.out.refill(&mut self.up);
        }
        self.sent += self.out.send(&mut self.stream)? as u64;
        Ok(())
    }

    /// What the server has acknowledged is progress, not what the buffer took.
    fn note_acknowledged(&mut self) {
        let acknowledged = self.sent.saturating_sub(unacknowledged(&self.stream));
        let more = acknowledged.saturating_sub(self.acknowledged);
        if more > 0 {
            self.acknowledged = acknowledged;
            self.meter.sent(more);
            self.tell_progress();
        }
    }

    fn receive_some(&mut self, chunk: &mut [u8]) -> io::Result<bool> {
        let Some(len) = attempt(self.stream.read(chunk))? else {
            return Ok(false);
        };
        if len == 0 {
            self.check_report()?;
            self.is_finished = true;
            return Ok(false);
        }
        self.meter.received(len as u64);
        let wrong = self.take_blocks(chunk.get(..len).unwrap_or_default())?;
        self.note_wrong(wrong);
        self.tell_progress();
        if !self.is_ready {
            self.is_ready = true;
            let port = self.stream.local_addr()?.port();
            self.shared.flow_ready(self.index, port);
        }
        Ok(true)
    }

    /// Verifies what came; gives the number of wrong bytes.
    fn take_blocks(&mut self, mut bytes: &[u8]) -> io::Result<u64> {
        let mut wrong = 0;
        while !bytes.is_empty() {
            if let Some(report) = &mut self.report {
                report.extend_from_slice(bytes);
                break;
            }
            if self.block_at == 0 {
                match bytes.split_first() {
                    Some((&DATA, rest)) => {
                        self.block_at = 1;
                        bytes = rest;
                    }
                    Some((&REPORT, rest)) => {
                        self.report = Some(Vec::new());
                        bytes = rest;
                    }
                    Some(_) | None => return Err(invalid("not a block")),
                }
                continue;
            }
            let (data, rest) = bytes.split_at((BLOCK - self.block_at).min(bytes.len()));
            wrong += u64::from(self.down.count_wrong(data));
            self.block_at = (self.block_at + data.len()) % BLOCK;
            bytes = rest;
        }
        Ok(wrong)
    }

    /// The server has ended the connection: did it get everything, and right?
    fn check_report(&mut self) -> io::Result<()> {
        let report = self.report.take().unwrap_or_default();
        if !self.up_ended || report.len() != REPORT_LEN {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let number = |range: std::ops::Range<usize>| {
            let bytes = report.get(range).unwrap_or_default();
            bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte))
        };
        let (received, wrong, again) = (number(0..8), number(8..16), number(16..20));
        self.note_wrong(wrong + self.sent.abs_diff(received));
        self.shared.sent_again(again);
        Ok(())
    }

    fn note_wrong(&mut self, bytes: u64) {
        if bytes > 0 {
            self.meter.wrong(bytes);
            self.shared.wrong_bytes(bytes);
        }
    }

    fn tell_progress(&mut self) {
        self.shared.flow_went_on(self.index, self.meter.both_ways());
    }

    fn end_up_stream(&mut self) {
        self.up_ended = true;
        // On a broken connection the next read tells.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn broken(&mut self, why: String) {
        let port = self.stream.local_addr().map_or(0, |address| address.port());
        self.shared
            .fail(format!("flow {} from port {port}: {why}", self.index));
        self.shared.flow_broken(self.index);
        if !self.is_ready {
            self.is_ready = true;
            self.shared.flow_ready(self.index, port);
        }
        self.meter.ended(why);
    }

    fn finish(self) {
        self.shared
            .sent_again(u64::from(retransmissions(&self.stream).unwrap_or_default()));
        self.shared.flow_finished(self.meter.finish());
    }
}

/// Bytes given to a connection that the other end has not acknowledged (`SIOCOUTQ`).
fn unacknowledged(stream: &TcpStream) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the ioctl writes one integer through the pointer, which points to a live one.
    let result = unsafe { outq(stream.as_raw_fd(), &raw mut bytes) };
    // Of a connection that has ended nothing is known; nothing more will be acknowledged.
    result.map_or(u64::MAX, |_| u64::try_from(bytes).unwrap_or_default())
}

nix::ioctl_read_bad!(
    /// tcp(7), `SIOCOUTQ`.
    outq,
    libc::TIOCOUTQ,
    libc::c_int
);

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}
