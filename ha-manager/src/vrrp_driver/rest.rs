//! How much of a processor the election thread takes.

use std::time::Duration;

/// What is owed before the thread rests: less than that is slept soon anyway.
const FROM: Duration = Duration::from_micros(300);
/// More is never owed: no packet waits longer for a rest.
const MAX: Duration = Duration::from_millis(2);

/// The rest that the thread owes: half the time it ran, less what it has waited since.
///
/// A real-time thread that never waits takes a processor from everybody else, and where the kernel
/// prevents that (sched_rt_runtime_us, 95 % of a second) it is stopped for the rest of the second. So
/// this one has two thirds at most, however much there is to read. Only timers are served before a
/// rest is over. A turn of more than 4 ms, as when many routers read their queues before they take
/// over at once, or when the node itself stood still, is paid for by no longer rest than others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    owed: Duration,
}

impl Rest {
    /// The thread ran so long.
    pub(super) fn ran(&mut self, length: Duration) {
        self.owed = self.owed.saturating_add(length / 2).min(MAX);
    }

    /// The thread waited so long.
    pub(super) fn waited(&mut self, length: Duration) {
        self.owed = self.owed.saturating_sub(length);
    }

    /// How long to rest now, if that is due.
    pub(super) fn due(&self) -> Option<Duration> {
        (self.owed >= FROM).then_some(self.owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    /// Turns of a thread that always has something to do; the part of the time it runs.
    fn share_with_turns_of(length: Duration) -> f64 {
        let (mut rest, mut ran, mut waited) = (Rest::default(), Duration::ZERO, Duration::ZERO);
        for _ in 0..100_000 {
            rest.ran(length);
            ran += length;
            let pause = rest.due().unwrap_or_default();
            rest.waited(pause);
            waited += pause;
        }
        ran.as_secs_f64() / (ran + waited).as_secs_f64()
    }

    #[test]
    fn a_flood_leaves_a_third_of_the_processor_to_others() {
        for micros in [1, 20, 150, 599, 600, 2000, 4000] {
            let share = share_with_turns_of(MICRO * micros);
            assert!((0.6..0.67).contains(&share), "{micros} us: {share}");
        }
    }

    #[test]
    fn a_thread_that_waits_anyway_never_rests() {
        let mut rest = Rest::default();
        for _ in 0..1000 {
            rest.ran(MICRO * 300);
            assert_eq!(rest.due(), None);
            rest.waited(MICRO * 200);
        }
    }
}
