//! Takes the steps of all routers, the most urgent first, and what a new state brings with it.

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::fsm::{Effect, Input, State, Step};
use super::super::instance::Instance;
use super::patience::Patience;
use super::{Failover, PAUSE, SETTLE, STEPS_MAX, health};
use crate::director::Director;
use crate::vrrp_driver::STARTS_LATER;

impl Failover {
    /// When a step that cannot be tried now is tried next.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let may_direct = self.may_direct();
        self.earliest(|instance| {
            let is_paused = instance.machine.step().is_some() && !instance.machine.is_stuck();
            let is_paused = is_paused && (may_direct || !is_to_direct(instance));
            instance.waits_until().filter(|_| is_paused)
        })
    }

    /// Takes steps until none is due, or those that are have failed.
    pub(super) async fn advance(&mut self, director: &mut Director) {
        self.unfinished = false;
        for _ in 0..STEPS_MAX.saturating_mul(self.instances.len()) {
            self.renew_lease(director);
            self.take_views(director);
            let Some(index) = self.next_due() else {
                return;
            };
            self.step_once(index, director).await;
        }
        self.unfinished = true;
    }

    /// Whose step is the most urgent.
    pub(super) fn next_due(&self) -> Option<usize> {
        let (now, may_direct) = (Instant::now(), self.may_direct());
        let due = self.instances.iter().enumerate();
        let waits = |instance: &Instance| !may_direct && is_to_direct(instance);
        let due = due.filter(|(_, instance)| instance.is_due(now) && !waits(instance));
        due.min_by_key(|(index, instance)| (instance.machine.urgency(), *index))
            .map(|(index, _)| index)
    }

    pub(super) async fn step_once(&mut self, index: usize, director: &mut Director) {
        self.beat(director);
        let step = self.instances.get(index).and_then(|it| it.machine.step());
        let Some(step) = step else {
            return;
        };
        let started = Instant::now();
        let done = self.carry_out(index, step, director).await;
        let input = match done {
            Ok(()) => {
                debug!(step = step.name(), took = ?started.elapsed(), "step done");
                Input::Done
            }
            Err(error) => {
                warn!(error, "{} failed", step.name());
                Input::Failed
            }
        };
        if let Some(instance) = self.instances.get_mut(index) {
            instance.retry_at = (input == Input::Failed).then(|| Instant::now() + PAUSE);
        }
        if let Some(Effect::GiveUp(step)) = self.tell(index, input, director) {
            let reason = format!("{} failed", step.name());
            if let Some(instance) = self.instances.get_mut(index) {
                let until = Instant::now() + instance.patience.give_up();
                instance.health.give_up(reason, until);
            }
            self.check_health(director);
        }
    }

    /// Hands a machine an input, and does what its new state brings with it.
    pub(super) fn tell(
        &mut self,
        index: usize,
        input: Input,
        director: &mut Director,
    ) -> Option<Effect> {
        let machine = &mut self.instances.get_mut(index)?.machine;
        let before = machine.state();
        let effect = machine.handle(input);
        self.state_changed(index, before, director);
        effect
    }

    fn state_changed(&mut self, index: usize, before: State, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        let after = instance.machine.state();
        if before == after {
            return;
        }
        let epoch = director.epoch();
        let name = instance.config.name.as_str();
        match after {
            State::Standby => info!(instance = name, "this node is standby"),
            State::Active => info!(instance = name, epoch, "this node is active"),
            State::Faulted => match instance.view.fault.as_deref() {
                // It is born so, which is no news.
                Some(health::NOT_YET_READY | STARTS_LATER) => {}
                reason => info!(instance = name, reason, "this node is at fault"),
            },
            State::Promoting(step) => debug!(instance = name, ?step, "promoting"),
            State::Demoting(step) => debug!(instance = name, ?step, "demoting"),
            State::Stopping(step) => debug!(instance = name, ?step, "stopping"),
            State::Stopped => {}
        }
        if after == State::Active {
            instance.patience = Patience::default();
            self.unsettle(index, director);
        } else if before == State::Active {
            instance.active_since = None;
            instance.probe = None;
            instance.probed = 0;
            instance.announcements.stop();
            health::forget_claims(&instance.config, &mut director.problems);
            self.was_split = !self.split.is_empty();
            self.split.forget(index);
        }
        self.notify_of_state(index);
        self.tell_handover(index, after, director);
    }

    /// Another node may have had the addresses until now, and may answer for them a little longer.
    pub(super) fn unsettle(&mut self, index: usize, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        if instance.is_active() {
            let now = Instant::now();
            instance.active_since = Some(now);
            instance.probe = Some(now + SETTLE);
            health::forget_claims(&instance.config, &mut director.problems);
            self.split.forget(index);
        }
    }
}

/// No promotion begins before the addresses of all other routers are as they should be.
fn is_to_direct(instance: &Instance) -> bool {
    instance.machine.step() == Some(Step::Direct)
}
