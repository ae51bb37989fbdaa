//! Schedulers as walks over a service's server list.
//!
//! A [`Walk`] says which position of the list it wants to see next, is shown that server, and ends
//! with a choice and a new scheduler word. Who drives it (a `bpf_loop` callback in the programs, a
//! plain loop elsewhere) only fetches servers; every decision is here.
//!
//! | scheduler | rule | file |
//! | --- | --- | --- |
//! | rr | next usable server after the position | here |
//! | wrr | next server whose weight reaches the level | [`wrr`] |
//! | lc wlc sed nq fo ovf | best server of one pass | [`rank`] |
//! | twos | better of two drawn by weight | [`twos`] |
//! | dh sh mh | a slot of a table | [`table`], not a walk |
//! | lblc lblcr | a cache in front of wlc | [`locality`], not a walk |
//!
//! The scheduler word of a service holds the position between picks:
//!
//! | bits | field |
//! | --- | --- |
//! | 0..24 | place in `SERVERS` of the server at the position, plus one; 0 is the list head |
//! | 24..56 | wrr: the current level |

use ipvs_model::scheduler::Scheduler;

pub mod hash;
pub mod locality;
mod rank;
pub mod table;
mod twos;
mod wrr;

pub use wrr::wrr_levels;

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

impl Candidate {
    /// Whether it may get new connections: not quiesced, not at its upper threshold.
    #[inline(always)]
    pub const fn is_usable(&self) -> bool {
        self.weight > 0 && !self.overloaded
    }

    /// Nobody yet.
    const NONE: Candidate = Candidate {
        slot: HEAD,
        weight: 0,
        active: 0,
        total: 0,
        overloaded: false,
    };
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
    /// twos: the two draws; before the second pass the random numbers they come from.
    draws: [u64; 2],
    /// twos: weight of the usable servers of this pass so far.
    weight_passed: u64,
    /// The choice so far; [`HEAD`] in `slot` is none.
    best: Candidate,
    /// twos: the second draw; [`HEAD`] in `slot` is none yet.
    other: Candidate,
    /// rr: servers looked at.
    seen: u32,
    /// Index where the position stood when the walk began, or [`HEAD`].
    start: u32,
    /// wrr: the current level.
    level: u32,
    /// wrr: largest weight of a server that could take connections, of this pass.
    largest: u32,
    /// wrr: index whose turn ends the walk, or [`HEAD`].
    stop: u32,
    scheduler: u8,
    /// wrr: the lowest level of a round; twos: the second pass.
    last_pass: bool,
    /// wrr: the level went round.
    restarted: bool,
    /// wrr: the pass began at the head of the list.
    whole_pass: bool,
}

impl Walk {
    /// Begins a pick. `start` is the index of the position's server in the list, or [`HEAD`];
    /// `random` is 64 random bits, of use to twos alone.
    ///
    /// Gives `None` when nothing can be chosen, and for schedulers that do not walk.
    #[inline(always)]
    pub const fn begin(
        scheduler: u8,
        list: ListHead,
        start: u32,
        level: u32,
        random: u64,
    ) -> Option<Walk> {
        let wrr = scheduler == WRR;
        if list.count == 0 || !walks(scheduler) || (wrr && list.wrr_max == 0) {
            return None;
        }
        // A service that was empty begins at the highest level.
        let level = if wrr && level == 0 {
            list.wrr_max
        } else {
            level
        };
        let positioned = wrr || scheduler == RR;
        let start = if positioned { start } else { HEAD };
        let next = start.wrapping_add(1);
        let wraps = next >= list.count;
        let walk = Walk {
            list,
            index: if wraps { 0 } else { next },
            draws: [random & 0xffff_ffff, random >> 32],
            weight_passed: 0,
            best: Candidate::NONE,
            other: Candidate::NONE,
            seen: 0,
            start,
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

    /// The most steps a walk over `count` servers takes, whatever the scheduler.
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
            TWOS => self.step_twos(server),
            _ => self.step_rank(server),
        }
    }

    /// The chosen server's place in `SERVERS`.
    #[inline(always)]
    pub const fn chosen(&self) -> Option<u32> {
        if self.best.slot == HEAD {
            None
        } else {
            Some(self.best.slot)
        }
    }

    /// The position to store after the walk; `before` is the one it began with.
    #[inline(always)]
    pub const fn position(&self, before: Position) -> Position {
        if self.scheduler != RR && self.scheduler != WRR {
            return before;
        }
        let slot = if self.best.slot == HEAD {
            before.slot
        } else {
            Some(self.best.slot)
        };
        Position {
            slot,
            level: self.level,
        }
    }

    #[inline(always)]
    fn choose(&mut self, server: Candidate) -> Step {
        self.best = server;
        Step::Done
    }

    /// Goes on to the next server of the list, unless this was the last.
    #[inline(always)]
    fn advance(&mut self) -> Step {
        self.index += 1;
        if self.index < self.list.count {
            Step::Continue
        } else {
            Step::Done
        }
    }

    /// rr: the next usable server after the position, which itself comes last.
    #[inline(always)]
    fn step_rr(&mut self, server: Candidate) -> Step {
        if server.is_usable() {
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
}

const RR: u8 = Scheduler::Rr as u8;
const WRR: u8 = Scheduler::Wrr as u8;
const LC: u8 = Scheduler::Lc as u8;
const WLC: u8 = Scheduler::Wlc as u8;
const FO: u8 = Scheduler::Fo as u8;
const OVF: u8 = Scheduler::Ovf as u8;
const SED: u8 = Scheduler::Sed as u8;
const NQ: u8 = Scheduler::Nq as u8;
const TWOS: u8 = Scheduler::Twos as u8;

/// Whether the scheduler with this number chooses by walking the list.
#[inline(always)]
const fn walks(scheduler: u8) -> bool {
    matches!(scheduler, RR | WRR | LC | WLC | FO | OVF | SED | NQ | TWOS)
}

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
