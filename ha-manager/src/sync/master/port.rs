//! One port of a sync master: offers in, datagrams out.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use dataplane::{OfferReader, OfferedConn, timer_ns};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use syncproto::buffer::SyncBuffer;
use syncproto::net::{BATCH_MAX, SendBatch};
use syncproto::sender::Sender;
use syncproto::wire::Version;
use tracing::warn;

use super::lane::{LaneExit, Waited};
use super::outlets::{Gone, Outlets};
use super::{FILLING, OFFERS_MAX, STOP_GRACE};
use crate::sync::losses::Losses;
use crate::sync::offer::{STALE_AFTER, conn_of, is_stale};
use crate::sync::{Named, SyncPortStatus, lock};

/// A thread that waits turns after this, so that standing still can be told from waiting.
const WAIT_MAX: Duration = Duration::from_millis(500);

/// Where a port's offers come from.
#[expect(clippy::large_enum_variant, reason = "a thread has one")]
pub(super) enum Source {
    /// The only port reads the ring itself.
    Ring(OfferReader),
    Lane(LaneExit),
}

/// What the owner changes while the threads run.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) is_version_0: AtomicBool,
    pub(super) queue_max: AtomicUsize,
    /// What is offered is sent at once, in messages however small.
    pub(super) hurries: AtomicBool,
    /// Offers that were thrown away, or could not be sent.
    pub(super) losses: Losses,
    /// Told to stop: until then, all threads together may send the rest.
    pub(super) stop_by: OnceLock<Instant>,
}

/// What the thread tells, once per turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) counts: Counts,
    pub(super) queued: u64,
    lag: Option<Duration>,
    sent_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    offered: u64,
    entries: u64,
    messages: u64,
    bytes: u64,
    drop_queue_full: u64,
    drop_send_error: u64,
    pub(super) drop_stale: u64,
    not_carried: u64,
    peer_refused: u64,
}

impl Orders {
    pub(super) fn version(&self) -> Version {
        if self.is_version_0.load(Relaxed) {
            Version::V0
        } else {
            Version::V1
        }
    }

    pub(super) fn hurries(&self) -> bool {
        self.hurries.load(Relaxed)
    }

    /// Until when a thread that ends may send the rest.
    pub(super) fn stop_by(&self) -> Instant {
        *(self.stop_by).get_or_init(|| Instant::now() + STOP_GRACE)
    }
}

impl Told {
    pub(super) fn status(shared: &Mutex<Told>, port: u16) -> SyncPortStatus {
        let told = lock(shared).clone();
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        SyncPortStatus {
            port,
            counters: told.counts.named(),
            queued: told.queued,
            lag_us: told.lag.map(micros),
            idle_ms: told.sent_at.map(|at| micros(at.elapsed()) / 1000),
        }
    }
}

impl Counts {
    fn named(&self) -> Named {
        vec![
            ("offered", self.offered),
            ("entries", self.entries),
            ("messages", self.messages),
            ("bytes", self.bytes),
            ("drop_queue_full", self.drop_queue_full),
            ("drop_send_error", self.drop_send_error),
            ("drop_stale", self.drop_stale),
            ("not_carried", self.not_carried),
            ("peer_refused", self.peer_refused),
        ]
    }
}

impl Source {
    fn next(&mut self) -> Option<OfferedConn> {
        match self {
            Source::Ring(offers) => offers.next_offer(),
            Source::Lane(lane) => lane.next(),
        }
    }
}

/// The state of the thread.
pub(super) struct Port {
    source: Source,
    sender: Sender,
    outlets: Outlets,
    batch: SendBatch,
    /// Messages taken from the sender that have not gone to every destination.
    unsent: Vec<SyncBuffer>,
    flush_age: Duration,
    orders: Arc<Orders>,
    shared: Arc<Mutex<Told>>,
    told: Told,
    /// How long the newest offer had waited when it was taken.
    waited: Duration,
    /// The longest that an offer had waited of those that are held.
    held_waited: Duration,
}

impl Port {
    pub(super) fn new(
        source: Source,
        sender: Sender,
        flush_age: Duration,
        outlets: Outlets,
        orders: Arc<Orders>,
        shared: Arc<Mutex<Told>>,
    ) -> Port {
        let told = lock(&shared).clone();
        Port {
            source,
            sender,
            outlets,
            batch: SendBatch::new(),
            unsent: Vec::with_capacity(BATCH_MAX),
            flush_age,
            orders,
            shared,
            told,
            waited: Duration::ZERO,
            held_waited: Duration::ZERO,
        }
    }

    /// Ends when told to stop, or the dealer has ended, and what was offered has been sent. Gives back
    /// the ring it read from.
    pub(super) fn run(mut self, stopped: Option<BorrowedFd<'_>>) -> Option<OfferReader> {
        let mut turned = Instant::now();
        loop {
            let now = Instant::now();
            let last = std::mem::replace(&mut turned, now);
            if now.saturating_duration_since(last) > STALE_AFTER {
                self.discard();
            }
            let taken = self.take_offers(now);
            if self.orders.hurries() {
                self.sender.flush();
            }
            let blocked = self.send(now);
            self.tell();
            if taken == OFFERS_MAX && !blocked {
                continue;
            }
            if self.wait(stopped, blocked) {
                break;
            }
        }
        self.finish();
        match self.source {
            Source::Ring(offers) => Some(offers),
            Source::Lane(_) => None,
        }
    }

    /// Throws away what this thread holds, after it or its sockets stood still.
    fn discard(&mut self) {
        let oldest = self.oldest();
        let unsent = self.unsent.drain(..).zip(self.outlets.forget());
        let unsent = unsent.filter(|(_, is_sent)| !is_sent);
        let unsent: u64 = unsent.map(|(message, _)| u64::from(message.count())).sum();
        let held = unsent + self.sender.pending_entries();
        if held > 0 {
            self.sender.discard();
            self.told.counts.drop_stale += held;
            self.has_lost(oldest);
        }
    }

    /// When the oldest message that is held was begun, or before.
    fn oldest(&self) -> Instant {
        let unsent = self.unsent.first().and_then(SyncBuffer::begun);
        let filling = || self.sender.next_deadline()?.checked_sub(self.flush_age);
        unsent.or_else(filling).unwrap_or_else(Instant::now)
    }

    /// Messages are lost of which the oldest was begun then.
    fn has_lost(&self, begun: Instant) {
        let oldest = begun.checked_sub(self.held_waited).unwrap_or(begun);
        self.orders.losses.add_since(oldest);
    }

    /// Offers into messages; says how many. What the queue has no room for stays where it is.
    fn take_offers(&mut self, now: Instant) -> usize {
        let queue_max = self.orders.queue_max.load(Relaxed);
        self.sender.set_queue_max(queue_max);
        if has_room(&self.sender, queue_max) {
            // A message at hand of the other version goes into the queue.
            self.sender.set_version(self.orders.version());
        }
        let now_ns = timer_ns();
        if self.unsent.is_empty() && self.sender.pending_entries() == 0 {
            self.held_waited = Duration::ZERO;
        }
        let (mut stale, mut taken) = (0, 0);
        while taken < OFFERS_MAX
            && has_room(&self.sender, queue_max)
            && let Some(offer) = self.source.next()
        {
            taken += 1;
            if is_stale(&offer, now_ns) {
                stale += 1;
                self.orders.losses.add(offer.offer.at_ns);
            } else {
                let waited = Duration::from_nanos(now_ns.saturating_sub(offer.offer.at_ns));
                self.waited = waited;
                self.held_waited = self.held_waited.max(waited);
                self.sender.push(&conn_of(offer), now);
            }
        }
        self.told.counts.offered += taken as u64;
        self.told.counts.drop_stale += stale;
        taken
    }

    /// Sends what is due; true when no socket takes more.
    fn send(&mut self, now: Instant) -> bool {
        let mut now = now;
        let too_old = STALE_AFTER + self.flush_age;
        loop {
            while self.unsent.len() < BATCH_MAX
                && let Some(message) = self.sender.poll_transmit(now)
            {
                self.unsent.push(message);
            }
            let Some(begun) = self.unsent.first().and_then(SyncBuffer::begun) else {
                return false;
            };
            if now.saturating_duration_since(begun) > too_old {
                // The socket took nothing for so long that the peer may know better by now.
                self.discard();
                return false;
            }
            let mut gone = Gone::default();
            let is_done = (self.outlets).send(&mut self.batch, &self.unsent, &mut gone);
            self.count(&gone, now);
            if !is_done {
                return true;
            }
            for message in self.unsent.drain(..) {
                self.sender.recycle(message);
            }
            now = Instant::now();
        }
    }

    fn count(&mut self, gone: &Gone, now: Instant) {
        let counts = &mut self.told.counts;
        for (message, _) in self.unsent.iter().zip(gone.sent).filter(|(_, sent)| *sent) {
            counts.entries += u64::from(message.count());
            counts.messages += 1;
            counts.bytes += message.message().len() as u64;
            let age = message
                .begun()
                .map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
            self.told.lag = Some(age + self.waited);
            self.told.sent_at = Some(now);
        }
        if gone.lost_entries > 0 {
            counts.drop_send_error += gone.lost_entries;
            self.has_lost(self.oldest());
        }
    }

    /// Waits for offers, room in a socket, or the age of a message. True when told to stop.
    fn wait(&mut self, stopped: Option<BorrowedFd<'_>>, blocked: bool) -> bool {
        let until_due = self
            .sender
            .next_deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match (&mut self.source, stopped) {
            (Source::Lane(lane), _) if !blocked => {
                let limit = until_due.map(|due| due.min(WAIT_MAX));
                lane.wait(limit) == Waited::Ended
            }
            (Source::Lane(lane), _) => {
                if lane.look() == Waited::Ended {
                    return true;
                }
                poll_some(self.outlets.writable().collect(), Some(FILLING));
                false
            }
            (Source::Ring(offers), stopped) => {
                // A message that is being filled is due soon: no need to hear of every offer before.
                let filling = until_due.is_some() || blocked;
                let mut fds: Vec<PollFd<'_>> = stopped
                    .map(|stopped| PollFd::new(stopped, PollFlags::POLLIN))
                    .into_iter()
                    .collect();
                if blocked {
                    fds.extend(self.outlets.writable());
                } else if !filling {
                    fds.push(PollFd::new(offers.as_fd(), PollFlags::POLLIN));
                }
                let due = if blocked { None } else { until_due };
                let limit = filling.then(|| due.unwrap_or(FILLING).min(FILLING));
                let first = poll_some(fds, limit);
                first && stopped.is_some()
            }
        }
    }

    /// Sends the rest.
    fn finish(&mut self) {
        let latest = self.orders.stop_by();
        loop {
            let now = Instant::now();
            let taken = self.take_offers(now);
            if taken == 0 {
                self.sender.flush();
            }
            let blocked = self.send(now);
            if taken == 0 && !blocked || now > latest {
                break;
            }
            if blocked {
                poll_some(self.outlets.writable().collect(), Some(FILLING * 10));
            }
        }
        self.tell();
    }

    fn tell(&mut self) {
        let sender = self.sender.counters();
        if self.told.counts.drop_queue_full < sender.drop_queue_full {
            self.has_lost(self.oldest());
        }
        let counts = &mut self.told.counts;
        counts.drop_queue_full = sender.drop_queue_full;
        counts.not_carried = sender.not_carried;
        counts.peer_refused = self.batch.refused();
        self.told.queued = (self.sender.queued_messages() + self.unsent.len()) as u64;
        lock(&self.shared).clone_from(&self.told);
    }
}

/// Whether the queue has room for what one more entry can fill: the message at hand, and one of its
/// own.
///
/// DIFFERS: a kernel's master throws a message away that finds the queue full (`ip_vs_sync.c:
/// sb_queue_tail`). Here offers wait in front of the queue, and then at their connections.
fn has_room(sender: &Sender, queue_max: usize) -> bool {
    let queued = sender.queued_messages();
    queued == 0 || queued + 2 <= queue_max
}

/// Whether the first of them is ready.
fn poll_some(mut fds: Vec<PollFd<'_>>, limit: Option<Duration>) -> bool {
    match ppoll(&mut fds, limit.map(TimeSpec::from), None) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => warn!(%error, "sync master cannot wait"),
    }
    let first = fds.first().and_then(PollFd::revents);
    first.is_some_and(|events| !events.is_empty())
}
