//! When announcements of the addresses are due: a block at once, a second one later, and again when
//! asked.

use std::time::Duration;

use tokio::time::Instant;

/// Between two blocks: whoever asks more often gets one for all.
const GAP: Duration = Duration::from_millis(100);

/// The blocks that are still to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Schedule {
    due: Option<Instant>,
    last: Option<Instant>,
    /// The block that is due is followed by another.
    another: bool,
}

impl Schedule {
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Another block is wanted, and one more after the delay.
    pub(super) fn ask(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| now.max(last + GAP));
        self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
        self.another = true;
    }

    /// A block has been sent that nobody had asked for before: the first of a promotion.
    pub(super) fn begun(&mut self, now: Instant, delay: Duration) {
        self.another = true;
        self.sent(now, delay);
    }

    /// The block that was due has been sent. A `delay` of zero has no second one.
    pub(super) fn sent(&mut self, now: Instant, delay: Duration) {
        self.last = Some(now);
        let follows = std::mem::take(&mut self.another) && !delay.is_zero();
        self.due = follows.then(|| now + delay);
    }

    /// The addresses are not this node's any more.
    pub(super) fn stop(&mut self) {
        *self = Schedule::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(5);

    #[test]
    fn a_second_block_follows_the_first_and_no_third() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.begun(now, DELAY);
        assert_eq!(schedule.due(), Some(now + DELAY));
        schedule.sent(now + DELAY, DELAY);
        assert_eq!(schedule.due(), None);
    }

    #[test]
    fn without_a_delay_there_is_one_block() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.begun(now, Duration::ZERO);
        assert_eq!(schedule.due(), None);
        schedule.ask(now + DELAY);
        assert_eq!(schedule.due(), Some(now + DELAY));
    }

    #[test]
    fn however_often_it_is_asked_blocks_keep_their_distance() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.begun(now, DELAY);
        for ms in 0..50 {
            schedule.ask(now + Duration::from_millis(ms));
            assert_eq!(schedule.due(), Some(now + GAP));
        }
        schedule.sent(now + GAP, DELAY);
        assert_eq!(schedule.due(), Some(now + GAP + DELAY));
        schedule.stop();
        assert_eq!(schedule.due(), None);
    }
}
