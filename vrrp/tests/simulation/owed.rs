//! Announcements that a master owes: hosts may have learnt another one.

use std::time::Duration;

use vrrp::{Effect, Event, VrrpState};

use super::{Node, Rules};
use crate::lan::Step;
use crate::times;

/// A lesser master has said a last word before it gave way, which a better one has to hear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owed {
    pub(super) node: usize,
    member: usize,
    pub(super) by: Duration,
}

impl Rules {
    /// What a step pays.
    pub(super) fn pay(&mut self, step: &Step<'_>) {
        let is_paid = |owed: &Owed| {
            let after = step.after[owed.member];
            let has_announced = step
                .effects
                .contains(&(owed.member, Effect::LowerPriorityHeard));
            has_announced || after.state != VrrpState::Master || after.is_yielding
        };
        self.owed
            .retain(|owed| owed.node != step.node || !is_paid(owed));
    }

    /// What a step leaves another to pay; it is not known to the nodes yet.
    pub(super) fn owed_for(&self, step: &Step<'_>) -> Option<Owed> {
        let (from, number) = (step.node, step.member);
        let (before, after) = (step.before[number], step.after[number]);
        let gives_way = before.state == VrrpState::Master
            && after.state == VrrpState::Backup
            && !before.is_yielding;
        let Event::Advert(heard) = step.event else {
            return None;
        };
        let leaver = &self.nodes[from].members[number];
        // A number may be too small to be heard.
        let is_numbered = leaver.config.authentication().is_header();
        let says_so = leaver.config.higher_prio_send_advert();
        // The better one, as it is at this moment.
        let is_it = |node: &Node| node.members[number].address == heard.source;
        let to = self.nodes.iter().position(is_it)?;
        let node = &self.nodes[to];
        let better = &node.members[number];
        let may_hear = node.is_on && !node.is_frozen && self.hears[from][to];
        let is_master = better.state == VrrpState::Master && better.yielding_since.is_none();
        let gap = times::answer(&better.config);
        let has_announced = better
            .announced_lower_at
            .is_some_and(|at| step.now < at + gap);
        let is_owed = gives_way && says_so && !is_numbered && may_hear && is_master;
        (is_owed && !has_announced && !self.lapsed_before(step)).then(|| Owed {
            node: to,
            member: number,
            by: step.now + self.delay_max,
        })
    }
}
