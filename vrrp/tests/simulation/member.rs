//! What can be known of one virtual router by looking on, and when it may and has to take over.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::{Config, Effect, Event, Heard, Interval, Priority, Version, VrrpState};

use super::{NOPREEMPT, PREEMPT_DELAY, RESIGNATION, TAKE_OVER, TOO_EARLY, YIELDED};
use crate::lan::{Snapshot, Step};
use crate::times;

pub(crate) struct Seen {
    pub(crate) config: Config,
    pub(crate) address: IpAddr,
    pub(crate) state: VrrpState,
    /// When it came to be in this state.
    pub(crate) entered_at: Duration,
    priority: Priority,
    /// When it last had another priority.
    pub(crate) changed_at: Duration,
    /// The highest it had since it last followed somebody.
    top: Priority,
    /// As backup: when it began, or last heard a master it has to follow, and of which interval.
    heard_at: Duration,
    interval: Interval,
    /// As backup: when it first heard priority 0 since then.
    resigned_at: Option<Duration>,
    /// When it lost an address and became backup by that.
    lost_at: Option<Duration>,
    /// As backup: the first lower advertisement of the preempt delay.
    lower_at: Option<Duration>,
    pub(crate) sent_at: Duration,
    pub(crate) answer_by: Option<Duration>,
    /// As master: when it last announced because of one that gave up, and of a lesser one.
    pub(crate) announced_again_at: Option<Duration>,
    pub(crate) announced_lower_at: Option<Duration>,
    pub(crate) yielding_since: Option<Duration>,
    has_yielded: bool,
}

impl Seen {
    pub(crate) fn new(config: &Config, address: IpAddr) -> Seen {
        Seen {
            config: config.clone(),
            address,
            state: VrrpState::Initialize,
            entered_at: Duration::ZERO,
            priority: config.priority(),
            changed_at: Duration::ZERO,
            top: config.priority(),
            heard_at: Duration::ZERO,
            interval: config.interval(),
            resigned_at: None,
            lost_at: None,
            lower_at: None,
            sent_at: Duration::ZERO,
            answer_by: None,
            announced_again_at: None,
            announced_lower_at: None,
            yielding_since: None,
            has_yielded: false,
        }
    }

    /// By when a backup has to be master, and by which rule.
    pub(crate) fn take_over_at(&self) -> (Duration, &'static str) {
        let (at, rule) = self.take_over(self.priority);
        // A higher priority can move the end into the past.
        (at.max(self.changed_at), rule)
    }

    fn take_over(&self, priority: Priority) -> (Duration, &'static str) {
        let skew = times::skew(&self.config, priority, self.interval);
        let down = self.heard_at + times::down(&self.config, priority, self.interval);
        let early = [self.resigned_at, self.lost_at].into_iter().flatten().min();
        match early.map(|at| at + skew).filter(|at| *at < down) {
            Some(at) => (at, RESIGNATION),
            None => (down, TAKE_OVER),
        }
    }

    /// When a backup may be master at the earliest, and what it breaks otherwise.
    pub(crate) fn earliest_take_over(&self) -> (Duration, &'static str) {
        let rule = match () {
            () if self.has_yielded => YIELDED,
            () if !self.config.preempt() => NOPREEMPT,
            () if self.lower_at.is_some() => PREEMPT_DELAY,
            () => TOO_EARLY,
        };
        (self.take_over(self.top).0, rule)
    }

    /// The priority that it has to have after a step.
    pub(crate) fn priority_after(
        &self,
        step: &Step<'_>,
        is_own: bool,
        before: Snapshot,
    ) -> Priority {
        let base = self.config.priority();
        match step.event {
            Event::Startup if is_own && base == Priority::OWNER => base,
            Event::Priority(told) if is_own && base != Priority::OWNER => told,
            Event::Advert(heard) if is_own && self.meets_owner(heard, before, step.now) => {
                Priority(254)
            }
            _ => self.priority,
        }
    }

    /// Whether it stood still as master until others may have taken over.
    pub(crate) fn has_lapsed(&self, before: Snapshot, now: Duration) -> bool {
        before.state == VrrpState::Master
            && !before.is_yielding
            && now >= self.sent_at + times::lapse(&self.config)
    }

    /// Both are owners: this one lowers itself, if it is master and not on its way out.
    fn meets_owner(&self, heard: Heard, before: Snapshot, now: Duration) -> bool {
        before.state == VrrpState::Master
            && !before.is_yielding
            && before.priority == Priority::OWNER
            && heard.priority == Priority::OWNER
            && heard.source != self.address
            && !self.has_lapsed(before, now)
    }

    /// Takes a step in; `event` if it is this member's.
    pub(crate) fn learn(&mut self, step: &Step<'_>, number: usize, event: Option<Event>) {
        let (before, after) = (step.before[number], step.after[number]);
        let now = step.now;
        if let (VrrpState::Backup, Some(Event::Advert(heard))) = (before.state, event) {
            self.backup_hears(heard, now);
        }
        if after.priority != self.priority {
            self.priority = after.priority;
            self.changed_at = now;
            self.top = self.top.max(after.priority);
        }
        if before.state != after.state {
            self.enter(after.state, event, now);
        }
        if event == Some(Event::Reclaim) {
            self.has_yielded = false;
        }
        for (_, effect) in step.effects.iter().filter(|(whose, _)| *whose == number) {
            match effect {
                Effect::SendAdvert { .. } => {
                    self.sent_at = now;
                    self.answer_by = None;
                }
                Effect::AnnounceAgain => self.announced_again_at = Some(now),
                Effect::LowerPriorityHeard => self.announced_lower_at = Some(now),
                _ => {}
            }
        }
        let stays = before.state == VrrpState::Master && after.state == VrrpState::Master;
        match event {
            Some(Event::Advert(heard)) if stays && !before.is_yielding => {
                self.master_heard(heard, now);
            }
            _ => {}
        }
        self.yielding_since = match self.yielding_since {
            since @ Some(_) if after.is_yielding => since,
            _ => after.is_yielding.then_some(now),
        };
    }

    fn backup_hears(&mut self, heard: Heard, now: Duration) {
        if heard.priority == Priority::RESIGNED {
            self.resigned_at.get_or_insert(now);
        } else if self.follows(heard.priority, now) {
            self.follow(now);
            if self.config.version() == Version::V3 {
                self.interval = heard.interval;
            }
        }
    }

    fn follows(&mut self, priority: Priority, now: Duration) -> bool {
        if priority >= self.priority {
            self.lower_at = None;
            return true;
        }
        let delay = self.config.preempt_delay();
        if !self.config.preempt() || self.has_yielded {
            return true;
        }
        !delay.is_zero() && now < *self.lower_at.get_or_insert(now) + delay
    }

    fn follow(&mut self, now: Duration) {
        self.heard_at = now;
        self.resigned_at = None;
        self.lost_at = None;
        self.top = self.priority;
    }

    fn enter(&mut self, state: VrrpState, event: Option<Event>, now: Duration) {
        let was_yielding = self.yielding_since.is_some();
        self.state = state;
        self.entered_at = now;
        self.answer_by = None;
        (self.announced_again_at, self.announced_lower_at) = (None, None);
        self.lower_at = None;
        self.interval = self.config.interval();
        self.follow(now);
        match state {
            VrrpState::Backup => {
                self.has_yielded |= was_yielding;
                match event {
                    Some(Event::VipLost) => self.lost_at = Some(now),
                    // The one that is better, or whatever comes after it stood still.
                    Some(Event::Advert(heard)) => self.backup_hears(heard, now),
                    _ => {}
                }
            }
            VrrpState::Initialize | VrrpState::Master => self.has_yielded = false,
            VrrpState::Fault => {}
        }
    }

    fn master_heard(&mut self, heard: Heard, now: Duration) {
        let is_self = (heard.priority, heard.source) == (self.priority, self.address);
        let is_left = self.config.lower_prio_no_advert() && heard.priority != Priority::RESIGNED;
        if is_self || is_left || self.sent_at == now {
            return;
        }
        let by = self.sent_at + times::answer(&self.config);
        self.answer_by.get_or_insert(by.max(now));
    }
}
