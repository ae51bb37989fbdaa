//! The loop of the election thread.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use vrrp::net::socket::Queue;

use super::router::Router;
use super::{ElectionView, End, Shared};
use crate::privileges;

/// Advertisements taken in one turn.
pub(super) const ELECTION_BUDGET: usize = 32;
/// Advertisements read before a take-over: more than the queue of a socket holds by default.
const TAKEOVER_BUDGET: usize = 512;
/// Other packets taken in one turn.
pub(super) const OTHER_BUDGET: usize = 32;
/// How long they are left alone when there were more.
pub(super) const OTHER_PAUSE: Duration = Duration::from_millis(1);

/// The kernel may end a wait this much late to wake several threads at once; by default 50 µs.
const TIMER_SLACK_NS: u64 = 1;

/// Everything the thread owns.
#[derive(Debug)]
pub(super) struct ElectionThread {
    routers: Vec<Router>,
    shared: Arc<Shared>,
    views: watch::Sender<Vec<ElectionView>>,
    /// What was sent last; comparing with it takes no lock.
    published: Vec<ElectionView>,
    woken: PipeReader,
    pulse: Pulse,
    /// Until when the other packets of each router are left alone.
    paused: Vec<Duration>,
}

/// Whether the owner is alive.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Unit: milliseconds of CLOCK_MONOTONIC.
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
        routers: Vec<Router>,
        shared: Arc<Shared>,
        views: watch::Sender<Vec<ElectionView>>,
        woken: PipeReader,
        pulse: Pulse,
    ) -> io::Result<ElectionThread> {
        fcntl(&woken, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(ElectionThread {
            paused: vec![Duration::ZERO; routers.len()],
            published: routers.iter().map(Router::view).collect(),
            routers,
            shared,
            views,
            woken,
            pulse,
        })
    }

    /// Runs until the owner ends it. Each turn serves, in this order: orders and faults, received
    /// advertisements, timers, and what else was received.
    pub(super) fn run(mut self) {
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
            self.serve_others();
            self.publish();
            self.wait();
        }
    }

    /// Orders of the owner and its pulse.
    fn obey(&mut self) -> Option<End> {
        let mut is_ordered = false;
        while let Ok(1..) = self.woken.read(&mut [0; 64]) {
            is_ordered = true;
        }
        let now = monotonic();
        let mut end = None;
        if is_ordered {
            let inbox = self.shared.inbox();
            let (faults, asked, resign) = (inbox.faults.clone(), inbox.asked, inbox.resign);
            end = inbox.end;
            drop(inbox);
            let counters = self.shared.routers.iter().map(|(_, counters)| counters);
            for ((router, counters), fault) in self.routers.iter_mut().zip(counters).zip(faults) {
                router.set_fault(fault, now);
                router.asked(asked);
                if resign {
                    router.resign(now, counters);
                }
            }
        }
        let pulse = self.pulse.fault(now);
        let counters = self.shared.routers.iter().map(|(_, counters)| counters);
        for (router, counters) in self.routers.iter_mut().zip(counters) {
            router.serve_faults(pulse.clone(), now, counters);
        }
        end
    }

    fn elect(&mut self) {
        let counters = self.shared.routers.iter().map(|(_, counters)| counters);
        for (router, counters) in self.routers.iter_mut().zip(counters) {
            router.serve_queue(Queue::Election, ELECTION_BUDGET, monotonic(), counters);
            router.serve_timer(TAKEOVER_BUDGET, monotonic(), counters);
        }
    }

    fn serve_others(&mut self) {
        let now = monotonic();
        let counters = self.shared.routers.iter().map(|(_, counters)| counters);
        let routers = self.routers.iter_mut().zip(counters);
        for ((router, counters), paused) in routers.zip(&mut self.paused) {
            if *paused <= now && router.serve_queue(Queue::Other, OTHER_BUDGET, now, counters) {
                *paused = now.saturating_add(OTHER_PAUSE);
            }
        }
    }

    /// Tells the owner when something has changed.
    fn publish(&mut self) {
        let views: Vec<_> = self.routers.iter().map(Router::view).collect();
        if self.published != views {
            self.views.send_replace(views.clone());
            self.published = views;
        }
    }

    fn end(&mut self, end: End) {
        let now = monotonic();
        if end == End::Clean {
            let counters = self.shared.routers.iter().map(|(_, counters)| counters);
            for (router, counters) in self.routers.iter_mut().zip(counters) {
                router.resign(now, counters);
            }
        }
        self.publish();
    }

    /// Waits for a packet, an order, or the next deadline.
    fn wait(&self) {
        let now = monotonic();
        let mut wake_at = self.pulse.next_check(now);
        let mut fds = vec![PollFd::new(self.woken.as_fd(), PollFlags::POLLIN)];
        for (router, paused) in self.routers.iter().zip(&self.paused) {
            wake_at = wake_at.min(router.next_deadline());
            let Some(socket) = router.socket() else {
                continue;
            };
            fds.push(PollFd::new(socket.fd(Queue::Election), PollFlags::POLLIN));
            if *paused > now {
                wake_at = wake_at.min(*paused);
            } else {
                fds.push(PollFd::new(socket.fd(Queue::Other), PollFlags::POLLIN));
            }
        }
        let timeout = TimeSpec::from_duration(wake_at.saturating_sub(now));
        // Interrupted or not, the next turn looks at everything.
        let _ = ppoll(&mut fds, Some(timeout), None);
    }
}

/// CLOCK_MONOTONIC since its zero.
pub(super) fn monotonic() -> Duration {
    // Linux always has this clock.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
