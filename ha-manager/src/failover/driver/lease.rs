//! The lease: that the owner of the data plane is alive, and what happens when it was not.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::super::fsm::{Input, State};
use super::super::instance::Instance;
use super::{Failover, PULSE_MAX_LEAST, health};
use crate::director::Director;

impl Failover {
    /// Says that the owner of the data plane is alive. When it was not for a while, another node may
    /// have been active meanwhile. Comes before anything is done in a turn.
    pub(crate) fn beat(&mut self, director: &mut Director) {
        let silent = health::beat(&self.pulse);
        if silent >= self.pulse_max || director.lease_has_lapsed() {
            self.lapse(director, silent);
        } else if silent >= PULSE_MAX_LEAST && self.instances.iter().any(Instance::is_active) {
            warn!(silent_ms = silent.as_millis(), "this process stood still");
            for index in 0..self.instances.len() {
                self.unsettle(index, director);
            }
        }
    }

    /// What an earlier life left behind is gone, of every router.
    pub(super) fn may_direct(&self) -> bool {
        let mut instances = self.instances.iter();
        instances.all(|instance| instance.machine.may_direct())
    }

    /// Renews the lease, unless what an earlier life left behind is still there, or cannot be
    /// removed. A lease that has lapsed is not renewed under a role: first the role is given up, and
    /// taken again only on the election's fresh word.
    pub(crate) fn renew_lease(&mut self, director: &mut Director) {
        if director.lease_has_lapsed() {
            self.lapse(director, Duration::ZERO);
        }
        let has_role = |instance: &Instance| instance.machine.needs_lease();
        if self.may_direct() && !director.renew_lease() && self.instances.iter().any(has_role) {
            self.give_up_all(director);
        }
    }

    /// The data plane takes no lease: a higher epoch is in force, or it has no routes.
    fn give_up_all(&mut self, director: &mut Director) {
        warn!("the data plane does not take the lease: the role is given up");
        for index in 0..self.instances.len() {
            let Some(instance) = self.instances.get_mut(index) else {
                continue;
            };
            if instance.machine.needs_lease() {
                let until = Instant::now() + instance.patience.give_up();
                let reason = "the data plane does not take the lease".to_owned();
                instance.health.give_up(reason.clone(), until);
                // At once: on its last word the role would be taken again.
                if let Some(elections) = &self.elections {
                    elections.set_fault(index, Some(reason));
                }
                self.tell(index, Input::Lapsed, director);
            }
        }
        if let Some(elections) = &self.elections {
            self.asked = elections.ask();
        }
        self.unfinished = true;
    }

    /// What the election said may be of before: nothing is done on its word until it answers.
    fn lapse(&mut self, director: &mut Director, silent: Duration) {
        if !self.may_direct() {
            // The roles are being given up already.
            return;
        }
        if let Some(elections) = &self.elections {
            self.asked = elections.ask();
        }
        let has_role = |instance: &Instance| instance.machine.needs_lease();
        if !self.instances.iter().any(has_role) {
            let ends = |instance: &Instance| {
                matches!(
                    instance.machine.state(),
                    State::Stopping(_) | State::Stopped
                )
            };
            if !self.instances.iter().any(ends) {
                director.renew_lease();
            }
            return;
        }
        warn!(
            silent_ms = silent.as_millis(),
            "the lease was not renewed in time, another node may be active: the role is given up"
        );
        self.unfinished = true;
        for index in 0..self.instances.len() {
            self.tell(index, Input::Lapsed, director);
        }
    }
}
