//! What each step does to this host.

use std::collections::BTreeMap;
use std::time::Duration;

use dataplane::common::rules::directing::Role;
use ipvs_model::sync::SyncRole;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::super::fsm::{State, Step};
use super::Failover;
use crate::addresses::{AddressError, Assigned};
use crate::director::Director;
use crate::vrrp_driver::ElectionRole;

/// How long the election has for its last words before the addresses go.
const RESIGN_MAX: Duration = Duration::from_millis(50);
/// When another node has the role what still comes for the addresses is directed for so long: frames on
/// their way, those of hosts that have not read the announcement yet, and those of before it. Where the
/// other took the role by a higher priority it announces a little later than the addresses go here.
const LINGER: Duration = Duration::from_millis(50);
/// For so long after a promotion the node before may tell of connections that are not known here: until
/// it has seen the announcement (50 ms), has lingered, and has sent its last. What meets this node
/// before is sent again by its sender, after 200 ms or more.
const UNKNOWN_HELD: Duration = Duration::from_millis(200);
/// A demoted node tells the rest for at most so long. The lease is renewed before and after.
const REST_MAX: Duration = Duration::from_millis(50);
/// Places of the table looked at in one step of that.
const REST_BUDGET: u32 = 16_384;
/// Pause while the walk cannot go on.
const REST_PAUSE: Duration = Duration::from_micros(500);
/// For so long after a promotion, or after another master was heard, the sync backup goes on.
const BACKUP_LINGER: Duration = Duration::from_millis(500);

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
                director.plane.hold_unknown_for(UNKNOWN_HELD);
                if !director.renew_lease() {
                    return Err("the data plane did not take the lease".to_owned());
                }
            }
            Step::Offer => director.expect_sync_master(!self.others(index, false)),
            Step::AddAddresses => return self.add_addresses(index, director),
            Step::MakeLocal => return self.make_local(index, director),
            Step::Announce => {
                // From here on clients come; what the node before has told meanwhile is there then.
                director.apply_synced();
                return self.begin_announcing(index, director);
            }
            Step::StartMaster => director.settle_sync(SyncRole::Master, true),
            Step::StopBackup => {
                director.apply_synced();
                if director.sync.is_wanted(SyncRole::Backup) {
                    self.backup_ends = Some(Instant::now() + BACKUP_LINGER);
                } else {
                    // An operator's lasts until now.
                    let is_wanted = self.others(index, false);
                    director.settle_sync(SyncRole::Backup, is_wanted);
                }
            }
            Step::RemoveAddresses => return self.remove_addresses(index, director),
            Step::StartBackup => {
                // Both would receive.
                self.ear = None;
                self.backup_ends = None;
                director.settle_sync(SyncRole::Backup, true);
                if self.lingers(index) {
                    director.run_backup_beside(true);
                    self.tell_the_rest(director);
                }
            }
            Step::MakeForeign => return self.make_foreign(index, director),
            Step::StopMaster => {
                let is_wanted = self.others(index, true);
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

    /// With the end of this nothing that comes for them is directed here.
    fn make_foreign(&mut self, index: usize, director: &mut Director) -> Result<(), String> {
        if let Some(instance) = self.instances.get_mut(index) {
            instance.lingers_until = None;
            instance.held = BTreeMap::new();
        }
        director.run_backup_beside(false);
        if self.handover.is_none() {
            director.tell_all(false);
        }
        self.hold_addresses(director)
    }

    /// Whoever has the role now is told of what it may not know: connections that had too few packets
    /// so far, and all of them when it did not listen because both were masters. A handover has done so
    /// before.
    fn tell_the_rest(&mut self, director: &mut Director) {
        let all = std::mem::take(&mut self.was_split);
        if self.handover.is_some() || !director.sync.daemons.runs(SyncRole::Master) {
            return;
        }
        director.tell_all(true);
        if all {
            director.plane.offer_all_again();
        }
        let latest = Instant::now() + REST_MAX;
        let mut rounds = 0;
        // What is left of one, and a whole one.
        while rounds < 2 || director.plane.is_offering_again() {
            let report = director.plane.expire_step(REST_BUDGET);
            rounds += u32::from(report.live.is_some());
            if Instant::now() >= latest {
                warn!("the new master was not told of every connection in time");
                return;
            }
            if report.scanned == 0 && report.live.is_none() {
                // Marked entries wait for their grace.
                std::thread::sleep(REST_PAUSE);
            }
        }
    }

    /// Another master is about to give way to this one, and nobody heard what it told while both were:
    /// for a while a sync backup does, and what is not known here waits for it.
    pub(super) fn hear_out(&mut self, director: &mut Director) {
        let until = Instant::now() + BACKUP_LINGER;
        if self.backup_ends.replace(until).is_some() {
            return;
        }
        director.plane.hold_unknown_for(UNKNOWN_HELD);
        if !director.sync.daemons.runs(SyncRole::Backup) {
            // Both would receive.
            self.ear = None;
            director.settle_sync(SyncRole::Backup, true);
            director.run_backup_beside(true);
        }
    }

    fn lingers(&self, index: usize) -> bool {
        let instance = self.instances.get(index);
        instance.is_some_and(|instance| instance.lingers_until.is_some())
    }

    /// The node before has told its last.
    pub(super) fn end_backup(&mut self, director: &mut Director) {
        self.backup_ends = None;
        // It may take as long as a short lease.
        self.renew_lease(director);
        let mut instances = self.instances.iter();
        let is_wanted = instances.any(|instance| !instance.machine.holds_role());
        // An operator may have started one in its place.
        if is_wanted || director.sync.is_wanted(SyncRole::Backup) {
            director.settle_sync(SyncRole::Backup, is_wanted);
        }
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
            // Nothing but the lease gates what is directed.
            let is_demoted = matches!(instance.machine.state(), State::Demoting(_));
            let is_elsewhere = instance.view.role == ElectionRole::Backup;
            if is_demoted && is_elsewhere && instance.machine.may_direct() {
                instance.lingers_until = Some(Instant::now() + LINGER);
                return Ok(());
            }
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
