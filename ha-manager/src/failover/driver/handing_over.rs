//! The driver's part of a planned handover.

use std::time::Duration;

use ipvs_control::Reply;
use ipvs_model::sync::SyncRole;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::info;

use super::super::fsm::{Demotion, State};
use super::super::handover::{Handover, LOST_BEFORE, Member, Passage, Progress, Stage};
use super::Failover;
use crate::director::Director;
use crate::vrrp_driver::{ElectionRole, Yielding};

/// The election's answer to a yield may be late by this.
const PATIENCE_LEAST: Duration = Duration::from_secs(10);

/// Another master of this router has been heard.
const fn heard(passage: Passage) -> bool {
    matches!(passage, Passage::Heard(_) | Passage::Announced(_))
}

impl Failover {
    /// An operator's `directord handover`; the answer follows when it is over.
    pub(crate) fn hand_over(
        &mut self,
        name: Option<&str>,
        is_reclaim: bool,
        reply: oneshot::Sender<Reply>,
        director: &mut Director,
    ) {
        let answer = if is_reclaim {
            self.reclaim(name)
        } else {
            match self.begin_handover(name) {
                Ok(members) => {
                    let names: Vec<&str> = members.iter().map(|it| it.name.as_str()).collect();
                    info!(instances = ?names, "handover: begun by an operator");
                    director.tell_all(true);
                    director.plane.offer_all_again();
                    let patience = self.patience();
                    self.handover = Some(Handover::new(members, patience, reply, Instant::now()));
                    return;
                }
                Err(reason) => Reply::BadRequest(reason),
            }
        };
        let _ = reply.send(answer);
    }

    fn named(&self, name: Option<&str>) -> Result<Vec<usize>, String> {
        let all = 0..self.instances.len();
        let Some(name) = name else {
            return Ok(all.collect());
        };
        let is_it = |index: &usize| {
            let instance = self.instances.get(*index);
            instance.is_some_and(|instance| instance.config.name == name)
        };
        match all.into_iter().find(is_it) {
            Some(index) => Ok(self.group_of(index)),
            None => Err(format!("there is no [[vrrp]] {name:?}")),
        }
    }

    /// Longer than the election takes to say that nobody answers: a skew and an interval of the slowest.
    fn patience(&self) -> Duration {
        let adverts = self.instances.iter().map(|instance| instance.config.advert);
        adverts.max().unwrap_or_default() * 3 + PATIENCE_LEAST
    }

    /// The routers that change together with this one.
    fn group_of(&self, index: usize) -> Vec<usize> {
        let mut groups = self.groups.iter();
        let group = groups.find(|group| group.contains(&index));
        group.cloned().unwrap_or_else(|| vec![index])
    }

    fn begin_handover(&self, name: Option<&str>) -> Result<Vec<Member>, String> {
        if self.handover.is_some() {
            return Err("a handover is under way".to_owned());
        }
        let mut members = Vec::new();
        for index in self.named(name)? {
            if let Some(instance) = self.instances.get(index)
                && instance.is_active()
            {
                let vips = instance.config.all_vips().map(|vip| vip.address);
                let name = instance.config.name.clone();
                members.push(Member::new(index, name, vips.collect()));
            }
        }
        match (members.is_empty(), name) {
            (false, _) => Ok(members),
            (true, None) => {
                Err("this node is not active: there is nothing to hand over".to_owned())
            }
            (true, Some(name)) => Err(format!("{name} is not active on this node")),
        }
    }

    fn reclaim(&self, name: Option<&str>) -> Reply {
        let indices = match self.named(name) {
            Ok(indices) => indices,
            Err(reason) => return Reply::BadRequest(reason),
        };
        let mut text = String::new();
        for index in indices {
            let (Some(instance), Some(elections)) = (self.instances.get(index), &self.elections)
            else {
                continue;
            };
            if instance.view.yields == Yielding::Yielded {
                elections.reclaim(index);
                let name = &instance.config.name;
                info!(instance = name, "reclaimed: it preempts again");
                text += &format!("{name} preempts again\n");
            }
        }
        match (text.is_empty(), name) {
            (false, _) => Reply::Text(text),
            (true, None) => Reply::BadRequest("nothing has been handed over".to_owned()),
            (true, Some(name)) => Reply::BadRequest(format!("{name} has not been handed over")),
        }
    }

    /// Whether the table is to be walked faster than usual.
    pub(crate) fn hurries_the_walk(&self) -> bool {
        self.handover.is_some()
    }

    /// It is time to look at a handover, or something that it waits for has happened.
    pub(super) fn advance_handover(&mut self, director: &mut Director) {
        let Some(handover) = &mut self.handover else {
            return;
        };
        let now = Instant::now();
        let progress = Progress {
            is_copied: director.sync.daemons.runs(SyncRole::Master),
            is_offering: director.plane.is_offering_again(),
            backlog: director.sync.daemons.backlog(),
            flush_age: director.sync.daemons.flush_age(),
        };
        if handover.look(progress, now) {
            for member in &mut handover.members {
                let instance = self.instances.get_mut(member.index);
                let active = instance.filter(|instance| instance.is_active());
                match (&self.elections, active) {
                    (Some(elections), Some(instance)) if member.passage == Passage::Asked => {
                        member.failed_before = instance.view.yield_failed;
                        // The last word is the new master's.
                        instance.announcements.stop();
                        elections.yield_role(member.index);
                    }
                    _ => member.passage = Passage::Kept(LOST_BEFORE),
                }
            }
        }
        let goes = (handover.members.iter())
            .any(|member| heard(member.passage) && !handover.keeps_serving(member.index, now));
        // What kept a router is over: its view is taken again.
        self.unfinished |= goes && self.serves_what_was_passed_on();
        self.end_handover_when_over(director);
    }

    fn serves_what_was_passed_on(&self) -> bool {
        self.instances
            .iter()
            .any(|instance| instance.is_active() && instance.view.role == ElectionRole::Backup)
    }

    /// What the election says of a router that is handed over.
    pub(super) fn follow_handover(&mut self, index: usize, director: &mut Director) {
        let (Some(handover), Some(instance)) = (&mut self.handover, self.instances.get(index))
        else {
            return;
        };
        let Some(member) = handover.member(index) else {
            return;
        };
        if handover.stage == Stage::Telling {
            return;
        }
        let view = &instance.view;
        if view.yield_failed > member.failed_before {
            let is_news = member.passage == Passage::Asked;
            handover.kept(index, "nobody took over, this node keeps the role");
            if is_news
                && let Some(instance) = self.instances.get_mut(index)
                && instance.is_active()
            {
                instance.announcements.begin(self.begun.elapsed());
            }
        } else if view.role == ElectionRole::Backup {
            handover.heard(index, Instant::now());
        } else if view.role == ElectionRole::Master && heard(member.passage) {
            handover.kept(index, "the other node took over and was lost at once");
        }
        self.end_handover_when_over(director);
    }

    /// Whether a router that the election has given to another is still served here.
    pub(super) fn keeps_serving(&self, index: usize) -> bool {
        (self.handover.as_ref()).is_some_and(|it| it.keeps_serving(index, Instant::now()))
    }

    /// A router's machine has come to another state.
    pub(super) fn tell_handover(&mut self, index: usize, state: State, director: &mut Director) {
        let Some(handover) = &mut self.handover else {
            return;
        };
        let now = Instant::now();
        match state {
            // The step before was to remove the addresses.
            State::Demoting(Demotion::StartBackup) => handover.let_go(index, now),
            State::Standby | State::Faulted => handover.left(index, now),
            State::Promoting(_)
            | State::Active
            | State::Demoting(_)
            | State::Stopping(_)
            | State::Stopped => {}
        }
        self.end_handover_when_over(director);
    }

    fn end_handover_when_over(&mut self, director: &mut Director) {
        let now = Instant::now();
        if let Some(handover) = self.handover.take_if(|handover| handover.is_over(now)) {
            director.tell_all(false);
            handover.answer();
        }
    }

    /// It ends before its time.
    pub(super) fn end_handover(&mut self, director: &mut Director, reason: &str) {
        if let Some(handover) = self.handover.take() {
            director.tell_all(false);
            handover.give_up(reason);
        }
    }
}
