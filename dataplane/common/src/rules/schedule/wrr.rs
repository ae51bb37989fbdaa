//! wrr: levels that fall from the largest weight, and a walk for each.

use super::{Candidate, Step, Walk};

/// Greatest common divisor of the weights above zero and the highest level
/// (`ip_vs_wrr.c: ip_vs_wrr_gcd_weight, ip_vs_wrr_max_weight`).
pub fn wrr_levels(weights: impl Iterator<Item = u32>) -> (u32, u32) {
    let (mut step, mut largest) = (0u32, 0u32);
    for weight in weights {
        largest = largest.max(weight);
        step = gcd(step, weight);
    }
    let step = step.max(1);
    (largest.saturating_sub(step - 1), step)
}

/// Greatest common divisor; zero divides into everything, so it does not count.
pub(super) const fn gcd(a: u32, b: u32) -> u32 {
    let (mut a, mut b) = (a, b);
    while let Some(rest) = a.checked_rem(b) {
        (a, b) = (b, rest);
    }
    a
}

impl Walk {
    /// The next server whose weight reaches the level; the level falls by a step after each pass
    /// (`ip_vs_wrr.c: ip_vs_wrr_schedule`).
    ///
    /// Passes that cannot find anybody are skipped in one go: a whole pass notes the largest weight
    /// it met, and the level falls to where that weight counts.
    #[inline(always)]
    pub(super) fn step_wrr(&mut self, server: Candidate) -> Step {
        if !server.overloaded {
            if server.weight >= self.level {
                return self.choose(server);
            }
            if server.weight > self.largest {
                self.largest = server.weight;
            }
        }
        if self.index == self.stop {
            return Step::Done;
        }
        if let Step::Continue = self.advance() {
            return Step::Continue;
        }
        let ended_last_pass = self.last_pass;
        let wraps = self.level <= self.list.wrr_step;
        *self = self.end_of_pass();
        if wraps && (ended_last_pass || self.start == super::HEAD) {
            return Step::Done;
        }
        Step::Continue
    }

    /// Lowers the level and goes back to the head of the list.
    #[inline(always)]
    pub(super) const fn end_of_pass(mut self) -> Walk {
        let step = self.list.wrr_step;
        if self.level <= step {
            self.level = self.list.wrr_max;
            self.restarted = true;
        } else {
            self.level -= step;
            if self.whole_pass {
                let target = if self.largest == 0 { 1 } else { self.largest };
                if self.level > target {
                    let passes = match (self.level - target).checked_add(step - 1) {
                        Some(distance) => match distance.checked_div(step) {
                            Some(passes) => passes,
                            None => 0,
                        },
                        None => 0,
                    };
                    let fall = passes.saturating_mul(step);
                    // Never to zero: the last level is the one that ends a round.
                    self.level = if fall < self.level {
                        self.level - fall
                    } else {
                        self.level
                    };
                }
            }
        }
        self.last_pass = self.level <= step;
        if self.last_pass && self.restarted && self.start != super::HEAD {
            self.stop = self.start;
        }
        self.index = 0;
        self.largest = 0;
        self.whole_pass = true;
        self
    }
}
