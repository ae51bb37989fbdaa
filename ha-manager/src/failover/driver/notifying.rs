//! Tells scripts and the FIFO what has become of a router, and of its sync group.

use super::super::fsm::{Promotion, State};
use super::super::instance::Instance;
use super::{Failover, health};
use crate::notify::NotifyState;
use crate::vrrp_driver::{ElectionRole, ElectionView, STARTS_LATER};

/// What each sync group was last said to be.
#[derive(Debug)]
pub(super) struct GroupsTold(Vec<Option<NotifyState>>);

impl GroupsTold {
    pub(super) fn new(groups: usize) -> GroupsTold {
        GroupsTold(vec![None; groups])
    }
}

impl Failover {
    /// A machine has come to another state; what lies between two roles is nobody's business.
    pub(super) fn notify_of_state(&mut self, index: usize) {
        let (Some(notifier), Some(instance)) = (&self.notifier, self.instances.get_mut(index))
        else {
            return;
        };
        let Some(state) = settled(instance) else {
            return;
        };
        if instance.notified.replace(state) == Some(state) {
            return;
        }
        notifier.instance(index, state, instance.view.effective_priority);
        let groups = self.groups.iter().enumerate().zip(&mut self.groups_told.0);
        for ((group, members), told) in groups.filter(|((_, members), _)| members.contains(&index))
        {
            let members = members.iter().filter_map(|at| self.instances.get(*at));
            let state = of_group(members.map(settled));
            if state.is_some() && *told != state {
                *told = state;
                if let Some(state) = state {
                    notifier.group(group, state);
                }
            }
        }
    }

    /// What else the election has seen.
    pub(super) fn notify_of_view(&self, index: usize, before: &ElectionView) {
        let (Some(notifier), Some(instance)) = (&self.notifier, self.instances.get(index)) else {
            return;
        };
        let view = &instance.view;
        let priority = view.effective_priority;
        if view.rx_lower > before.rx_lower && view.role == ElectionRole::Master {
            notifier.rx_lower_prio(index, priority);
        }
        let state = match view.role {
            ElectionRole::Master => NotifyState::Master,
            ElectionRole::Backup => NotifyState::Backup,
            ElectionRole::Init | ElectionRole::Fault => return,
        };
        if priority != before.effective_priority && before.role == view.role {
            notifier.priority_changed(index, state, priority);
        }
    }
}

/// What a router is, when its steps have been taken.
fn settled(instance: &Instance) -> Option<NotifyState> {
    match instance.machine.state() {
        State::Active => Some(NotifyState::Master),
        State::Standby => Some(NotifyState::Backup),
        // A role that was given up and is taken again at once.
        State::Promoting(Promotion::Direct) if instance.notified == Some(NotifyState::Master) => {
            Some(NotifyState::Backup)
        }
        State::Faulted => match instance.view.fault.as_deref() {
            // It is born so.
            Some(health::NOT_YET_READY) => None,
            // As keepalived says it, whose instances are backups at once and wait.
            Some(STARTS_LATER) => Some(NotifyState::Backup),
            Some(_) | None => Some(NotifyState::Fault),
        },
        State::Promoting(_) | State::Demoting(_) | State::Stopping(_) | State::Stopped => None,
    }
}

/// At fault as soon as one member is; else what all of them are.
fn of_group(members: impl Iterator<Item = Option<NotifyState>>) -> Option<NotifyState> {
    let members: Vec<Option<NotifyState>> = members.collect();
    let fault = Some(NotifyState::Fault);
    if members.contains(&fault) {
        return fault;
    }
    let first = *members.first()?;
    members
        .iter()
        .all(|member| *member == first)
        .then_some(first)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_all_its_members_are_and_at_fault_with_one() {
        use NotifyState::{Backup, Fault, Master};
        for (members, group) in [
            (&[Some(Master), Some(Master)][..], Some(Master)),
            (&[Some(Master), None], None),
            (&[Some(Master), Some(Backup)], None),
            (&[Some(Backup), Some(Backup)], Some(Backup)),
            (&[Some(Backup), Some(Fault)], Some(Fault)),
            (&[None, Some(Fault)], Some(Fault)),
            (&[], None),
        ] {
            assert_eq!(of_group(members.iter().copied()), group, "{members:?}");
        }
    }
}
