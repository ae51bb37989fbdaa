//! When gratuitous ARPs and unsolicited neighbour advertisements are due.
//!
//! They go out in *blocks*: each has a number of rounds, and each round all addresses in order.
//! A block is due when a router becomes master, once more a while later, each time the refresh
//! says, when another master was heard, and when one of lower priority was. Blocks that are due
//! together become one, of the longest of them.

use std::time::Duration;

use crate::config::Family;

/// Between two blocks that were asked for because of others: whoever asks more often gets one for
/// all, so that nobody can make this router flood the LAN.
const GAP: Duration = Duration::from_millis(100);

/// How often the addresses are announced. The names and defaults are keepalived's, without
/// `garp_master_` or `garp_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Rounds of the blocks of a new master, and of those after another master was heard. Default 5.
    pub repeat: u32,
    /// The second block follows the first after this; zero: there is none. Default 5 s.
    pub delay: Duration,
    /// A block each time this has passed while master; zero: none. Default zero.
    pub refresh: Duration,
    /// Rounds of those. Default 1.
    pub refresh_repeat: u32,
    /// Rounds of a block after a master of lower priority was heard; 0: there is none. Default: as
    /// `repeat`.
    pub lower_prio_repeat: u32,
    /// Another follows it after this; zero: none. Default: as `delay`.
    pub lower_prio_delay: Duration,
    /// The least time between two gratuitous ARPs. Default zero. (In keepalived it holds for an
    /// interface, here for each virtual router.)
    pub interval: Duration,
    /// The same for neighbour advertisements (`vrrp_gna_interval`).
    pub na_interval: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            repeat: 5,
            delay: Duration::from_secs(5),
            refresh: Duration::ZERO,
            refresh_repeat: 1,
            lower_prio_repeat: 5,
            lower_prio_delay: Duration::from_secs(5),
            interval: Duration::ZERO,
            na_interval: Duration::ZERO,
        }
    }
}

/// Why a block is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// This router has become master, or has heard another one.
    First,
    /// A while after that.
    Second,
    Refresh,
    /// A master of lower priority was heard.
    Lower,
    /// A while after that.
    SecondLower,
}

impl Cause {
    const ALL: [Cause; 5] = [
        Cause::First,
        Cause::Second,
        Cause::Refresh,
        Cause::Lower,
        Cause::SecondLower,
    ];
}

/// What is still to be announced. Times are lengths since any fixed moment, not decreasing.
///
/// Inputs are [`begin`](Self::begin), [`again`](Self::again),
/// [`lower_priority`](Self::lower_priority), [`put_off`](Self::put_off) and
/// [`stop`](Self::stop); then [`poll`](Self::poll) until it gives nothing; then wait until
/// [`next_due`](Self::next_due).
#[derive(Clone, Debug)]
pub struct Announcements {
    settings: Settings,
    /// The least time between two of this family.
    spacing: Duration,
    /// When the block of each cause is due, in the order of [`Cause::ALL`].
    due: [Option<Duration>; Cause::ALL.len()],
    /// When the last block began.
    block_at: Option<Duration>,
    /// When the last announcement went out.
    sent_at: Option<Duration>,
    /// Rounds of the block that is going out, this one included.
    rounds: u32,
    /// The next address of this round.
    index: usize,
    /// Nothing goes out before.
    blocked_until: Duration,
}

impl Announcements {
    /// Nothing is due. The family is that of the virtual router.
    pub fn new(settings: Settings, family: Family) -> Announcements {
        let spacing = match family {
            Family::V4 => settings.interval,
            Family::V6 => settings.na_interval,
        };
        Announcements {
            settings,
            spacing,
            due: [None; Cause::ALL.len()],
            block_at: None,
            sent_at: None,
            rounds: 0,
            index: 0,
            blocked_until: Duration::ZERO,
        }
    }

    /// The router has become master.
    pub fn begin(&mut self, now: Duration) {
        self.stop();
        let Settings { delay, refresh, .. } = self.settings;
        self.set(Cause::First, Some(now));
        self.set(Cause::Second, after(now, delay));
        self.set(Cause::Refresh, after(now, refresh));
    }

    /// Another master was heard, and this router stays one.
    pub fn again(&mut self, now: Duration) {
        let at = self.earliest(now);
        let at = self.get(Cause::First).map_or(at, |due| due.min(at));
        self.set(Cause::First, Some(at));
        self.set(Cause::Second, after(at, self.settings.delay));
    }

    /// A master of lower priority was heard.
    pub fn lower_priority(&mut self, now: Duration) {
        if self.settings.lower_prio_repeat == 0 {
            return;
        }
        let at = self.earliest(now);
        let at = self.get(Cause::Lower).map_or(at, |due| due.min(at));
        self.set(Cause::Lower, Some(at));
        let second = after(at, self.settings.lower_prio_delay);
        self.set(Cause::SecondLower, second);
    }

    /// The addresses are not this router's any more.
    pub fn stop(&mut self) {
        self.due = [None; Cause::ALL.len()];
        self.rounds = 0;
        self.index = 0;
        self.blocked_until = Duration::ZERO;
    }

    /// There is no room for more on the way out: what is due waits until this moment.
    pub fn put_off(&mut self, until: Duration) {
        self.blocked_until = until;
    }

    /// When [`poll`](Self::poll) has something next.
    pub fn next_due(&self) -> Option<Duration> {
        if self.rounds > 0 {
            return Some(self.spaced(Duration::ZERO));
        }
        let next = self.due.iter().flatten().min()?;
        Some(self.spaced(*next))
    }

    /// Which of so many addresses to announce now, counted from 0.
    pub fn poll(&mut self, now: Duration, vips: usize) -> Option<usize> {
        if self.rounds == 0 || self.index >= vips {
            self.next_round(now, vips)?;
        }
        if now < self.spaced(Duration::ZERO) {
            return None;
        }
        self.sent_at = Some(now);
        let index = self.index;
        self.index = index.saturating_add(1);
        if self.index >= vips {
            self.index = 0;
            self.rounds = self.rounds.saturating_sub(1);
        }
        Some(index)
    }

    /// The addresses have become fewer, or the block is over: the next one, if any is due.
    fn next_round(&mut self, now: Duration, vips: usize) -> Option<()> {
        self.index = 0;
        self.rounds = self.rounds.saturating_sub(1);
        if self.rounds > 0 && vips > 0 {
            return Some(());
        }
        self.rounds = 0;
        for cause in Cause::ALL {
            if self.get(cause).is_some_and(|due| due <= now) {
                self.rounds = self.rounds.max(self.rounds_of(cause));
                self.set(cause, self.following(cause, now));
            }
        }
        if vips == 0 {
            self.rounds = 0;
        }
        if self.rounds == 0 {
            return None;
        }
        self.block_at = Some(now);
        Some(())
    }

    /// The refresh keeps its beat, unless one was missed.
    fn following(&self, cause: Cause, now: Duration) -> Option<Duration> {
        match cause {
            Cause::First | Cause::Second | Cause::Lower | Cause::SecondLower => None,
            Cause::Refresh => {
                let beat = after(self.get(cause)?, self.settings.refresh);
                let beat = beat.filter(|next| *next > now);
                beat.or_else(|| after(now, self.settings.refresh))
            }
        }
    }

    fn rounds_of(&self, cause: Cause) -> u32 {
        match cause {
            Cause::First | Cause::Second => self.settings.repeat,
            Cause::Refresh => self.settings.refresh_repeat,
            Cause::Lower | Cause::SecondLower => self.settings.lower_prio_repeat,
        }
    }

    /// When a block may begin that others have led to.
    fn earliest(&self, now: Duration) -> Duration {
        let allowed = |last: Duration| now.max(last.saturating_add(GAP));
        self.block_at.map_or(now, allowed)
    }

    /// This moment, or when the last announcement lets the next one follow.
    fn spaced(&self, at: Duration) -> Duration {
        let at = at.max(self.blocked_until);
        let allowed = |last: Duration| at.max(last.saturating_add(self.spacing));
        self.sent_at.map_or(at, allowed)
    }

    fn get(&self, cause: Cause) -> Option<Duration> {
        *self.due.get(cause as usize)?
    }

    fn set(&mut self, cause: Cause, due: Option<Duration>) {
        if let Some(slot) = self.due.get_mut(cause as usize) {
            *slot = due;
        }
    }
}

/// So long after a moment; a length of zero is never.
fn after(at: Duration, length: Duration) -> Option<Duration> {
    (!length.is_zero()).then(|| at.saturating_add(length))
}

#[cfg(test)]
mod tests;
