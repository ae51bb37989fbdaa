//! Whether this node can be master, and what else an operator should know of the election.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;
use vrrp::Priority;
use vrrp::wire::MacAddr;

use super::super::fsm::Input;
use super::Failover;
use crate::config::VrrpConfig;
use crate::director::Director;
use crate::failover::instance::Instance;
use crate::netlink::NetworkState;
use crate::problems::Problems;
use crate::status::LinkState;
use crate::vrrp_driver::{ElectionRole, ElectionView};

/// Who claims an address counts as having it for this long: it is asked again before.
pub(super) const CLAIM_HOLD: Duration = Duration::from_secs(15);
/// What was seen counts as a problem for this long.
const HOLD: Duration = Duration::from_secs(60);
/// The same for what goes on all the time while it is there.
const SHORT_HOLD: Duration = Duration::from_secs(10);
/// An interface that became another device is a fault for this long: sockets have to be opened on
/// the new one.
const REPLACED_FOR: Duration = Duration::from_millis(200);

/// Addresses that a problem names.
const CLAIMS_SHOWN: usize = 3;

/// Counters of adverts that were sent in earnest, by a node that is configured otherwise.
const OF_ANOTHER_CONFIGURATION: &[&str] = &[
    "refused_address_count",
    "refused_address_list",
    "refused_auth_digest",
    "refused_auth_header",
    "refused_auth_password",
    "refused_auth_type",
    "refused_checksum",
    "refused_interval",
    "refused_peer_unknown",
    "refused_version",
];

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
        let wrong = |name: &&str| {
            let is_watched = config.track.own_interface || **name != *config.interface;
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
            report_adverts(&instance.config, &grown, others_own, &mut director.problems);
        }
    }
}

/// `grown` are the counters that have; `others_own` says that another router is, or was taken for, the
/// owner of the addresses.
fn report_adverts(config: &VrrpConfig, grown: &[&str], others_own: bool, problems: &mut Problems) {
    let (name, interface) = (&config.name, &config.interface);
    let mut seen = |key: &str, what: String, hold| {
        let (key, text) = (format!("{key} {name}"), format!("{name}: {what}"));
        problems.seen(&key, text, hold, now());
    };
    let refused: Vec<&str> = (grown.iter())
        .filter(|name| OF_ANOTHER_CONFIGURATION.contains(name))
        .map(|name| name.trim_start_matches("refused_"))
        .collect();
    if !refused.is_empty() {
        let reasons = refused.join(", ");
        let text = format!(
            "adverts of another router are refused on {interface} ({reasons}): is it configured \
             alike?"
        );
        seen("vrrp adverts", text, SHORT_HOLD);
    }
    if grown.contains(&"same_address") {
        let text = format!("another router on {interface} has this one's address and priority");
        seen("vrrp address", text, SHORT_HOLD);
    }
    let both_own = Priority(config.priority) == Priority::OWNER && others_own;
    if both_own || grown.contains(&"other_owner") {
        let text = format!(
            "another router with priority 255 is heard on {interface}; two masters by configuration"
        );
        seen("vrrp owner", text, HOLD);
    }
}

/// The election has a fault, or none any more.
pub(super) fn report_fault(config: &VrrpConfig, fault: Option<&str>, problems: &mut Problems) {
    let key = format!("vrrp fault {}", config.name);
    match fault {
        Some(NOT_YET_READY) => {}
        Some(reason) => {
            let text = format!("{}: {reason}, this node cannot be active", config.name);
            problems.set(&key, text, now());
        }
        None => problems.clear(&key),
    }
}

/// Two masters by configuration. Gives back how long that counts.
pub(super) fn report_rival(
    config: &VrrpConfig,
    view: &ElectionView,
    director: &mut Director,
) -> Duration {
    let who = view.rival.map_or(String::new(), |(address, priority)| {
        format!(" ({address}, priority {priority})")
    });
    let text = format!(
        "{}: another master{who} is heard on {} all the time while this node is master; \
         two masters by configuration?",
        config.name, config.interface
    );
    let hold = SHORT_HOLD.max(config.advert * 3);
    let key = format!("vrrp rival {}", config.name);
    director.problems.seen(&key, text, hold, now());
    hold
}

/// Another node's sync master sends although every virtual router is active here.
pub(super) fn report_other_sync_master(interface: &str, hold: Duration, problems: &mut Problems) {
    let text = format!(
        "sync: another sync master with this pair's id sends on {interface} while this node is \
         active: two active nodes?"
    );
    problems.seen("sync split", text, hold, now());
}

/// `backup_only` keeps a node from directing while a sync backup runs, as in the kernel: also one
/// that is active for some of its virtual routers.
pub(super) fn report_backup_only(gates: bool, problems: &mut Problems) {
    if gates {
        let text = "backup_only = 1 keeps this node from directing requests although it is active: \
                    a sync backup runs too";
        problems.set("backup_only", text.to_owned(), now());
    } else {
        problems.clear("backup_only");
    }
}

/// Addresses are on another host: one problem for all of them.
pub(super) fn report_claims(
    config: &VrrpConfig,
    claims: &BTreeMap<IpAddr, MacAddr>,
    problems: &mut Problems,
) {
    let first = claims.iter().take(CLAIMS_SHOWN);
    let first: Vec<String> = first.map(|(at, mac)| format!("{at} ({mac})")).collect();
    let more = match claims.len().saturating_sub(CLAIMS_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!(
        "{}: another host answers for {}{more}",
        config.name,
        first.join(", ")
    );
    problems.seen(&claim_key(config), text, CLAIM_HOLD, now());
}

/// Who is not active does not care who answers.
pub(super) fn forget_claims(config: &VrrpConfig, problems: &mut Problems) {
    problems.clear(&claim_key(config));
}

fn claim_key(config: &VrrpConfig) -> String {
    format!("claim {}", config.name)
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

    #[test]
    fn however_many_addresses_are_claimed_there_is_one_problem() {
        let (mut problems, config) = (Problems::default(), config());
        let mut claims = BTreeMap::new();
        for last in 100..200 {
            claims.insert(IpAddr::from([192, 0, 2, last]), MacAddr([2, 0, 0, 0, 0, 9]));
            report_claims(&config, &claims, &mut problems);
        }
        let mac = "02:00:00:00:00:09";
        let text = format!(
            "VI_1: another host answers for 192.0.2.100 ({mac}), 192.0.2.101 ({mac}), 192.0.2.102 \
             ({mac}) and 97 more"
        );
        assert_eq!(problems.texts(), [text]);
        forget_claims(&config, &mut problems);
        assert_eq!(problems.texts(), [""; 0]);
    }
}
