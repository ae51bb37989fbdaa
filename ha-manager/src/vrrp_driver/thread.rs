//! The loop of the election thread.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dataplane::boottime_ns;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use vrrp::net::socket::Queue;

use super::member::Member;
use super::opener::{self, Answers, Request};
use super::party::Party;
use super::post::Post;
use super::rest::Rest;
use super::teller::{Mail, Note};
use super::{ElectionView, End, STARTS_LATER, Shared, scheduling};
use crate::privileges;

/// Advertisements taken in one turn, of all routers together.
const ELECTION_BUDGET: usize = 64;
/// Other packets taken in one turn, of all routers together.
const OTHER_BUDGET: usize = 32;
/// When a turn has run so long, packets of further routers wait for the next: an answer takes far longer
/// than reading does where the link is flooded, and a rest pays for turns of twice its length.
const TURN_MAX: Duration = Duration::from_millis(2);
/// How long they are left alone when there were more.
const OTHER_PAUSE: Duration = Duration::from_millis(1);
/// Interfaces looked at in one turn: two sockets and some ten calls each.
const LOOK_BUDGET: usize = 4;
/// When something is tried again for which another thread held the lock.
const TRY_AGAIN: Duration = Duration::from_micros(100);

/// The kernel may end a wait this much late to wake several threads at once; by default 50 µs. That
/// of [`ElectionThread::wait`] it does not.
const TIMER_SLACK_NS: u64 = 1;

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct ElectionThread {
    parties: Vec<Party>,
    shared: Arc<Shared>,
    helpers: Helpers,
    /// What was told last, or will be.
    published: Vec<ElectionView>,
    /// It has not been handed over.
    is_unpublished: bool,
    notes: Vec<(usize, Note)>,
    requests: Vec<Request>,
    woken: PipeReader,
    /// Ends a wait. The timeout of poll(2) itself may be a thousandth late for a thread that is not
    /// real-time (select_estimate_accuracy), which is 3.6 ms of a master-down time.
    timer: TimerFd,
    pulse: Pulse,
    /// Until when no router takes part.
    begins: Duration,
    /// Until when the other packets of each group are left alone.
    paused: Vec<Duration>,
    /// There are orders or answers that have not been read.
    is_ordered: bool,
    /// Whose packets are taken first in the next turn.
    first: usize,
    woke_at: Duration,
    /// When the account of rests was made up last, and what of the processor the thread had had then.
    accounted: (Duration, Duration),
    rest: Rest,
}

/// Threads that wait for what this one must not wait for.
#[derive(Debug)]
pub(super) struct Helpers {
    pub(super) teller: Post<Mail>,
    pub(super) opener: Post<Vec<Request>>,
    pub(super) answers: Answers,
}

/// Whether the owner is alive.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Unit: milliseconds of CLOCK_BOOTTIME.
    last: Arc<AtomicU64>,
    age_max: Duration,
}

impl Pulse {
    pub(super) fn new(last: Arc<AtomicU64>, age_max: Duration) -> Pulse {
        Pulse { last, age_max }
    }

    /// Why the owner counts as hung.
    fn fault(&self, now: Duration) -> Option<String> {
        let age = now.saturating_sub(self.last());
        (age > self.age_max).then(|| "the owner of the data plane gives no sign of life".to_owned())
    }

    /// When to look again: just after its time is over, or soon if it is.
    fn next_check(&self, now: Duration) -> Duration {
        let over = self.last().saturating_add(self.age_max);
        let over = over.saturating_add(Duration::from_millis(1));
        if over > now {
            over
        } else {
            now.saturating_add(Duration::from_millis(10))
        }
    }

    fn last(&self) -> Duration {
        Duration::from_millis(self.last.load(Ordering::Relaxed))
    }
}

impl ElectionThread {
    pub(super) fn new(
        parties: Vec<Party>,
        shared: Arc<Shared>,
        helpers: Helpers,
        woken: PipeReader,
        pulse: Pulse,
        startup_delay: Duration,
    ) -> io::Result<ElectionThread> {
        fcntl(&woken, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(ElectionThread {
            timer: TimerFd::new(timerfd::ClockId::CLOCK_BOOTTIME, flags)?,
            paused: vec![Duration::ZERO; parties.len()],
            published: self::views(&parties),
            parties,
            shared,
            helpers,
            is_unpublished: false,
            notes: Vec::new(),
            requests: Vec::new(),
            woken,
            pulse,
            begins: boottime().saturating_add(startup_delay),
            is_ordered: false,
            first: 0,
            woke_at: boottime(),
            accounted: (boottime(), Duration::ZERO),
            rest: Rest::default(),
        })
    }

    /// Runs until the owner ends it. Each turn serves, in this order: orders and faults, received
    /// advertisements, timers, interfaces, and what else was received.
    pub(super) fn run(mut self, rt_priority: u8) {
        // Needs privileges that are given up next.
        let scheduling = scheduling::raise(rt_priority);
        tracing::debug!(scheduling, "election thread");
        // Nobody else sets it.
        let _ = self.shared.scheduling.set(scheduling);
        if let Err(error) = privileges::keep_election() {
            tracing::warn!(%error, "the election thread keeps more privileges than it needs");
        }
        // Without it timers are only a little later.
        let _ = prctl::set_timerslack(TIMER_SLACK_NS);
        loop {
            if let Some(end) = self.obey() {
                self.end(end);
                return;
            }
            self.elect();
            self.publish();
            self.look();
            self.serve_others();
            self.publish();
            self.ask();
            self.wait();
        }
    }

    /// Orders of the owner and its pulse.
    fn obey(&mut self) -> Option<End> {
        while let Ok(1..) = self.woken.read(&mut [0; 64]) {
            self.is_ordered = true;
        }
        let now = boottime();
        let mut end = None;
        if self.is_ordered
            && let Some(inbox) = self.shared.try_inbox()
            && let Some(answers) = opener::take(&self.helpers.answers)
        {
            self.is_ordered = false;
            end = inbox.end;
            for party in &mut self.parties {
                party.obey(&inbox, now);
            }
            for answer in answers {
                let parties = &mut self.parties;
                // Each goes to the one that has asked.
                let _ = parties
                    .iter_mut()
                    .try_fold(answer, |answer, party| party.take_answer(answer, now));
            }
        }
        let of_node = self.fault_of_node(now);
        for party in &mut self.parties {
            party.serve_faults(of_node.as_ref(), now);
        }
        end
    }

    /// Why no router takes part.
    fn fault_of_node(&self, now: Duration) -> Option<String> {
        let delayed = (now < self.begins).then(|| STARTS_LATER.to_owned());
        delayed.or_else(|| self.pulse.fault(now))
    }

    /// At the interfaces of routers that take part, of a few in one turn: an advert that comes due
    /// meanwhile is late by that.
    fn look(&mut self) {
        let now = boottime();
        let of_node = self.fault_of_node(now);
        let mut budget = LOOK_BUDGET;
        for party in &mut self.parties {
            if party.look(&mut budget, now) {
                party.serve_faults(of_node.as_ref(), now);
            }
        }
    }

    /// Those whose packets come first are others in each turn, so that a flood for one router leaves
    /// the others their part.
    ///
    /// Before a rest is over there are only timers, which look at their own packets where that matters.
    fn elect(&mut self) {
        let mut budget = match self.rest.due() {
            Some(_) => 0,
            None => ELECTION_BUDGET,
        };
        let first = self.first.checked_rem(self.parties.len()).unwrap_or(0);
        self.first = first.saturating_add(1);
        let (before, after) = self.parties.split_at_mut(first);
        for party in after.iter_mut().chain(before) {
            party.serve_queues(Queue::Election, &mut budget, boottime());
            party.serve_timers(boottime());
            if boottime().saturating_sub(self.woke_at) > TURN_MAX {
                budget = 0;
            }
        }
    }

    fn serve_others(&mut self) {
        let now = boottime();
        if self.rest.due().is_some() || now.saturating_sub(self.woke_at) > TURN_MAX {
            return;
        }
        let mut budget = OTHER_BUDGET;
        let parties = self.parties.iter_mut().zip(&mut self.paused);
        for (party, paused) in parties {
            if *paused <= now && party.serve_queues(Queue::Other, &mut budget, now) {
                *paused = boottime().saturating_add(OTHER_PAUSE);
            }
        }
    }

    /// Has the owner and the log told what has changed.
    fn publish(&mut self) {
        // In place: what is allocated may have to wait for a lock of the allocator that an ordinary
        // thread holds.
        for (router, view) in self.parties.iter().flat_map(Party::views) {
            if let Some(known) = self
                .published
                .get_mut(router)
                .filter(|known| **known != view)
            {
                *known = view;
                self.is_unpublished = true;
            }
        }
        let notes = self.parties.iter_mut().flat_map(Party::take_notes);
        self.notes.extend(notes);
        if self.is_unpublished || !self.notes.is_empty() {
            let (news, notes) = (&self.published, &mut self.notes);
            let is_told = self.helpers.teller.try_add(|mail| {
                mail.views = Some(news.clone());
                mail.note(notes);
            });
            self.is_unpublished &= !is_told;
        }
    }

    /// For new sockets.
    fn ask(&mut self) {
        let requests = self.parties.iter_mut().flat_map(Party::take_requests);
        self.requests.extend(requests);
        if !self.requests.is_empty() {
            let requests = &mut self.requests;
            self.helpers.opener.try_add(|mail| mail.append(requests));
        }
    }

    fn end(mut self, end: End) {
        let now = boottime();
        if end == End::Clean {
            for party in &mut self.parties {
                party.resign(now);
            }
        }
        let views = self::views(&self.parties);
        let mut notes = std::mem::take(&mut self.notes);
        notes.extend(self.parties.iter_mut().flat_map(Party::take_notes));
        self.helpers.teller.add(|mail| {
            mail.views = Some(views);
            mail.note(&mut notes);
        });
    }

    /// Waits for a packet, an order, or the next deadline.
    fn wait(&mut self) {
        self.account();
        let now = boottime();
        let mut wake_at = self.pulse.next_check(now);
        if self.begins > now {
            wake_at = wake_at.min(self.begins);
        }
        let is_left = self.is_unpublished || !self.notes.is_empty() || !self.requests.is_empty();
        if self.is_ordered || is_left {
            wake_at = wake_at.min(now.saturating_add(TRY_AGAIN));
        }
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        for (party, paused) in self.parties.iter().zip(&self.paused) {
            wake_at = wake_at.min(party.next_deadline());
            if *paused > now {
                wake_at = wake_at.min(*paused);
            }
            for socket in party.members().iter().filter_map(Member::socket) {
                fds.push(PollFd::new(socket.fd(Queue::Election), PollFlags::POLLIN));
                if *paused <= now {
                    fds.push(PollFd::new(socket.fd(Queue::Other), PollFlags::POLLIN));
                }
            }
        }
        if let Some(rest) = self.rest.due() {
            // What is queued can wait; an order need not.
            fds.truncate(1);
            wake_at = wake_at.min(now.saturating_add(rest));
        }
        let wake_at = Expiration::OneShot(TimeSpec::from_duration(wake_at));
        let is_set = self
            .timer
            .set(wake_at, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        fds.push(PollFd::new(self.timer.as_fd(), PollFlags::POLLIN));
        // The kernel refuses no such time; a timer that were not set would be missed.
        let timeout = match is_set {
            Ok(()) => PollTimeout::NONE,
            Err(_) => PollTimeout::from(1_u8),
        };
        // Interrupted or not, the next turn looks at everything.
        let _ = poll(&mut fds, timeout);
        self.woke_at = boottime();
        self.account();
    }

    /// What the thread had of the processor since it was asked last, and what it left to others. By the
    /// clock alone a wait that ends at once would count as one, and it costs more than reading a packet.
    fn account(&mut self) {
        let (at, cpu) = (boottime(), thread_time());
        let (last_at, last_cpu) = std::mem::replace(&mut self.accounted, (at, cpu));
        let ran = cpu.saturating_sub(last_cpu);
        let passed = at.saturating_sub(last_at);
        self.rest.ran(ran);
        self.rest.waited(passed.saturating_sub(ran));
    }
}

/// What the calling thread has had of a processor; nothing if the kernel does not say.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    time.unwrap_or_default()
}

/// Of all routers, in their order.
pub(super) fn views(parties: &[Party]) -> Vec<ElectionView> {
    let mut views: Vec<_> = parties.iter().flat_map(Party::views).collect();
    views.sort_by_key(|(index, _)| *index);
    views.into_iter().map(|(_, view)| view).collect()
}

/// The clock of the lease: it goes on while the node is suspended.
pub(super) fn boottime() -> Duration {
    Duration::from_nanos(boottime_ns())
}
