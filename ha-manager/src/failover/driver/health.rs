//! Whether this node can be master, and what else an operator should know of the election.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use vrrp::Priority;

use super::super::fsm::Input;
use super::{Failover, ROUTER};
use crate::arp_watch::Claim;
use crate::config::VrrpConfig;
use crate::director::Director;
use crate::netlink::NetworkState;
use crate::problems::Problems;
use crate::status::LinkState;
use crate::vrrp_driver::{ElectionRole, ElectionView};

/// What was seen counts as a problem for this long.
const HOLD: Duration = Duration::from_secs(60);
/// The same for what goes on all the time while it is there.
const SHORT_HOLD: Duration = Duration::from_secs(10);
/// An interface that became another device is a fault for this long: sockets have to be opened on
/// the new one.
const REPLACED_FOR: Duration = Duration::from_millis(200);

/// Counters of adverts that were sent in earnest, by a node that is configured otherwise.
const OF_ANOTHER_CONFIGURATION: [&str; 4] = [
    "refused_address_count",
    "refused_address_list",
    "refused_auth_header",
    "refused_version",
];

/// An election's first fault, until this node has removed what an earlier life left behind.
pub(super) const NOT_YET_READY: &str = "not yet ready";

/// What is known against this node as master.
#[derive(Debug)]
pub(super) struct Health {
    /// Devices of the interfaces the instance depends on.
    devices: BTreeMap<String, Option<u32>>,
    /// A step failed too often, or an interface is another device; until when that counts.
    passing: Option<(String, Instant)>,
    /// What the election was told last.
    told: Option<String>,
    /// The election's counters as they were last.
    counted: BTreeMap<&'static str, u64>,
}

impl Health {
    pub(super) fn new(config: &VrrpConfig) -> Health {
        let names = config.interfaces().into_iter();
        Health {
            devices: names.map(|name| (name.to_owned(), None)).collect(),
            passing: None,
            // What an election starts with.
            told: Some(NOT_YET_READY.to_owned()),
            counted: BTreeMap::new(),
        }
    }

    pub(super) fn give_up(&mut self, reason: String, until: Instant) {
        self.passing = Some((reason, until));
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
        let wrong = |name: &&str| {
            let wrong = match network.links.get(*name).map(|link| link.state) {
                Some(LinkState::Up) => return None,
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
    /// Tells the election whether this node can be master, when that has changed.
    ///
    /// Not while steps are due that follow in the next turn: a role that was given up because the
    /// owner was late is no reason for the election to resign.
    pub(crate) fn check_health(&mut self, director: &mut Director) {
        if self.election_has_ended() && self.view.role != ElectionRole::Fault {
            self.unfinished = true;
        }
        if self.unfinished {
            // What the steps come to is judged after them.
            return;
        }
        let over = |(_, until): &(String, Instant)| *until <= Instant::now();
        if !self.machine.is_stuck() && self.health.passing.as_ref().is_some_and(over) {
            self.health.passing = None;
            self.machine.handle(Input::Lifted);
            self.unfinished = true;
        }
        let fault = if self.machine.may_direct() {
            self.health.fault(&self.config, &director.network)
        } else {
            let passing = self.health.passing.as_ref();
            Some(passing.map_or(NOT_YET_READY.to_owned(), |(reason, _)| reason.clone()))
        };
        if fault == self.health.told {
            return;
        }
        if let Some(elections) = &self.elections {
            elections.set_fault(ROUTER, fault.clone());
        }
        self.health.told = fault;
    }

    /// What the election's counters say of the other node's configuration.
    pub(super) fn judge_adverts(&mut self, director: &mut Director) {
        let Some(elections) = &self.elections else {
            return;
        };
        let Some(status) = elections.status().into_iter().nth(ROUTER) else {
            return;
        };
        let mut grown = Vec::new();
        for (name, count) in status.counters {
            let before = self.health.counted.insert(name, count).unwrap_or(0);
            if count > before {
                grown.push(name);
            }
        }
        let (name, interface) = (&self.config.name, &self.config.interface);
        let mut seen = |key: &str, what: String, hold| {
            let text = format!("{name}: {what}");
            director.problems.seen(key, text, hold, now());
        };
        let refused: Vec<&str> = (grown.iter())
            .filter(|name| OF_ANOTHER_CONFIGURATION.contains(name))
            .map(|name| name.trim_start_matches("refused_"))
            .collect();
        if !refused.is_empty() {
            let reasons = refused.join(", ");
            let text = format!(
                "adverts of another router are refused on {interface} ({reasons}): is it \
                 configured alike?"
            );
            seen("vrrp adverts", text, SHORT_HOLD);
        }
        if grown.contains(&"same_address") {
            let text = format!("another router on {interface} has this one's address and priority");
            seen("vrrp address", text, SHORT_HOLD);
        }
        let is_owner = |priority: u8| Priority(priority) == Priority::OWNER;
        let master = status.view.master.map_or(0, |(_, priority)| priority);
        let both_own = is_owner(self.config.priority) && is_owner(master);
        if both_own || grown.contains(&"other_owner") {
            let text = format!(
                "another router with priority 255 is heard on {interface}; two masters by \
                 configuration"
            );
            seen("vrrp owner", text, HOLD);
        }
    }
}

/// The election has a fault, or none any more.
pub(super) fn report_fault(config: &VrrpConfig, fault: Option<&str>, problems: &mut Problems) {
    match fault {
        Some(NOT_YET_READY) => {}
        Some(reason) => {
            let text = format!("{}: {reason}, this node cannot be active", config.name);
            problems.set("vrrp fault", text, now());
        }
        None => problems.clear("vrrp fault"),
    }
}

/// Two masters by configuration.
pub(super) fn report_rival(config: &VrrpConfig, view: &ElectionView, problems: &mut Problems) {
    let who = view.master.map_or(String::new(), |(address, priority)| {
        format!(" ({address}, priority {priority})")
    });
    let text = format!(
        "{}: another master{who} is heard on {} all the time while this node is master; \
         two masters by configuration?",
        config.name, config.interface
    );
    let hold = SHORT_HOLD.max(config.advert * 3);
    problems.seen("vrrp rival", text, hold, now());
}

/// The address is on another host.
pub(super) fn report_claim(config: &VrrpConfig, claim: Claim, problems: &mut Problems) {
    let Claim { address, mac } = claim;
    let text = format!(
        "{}: another host answers for {address} ({mac})",
        config.name
    );
    problems.seen(&claim_key(address.into()), text, HOLD, now());
}

/// Who is not active does not care who answers.
pub(super) fn forget_claims(config: &VrrpConfig, problems: &mut Problems) {
    for vip in config.all_vips() {
        problems.clear(&claim_key(vip.address));
    }
}

fn claim_key(address: IpAddr) -> String {
    format!("claim {address}")
}

fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// CLOCK_MONOTONIC, as the election reads it.
pub(super) fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// The owner of the data plane is alive. Gives back how long it had not said so.
pub(super) fn beat(pulse: &AtomicU64) -> Duration {
    let now = monotonic_ms();
    let before = pulse.swap(now, Ordering::Relaxed);
    Duration::from_millis(now.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use crate::config::Vip;
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

    fn config() -> VrrpConfig {
        let vip = |interface: &str, last| Vip {
            address: IpAddr::from([192, 0, 2, last]),
            prefix_len: 32,
            interface: interface.to_owned(),
        };
        VrrpConfig {
            name: "VI_1".to_owned(),
            interface: "eth0".to_owned(),
            vrid: 51,
            priority: 100,
            preempt: true,
            advert: Duration::from_secs(1),
            vips: vec![vip("eth0", 100)],
            vips_excluded: vec![vip("eth1", 101)],
            garp_repeat: 5,
            garp_delay: Duration::from_secs(5),
        }
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
