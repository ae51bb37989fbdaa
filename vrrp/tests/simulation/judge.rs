//! The rules of one step of one member.

use vrrp::{Effect, Event, Heard, Priority, VrrpState};

use super::member::Seen;
use super::{
    ABDICATION, ANNOUNCED, FAREWELL, NO_FAREWELL, OWN_PRIORITY, OWNER, SILENCE, STOOD_STILL,
    TOO_EARLY, YIELDING,
};
use crate::lan::{Snapshot, Step};
use crate::times;

/// One member at one step.
pub(super) struct Judge<'a> {
    pub(super) member: &'a Seen,
    pub(super) step: &'a Step<'a>,
    pub(super) is_own: bool,
    pub(super) is_lone: bool,
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
    pub(super) effects: &'a [Effect],
    pub(super) found: &'a mut Vec<(&'static str, String)>,
}

impl Judge<'_> {
    fn say(&mut self, rule: &'static str, what: &str) {
        self.found.push((rule, what.to_owned()));
    }

    fn sent(&self) -> impl Iterator<Item = Priority> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::SendAdvert { priority } => Some(*priority),
            Effect::Became(_)
            | Effect::AnnounceAgain
            | Effect::LowerPriorityHeard
            | Effect::LowerPriorityInGroup
            | Effect::YieldFailed => None,
        })
    }

    fn has_lapsed(&self) -> bool {
        self.member.has_lapsed(self.before, self.step.now)
    }

    pub(super) fn what_it_says(&mut self) {
        let sent: Vec<_> = self.sent().collect();
        let is_master = |snapshot: Snapshot| snapshot.state == VrrpState::Master;
        for priority in sent {
            if !is_master(self.before) && !is_master(self.after) {
                self.say(SILENCE, "it spoke");
            }
            if self.has_lapsed() {
                self.say(STOOD_STILL, "it spoke as master");
            }
            let has_failed = self.effects.contains(&Effect::YieldFailed);
            let is_yielding = self.before.is_yielding || self.after.is_yielding;
            if priority != Priority::RESIGNED {
                if is_yielding && !has_failed {
                    self.say(YIELDING, "it advertised");
                }
                if ![self.before.priority, self.after.priority].contains(&priority) {
                    self.say(OWN_PRIORITY, "it said another");
                }
            }
        }
        if self.after.priority
            != self
                .member
                .priority_after(self.step, self.is_own, self.before)
        {
            self.say(OWN_PRIORITY, "it has another");
        }
    }

    pub(super) fn farewell(&mut self) {
        let zeros = self.sent().filter(|p| *p == Priority::RESIGNED).count();
        let leaves = self.before.state == VrrpState::Master
            && matches!(self.after.state, VrrpState::Fault | VrrpState::Initialize);
        let gives = self.step.event == Event::Yield && !self.before.is_yielding;
        let gives = gives && self.before.state == VrrpState::Master;
        let loses = self.step.event == Event::VipLost && self.before.state == VrrpState::Master;
        let expected = match () {
            () if self.has_lapsed() => 0,
            () if leaves || gives => 2,
            () if loses => 1,
            () => 0,
        };
        if zeros < expected {
            self.say(FAREWELL, "it did not, or not often enough");
        }
        if zeros > expected && !self.has_lapsed() {
            self.say(NO_FAREWELL, "it did");
        }
    }

    pub(super) fn becomes_master(&mut self) {
        let member = self.member;
        let is_owner = self.before.priority == Priority::OWNER
            || (self.is_own
                && self.step.event == Event::Startup
                && member.config.priority() == Priority::OWNER);
        let is_owner = is_owner && !self.before.has_yielded;
        let begins = matches!(self.before.state, VrrpState::Initialize | VrrpState::Fault);
        let now = self.step.now;
        match (self.before.state, self.after.state) {
            (VrrpState::Backup, VrrpState::Master) => {
                if !self.is_lone && is_owner {
                    // It wanted to be from its start on.
                    return;
                }
                let (earliest, rule) = member.earliest_take_over();
                if now + times::ROUNDING < earliest {
                    self.say(rule, &format!("not before {earliest:?}"));
                }
            }
            (_, VrrpState::Master) if begins && !is_owner => {
                self.say(TOO_EARLY, "it is no owner");
            }
            (_, VrrpState::Backup) if begins && is_owner && self.is_lone => {
                self.say(OWNER, "it is backup");
            }
            _ => {}
        }
    }

    /// A master that meets another, hosts may have learnt that one.
    pub(super) fn announces(&mut self) {
        let Event::Advert(heard) = self.step.event else {
            return;
        };
        let is_master = |snapshot: Snapshot| snapshot.state == VrrpState::Master;
        let stays = is_master(self.before) && is_master(self.after) && !self.before.is_yielding;
        let is_self = (heard.priority, heard.source) == (self.before.priority, self.member.address);
        if !self.is_own || !stays || is_self {
            return;
        }
        let (last, effect) = match heard.priority {
            Priority::RESIGNED => (self.member.announced_again_at, Effect::AnnounceAgain),
            _ => (self.member.announced_lower_at, Effect::LowerPriorityHeard),
        };
        let gap = times::answer(&self.member.config);
        let has_just = last.is_some_and(|last| self.step.now < last + gap);
        if !has_just && !self.effects.contains(&effect) {
            self.say(ANNOUNCED, "it did not when it heard one");
        }
    }

    pub(super) fn ends_its_reign(&mut self) {
        let is_end =
            self.before.state == VrrpState::Master && self.after.state == VrrpState::Backup;
        if !is_end || !self.is_lone || self.has_lapsed() {
            return;
        }
        let is_allowed = match self.step.event {
            Event::Advert(heard) => self.is_better(heard) || self.has_yielded_long_ago(),
            Event::VipLost => true,
            _ => self.before.is_yielding,
        };
        if !is_allowed {
            self.say(ABDICATION, "it did not hear one");
        }
    }

    /// It stood still while it yielded, until somebody must have taken the role.
    fn has_yielded_long_ago(&self) -> bool {
        let config = &self.member.config;
        let wait = times::patience(config) + times::lapse(config);
        let since = self.member.yielding_since;
        since.is_some_and(|since| self.step.now + times::ROUNDING >= since + wait)
    }

    fn is_better(&self, heard: Heard) -> bool {
        let own = (self.before.priority, self.member.address);
        let are_owners = (heard.priority, own.0) == (Priority::OWNER, Priority::OWNER);
        let ends_yield = self.before.is_yielding && heard.priority != Priority::RESIGNED;
        (heard.priority, heard.source) > own || are_owners || ends_yield
    }
}
