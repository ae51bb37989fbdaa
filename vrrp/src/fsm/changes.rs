//! How a router gets from one state to another, and what it says on the way.

use std::time::Duration;

use super::router::{AnnouncedAt, Others, Role, VirtualRouter};
use super::{Heard, VrrpState, timers};
use crate::config::Priority;
use crate::effect::Effect;

impl VirtualRouter {
    /// Begins to take part: an owner as master, unless it has handed the role over; everybody else by
    /// listening first.
    pub(super) fn begin(&mut self, now: Duration, others: Others) {
        let takes_all = self.priority == Priority::OWNER && !self.has_yielded;
        if takes_all && others == Others::Ready {
            self.become_master(now);
            return;
        }
        self.become_backup(None, now);
        if takes_all {
            self.role = Role::WantsMaster;
        }
    }

    pub(super) fn take_over(&mut self, now: Duration, others: Others) {
        match others {
            Others::Ready => self.become_master(now),
            Others::NotReady => {
                self.role = Role::WantsMaster;
                self.deadline = Some(now.saturating_add(self.master_down()));
            }
        }
    }

    /// Advertises, and keeps to the beat however late the timer was, unless a whole interval was
    /// missed.
    pub(super) fn advertise_on_time(&mut self, now: Duration) {
        if self.is_yielding() {
            self.take_back(now);
            return;
        }
        self.send(now);
        let interval = self.config.interval().duration();
        let next = self
            .deadline
            .map(|deadline| deadline.saturating_add(interval))
            .filter(|next| *next > now);
        self.deadline = Some(next.unwrap_or_else(|| now.saturating_add(interval)));
    }

    /// Nobody has taken the role that was offered, or it is not offered any more.
    pub(super) fn take_back(&mut self, now: Duration) {
        self.tally.yield_failed = self.tally.yield_failed.saturating_add(1);
        self.role = Role::Ordinary;
        self.effects.push_back(Effect::YieldFailed);
        self.send(now);
        self.deadline = Some(now.saturating_add(self.config.interval().duration()));
    }

    pub(super) fn become_master(&mut self, now: Duration) {
        self.master = None;
        self.master_interval = self.config.interval();
        self.announced_at = AnnouncedAt::default();
        self.preempt_at = None;
        self.role = Role::Ordinary;
        self.has_yielded = false;
        // The advertisement comes first: other backups' timers are running.
        self.send(now);
        self.enter(VrrpState::Master);
        self.deadline = Some(now.saturating_add(self.config.interval().duration()));
    }

    /// Whether this master's last advertisement, or the end of its patience, is so old that the
    /// best of backups has taken over.
    pub(super) fn has_lapsed(&self, now: Duration) -> bool {
        let since = match (self.role, self.deadline) {
            (Role::Yielding, Some(until)) => until,
            (Role::Yielding | Role::Ordinary | Role::WantsMaster, _) => self.sent_at,
        };
        let lapse = timers::lapse(&self.config);
        self.state == VrrpState::Master && now >= since.saturating_add(lapse)
    }

    pub(super) fn become_backup(&mut self, heard: Option<Heard>, now: Duration) {
        self.master_interval = self.config.interval();
        self.preempt_at = None;
        if self.is_yielding() {
            self.tally.yielded = self.tally.yielded.saturating_add(1);
            self.has_yielded = true;
        }
        self.role = Role::Ordinary;
        self.enter(VrrpState::Backup);
        self.listen_to(heard, now);
    }

    /// Moves the timer by what the new priority changes of the master-down time.
    pub(super) fn shift(&mut self, priority: Priority) {
        let before = self.master_down();
        self.set_priority(priority);
        let after = self.master_down();
        let shifted = |deadline: Duration| deadline.saturating_add(after).saturating_sub(before);
        self.deadline = self.deadline.map(shifted);
    }

    pub(super) fn set_priority(&mut self, priority: Priority) {
        if self.config.priority() != Priority::OWNER {
            self.priority = Priority(priority.0.clamp(1, 254));
        }
    }

    pub(super) fn lose_address(&mut self, now: Duration) {
        let priority = Priority::RESIGNED;
        self.effects.push_back(Effect::SendAdvert { priority });
        self.become_backup(None, now);
        self.deadline = Some(now.saturating_add(self.skew()));
    }

    pub(super) fn resign(&mut self, to: VrrpState, now: Duration) {
        self.give_up(now);
        self.leave(to);
    }

    /// Says twice that this master gives up, as one may be lost and the others would then wait for
    /// the whole master-down time.
    pub(super) fn give_up(&mut self, now: Duration) {
        for _ in 0..2 {
            let priority = Priority::RESIGNED;
            self.effects.push_back(Effect::SendAdvert { priority });
        }
        self.sent_at = now;
    }

    /// Takes no part any more.
    pub(super) fn leave(&mut self, to: VrrpState) {
        self.master = None;
        self.deadline = None;
        self.preempt_at = None;
        self.role = Role::Ordinary;
        // What is repaired in the time of a fault is why the role was handed over.
        self.has_yielded &= to == VrrpState::Fault;
        self.enter(to);
    }

    pub(super) fn enter(&mut self, state: VrrpState) {
        self.rival = None;
        self.state = state;
        self.effects.push_back(Effect::Became(state));
    }

    pub(super) fn send(&mut self, now: Duration) {
        let priority = self.effective_priority();
        self.effects.push_back(Effect::SendAdvert { priority });
        self.sent_at = now;
    }

    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}
