//! Sync groups: routers that change their role together (keepalived's `vrrp_sync_group`).

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::effect::Effect;
use crate::fsm::{Event, Others, VirtualRouter, VrrpState};

/// The members of a sync group. A lone router is a group of one.
///
/// * All are Master, or none is: a member whose timer ends waits, with a fresh timer, until the
///   others want it too; when the last one does, all become Master at once.
/// * A member that is Master no more takes the others with it. They say nothing, so that their
///   peers do not hurry; only when the group leaves to Fault all say priority 0.
/// * The group is in Fault as long as one member is bad. A member that has not been started is left
///   alone.
/// * [`Event::Shutdown`], [`Event::VipLost`], [`Event::Yield`] and [`Event::Reclaim`] of one are of
///   all. A group yields for as long as its slowest member has to.
/// * Another master that one member met is announced over by all, by each as its own settings say.
///
/// Inputs and outputs are those of [`VirtualRouter`], with the number of the member, from 0 in the
/// order of [`Group::new`].
#[derive(Clone, Debug)]
pub struct Group {
    members: Vec<VirtualRouter>,
    /// Who is bad itself, rather than in Fault because of another.
    is_bad: Vec<bool>,
    effects: VecDeque<(usize, Effect)>,
    /// A member's state, or what it wants, has changed: the others may have to follow.
    is_unsettled: bool,
}

impl Group {
    pub fn new(members: Vec<VirtualRouter>) -> Group {
        Group {
            is_bad: vec![false; members.len()],
            members,
            effects: VecDeque::new(),
            is_unsettled: false,
        }
    }

    pub fn members(&self) -> &[VirtualRouter] {
        &self.members
    }

    /// Whether a member is bad itself: [`Event::Fault`] was the last said of it, not
    /// [`Event::Healthy`].
    pub fn is_bad(&self, member: usize) -> bool {
        self.is_bad.get(member) == Some(&true)
    }

    /// The address that a member's ties are decided by has changed.
    pub fn set_primary(&mut self, member: usize, primary: IpAddr) {
        if let Some(member) = self.members.get_mut(member) {
            member.set_primary(primary);
        }
    }

    /// When [`Event::Timer`] is wanted next, for every member: those that are not due ignore it.
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadlines = self.members.iter().filter_map(VirtualRouter::next_deadline);
        deadlines.min()
    }

    /// The next thing to do, and whose it is.
    pub fn poll_effect(&mut self) -> Option<(usize, Effect)> {
        self.effects.pop_front()
    }

    /// Time has passed: members that stood still as masters are that no more. Every event does so for
    /// the member it is of, so only whoever looks at members without an event needs this.
    pub fn note_time(&mut self, now: Duration) {
        for index in 0..self.members.len() {
            if let Some(member) = self.members.get_mut(index) {
                member.note_time(now);
            }
            self.collect(index);
        }
        self.agree(now);
    }

    /// Takes one event of a member at time `now`. A member that does not exist has none.
    pub fn handle(&mut self, member: usize, event: Event, now: Duration) {
        let Some(is_bad) = self.is_bad.get_mut(member) else {
            return;
        };
        match event {
            Event::Advert(_) | Event::Timer | Event::Priority(_) => self.tell(member, event, now),
            Event::Startup => {
                let is_any_bad = self.is_bad.contains(&true);
                let event = if is_any_bad { Event::Fault } else { event };
                self.tell(member, event, now);
            }
            Event::Fault => {
                *is_bad = true;
                self.tell(member, event, now);
                self.tell_all(event, now, |other| other.state() != VrrpState::Initialize);
            }
            Event::Healthy => {
                *is_bad = false;
                if !self.is_bad.contains(&true) {
                    self.tell_all(event, now, |_| true);
                }
            }
            Event::Shutdown => {
                self.is_bad.fill(false);
                self.tell_all(event, now, |_| true);
            }
            Event::VipLost | Event::Reclaim => self.tell_all(event, now, |_| true),
            Event::Yield => self.begin_yield(now),
        }
        self.agree(now);
    }

    fn tell_all(&mut self, event: Event, now: Duration, whom: impl Fn(&VirtualRouter) -> bool) {
        for index in 0..self.members.len() {
            if self.members.get(index).is_some_and(&whom) {
                self.tell(index, event, now);
            }
        }
    }

    fn tell(&mut self, index: usize, event: Event, now: Duration) {
        let others = self.others_of(index);
        let Some(member) = self.members.get_mut(index) else {
            return;
        };
        let was_ready = member.is_ready();
        member.handle_among(event, now, others);
        self.is_unsettled |= was_ready != member.is_ready();
        if let Some(effect) = self.collect(index) {
            for other in (0..self.members.len()).filter(|other| *other != index) {
                if let Some(member) = self.members.get_mut(other) {
                    member.follow_announcement(effect, now);
                }
                self.collect(other);
            }
        }
    }

    /// Takes over what a member asks for; gives what the others have to announce, if it has met
    /// another master.
    fn collect(&mut self, index: usize) -> Option<Effect> {
        let mut met = None;
        let member = self.members.get_mut(index)?;
        while let Some(effect) = member.poll_effect() {
            match effect {
                Effect::AnnounceAgain => met = Some(effect),
                Effect::LowerPriorityHeard => met = Some(Effect::LowerPriorityInGroup),
                Effect::Became(_) => self.is_unsettled = true,
                Effect::SendAdvert { .. } | Effect::LowerPriorityInGroup | Effect::YieldFailed => {}
            }
            self.effects.push_back((index, effect));
        }
        met
    }

    /// A master has no need of the others, so they are not looked at for each of its beats.
    fn others_of(&self, index: usize) -> Others {
        if self.members.get(index).map(VirtualRouter::state) == Some(VrrpState::Master) {
            return Others::Ready;
        }
        let mut others = self.members.iter().enumerate();
        if others.all(|(other, member)| other == index || member.is_ready()) {
            Others::Ready
        } else {
            Others::NotReady
        }
    }

    /// All masters, or none.
    fn agree(&mut self, now: Duration) {
        if !std::mem::take(&mut self.is_unsettled) {
            return;
        }
        let is_master = |member: &VirtualRouter| member.state() == VrrpState::Master;
        if !self.members.iter().any(is_master) || self.members.iter().all(is_master) {
            return;
        }
        let is_agreed = self.members.iter().all(VirtualRouter::is_ready);
        for index in 0..self.members.len() {
            if let Some(member) = self.members.get_mut(index) {
                if is_agreed {
                    member.follow_to_master(now);
                } else {
                    member.follow_to_backup(now);
                }
            }
            self.collect(index);
        }
    }

    fn begin_yield(&mut self, now: Duration) {
        self.note_time(now);
        let patience = self.members.iter().map(VirtualRouter::yield_patience).max();
        let until = now.saturating_add(patience.unwrap_or_default());
        for index in 0..self.members.len() {
            if let Some(member) = self.members.get_mut(index) {
                member.begin_yield(until, now);
            }
            self.collect(index);
        }
    }
}

#[cfg(test)]
mod tests;
