//! What is watched between the steps: whether the addresses are where they should be, who else has
//! them, and whether another node serves them too.

use std::time::Duration;

use dataplane::common::rules::directing::Function;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use vrrp::wire::MacAddr;

use super::super::fsm::State;
use super::super::split::SeenBy;
use super::steps::{names, text};
use super::{Failover, LOOK_GAP, SETTLE, health};
use crate::addresses::Assigned;
use crate::director::Director;

/// Who else has the addresses is asked this often.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// The same while somebody has them.
const PROBE_SOON: Duration = Duration::from_secs(5);
/// Questions in one turn: their answers come at once, and are read a few in a turn too.
const PROBES_MAX: usize = 16;
/// Before the next of them.
const PROBES_PAUSE: Duration = Duration::from_millis(1);
/// Another sync master counts as heard for this long.
const SYNC_HOLD: Duration = Duration::from_secs(10);

impl Failover {
    /// Has the host's addresses be as the roles want them, after somebody else changed them.
    pub(super) fn look_at_addresses(&mut self, director: &mut Director) {
        self.look = None;
        self.looked = Instant::now();
        let looked = self.addresses.list().map_err(text);
        let looked = looked.and_then(|listed| {
            (0..self.instances.len())
                .map(|index| self.tidy(index, &listed, director))
                .fold(Ok(()), Result::and)
        });
        if let Err(error) = looked {
            warn!(error, "virtual addresses are not as they should be");
            self.look = Some(self.looked + LOOK_GAP);
        }
    }

    fn tidy(
        &mut self,
        index: usize,
        listed: &[Assigned],
        director: &mut Director,
    ) -> Result<(), String> {
        let Some(instance) = self.instances.get_mut(index) else {
            return Ok(());
        };
        let ours = |at: &&Assigned| instance.owns(at, &director.network);
        let present: Vec<Assigned> = listed.iter().filter(ours).copied().collect();
        match instance.machine.state() {
            State::Active => {
                instance.here.clone_from(&present);
                self.restore(index, &present, director)
            }
            State::Standby | State::Faulted => {
                instance.here.clone_from(&present);
                self.remove_strangers(index, &present, director)
            }
            // The step that is due sees to it.
            State::Promoting(_) | State::Demoting(_) | State::Stopping(_) | State::Stopped => {
                Ok(())
            }
        }
    }

    fn restore(
        &mut self,
        index: usize,
        present: &[Assigned],
        director: &mut Director,
    ) -> Result<(), String> {
        let now = self.now();
        let Some(instance) = self.instances.get_mut(index) else {
            return Ok(());
        };
        let is_missing = |at: &Assigned| {
            !present
                .iter()
                .any(|found| (found.address, found.ifindex) == (at.address, at.ifindex))
        };
        let mut missing = instance.places(&director.network)?;
        missing.retain(is_missing);
        if missing.is_empty() {
            return Ok(());
        }
        self.addresses.add(&missing).map_err(text)?;
        instance.here.extend(&missing);
        instance.announcements.again(now);
        let addresses = names(&missing);
        debug!(?addresses, "virtual addresses restored");
        health::report_meddler(&instance.config, true, &addresses, &mut director.problems);
        Ok(())
    }

    fn remove_strangers(
        &mut self,
        index: usize,
        present: &[Assigned],
        director: &mut Director,
    ) -> Result<(), String> {
        if present.is_empty() {
            return Ok(());
        }
        self.addresses.remove(present).map_err(text)?;
        let addresses = names(present);
        if let Some(instance) = self.instances.get_mut(index) {
            instance.here.clear();
            health::report_meddler(&instance.config, false, &addresses, &mut director.problems);
        }
        debug!(?addresses, "virtual addresses of others removed");
        Ok(())
    }

    /// Asks who else has our addresses, a few in a turn.
    pub(super) fn probe(&mut self, director: &Director) {
        let now = Instant::now();
        let mut left = PROBES_MAX;
        for (index, instance) in self.instances.iter_mut().enumerate() {
            if instance.probe.is_none_or(|due| due > now) {
                continue;
            }
            if left == 0 {
                instance.probe = Some(now + PROBES_PAUSE);
                continue;
            }
            let probes = instance.config.all_vips().filter_map(|vip| {
                let link = director.network.links.get(&vip.interface)?;
                Some((link.ifindex, link.mac?, vip.address))
            });
            let probes: Vec<_> = probes.collect();
            if instance.probed == 0
                && let Err(error) = self.watch.know(probes.iter().map(|probe| probe.0))
            {
                debug!(%error, "interfaces cannot be listed");
            }
            let next = instance.probed.saturating_add(left).min(probes.len());
            for (ifindex, mac, address) in probes.get(instance.probed..next).unwrap_or_default() {
                if let Err(error) = self.watch.probe(*ifindex, *mac, *address) {
                    debug!(%error, %address, "nobody was asked for an address");
                }
            }
            left = left.saturating_sub(next.saturating_sub(instance.probed));
            let pause = if next < probes.len() {
                instance.probed = next;
                PROBES_PAUSE
            } else {
                instance.probed = 0;
                let is_contested = self.split.is_seen(SeenBy::Arp, Some(index));
                if is_contested {
                    PROBE_SOON
                } else {
                    PROBE_EVERY
                }
            };
            instance.probe = Some(now + pause);
        }
    }

    /// Somebody says that one of our addresses is theirs.
    pub(super) fn hear_claims(&mut self, director: &mut Director) {
        let now = Instant::now();
        // All nodes have the MAC of a virtual router, and a node does not hear what it sends where it
        // sends it.
        let is_shared = |name: &str| {
            let mut vmacs = self
                .instances
                .iter()
                .filter_map(|it| it.config.vmac.as_ref());
            vmacs.any(|vmac| vmac.name == name)
        };
        let links = director.network.links.iter();
        let own: Vec<MacAddr> = links
            .filter(|(name, _)| !is_shared(name))
            .filter_map(|(_, link)| link.mac)
            .collect();
        for claim in self.watch.read() {
            if own.contains(&claim.mac) {
                continue;
            }
            let mut instances = self.instances.iter_mut().enumerate();
            let Some((index, instance)) = instances.find(|(_, it)| it.owns_vip(claim.address))
            else {
                continue;
            };
            if !instance.lies_at(claim.address, claim.ifindex, &director.network) {
                // On another LAN somebody else may have it, and one more interface on this one hears
                // what this node says.
                instance.claims_elsewhere = instance.claims_elsewhere.saturating_add(1);
                continue;
            }
            if let Some(handover) = &mut self.handover {
                handover.announced(claim.address, now);
            }
            instance.claims_heard = instance.claims_heard.saturating_add(1);
            if !instance.is_settled() {
                continue;
            }
            instance.claims.insert(claim.address, claim.mac);
            health::report_claims(&instance.config, &instance.claims, &mut director.problems);
            let who = format!("{} has {}", claim.mac, claim.address);
            let hold = health::CLAIM_HOLD;
            let at = now.into_std();
            self.split.see(SeenBy::Arp, Some(index), who, hold, at);
            // It is not answered by an announcement: the other would answer that in turn, and clients would
            // go from one to the other for ever. The last word is that of whoever became master last.
            let soon = now + PROBE_SOON;
            instance.probe = Some(instance.probe.map_or(soon, |due| due.min(soon)));
        }
    }

    /// Another master was heard by this one, which stays it. Whether the addresses are announced as
    /// after a promotion, or as `garp_lower_prio_repeat` says.
    pub(super) fn hear_other_master(
        &mut self,
        index: usize,
        announces_all: bool,
        director: &mut Director,
    ) {
        let (now, since) = (Instant::now(), self.now());
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        if instance.is_active() {
            if instance.is_settled() && !self.split.is_seen(SeenBy::Adverts, Some(index)) {
                let name = instance.config.name.as_str();
                info!(
                    instance = name,
                    "another master is heard: the addresses are announced again"
                );
            }
            if announces_all {
                instance.announcements.again(since);
            } else {
                instance.announcements.lower_priority(since);
            }
            self.unsettle_for_a_rival(index, director);
            // One that goes on as master is what the other witnesses are for.
            if !self.split.is_seen(SeenBy::Adverts, Some(index)) {
                self.hear_out(director);
            }
        }
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        if instance.rival.hear(now.into_std(), instance.config.advert) {
            let hold = health::report_rival(&instance.config, &instance.view, director);
            let who = (instance.view.rival)
                .map_or_else(|| "unknown".to_owned(), |(address, _)| address.to_string());
            let at = now.into_std();
            self.split.see(SeenBy::Adverts, Some(index), who, hold, at);
        }
    }

    /// Who has the addresses is judged anew, but what is known of the other's adverts stays.
    fn unsettle_for_a_rival(&mut self, index: usize, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        let now = Instant::now();
        // One that stays master is no reason to put the question off for ever. One that yields ends what
        // the other witnesses saw.
        if !self.split.is_seen(SeenBy::Adverts, Some(index)) {
            self.split.forget(index);
            instance.claims.clear();
            self.ear = None;
            instance.active_since = Some(now);
            instance.probe = Some(now + SETTLE);
            health::forget_claims(&instance.config, &mut director.problems);
        }
    }

    /// Once a second: another sync master, and what has healed.
    pub(super) fn watch_for_a_split(&mut self, director: &mut Director) {
        let (now, since) = (std::time::Instant::now(), self.now());
        self.listen_for_a_master(director);
        let mut healed = Vec::new();
        for (seen_by, router) in self.split.healed(now) {
            let seen_by = seen_by.name();
            info!(seen_by, "a split brain is not seen any more");
            healed.push(router);
        }
        // While another witness sees it an announcement would only be answered. When none does, the other
        // has gone, and clients may still go there.
        if self.split.is_empty() {
            for (at, instance) in self.instances.iter_mut().enumerate() {
                let concerns = |router: &Option<usize>| router.is_none_or(|router| router == at);
                if instance.is_active() && healed.iter().any(concerns) {
                    let name = instance.config.name.as_str();
                    info!(
                        instance = name,
                        "a split brain has healed: the addresses are announced again"
                    );
                    instance.claims.clear();
                    instance.announcements.again(since);
                }
            }
        }
        let gates = director.function() == Function::ReplyOnly
            && self.instances.iter().any(super::Instance::is_active);
        health::report_backup_only(gates, &mut director.problems);
    }

    /// While no backup runs, because every router is active here, nobody should send what one would
    /// receive.
    fn listen_for_a_master(&mut self, director: &mut Director) {
        if !self.instances.iter().all(super::Instance::is_settled) || self.instances.is_empty() {
            self.ear = None;
            return;
        }
        if self.ear.is_none() {
            self.ear = director.sync.listen();
        }
        let Some(ear) = &mut self.ear else {
            return;
        };
        let heard = ear.listen();
        if heard > 0 {
            let interface = ear.interface().to_owned();
            health::report_other_sync_master(&interface, SYNC_HOLD, &mut director.problems);
            let who = format!("{heard} messages on {interface}");
            let now = std::time::Instant::now();
            self.split.see(SeenBy::Sync, None, who, SYNC_HOLD, now);
        }
    }
}
