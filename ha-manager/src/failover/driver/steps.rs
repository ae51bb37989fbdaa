//! What each step does to this host.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::common::rules::directing::Role;
use ipvs_model::sync::SyncRole;
use tokio::time::timeout;
use tracing::{info, warn};

use super::super::fsm::Step;
use super::Failover;
use crate::addresses::{AddressError, Assigned};
use crate::director::Director;
use crate::vrrp_driver::ElectionRole;

/// How long the election has for its last words before the addresses go.
const RESIGN_MAX: Duration = Duration::from_millis(50);

impl Failover {
    pub(super) async fn carry_out(
        &mut self,
        index: usize,
        step: Step,
        director: &mut Director,
    ) -> Result<(), String> {
        match step {
            Step::Direct => {
                if !self.may_direct() {
                    return Err("addresses of another virtual router are in the way".to_owned());
                }
                director.set_role(Role::Active);
                if !director.renew_lease() {
                    return Err("the data plane did not take the lease".to_owned());
                }
            }
            Step::Offer => director.expect_sync_master(!self.others(index, false)),
            Step::AddAddresses => return self.add_addresses(index, director),
            Step::MakeLocal => return self.make_local(index, director),
            Step::Announce => return self.begin_announcing(index, director),
            Step::StartMaster => director.settle_sync(SyncRole::Master, true),
            Step::StopBackup => {
                let is_wanted = self.others(index, false);
                director.settle_sync(SyncRole::Backup, is_wanted);
            }
            Step::RemoveAddresses => return self.remove_addresses(index, director),
            Step::StartBackup => {
                // Both would receive.
                self.ear = None;
                director.settle_sync(SyncRole::Backup, true);
            }
            Step::StopMaster => {
                let is_wanted = self.others(index, true);
                self.tell_the_rest(director);
                director.settle_sync(SyncRole::Master, is_wanted);
            }
            Step::StandBy => {
                if !self.others(index, true) {
                    director.set_role(Role::Standby);
                }
            }
            Step::StopSync => {
                self.ear = None;
                director.stop_sync();
            }
            Step::Resign => self.resign().await,
        }
        Ok(())
    }

    /// Whether any other router of this node has its role, or any has it not.
    fn others(&self, index: usize, have_role: bool) -> bool {
        let mut others = self.instances.iter().enumerate();
        others.any(|(at, other)| at != index && other.machine.holds_role() == have_role)
    }

    fn add_addresses(&mut self, index: usize, director: &Director) -> Result<(), String> {
        let Some(instance) = self.instances.get_mut(index) else {
            return Ok(());
        };
        let places = instance.places(&director.network)?;
        self.addresses.add(&places).map_err(text)?;
        instance.here = places;
        Ok(())
    }

    fn make_local(&mut self, index: usize, director: &mut Director) -> Result<(), String> {
        if let Some(instance) = self.instances.get_mut(index) {
            let places = instance.places(&director.network)?.into_iter();
            instance.held = places.map(|at| (at.address, at.ifindex)).collect();
        }
        self.hold_addresses(director)
    }

    /// Those of all routers.
    fn hold_addresses(&self, director: &mut Director) -> Result<(), String> {
        let held = self.instances.iter().flat_map(|instance| &instance.held);
        if director.hold_addresses(held.map(|(address, at)| (*address, *at)).collect()) {
            Ok(())
        } else {
            Err("the data plane did not take the routes".to_owned())
        }
    }

    /// From their interfaces. Elsewhere they are not ours: a director that is a server too has them
    /// on `lo`.
    fn remove_addresses(&mut self, index: usize, director: &mut Director) -> Result<(), String> {
        let listed = self.addresses.list().map_err(text)?;
        if let Some(instance) = self.instances.get_mut(index) {
            let mut present = listed;
            present.retain(|at| instance.owns(at, &director.network));
            instance.here.clone_from(&present);
            if !present.is_empty() && !instance.machine.may_direct() {
                let addresses = names(&present);
                info!(
                    ?addresses,
                    "removing virtual addresses that were left behind"
                );
            }
            self.addresses.remove(&present).map_err(text)?;
            instance.here.clear();
            instance.held = BTreeMap::new();
        }
        self.hold_addresses(director)
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
}

pub(super) fn text(error: AddressError) -> String {
    error.to_string()
}

pub(super) fn names(places: &[Assigned]) -> Vec<String> {
    places.iter().map(|at| at.address.to_string()).collect()
}
