//! What the failover manager tells of itself.

use super::super::fsm::State;
use super::super::instance::Instance;
use super::Failover;
use crate::director::Director;
use crate::notify::Notifier;
use crate::status::{
    LatenessStatus, MasterStatus, Role, SplitStatus, ThreadStatus, VrrpStatus, Yields,
};
use crate::tracking::TrackStatus;
use crate::vrrp_driver::{ElectionRole, ElectionStatus, Yielding};

impl Failover {
    /// Active as soon as any router is; at fault when all are.
    pub(crate) fn role(&self) -> Role {
        let is_at_fault = |instance: &Instance| {
            instance.machine.state() == State::Faulted || instance.view.role == ElectionRole::Fault
        };
        if self.instances.iter().any(Instance::is_active) {
            Role::Active
        } else if self.instances.iter().all(is_at_fault) {
            Role::Fault
        } else {
            Role::Standby
        }
    }

    /// A role is being taken or given up, and nothing that can wait should be done now.
    pub(crate) fn is_changing(&self) -> bool {
        self.instances.iter().any(|instance| {
            matches!(
                instance.machine.state(),
                State::Promoting(_) | State::Demoting(_)
            )
        })
    }

    pub(crate) fn status(&self, director: &Director) -> Vec<VrrpStatus> {
        let Some(elections) = &self.elections else {
            return Vec::new();
        };
        let routers = self.instances.iter().zip(elections.status());
        routers
            .map(|(instance, status)| of_instance(instance, status, director))
            .collect()
    }

    /// How the election's thread runs.
    pub(crate) fn thread(&self) -> Option<ThreadStatus> {
        let status = self.elections.as_ref()?.status().into_iter().next()?;
        Some(ThreadStatus {
            scheduling: status.scheduling,
            memory_locked: status.memory_locked,
        })
    }

    pub(crate) fn tracked(&self) -> Vec<TrackStatus> {
        self.tracking.status()
    }

    pub(crate) fn notify_lines_lost(&self) -> u64 {
        self.notifier.as_ref().map_or(0, Notifier::lines_dropped)
    }

    /// Claims of addresses that found no room before they were read.
    pub(crate) fn claims_lost(&self) -> u64 {
        self.watch.lost()
    }

    /// How often a split brain was seen since the start.
    pub(crate) fn split_brains(&self) -> Vec<(&'static str, u64)> {
        self.split.totals()
    }

    /// Other nodes that serve what this one does.
    pub(crate) fn split_brain(&self) -> Vec<SplitStatus> {
        let name = |index: usize| {
            let instance = self.instances.get(index)?;
            Some(instance.config.name.clone())
        };
        let seen = self.split.list(std::time::Instant::now());
        seen.map(|(seen_by, router, who, length)| SplitStatus {
            seen_by,
            instance: router.and_then(name),
            who: who.to_owned(),
            since_ms: u64::try_from(length.as_millis()).unwrap_or(u64::MAX),
        })
        .collect()
    }
}

fn of_instance(instance: &Instance, election: ElectionStatus, director: &Director) -> VrrpStatus {
    let ElectionStatus {
        view,
        since,
        effective_priority,
        mut counters,
        lateness_max_us,
        lateness,
        ..
    } = election;
    counters.push(("advert_lateness_us_max", lateness_max_us));
    counters.push(("claims_heard", instance.claims_heard));
    counters.push(("claims_elsewhere", instance.claims_elsewhere));
    let config = &instance.config;
    VrrpStatus {
        name: config.name.clone(),
        interface: config.interface.clone(),
        vrid: config.vrid,
        state: view.role.into(),
        priority: config.priority,
        effective_priority,
        since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        transitions: view.transitions,
        master: view.master.map(|(address, priority)| MasterStatus {
            address: address.to_string(),
            priority,
        }),
        is_serving: instance.is_active(),
        yields: match view.yields {
            Yielding::No => Yields::No,
            Yielding::Asked => Yields::Asked,
            Yielding::Yielded => Yields::Yielded,
        },
        yield_failed: view.yield_failed,
        weights: instance.health.weights(),
        lateness: LatenessStatus::new(&lateness, lateness_max_us),
        vips: instance.vips(&director.network),
        fault: view.fault,
        counters,
    }
}
