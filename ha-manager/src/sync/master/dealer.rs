//! The thread that deals the offers of the one ring to the ports.
//!
//! What finds no room at its port stays here, and then no more is taken from the ring: when that is
//! full, the programs leave a mark at the connection, and the expiry walk offers it again. One port
//! whose lane is full thus holds all the others, until it takes a batch or throws away what has become
//! too old.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::OfferReader;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use tracing::warn;

use super::lane::{Dealt, LaneEntry};
use super::port::Orders;
use super::{FILLING, OFFERS_MAX};
use crate::sync::offer::thread_of;

pub(super) struct Dealer {
    pub(super) offers: OfferReader,
    /// One for each port, a power of two of them.
    pub(super) lanes: Vec<LaneEntry>,
    pub(super) orders: Arc<Orders>,
}

impl Dealer {
    /// Ends when told to stop and what had been offered by then has been dealt. Gives back the reading
    /// end of the ring.
    pub(super) fn run(mut self, stopped: BorrowedFd<'_>) -> OfferReader {
        loop {
            let taken = self.take();
            let all_dealt = self.deal_all();
            if taken == OFFERS_MAX && all_dealt {
                continue;
            }
            // One that comes after a pause is dealt at once; with more of them it is enough to look
            // from time to time.
            let is_idle = all_dealt && (taken == 0 || self.orders.hurries());
            if self.wait(stopped, is_idle) {
                self.finish();
                return self.offers;
            }
        }
    }

    /// Offers from the ring to the lanes; says how many.
    fn take(&mut self) -> usize {
        let Dealer {
            offers,
            lanes,
            orders,
        } = self;
        let mut taken = 0;
        if !lanes.iter().all(LaneEntry::has_room) {
            return 0;
        }
        while taken < OFFERS_MAX
            && let Some(offer) = offers.next_offer()
        {
            taken += 1;
            let thread = thread_of(&offer, lanes.len());
            let Some(lane) = lanes.get_mut(thread) else {
                continue;
            };
            lane.push(offer);
            if lane.has_room() {
                continue;
            }
            match lane.deal() {
                Dealt::Yes => {}
                Dealt::NoRoom => break,
                Dealt::Lost { since_ns } => orders.losses.add(since_ns),
            }
        }
        taken
    }

    /// Hands over what has been collected; false when some of it found no room.
    fn deal_all(&mut self) -> bool {
        let mut all = true;
        for lane in &mut self.lanes {
            match lane.deal() {
                Dealt::Yes => {}
                Dealt::NoRoom => all = false,
                Dealt::Lost { since_ns } => self.orders.losses.add(since_ns),
            }
        }
        all
    }

    /// Waits for offers or, unless idle, only for a moment. True when told to stop.
    fn wait(&self, stopped: BorrowedFd<'_>, is_idle: bool) -> bool {
        let mut fds = vec![PollFd::new(stopped, PollFlags::POLLIN)];
        let mut timeout = Some(TimeSpec::from(FILLING));
        if is_idle {
            fds.push(PollFd::new(self.offers.as_fd(), PollFlags::POLLIN));
            timeout = None;
        }
        match ppoll(&mut fds, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => warn!(%error, "the dealer of the sync master cannot wait"),
        }
        let stop = fds.first().and_then(PollFd::revents);
        stop.is_some_and(|events| !events.is_empty())
    }

    fn finish(&mut self) {
        let latest = self.orders.stop_by();
        loop {
            let taken = self.take();
            let all_dealt = self.deal_all();
            if taken == 0 && all_dealt || Instant::now() > latest {
                break;
            }
            if !all_dealt {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
