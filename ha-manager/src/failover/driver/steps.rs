//! What each step does to this host, and what is done for its addresses between the steps.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use dataplane::common::rules::directing::Role;
use ipvs_model::sync::SyncRole;
use nix::errno::Errno;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

use super::super::fsm::{State, Step};
use super::{Failover, LOOK_GAP, PROBE_EVERY, SETTLE, health};
use crate::addresses::Assigned;
use crate::config::Vip;
use crate::director::Director;
use crate::vrrp_driver::ElectionRole;

/// How long the election has for its last words before the addresses go.
const RESIGN_MAX: Duration = Duration::from_millis(50);

impl Failover {
    pub(super) async fn carry_out(
        &mut self,
        step: Step,
        director: &mut Director,
    ) -> Result<(), String> {
        match step {
            Step::Direct => {
                director.set_role(Role::Active);
                if !director.renew_lease() {
                    return Err("the data plane did not take the lease".to_owned());
                }
            }
            Step::StartMaster => director.follow_role(SyncRole::Master),
            Step::AddAddresses => return self.add_addresses(director).await,
            Step::MakeLocal => {
                let places = self.places(director)?.into_iter();
                let held = places.map(|at| (at.address, at.ifindex)).collect();
                if !director.hold_addresses(held) {
                    return Err("the data plane did not take the routes".to_owned());
                }
            }
            Step::Announce => {
                self.announce(director).map_err(|error| error.to_string())?;
                self.schedule.begun(Instant::now(), self.config.garp_delay);
            }
            Step::RemoveAddresses => return self.remove_addresses(director).await,
            Step::StartBackup => director.follow_role(SyncRole::Backup),
            Step::StandBy => director.set_role(Role::Standby),
            Step::StopSync => director.stop_sync(),
            Step::Resign => self.resign().await,
        }
        Ok(())
    }

    async fn add_addresses(&mut self, director: &Director) -> Result<(), String> {
        let places = self.places(director)?;
        self.add(&places).await?;
        self.here = places;
        Ok(())
    }

    async fn add(&self, places: &[Assigned]) -> Result<(), String> {
        let added = self.addresses.add(places).await;
        added.map_err(|error| error.to_string())
    }

    async fn remove(&mut self, places: &[Assigned]) -> Result<(), String> {
        let removed = self.addresses.remove(places).await;
        removed.map_err(|error| error.to_string())?;
        self.here.retain(|at| !places.contains(at));
        Ok(())
    }

    /// From their interfaces. Elsewhere they are not ours: a director that is a server too has them
    /// on `lo`.
    async fn remove_addresses(&mut self, director: &mut Director) -> Result<(), String> {
        let present = self.present(director).await?;
        if !present.is_empty() && !self.machine.may_direct() {
            let addresses: Vec<String> = present.iter().map(|at| at.address.to_string()).collect();
            info!(
                ?addresses,
                "removing virtual addresses that were left behind"
            );
        }
        self.remove(&present).await?;
        if !director.hold_addresses(BTreeMap::new()) {
            return Err("the data plane did not take the routes".to_owned());
        }
        Ok(())
    }

    /// Our addresses as their interfaces have them now.
    async fn present(&mut self, director: &Director) -> Result<Vec<Assigned>, String> {
        let mut present = self
            .addresses
            .list()
            .await
            .map_err(|error| error.to_string())?;
        let links = &director.network.links;
        let is_ours = |at: &Assigned| {
            let is_it = |vip: &Vip| {
                let link = links.get(&vip.interface);
                vip.address == at.address && link.is_some_and(|link| link.ifindex == at.ifindex)
            };
            self.config.all_vips().any(is_it)
        };
        present.retain(is_ours);
        self.here.clone_from(&present);
        Ok(present)
    }

    /// Our addresses where they belong.
    fn places(&self, director: &Director) -> Result<Vec<Assigned>, String> {
        let place = |vip: &Vip| {
            let link = director.network.links.get(&vip.interface);
            let ifindex = link
                .map(|link| link.ifindex)
                .ok_or_else(|| format!("interface {} is gone", vip.interface))?;
            Ok(Assigned {
                ifindex,
                address: vip.address,
                prefix_len: vip.prefix_len,
            })
        };
        self.config.all_vips().map(place).collect()
    }

    /// A block of gratuitous ARP and neighbour advertisements: so many rounds over all addresses.
    fn announce(&mut self, director: &Director) -> io::Result<()> {
        let mut known = BTreeMap::new();
        for _ in 0..self.config.garp_repeat {
            for vip in self.config.all_vips() {
                let link = director.network.links.get(&vip.interface);
                let link = link.ok_or(Errno::ENODEV)?;
                // What is no Ethernet has neither.
                let Some(mac) = link.mac else {
                    continue;
                };
                match vip.address {
                    IpAddr::V4(address) => self.announcer.announce(link.ifindex, mac, address)?,
                    IpAddr::V6(address) => {
                        let name = vip.interface.as_str();
                        let routes = *known.entry(name).or_insert_with(|| is_router(name));
                        self.announcer
                            .announce_v6(link.ifindex, mac, address, routes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A block that is no part of a promotion: what it misses the next one makes good.
    pub(super) fn announce_again(&mut self, director: &Director) {
        match self.announce(director) {
            Ok(()) => debug!("addresses announced again"),
            Err(error) => warn!(%error, "the addresses were not announced again"),
        }
        self.schedule.sent(Instant::now(), self.config.garp_delay);
    }

    async fn resign(&mut self) {
        let Some(elections) = &self.elections else {
            return;
        };
        elections.resign();
        let mut views = elections.changes();
        let resigned =
            views.wait_for(|views| views.iter().all(|view| view.role != ElectionRole::Master));
        if timeout(RESIGN_MAX, resigned).await.is_err() {
            warn!("the election did not confirm in time that it has resigned");
        }
    }

    /// Has the host's addresses be as the role wants them, after somebody else changed them.
    pub(super) async fn look_at_addresses(&mut self, director: &mut Director) {
        self.look = None;
        self.looked = Instant::now();
        let looked = match self.machine.state() {
            State::Active => self.restore_addresses(director).await,
            State::Standby | State::Faulted => self.remove_strangers(director).await,
            // The step that is due sees to it.
            State::Promoting(_) | State::Demoting(_) | State::Stopping(_) | State::Stopped => {
                return;
            }
        };
        if let Err(error) = looked {
            warn!(error, "virtual addresses are not as they should be");
            self.look = Some(self.looked + LOOK_GAP);
        }
    }

    async fn restore_addresses(&mut self, director: &mut Director) -> Result<(), String> {
        let present = self.present(director).await?;
        let is_missing = |at: &Assigned| {
            !present
                .iter()
                .any(|found| (found.address, found.ifindex) == (at.address, at.ifindex))
        };
        let mut missing = self.places(director)?;
        missing.retain(is_missing);
        if missing.is_empty() {
            return Ok(());
        }
        self.add(&missing).await?;
        self.here.extend(&missing);
        let addresses: Vec<String> = missing.iter().map(|at| at.address.to_string()).collect();
        warn!(
            ?addresses,
            "virtual addresses were removed by somebody else, and restored"
        );
        self.schedule.ask(Instant::now());
        Ok(())
    }

    async fn remove_strangers(&mut self, director: &Director) -> Result<(), String> {
        let present = self.present(director).await?;
        if present.is_empty() {
            return Ok(());
        }
        self.remove(&present).await?;
        let addresses: Vec<String> = present.iter().map(|at| at.address.to_string()).collect();
        warn!(
            ?addresses,
            "virtual addresses were added by somebody else while this node is not active, and removed"
        );
        Ok(())
    }

    /// Asks who else has our addresses.
    pub(super) fn probe(&mut self, director: &Director) {
        self.probe = Some(Instant::now() + PROBE_EVERY);
        for vip in self.config.all_vips() {
            if let Some(address) = vip.v4()
                && let Some(link) = director.network.links.get(&vip.interface)
                && let Some(mac) = link.mac
                && let Err(error) = self.watch.probe(link.ifindex, mac, address)
            {
                debug!(%error, address = %vip.address, "nobody was asked for an address");
            }
        }
    }

    /// Somebody says that one of our addresses is theirs.
    pub(super) fn hear_claims(&mut self, director: &mut Director) {
        let settled = (self.active_since).is_some_and(|since| since.elapsed() >= SETTLE);
        for claim in self.watch.read() {
            let is_ours = |link: &crate::netlink::Link| link.mac == Some(claim.mac);
            if settled && !director.network.links.values().any(is_ours) {
                health::report_claim(&self.config, claim, &mut director.problems);
            }
        }
    }
}

/// Whether the host forwards IPv6 that arrives there, which is what advertisements say; a host without
/// IPv6 does not.
fn is_router(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}
