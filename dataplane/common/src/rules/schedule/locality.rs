//! lblc, lblcr: a cache of servers by destination address in front of wlc.
//!
//! Who drives them keeps the cache and fetches servers; the decisions are here. A pick of lblc:
//!
//! 1. An entry is found: its last use is now. [`verdict`] says whether its server is taken; for
//!    [`Verdict::UnlessHalfIdle`] a [`HalfIdle`] looks through the list.
//! 2. Else a [`super::Walk`] of [`FALLBACK`] chooses, and the entry gets that server.
//!
//! With lblcr an entry has a set of servers, newest first. [`SetScan`] finds the least loaded, which
//! [`verdict`] judges. If [`is_set_due`], the most loaded leaves the set, even if it is the one
//! chosen. What the walk chooses joins the set.
//!
//! A pick that makes an entry asks [`may_grow`] first; the choice counts all the same.
//!
//! Source: `ip_vs_lblc.c`, `ip_vs_lblcr.c`.

use ipvs_model::scheduler::Scheduler;

use super::{Candidate, HEAD, Step, is_less_loaded};
use crate::NS_PER_SEC;

pub const LBLC: u8 = Scheduler::Lblc as u8;
pub const LBLCR: u8 = Scheduler::Lblcr as u8;

/// Who chooses when the cache does not.
pub const FALLBACK: u8 = Scheduler::Wlc as u8;

/// Entries of a service's cache above which it is cleaned (16 for each of 1024 buckets).
pub const ENTRIES_PRESSURE: u64 = 16_384;

/// Entries of a service's cache at which no more are made.
pub const ENTRIES_MAX: u64 = ENTRIES_PRESSURE * 3 / 2;

/// Seconds between checks of a cache.
pub const CHECK_SECS: u64 = 60;

/// The check after this many less one without pressure is a full one.
pub const CHECKS_TO_FULL: u32 = 30;

/// Seconds without use after which an entry is removed under pressure.
pub const PRESSURE_EXPIRATION_SECS: u32 = 6 * 60;

/// Whether an entry may be made in a cache with this many.
#[inline(always)]
pub const fn may_grow(entries: u64) -> bool {
    entries < ENTRIES_MAX
}

/// What to do with a server from the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Use,
    /// It carries more than its weight: use it only if [`HalfIdle`] finds nobody.
    UnlessHalfIdle,
    Refuse,
}

/// Whether a server from the cache is used. OVERLOAD does not count.
#[inline(always)]
pub const fn verdict(server: &Candidate, available: bool) -> Verdict {
    if !available || server.weight == 0 {
        Verdict::Refuse
    } else if server.active > server.weight {
        Verdict::UnlessHalfIdle
    } else {
        Verdict::Use
    }
}

/// Looks for a server of the list with fewer active connections than half its weight.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct HalfIdle {
    count: u32,
    index: u32,
    found: bool,
    reserved: [u8; 3],
}

impl HalfIdle {
    /// Begins a search; `None` when the list is empty, and then nobody is found.
    #[inline(always)]
    pub const fn begin(count: u32) -> Option<HalfIdle> {
        if count == 0 {
            return None;
        }
        Some(HalfIdle {
            count,
            index: 0,
            found: false,
            reserved: [0; 3],
        })
    }

    /// The most steps a search takes.
    pub const fn steps_max(count: u32) -> u32 {
        count
    }

    /// Index in the list of the server to show next.
    #[inline(always)]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Shows the server at [`HalfIdle::index`].
    #[inline(always)]
    pub fn step(&mut self, server: Candidate) -> Step {
        if 2 * (server.active as u64) < server.weight as u64 {
            self.found = true;
            return Step::Done;
        }
        self.index += 1;
        if self.index < self.count {
            Step::Continue
        } else {
            Step::Done
        }
    }

    #[inline(always)]
    pub const fn found(&self) -> bool {
        self.found
    }
}

/// Finds the least and the most loaded server of a set. It is shown the members, newest first.
///
/// In a program it lies in a map, as a [`super::Walk`] does: on the stack the verifier would follow
/// every value that 16 members can leave in it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SetScan {
    least: Candidate,
    most: Candidate,
}

impl SetScan {
    #[inline(always)]
    pub const fn begin() -> SetScan {
        SetScan {
            least: Candidate::NONE,
            most: Candidate::NONE,
        }
    }

    /// Shows the next member of the set.
    #[inline(always)]
    pub fn step(&mut self, server: Candidate, available: bool) {
        if server.weight == 0 {
            return;
        }
        let usable = available && !server.overloaded;
        if usable && (self.least.slot == HEAD || is_less_loaded(&server, &self.least)) {
            self.least = server;
        }
        if self.most.slot == HEAD || is_less_loaded(&self.most, &server) {
            self.most = server;
        }
    }

    /// The usable member that carries least for its weight.
    #[inline(always)]
    pub const fn least(&self) -> Option<Candidate> {
        some(self.least)
    }

    /// The member above weight 0, usable or not, that carries most for its weight.
    #[inline(always)]
    pub const fn most(&self) -> Option<Candidate> {
        some(self.most)
    }
}

#[inline(always)]
const fn some(server: Candidate) -> Option<Candidate> {
    if server.slot == HEAD {
        None
    } else {
        Some(server)
    }
}

/// Whether the most loaded member leaves a set of `count` members that was last changed at
/// `last_change_ns`. `expiration_secs` is the sysctl `lblcr_expiration`.
#[inline(always)]
pub const fn is_set_due(
    count: u32,
    last_change_ns: u64,
    now_ns: u64,
    expiration_secs: u32,
) -> bool {
    count > 1 && now_ns > last_change_ns.saturating_add(expiration_secs as u64 * NS_PER_SEC)
}

/// What a check removes from a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaning {
    Nothing,
    /// Every entry that has expired.
    Full,
    /// Entries unused for [`PRESSURE_EXPIRATION_SECS`], until `goal` are removed. The next check
    /// goes on where this one stopped.
    Pressure {
        goal: u64,
    },
}

impl Cleaning {
    /// Whether this cleaning takes an entry last used at `last_use_ns`. `expiration_secs` is the
    /// sysctl `lblc_expiration` or `lblcr_expiration`.
    pub const fn takes(self, last_use_ns: u64, now_ns: u64, expiration_secs: u32) -> bool {
        let secs = match self {
            Cleaning::Nothing => return false,
            Cleaning::Full => expiration_secs,
            Cleaning::Pressure { .. } => PRESSURE_EXPIRATION_SECS,
        };
        now_ns >= last_use_ns.saturating_add(secs as u64 * NS_PER_SEC)
    }
}

/// Decides what each check of a cache removes (`ip_vs_lblc.c: ip_vs_lblc_check_expire`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// Checks without pressure since the last full one.
    calm: u32,
}

impl Checks {
    /// The check that is due now, for a cache with this many entries.
    pub const fn next(&mut self, entries: u64) -> Cleaning {
        if self.calm + 1 >= CHECKS_TO_FULL {
            self.calm = 0;
            return Cleaning::Full;
        }
        let Some(over @ 1..) = entries.checked_sub(ENTRIES_PRESSURE) else {
            self.calm += 1;
            return Cleaning::Nothing;
        };
        let goal = over.saturating_mul(4) / 3;
        Cleaning::Pressure {
            goal: if goal > ENTRIES_PRESSURE / 2 {
                ENTRIES_PRESSURE / 2
            } else {
                goal
            },
        }
    }
}

#[cfg(test)]
mod tests;
