//! From when on offers were lost, so that the peer is told again of what came since, and of no more.
//!
//! What saw no packet here since then is left alone: a node that stood still, or whose thread did, may
//! have been overtaken by its peer, and would set the peer's connections back.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use dataplane::timer_ns;

/// Nothing was lost.
const NOTHING: u64 = 0;

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

    /// Offers were lost of which the oldest is of this time or later.
    pub(super) fn add_since(&self, oldest: Instant) {
        let ago = u64::try_from(oldest.elapsed().as_nanos()).unwrap_or(u64::MAX);
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
    use std::time::Duration;

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
    fn a_time_of_threads_becomes_one_of_the_programs() {
        let losses = Losses::default();
        let oldest = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        let before_ns = timer_ns();
        losses.add_since(oldest);
        let ago = Duration::from_nanos(before_ns - losses.take().unwrap());
        // The clock of timers ticks every ten milliseconds at the slowest.
        let error = ago.abs_diff(Duration::from_secs(3));
        assert!(error < Duration::from_millis(50), "{ago:?}");
    }
}
