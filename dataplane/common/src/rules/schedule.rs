//! Schedulers as walks over a service's server list.
//!
//! A [`Walk`] says which position of the list it wants to see next, is shown that server, and ends
//! with a choice and a new scheduler word. Who drives it (a `bpf_loop` callback in the programs, a
//! plain loop elsewhere) only fetches servers; every decision is here.
//!
//! The scheduler word of a service holds the position between picks:
//!
//! | bits | field |
//! | --- | --- |
//! | 0..24 | place in `SERVERS` of the server at the position, plus one; 0 is the list head |
//! | 24..56 | wrr: the current level |

use ipvs_model::scheduler::Scheduler;

/// Position that means "the list head", before the first server.
pub const HEAD: u32 = u32::MAX;

/// What a scheduler looks at of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Place in `SERVERS`.
    pub slot: u32,
    pub weight: u32,
    pub active: u32,
    /// Active and inactive.
    pub total: u32,
    pub overloaded: bool,
}

/// The head of a list block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListHead {
    pub count: u32,
    /// wrr: the highest level, largest weight less (step − 1).
    pub wrr_max: u32,
    /// wrr: the distance of levels, greatest common divisor of the weights.
    pub wrr_step: u32,
}

/// The position a scheduler keeps between picks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Place in `SERVERS` of the server at the position.
    pub slot: Option<u32>,
    /// wrr: the current level.
    pub level: u32,
}

impl Position {
    pub const fn from_word(word: u64) -> Position {
        let slot = (word & 0xff_ffff) as u32;
        let level = (word >> 24) as u32;
        Position {
            slot: if slot == 0 { None } else { Some(slot - 1) },
            level,
        }
    }

    pub const fn to_word(self) -> u64 {
        let slot = match self.slot {
            Some(slot) => (slot as u64 + 1) & 0xff_ffff,
            None => 0,
        };
        slot | (self.level as u64) << 24
    }
}

/// Greatest common divisor of the weights above zero and the highest level
/// (`ip_vs_wrr.c: ip_vs_wrr_gcd_weight, ip_vs_wrr_max_weight`).
pub fn wrr_levels(weights: impl Iterator<Item = u32>) -> (u32, u32) {
    let (mut step, mut largest) = (0u32, 0u32);
    for weight in weights.filter(|weight| *weight > 0) {
        largest = largest.max(weight);
        let (mut a, mut b) = (step, weight);
        while b != 0 {
            (a, b) = (b, a.checked_rem(b).unwrap_or(0));
        }
        step = a;
    }
    let step = step.max(1);
    (largest.saturating_sub(step - 1), step)
}

/// The position after the list changed, for schedulers that care
/// (`ip_vs_wrr.c: ip_vs_wrr_dest_changed`).
pub fn on_list_change(scheduler: Scheduler, position: Position, list: ListHead) -> Position {
    if scheduler != Scheduler::Wrr {
        return position;
    }
    let level = position.level;
    let level = if level > list.wrr_max || level == 0 {
        list.wrr_max
    } else if list.wrr_step > 1 {
        level.checked_div(list.wrr_step).unwrap_or(0) * list.wrr_step + 1
    } else {
        level
    };
    Position { slot: None, level }
}

/// The position of a fresh service (`ip_vs_wrr.c: ip_vs_wrr_init_svc`).
pub fn initial_position(scheduler: Scheduler, list: ListHead) -> Position {
    let level = if scheduler == Scheduler::Wrr {
        list.wrr_max
    } else {
        0
    };
    Position { slot: None, level }
}

/// Whether the walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Continue,
    Done,
}

/// One pick in progress.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    list: ListHead,
    /// Index in the list to look at next.
    index: u32,
    /// Servers looked at since the walk was at the list head, or since it began.
    seen: u32,
    /// Index where the position stood when the walk began, or [`HEAD`].
    start: u32,
    chosen: u32,
    chosen_slot: u32,
    best: Candidate,
    // wrr only.
    level: u32,
    /// Largest weight of a server that could take connections, of this pass.
    largest: u32,
    /// Index whose turn ends the walk, or [`HEAD`].
    stop: u32,
    scheduler: u8,
    last_pass: bool,
    restarted: bool,
    whole_pass: bool,
}

impl Walk {
    /// Begins a pick. `start` is the index of the position's server in the list, or [`HEAD`].
    ///
    /// Gives `None` when nothing can be chosen.
    #[inline(always)]
    pub const fn begin(scheduler: u8, list: ListHead, start: u32, level: u32) -> Option<Walk> {
        let wrr = scheduler == Scheduler::Wrr as u8;
        if list.count == 0 || (wrr && list.wrr_max == 0) {
            return None;
        }
        // A service that was empty begins at the highest level.
        let level = if wrr && level == 0 {
            list.wrr_max
        } else {
            level
        };
        let positioned = wrr || scheduler == Scheduler::Rr as u8;
        let start = if positioned { start } else { HEAD };
        let next = start.wrapping_add(1);
        let wraps = next >= list.count;
        let walk = Walk {
            list,
            index: if wraps { 0 } else { next },
            seen: 0,
            start,
            chosen: HEAD,
            chosen_slot: 0,
            best: Candidate {
                slot: 0,
                weight: 0,
                active: 0,
                total: 0,
                overloaded: false,
            },
            level,
            largest: 0,
            stop: HEAD,
            scheduler,
            last_pass: false,
            restarted: false,
            whole_pass: start == HEAD,
        };
        if wrr && wraps && start != HEAD {
            return Some(walk.end_of_pass());
        }
        Some(walk)
    }

    /// The most steps a walk over `count` servers takes.
    pub const fn steps_max(count: u32) -> u32 {
        count.saturating_mul(8).saturating_add(8)
    }

    /// Index in the list of the server to show next.
    #[inline(always)]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Shows the server at [`Walk::index`].
    #[inline(always)]
    pub fn step(&mut self, server: Candidate) -> Step {
        match self.scheduler {
            RR => self.step_rr(server),
            WRR => self.step_wrr(server),
            WLC => self.step_wlc(server),
            _ => Step::Done,
        }
    }

    /// The chosen server's place in `SERVERS`.
    #[inline(always)]
    pub const fn chosen(&self) -> Option<u32> {
        if self.chosen == HEAD {
            None
        } else {
            Some(self.chosen_slot)
        }
    }

    /// The position to store after the walk; `before` is the one it began with.
    #[inline(always)]
    pub const fn position(&self, before: Position) -> Position {
        if self.scheduler != RR && self.scheduler != WRR {
            return before;
        }
        let slot = if self.chosen == HEAD {
            before.slot
        } else {
            Some(self.chosen_slot)
        };
        Position {
            slot,
            level: self.level,
        }
    }

    #[inline(always)]
    fn choose(&mut self, server: Candidate) -> Step {
        self.chosen = self.index;
        self.chosen_slot = server.slot;
        Step::Done
    }

    /// rr: the next usable server after the position, which itself comes last.
    #[inline(always)]
    fn step_rr(&mut self, server: Candidate) -> Step {
        if server.weight > 0 && !server.overloaded {
            return self.choose(server);
        }
        self.seen += 1;
        if self.seen >= self.list.count {
            return Step::Done;
        }
        let next = self.index + 1;
        self.index = if next >= self.list.count { 0 } else { next };
        Step::Continue
    }

    /// wlc: the smallest overhead by weight; of equals the first.
    #[inline(always)]
    fn step_wlc(&mut self, server: Candidate) -> Step {
        let usable = server.weight > 0 && !server.overloaded;
        if usable && (self.chosen == HEAD || is_less_loaded(&server, &self.best)) {
            self.chosen = self.index;
            self.chosen_slot = server.slot;
            self.best = server;
        }
        self.index += 1;
        if self.index >= self.list.count {
            Step::Done
        } else {
            Step::Continue
        }
    }

    /// wrr: the next server whose weight reaches the level; the level falls by a step after each
    /// pass (`ip_vs_wrr.c: ip_vs_wrr_schedule`).
    ///
    /// Passes that cannot find anybody are skipped in one go: a whole pass notes the largest weight
    /// it met, and the level falls to where that weight counts.
    #[inline(always)]
    fn step_wrr(&mut self, server: Candidate) -> Step {
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
        self.index += 1;
        if self.index < self.list.count {
            return Step::Continue;
        }
        let ended_last_pass = self.last_pass;
        let wraps = self.level <= self.list.wrr_step;
        *self = self.end_of_pass();
        if wraps && (ended_last_pass || self.start == HEAD) {
            return Step::Done;
        }
        Step::Continue
    }

    /// Lowers the level and goes back to the head of the list.
    #[inline(always)]
    const fn end_of_pass(mut self) -> Walk {
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
        if self.last_pass && self.restarted && self.start != HEAD {
            self.stop = self.start;
        }
        self.index = 0;
        self.largest = 0;
        self.whole_pass = true;
        self
    }
}

const RR: u8 = Scheduler::Rr as u8;
const WRR: u8 = Scheduler::Wrr as u8;
const WLC: u8 = Scheduler::Wlc as u8;

/// What a server's connections cost it (`ip_vs.h: ip_vs_dest_conn_overhead`): an active one counts
/// 256 times an inactive one, on top of being one of all.
#[inline(always)]
const fn overhead(server: &Candidate) -> i64 {
    server.active as i64 * 256 + server.total as i64
}

/// Whether `a` carries less for its weight than `b`, without division.
#[inline(always)]
const fn is_less_loaded(a: &Candidate, b: &Candidate) -> bool {
    overhead(b).wrapping_mul(a.weight as i64) > overhead(a).wrapping_mul(b.weight as i64)
}

#[cfg(test)]
mod tests;
