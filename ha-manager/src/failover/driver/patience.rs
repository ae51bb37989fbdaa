//! How long a node that could not take the role leaves it to others.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

/// Doubled at each give-up, so that a node that never succeeds disturbs its peer ever less; begun
/// anew after a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::failover) struct Patience {
    next: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { next: FIRST }
    }
}

impl Patience {
    /// For how long this time.
    pub(in crate::failover) fn give_up(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_give_up_lasts_twice_as_long_as_the_last_up_to_a_bound() {
        let mut patience = Patience::default();
        let pauses: Vec<u64> = (0..8).map(|_| patience.give_up().as_secs()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300, 300]);
    }
}
