//! twos: two servers drawn by weight, the less loaded of them is chosen (`ip_vs_twos.c`).

use super::{Candidate, HEAD, Step, Walk, overhead};

impl Walk {
    /// The first pass adds up the weights, the second finds whom the two draws hit.
    #[inline(always)]
    pub(super) fn step_twos(&mut self, server: Candidate) -> Step {
        if server.is_usable() {
            self.weight_passed = self.weight_passed.wrapping_add(server.weight as u64);
            if !self.last_pass {
                // The last usable one stands if a draw hits nobody: servers can become unusable
                // between the passes.
                self.best = server;
            } else {
                if self.draws[0] <= self.weight_passed {
                    self.best = server;
                    self.draws[0] = HIT;
                }
                if self.draws[1] <= self.weight_passed {
                    self.other = server;
                    self.draws[1] = HIT;
                }
                if self.draws[0] == HIT && self.draws[1] == HIT {
                    return self.better_of_two();
                }
            }
        }
        if let Step::Continue = self.advance() {
            return Step::Continue;
        }
        if self.best.slot == HEAD {
            return Step::Done;
        }
        if self.last_pass {
            return self.better_of_two();
        }
        let range = self.weight_passed + 1;
        self.draws = [scale(self.draws[0], range), scale(self.draws[1], range)];
        self.weight_passed = 0;
        self.last_pass = true;
        self.index = 0;
        Step::Continue
    }

    /// The second replaces the first when it carries less for its weight; in 32 bits that wrap, as
    /// in the kernel (`ip_vs_twos.c: ip_vs_twos_schedule`).
    #[inline(always)]
    fn better_of_two(&mut self) -> Step {
        let cost = |of: &Candidate| overhead(of) as i32;
        let (first, second) = (&self.best, &self.other);
        if second.slot != HEAD
            && (second.weight as i32).wrapping_mul(cost(first))
                > (first.weight as i32).wrapping_mul(cost(second))
        {
            self.best = self.other;
        }
        Step::Done
    }
}

/// A draw that has hit a server: no weight reaches it again.
const HIT: u64 = u64::MAX;

/// A number in `0..range` from 32 random bits: their product less the lower 32 bits.
///
/// The sum of weights is the highest of a range, so the first usable server has one chance more than
/// its weight.
#[inline(always)]
pub(super) const fn scale(random: u64, range: u64) -> u64 {
    let (high, low) = (range >> 32, range & 0xffff_ffff);
    high.wrapping_mul(random)
        .wrapping_add(low.wrapping_mul(random) >> 32)
}
