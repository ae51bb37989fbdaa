//! From the dealer to one port: batches of offers through a bounded queue, and emptied ones back.

use std::collections::VecDeque;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::time::Duration;

use dataplane::OfferedConn;

/// Offers of a batch.
const BATCH: usize = 128;
/// Batches that may wait for a port. With those being filled, emptied and on their way back 64 lanes
/// hold 16 MiB of offers at most.
const BATCHES_MAX: usize = 8;

type Batch = VecDeque<OfferedConn>;

/// The dealer's end.
pub(super) struct LaneEntry {
    filling: Batch,
    to_port: SyncSender<Batch>,
    empties: Receiver<Batch>,
}

/// The port's end.
pub(super) struct LaneExit {
    from_dealer: Receiver<Batch>,
    current: Batch,
    back: SyncSender<Batch>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dealt {
    /// It was handed over, or there was none.
    Yes,
    /// The port has as many as may wait.
    NoRoom,
    /// The port is not there any more; its offers are of this time ([`dataplane::timer_ns`]) or later.
    Lost { since_ns: u64 },
}

/// Why a wait for offers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// There are offers, or the time is over.
    Woken,
    /// The dealer has ended, and nothing is left.
    Ended,
}

pub(super) fn lane() -> (LaneEntry, LaneExit) {
    let (to_port, from_dealer) = sync_channel(BATCHES_MAX);
    let (back, empties) = sync_channel(BATCHES_MAX);
    let entry = LaneEntry {
        filling: Batch::with_capacity(BATCH),
        to_port,
        empties,
    };
    let exit = LaneExit {
        from_dealer,
        current: Batch::new(),
        back,
    };
    (entry, exit)
}

impl LaneEntry {
    /// Whether one more offer can be taken for this port.
    pub(super) fn has_room(&self) -> bool {
        self.filling.len() < BATCH
    }

    pub(super) fn push(&mut self, offer: OfferedConn) {
        self.filling.push_back(offer);
    }

    /// Hands over what has been collected.
    pub(super) fn deal(&mut self) -> Dealt {
        if self.filling.is_empty() {
            return Dealt::Yes;
        }
        let empty = self.empties.try_recv();
        let empty = empty.unwrap_or_else(|_| Batch::with_capacity(BATCH));
        match self
            .to_port
            .try_send(std::mem::replace(&mut self.filling, empty))
        {
            Ok(()) => Dealt::Yes,
            Err(TrySendError::Full(back)) => {
                self.filling = back;
                Dealt::NoRoom
            }
            Err(TrySendError::Disconnected(lost)) => {
                let times = lost.iter().map(|offered| offered.offer.at_ns);
                Dealt::Lost {
                    since_ns: times.min().unwrap_or(0),
                }
            }
        }
    }
}

impl LaneExit {
    /// The next offer that is here.
    pub(super) fn next(&mut self) -> Option<OfferedConn> {
        loop {
            if let Some(offer) = self.current.pop_front() {
                return Some(offer);
            }
            let next = self.from_dealer.try_recv().ok()?;
            self.replace(next);
        }
    }

    /// Waits for offers, at most for `limit`; without one for as long as it takes.
    pub(super) fn wait(&mut self, limit: Option<Duration>) -> Waited {
        if !self.current.is_empty() {
            return Waited::Woken;
        }
        let waited = match limit {
            Some(limit) => self.from_dealer.recv_timeout(limit),
            None => (self.from_dealer.recv()).map_err(|_| RecvTimeoutError::Disconnected),
        };
        self.arrived(waited)
    }

    /// As [`LaneExit::wait`], without waiting.
    pub(super) fn look(&mut self) -> Waited {
        if !self.current.is_empty() {
            return Waited::Woken;
        }
        let found = self.from_dealer.try_recv();
        self.arrived(found.map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        }))
    }

    fn arrived(&mut self, batch: Result<Batch, RecvTimeoutError>) -> Waited {
        match batch {
            Ok(batch) => self.replace(batch),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Waited::Ended,
        }
        Waited::Woken
    }

    fn replace(&mut self, batch: Batch) {
        let emptied = std::mem::replace(&mut self.current, batch);
        if emptied.capacity() > 0 {
            // One too many is not kept.
            let _ = self.back.try_send(emptied);
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane::common::offer::Offer6;

    use super::*;

    fn offer(nth: u32) -> OfferedConn {
        OfferedConn {
            ipv6: false,
            offer: Offer6 {
                fwmark: nth,
                ..Offer6::default()
            },
            extra: None,
        }
    }

    #[test]
    fn a_lane_keeps_the_order_and_takes_no_more_than_its_bound() {
        let (mut entry, mut exit) = lane();
        let mut given = 0;
        while entry.has_room() {
            entry.push(offer(given));
            given += 1;
            if !entry.has_room() {
                entry.deal();
            }
        }
        assert_eq!(given as usize, BATCH * (BATCHES_MAX + 1));
        assert_eq!(entry.deal(), Dealt::NoRoom);
        for nth in 0..BATCH as u32 + 1 {
            assert_eq!(exit.next().unwrap().offer.fwmark, nth);
        }
        assert_eq!(entry.deal(), Dealt::Yes, "there is room again");
        drop(entry);
        let rest: Vec<u32> = std::iter::from_fn(|| exit.next())
            .map(|offered| offered.offer.fwmark)
            .collect();
        assert_eq!(rest, (BATCH as u32 + 1..given).collect::<Vec<u32>>());
        assert_eq!(exit.wait(None), Waited::Ended);
        assert_eq!(exit.look(), Waited::Ended);
    }

    #[test]
    fn a_port_that_has_gone_is_told_from_one_that_is_late() {
        let (mut entry, exit) = lane();
        entry.push(offer(1));
        drop(exit);
        assert!(matches!(entry.deal(), Dealt::Lost { .. }));
        assert_eq!(entry.deal(), Dealt::Yes, "what was lost is not tried again");
    }
}
