//! Another master beside this one: normal for a moment, a mistake when it goes on.
//!
//! When a network heals, both nodes hear each other and the lesser one yields at once. Two nodes
//! that both stay master cannot have been configured as a pair.

use std::time::{Duration, Instant};

/// Heard for this many intervals in a row, a second master does not yield.
const INTERVALS: u32 = 5;
/// Shortest time it must go on, for short intervals.
const LEAST: Duration = Duration::from_millis(500);

/// What has been heard of other masters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rival {
    /// First and last time in a row without a pause.
    heard: Option<(Instant, Instant)>,
}

impl Rival {
    /// Another master was heard while this node is master. Gives back whether that goes on.
    pub(super) fn hear(&mut self, now: Instant, advert: Duration) -> bool {
        let span = (advert * INTERVALS).max(LEAST);
        let first = match self.heard {
            Some((first, last)) if now.duration_since(last) <= span => first,
            Some(_) | None => now,
        };
        self.heard = Some((first, now));
        now.duration_since(first) >= span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_that_yields_is_no_rival() {
        let (mut rival, now) = (Rival::default(), Instant::now());
        let advert = Duration::from_millis(100);
        assert!(!rival.hear(now, advert));
        assert!(!rival.hear(now + advert, advert));
        // The next heal is another story.
        assert!(!rival.hear(now + 100 * advert, advert));
    }

    #[test]
    fn a_master_that_stays_is_one() {
        for advert in [10, 100, 1000].map(Duration::from_millis) {
            let (mut rival, start) = (Rival::default(), Instant::now());
            let heard = (0..).find(|n| rival.hear(start + *n * advert, advert));
            let after = advert * heard.unwrap();
            assert!(after >= LEAST && after <= LEAST + 5 * advert, "{after:?}");
        }
    }
}
