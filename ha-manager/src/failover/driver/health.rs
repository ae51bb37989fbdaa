//! Whether this node can be master, and what else an operator should know of the election.

mod report;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dataplane::boottime_ns;
use tokio::time::Instant;
use vrrp::Priority;

use super::super::fsm::Input;
use super::Failover;
use crate::config::VrrpConfig;
use crate::director::Director;
use crate::failover::instance::Instance;
use crate::netlink::NetworkState;
use crate::status::LinkState;
use crate::vrrp_driver::ElectionRole;

pub(super) use report::{
    CLAIM_HOLD, forget_claims, report_backup_only, report_claims, report_fault, report_meddler,
    report_other_sync_master, report_rival,
};

/// An interface that became another device is a fault for this long: sockets have to be opened on
/// the new one.
const REPLACED_FOR: Duration = Duration::from_millis(200);

/// An election's first fault, until this node has removed what an earlier life left behind.
pub(in crate::failover) const NOT_YET_READY: &str = "not yet ready";

/// What is known against this node as master.
#[derive(Debug)]
pub(in crate::failover) struct Health {
    /// Devices of the interfaces the instance depends on.
    devices: BTreeMap<String, Option<u32>>,
    /// A step failed too often, or an interface is another device; until when that counts.
    passing: Option<(String, Instant)>,
    /// What the election was told last.
    told: Option<String>,
    /// The same of the sum of weights.
    weights: i32,
    /// The election's counters as they were last.
    counted: BTreeMap<&'static str, u64>,
}

impl Health {
    pub(in crate::failover) fn new(config: &VrrpConfig) -> Health {
        let names = config.interfaces().into_iter();
        Health {
            devices: names.map(|name| (name.to_owned(), None)).collect(),
            passing: None,
            // What an election starts with.
            told: Some(NOT_YET_READY.to_owned()),
            weights: 0,
            counted: BTreeMap::new(),
        }
    }

    pub(super) fn give_up(&mut self, reason: String, until: Instant) {
        self.passing = Some((reason, until));
    }

    /// What the election was told last.
    pub(super) const fn weights(&self) -> i32 {
        self.weights
    }

    /// Interfaces that became another device between two pictures have not been seen missing.
    pub(super) fn note_devices(&mut self, network: &NetworkState) {
        for (name, device) in &mut self.devices {
            let now = network.links.get(name).map(|link| link.ifindex);
            if let (Some(before), Some(after)) = (*device, now)
                && before != after
                && self.passing.is_none()
            {
                let reason = format!("interface {name} was replaced by another device");
                self.passing = Some((reason, Instant::now() + REPLACED_FOR));
            }
            if now.is_some() {
                *device = now;
            }
        }
    }

    /// Why this node cannot be master.
    fn fault(&self, config: &VrrpConfig, network: &NetworkState) -> Option<String> {
        if let Some((reason, _)) = &self.passing {
            return Some(reason.clone());
        }
        // A macvlan is as its interface is.
        let vmac = config.vmac.as_ref().map(|vmac| vmac.name.as_str());
        let wrong = |name: &&str| {
            let is_own = **name == *config.interface || Some(*name) == vmac;
            let is_watched = config.track.own_interface || !is_own;
            let wrong = match network.links.get(*name).map(|link| link.state) {
                Some(LinkState::Up) => return None,
                Some(LinkState::NoCarrier | LinkState::Down) if !is_watched => return None,
                Some(LinkState::NoCarrier) => "has no carrier",
                Some(LinkState::Down) => "is down",
                Some(LinkState::Gone) | None => "is gone",
            };
            Some(format!("interface {name} {wrong}"))
        };
        config.interfaces().iter().find_map(wrong)
    }
}

impl Failover {
    /// Tells the election which routers can be master here, when that has changed.
    ///
    /// Not while steps are due that follow in the next turn: a role that was given up because the
    /// owner was late is no reason for the election to resign.
    pub(crate) fn check_health(&mut self, director: &mut Director) {
        let is_unknown = |instance: &Instance| instance.view.role != ElectionRole::Fault;
        if self.election_has_ended() && self.instances.iter().any(is_unknown) {
            self.unfinished = true;
        }
        if self.unfinished {
            // What the steps come to is judged after them.
            return;
        }
        let now = Instant::now();
        for index in 0..self.instances.len() {
            let over = |(_, until): &(String, Instant)| *until <= now;
            let Some(instance) = self.instances.get_mut(index) else {
                continue;
            };
            let passing = &mut instance.health.passing;
            if !instance.machine.is_stuck() && passing.take_if(|passing| over(passing)).is_some() {
                self.tell(index, Input::Lifted, director);
                self.unfinished = true;
            }
        }
        let may_direct = self.may_direct();
        let given_up = |instance: &Instance| Some(instance.health.passing.as_ref()?.0.clone());
        // One router whose addresses cannot be removed keeps the lease from all.
        let in_the_way = || self.instances.iter().find_map(given_up);
        let in_the_way =
            (!may_direct).then(|| in_the_way().unwrap_or_else(|| NOT_YET_READY.to_owned()));
        for (index, instance) in self.instances.iter_mut().enumerate() {
            let fault = match &in_the_way {
                Some(reason) => Some(given_up(instance).unwrap_or_else(|| reason.clone())),
                None => {
                    let standing = self.tracking.of(index, &director.network);
                    let own = instance.health.fault(&instance.config, &director.network);
                    // Scripts that have not run yet are no failure.
                    let unknown = || (!standing.ready).then(|| NOT_YET_READY.to_owned());
                    if let Some(elections) = &self.elections
                        && instance.health.weights != standing.weights
                    {
                        elections.set_weights(index, standing.weights);
                        instance.health.weights = standing.weights;
                    }
                    own.or_else(|| standing.fault.clone()).or_else(unknown)
                }
            };
            if fault == instance.health.told {
                continue;
            }
            if let Some(elections) = &self.elections {
                elections.set_fault(index, fault.clone());
            }
            instance.health.told = fault;
        }
    }

    /// What the election's counters say of the other nodes' configuration.
    pub(super) fn judge_adverts(&mut self, director: &mut Director) {
        let Some(elections) = &self.elections else {
            return;
        };
        for (instance, status) in self.instances.iter_mut().zip(elections.status()) {
            let counted = &mut instance.health.counted;
            let mut grown = Vec::new();
            for (name, count) in status.counters {
                let before = counted.insert(name, count).unwrap_or(0);
                if count > before {
                    grown.push(name);
                }
            }
            let master = status.view.master.map_or(0, |(_, priority)| priority);
            let is_lowered = status.view.effective_priority < Priority::OWNER.0;
            let others_own = master == Priority::OWNER.0 || is_lowered;
            report::adverts(&instance.config, &grown, others_own, &mut director.problems);
        }
    }
}

/// The clock of the lease and of the election, in milliseconds.
pub(super) fn boottime_ms() -> u64 {
    boottime_ns() / 1_000_000
}

/// The owner of the data plane is alive. Gives back how long it had not said so.
pub(super) fn beat(pulse: &AtomicU64) -> Duration {
    let now = boottime_ms();
    let before = pulse.swap(now, Ordering::Relaxed);
    Duration::from_millis(now.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use vrrp::wire::MacAddr;

    use crate::config::{Vip, VmacConfig};
    use crate::netlink::Link;

    use super::*;

    #[test]
    fn an_interface_that_cannot_be_used_is_a_fault() {
        let (config, mut network) = (config(), NetworkState::default());
        let health = Health::new(&config);
        let fault = |network: &NetworkState| health.fault(&config, network);
        assert_eq!(fault(&network).unwrap(), "interface eth0 is gone");
        set(&mut network, "eth0", 2, LinkState::Up);
        assert_eq!(fault(&network).unwrap(), "interface eth1 is gone");
        for (state, wrong) in [
            (LinkState::Gone, "is gone"),
            (LinkState::Down, "is down"),
            (LinkState::NoCarrier, "has no carrier"),
        ] {
            set(&mut network, "eth1", 3, state);
            assert_eq!(fault(&network).unwrap(), format!("interface eth1 {wrong}"));
        }
        set(&mut network, "eth1", 3, LinkState::Up);
        // What the instance does not depend on may be as it likes.
        set(&mut network, "eth2", 4, LinkState::Down);
        assert_eq!(fault(&network), None);
    }

    #[test]
    fn its_own_interface_may_be_down_if_it_is_not_tracked_and_so_may_the_macvlan_on_it() {
        let (mut config, mut network) = (config(), NetworkState::default());
        config.vmac = Some(VmacConfig {
            name: "vrrp.51".to_owned(),
            mac: MacAddr([0, 0, 0x5e, 0, 1, 51]),
            xmit_base: false,
        });
        config.vips[0].interface = "vrrp.51".to_owned();
        set(&mut network, "eth0", 2, LinkState::Down);
        set(&mut network, "vrrp.51", 5, LinkState::NoCarrier);
        set(&mut network, "eth1", 3, LinkState::Up);
        let tracked = Health::new(&config).fault(&config, &network);
        assert_eq!(tracked.unwrap(), "interface eth0 is down");
        config.track.own_interface = false;
        let health = Health::new(&config);
        assert_eq!(health.fault(&config, &network), None);
        // One that is not there has no address to serve.
        network.links.remove("vrrp.51");
        let fault = health.fault(&config, &network);
        assert_eq!(fault.unwrap(), "interface vrrp.51 is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn another_device_of_the_same_name_is_a_fault_for_a_moment() {
        let (config, mut network) = (config(), NetworkState::default());
        let mut health = Health::new(&config);
        set(&mut network, "eth0", 2, LinkState::Up);
        set(&mut network, "eth1", 3, LinkState::Up);
        health.note_devices(&network);
        assert_eq!(health.fault(&config, &network), None);
        set(&mut network, "eth1", 9, LinkState::Up);
        health.note_devices(&network);
        assert_eq!(
            health.fault(&config, &network).unwrap(),
            "interface eth1 was replaced by another device"
        );
        let (_, until) = health.passing.take().unwrap();
        assert_eq!(until, Instant::now() + REPLACED_FOR);
        // It is known now.
        health.note_devices(&network);
        assert_eq!(health.fault(&config, &network), None);
    }

    /// Depends on two interfaces.
    pub(super) fn config() -> VrrpConfig {
        let vip = |interface: &str, last| Vip {
            address: IpAddr::from([192, 0, 2, last]),
            prefix_len: 32,
            interface: interface.to_owned(),
        };
        let mut config = VrrpConfig::plain("VI_1", 51, vec![vip("eth0", 100)]);
        config.vips_excluded = vec![vip("eth1", 101)];
        config
    }

    fn set(network: &mut NetworkState, name: &str, ifindex: u32, state: LinkState) {
        let link = Link {
            ifindex,
            state,
            mac: None,
        };
        network.links.insert(name.to_owned(), link);
    }
}
