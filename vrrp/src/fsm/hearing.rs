//! What an advertisement does to a backup and to a master.

use std::cmp::Ordering;
use std::time::Duration;

use super::router::{Role, VirtualRouter};
use super::{Heard, timers};
use crate::config::{Priority, Version};
use crate::effect::Effect;

/// What an owner that met another has.
const LOWERED_OWNER: Priority = Priority(254);

impl VirtualRouter {
    pub(super) fn backup_hears(&mut self, heard: Heard, now: Duration) {
        if heard.priority == Priority::RESIGNED {
            self.tally.resigned = self.tally.resigned.saturating_add(1);
            self.master = None;
            // Never later than it was, so that whoever repeats it cannot put the take-over off.
            let soon = now.saturating_add(self.skew());
            self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
        } else if self.follows(heard.priority, now) {
            self.tally.accepted = self.tally.accepted.saturating_add(1);
            if self.role == Role::WantsMaster {
                self.role = Role::Ordinary;
            }
            self.listen_to(Some(heard), now);
        } else {
            self.tally.lower_priority = self.tally.lower_priority.saturating_add(1);
        }
    }

    /// Whether a backup leaves the role to a master of this priority.
    fn follows(&mut self, priority: Priority, now: Duration) -> bool {
        if priority >= self.effective_priority() {
            self.preempt_at = None;
            return true;
        }
        if !self.config.preempt() || self.has_yielded() {
            return true;
        }
        let delay = self.config.preempt_delay();
        if delay.is_zero() {
            return false;
        }
        now < *self.preempt_at.get_or_insert(now.saturating_add(delay))
    }

    pub(super) fn master_hears(&mut self, heard: Heard, now: Duration) {
        if self.is_yielding() {
            self.yielding_hears(heard, now);
            return;
        }
        if heard.priority == Priority::RESIGNED {
            self.tally.resigned = self.tally.resigned.saturating_add(1);
            self.answer(now);
            // It was master, and hosts may have learnt it. Keepalived does not announce here.
            self.announce(Effect::AnnounceAgain, now);
            return;
        }
        if (heard.priority, heard.source) == (self.effective_priority(), self.primary) {
            self.tally.same_address = self.tally.same_address.saturating_add(1);
            return;
        }
        if heard.priority == Priority::OWNER && self.effective_priority() == Priority::OWNER {
            self.tally.other_owner = self.tally.other_owner.saturating_add(1);
            self.priority = LOWERED_OWNER;
        }
        self.tally.other_master = self.tally.other_master.saturating_add(1);
        let own = (self.effective_priority(), self.primary);
        match (heard.priority, heard.source).cmp(&own) {
            Ordering::Greater => {
                if self.config.higher_prio_send_advert() {
                    self.send(now);
                }
                self.become_backup(Some(heard), now);
            }
            Ordering::Less | Ordering::Equal => {
                if !self.config.lower_prio_no_advert() {
                    self.answer(now);
                }
                if self.announce(Effect::LowerPriorityHeard, now) {
                    self.rival = Some((heard.source, heard.priority));
                }
            }
        }
    }

    /// Another has taken the role, unless it gives up too or this router hears itself.
    fn yielding_hears(&mut self, heard: Heard, now: Duration) {
        if heard.priority == Priority::RESIGNED {
            self.tally.resigned = self.tally.resigned.saturating_add(1);
        } else if heard.source == self.primary {
            self.tally.same_address = self.tally.same_address.saturating_add(1);
        } else {
            self.become_backup(Some(heard), now);
        }
    }

    /// Starts the master's time anew, on the word of a master or for want of one.
    pub(super) fn listen_to(&mut self, heard: Option<Heard>, now: Duration) {
        if let Some(heard) = heard {
            match self.config.version() {
                // Other intervals than this router's are refused on the wire.
                Version::V2 => {}
                Version::V3 => self.master_interval = heard.interval,
            }
        }
        self.master = heard.map(|heard| (heard.source, heard.priority));
        self.deadline = Some(now.saturating_add(self.master_down()));
    }

    /// Advertises at once, or as soon as answers may follow each other.
    fn answer(&mut self, now: Duration) {
        let allowed = self
            .sent_at
            .saturating_add(timers::answer_gap(&self.config));
        if now >= allowed {
            self.send(now);
            self.deadline = Some(now.saturating_add(self.config.interval().duration()));
        } else {
            self.deadline = self.deadline.map(|deadline| deadline.min(allowed));
        }
    }

    /// Asks for an announcement, as often as for answers at most; whether it did.
    pub(super) fn announce(&mut self, effect: Effect, now: Duration) -> bool {
        let gap = timers::answer_gap(&self.config);
        let is_allowed = |at: Duration| now >= at.saturating_add(gap);
        let last = match effect {
            Effect::AnnounceAgain => &mut self.announced_at.again,
            Effect::LowerPriorityHeard => &mut self.announced_at.lower,
            Effect::LowerPriorityInGroup => &mut self.announced_at.in_group,
            Effect::SendAdvert { .. } | Effect::Became(_) | Effect::YieldFailed => return false,
        };
        if !last.is_none_or(is_allowed) {
            return false;
        }
        *last = Some(now);
        self.effects.push_back(effect);
        true
    }
}
