//! From when on offers were lost, so that the peer is told again of what came since, and of no more.
//!
//! What saw no packet here since then is left alone: a node that stood still, or whose thread did, may
//! have been overtaken by its peer, and would set the peer's connections back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use dataplane::timer_ns;

/// Nothing was lost.
const NOTHING: u64 = 0;

/// From a packet to its offer in a message, beside the age of the message: what the ring, the dealer
/// and the clock of timers may add.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// The earliest time of what was lost since somebody asked last. Unit: nanoseconds of
/// [`dataplane::timer_ns`].
#[derive(Debug, Default)]
pub(super) struct Losses(AtomicU64);

impl Losses {
    /// An offer of this time was lost.
    pub(super) fn add(&self, at_ns: u64) {
        let earlier = |known| match known {
            NOTHING => Some(at_ns.max(1)),
            known if at_ns < known => Some(at_ns.max(1)),
            _ => None,
        };
        let _ = self.0.fetch_update(Relaxed, Relaxed, earlier);
    }

    /// A message was lost that was begun then, or one later; of a thread that fills it for `flush_age`
    /// at most.
    pub(super) fn add_message(&self, begun: Instant, flush_age: Duration) {
        let ago = begun.elapsed() + flush_age + ON_THE_WAY;
        let ago = u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX);
        self.add(timer_ns().saturating_sub(ago));
    }

    pub(super) fn take(&self) -> Option<u64> {
        match self.0.swap(NOTHING, Relaxed) {
            NOTHING => None,
            at_ns => Some(at_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_of_several_losses_is_told_once() {
        let losses = Losses::default();
        assert_eq!(losses.take(), None);
        for at_ns in [7, 9, 5, 6] {
            losses.add(at_ns);
        }
        assert_eq!(losses.take(), Some(5));
        assert_eq!(losses.take(), None);
        losses.add(0);
        assert_eq!(losses.take(), Some(1), "a loss at the beginning of time");
    }

    #[test]
    fn what_a_lost_message_tells_of_is_older_than_the_message() {
        let losses = Losses::default();
        let begun = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let before_ns = timer_ns();
        losses.add_message(begun, Duration::from_secs(2));
        let ago_ns = before_ns - losses.take().unwrap();
        let ago = Duration::from_nanos(ago_ns);
        assert!(ago <= Duration::from_millis(5100), "{ago:?}");
        assert!(ago > Duration::from_secs(5), "{ago:?}");
    }
}
