//! What the election says, for the machines.

use tracing::info;

use super::super::fsm::{Input, Office};
use super::super::instance::{ended, office_of};
use super::{Failover, health};
use crate::director::Director;
use crate::vrrp_driver::{ElectionRole, ElectionView, STARTS_LATER};

impl Failover {
    /// Feeds the machines what the election said last.
    pub(super) fn take_views(&mut self, director: &mut Director) {
        if self.election_has_ended() {
            for index in 0..self.instances.len() {
                self.take_view(index, ended(), director);
            }
            return;
        }
        let views = self.views.borrow_and_update().clone();
        for (index, view) in views.into_iter().enumerate() {
            if view.answered >= self.asked {
                self.take_view(index, view, director);
            }
        }
    }

    fn take_view(&mut self, index: usize, view: ElectionView, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut instance.view, view);
        let (view, config) = (&instance.view, &instance.config);
        let has_other_fault = view.fault != before.fault;
        if has_other_fault {
            health::report_fault(config, view.fault.as_deref(), &mut director.problems);
        }
        let names_fault = has_other_fault && view.fault.is_some();
        let is_back = has_recovered(&before, view);
        let is_lost = instance.machine.holds_role() && instance.has_lost_mastership();
        let is_master = view.role == ElectionRole::Master;
        let others = is_master && view.announce > before.announce;
        let lesser = is_master && view.announce_lower > before.announce_lower;
        let office = office_of(view.role);
        if is_lost {
            info!("mastership was lost for a moment: the role is given up and taken again");
            self.tell(index, Input::Elected(Office::Backup), director);
        }
        if others || lesser {
            self.hear_other_master(index, others, director);
        }
        if names_fault {
            // It may have been told as something else, or not at all.
            self.notify_of_state(index);
        }
        if is_back {
            self.announce_source(index, director);
        }
        self.notify_of_view(index, &before);
        self.follow_handover(index, director);
        if office == Office::Backup && self.keeps_serving(index) {
            // What a handover has passed on is served until clients have heard of it.
            return;
        }
        if let Some(instance) = self.instances.get_mut(index) {
            instance.told = (office == Office::Master).then_some(instance.view.transitions);
        }
        self.tell(index, Input::Elected(office), director);
    }

    /// Its thread is gone, and nobody advertises for this node any more.
    pub(super) fn election_has_ended(&self) -> bool {
        self.views.has_changed().is_err()
    }
}

/// Whether a router takes part again after something was bad; its start is no such thing.
fn has_recovered(before: &ElectionView, after: &ElectionView) -> bool {
    let was_bad = match before.fault.as_deref() {
        Some(health::NOT_YET_READY | STARTS_LATER) | None => false,
        Some(_) => before.role == ElectionRole::Fault,
    };
    was_bad && matches!(after.role, ElectionRole::Backup | ElectionRole::Master)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_that_starts_has_not_recovered() {
        let view = |role, fault: Option<&str>| ElectionView {
            role,
            fault: fault.map(str::to_owned),
            ..ElectionView::default()
        };
        use ElectionRole::{Backup, Fault, Master};
        for (before, after, expected) in [
            (view(Fault, Some("interface eth0 is down")), Backup, true),
            (view(Fault, Some("interface eth0 is down")), Master, true),
            (view(Fault, Some("interface eth0 is down")), Fault, false),
            (view(Fault, Some(health::NOT_YET_READY)), Backup, false),
            (view(Fault, Some(STARTS_LATER)), Backup, false),
            (view(Backup, None), Master, false),
        ] {
            let after = view(after, None);
            assert_eq!(has_recovered(&before, &after), expected, "{before:?}");
        }
    }
}
