//! The director's data plane with what this node is to it: its routes, its lease, its role and its
//! sync daemons.
//!
//! One value, owned by the daemon's loop. The failover driver changes roles through it, the
//! control socket starts and stops sync daemons through it.

mod network;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::common::rules::directing::{self, Function, Inputs, Mode, Role};
use dataplane::{DataPlane, Lease, MarkRule, RouterAddress, Tunable, boottime_ns};
use ipvs_control::SysctlError;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use tracing::{error, info, warn};

use crate::config::{Config, Sysctl, VrrpConfig};
use crate::netlink::NetworkState;
use crate::problems::Problems;
use crate::sync_keeper::SyncKeeper;

/// Tunable `ApplyGuardSecs`: for so long after a packet a connection is not changed by what another
/// node sent. Only where this node directs: a standby has nobody to believe but the active node, and
/// what it saw itself is of before.
const APPLY_GUARD_ACTIVE: u32 = 2;
const APPLY_GUARD_STANDBY: u32 = 0;

/// The data plane and what it has been told.
pub(crate) struct Director {
    pub(crate) plane: DataPlane,
    pub(crate) network: NetworkState,
    pub(crate) sync: SyncKeeper,
    pub(crate) problems: Problems,
    interfaces: Vec<String>,
    /// Whether the data plane has the routes of `network`.
    routes_current: bool,
    /// The data plane has taken this host's routes at least once.
    routes_known: bool,
    /// The data plane has refused routes: the next turn of following them waits for the next try.
    routes_refused: bool,
    rules_reported: bool,
    /// Virtual addresses that follow the role: those this node holds, and where.
    held: BTreeMap<IpAddr, u32>,
    /// All virtual addresses that follow the role, and the interface each has then.
    managed: BTreeMap<IpAddr, String>,
    lease: Option<Duration>,
    /// When the lease that was renewed last ends. Unit: nanoseconds of CLOCK_BOOTTIME.
    lease_ends: Option<u64>,
    /// Epoch of this run: above that of every run before it, and one higher at each promotion.
    epoch: u64,
    leases_refused: u64,
    mode: Mode,
    role: Role,
    /// The sync backup runs beside a role that is being taken or given up, and does not gate it.
    backup_is_beside: bool,
    /// Those in force; the configuration's at first, then what an operator set.
    sysctl: Sysctl,
}

impl Director {
    /// Takes the data plane over under a new epoch.
    pub(crate) fn new(config: &Config, plane: DataPlane) -> Director {
        let epoch = plane.lease().epoch.saturating_add(1);
        let vips = config.vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
        let (mode, role) = match config.vrrp.first() {
            Some(_) => (Mode::Vrrp, Role::Standby),
            None => (Mode::Standalone, Role::Active),
        };
        let mut director = Director {
            plane,
            network: NetworkState::default(),
            sync: SyncKeeper::new(config),
            problems: Problems::default(),
            interfaces: config.interfaces.clone(),
            routes_current: false,
            routes_known: false,
            routes_refused: false,
            rules_reported: false,
            held: BTreeMap::new(),
            managed: vips
                .map(|vip| (vip.address, vip.interface.clone()))
                .collect(),
            lease: config.lease,
            lease_ends: None,
            epoch,
            leases_refused: 0,
            mode,
            role,
            backup_is_beside: false,
            sysctl: config.sysctl,
        };
        director.set_tunables();
        director.set_mark_rules(&config.marks);
        director.set_apply_guard();
        director.set_router_addresses(config);
        director.sync.begin(&mut director.plane);
        director.refresh_directing();
        director
    }

    /// So that a lapsed lease keeps the host from answering for them, and one that does not accept
    /// what is sent to them is left alone.
    fn set_router_addresses(&mut self, config: &Config) {
        let of = |vrrp: &VrrpConfig| {
            let accept = vrrp.accept;
            let vips = vrrp.all_vips().map(move |vip| RouterAddress {
                address: vip.address,
                accept,
            });
            vips.collect::<Vec<_>>()
        };
        let addresses: Vec<RouterAddress> = config.vrrp.iter().flat_map(of).collect();
        if let Err(error) = self.plane.set_router_addresses(&addresses) {
            warn!(?error, "the data plane did not take the virtual addresses");
        }
    }

    fn set_tunables(&mut self) {
        for (tunable, value) in self.sysctl.data_plane() {
            self.plane.set_tunable(tunable, value);
        }
    }

    /// The tunables in force.
    pub(crate) const fn sysctl(&self) -> &Sysctl {
        &self.sysctl
    }

    /// An operator's change of a tunable. It is in force at once, or when the kernel's would be, and
    /// until this process ends, whatever role the node takes.
    ///
    /// # Errors
    /// See [`SysctlError`]; nothing has changed then.
    pub(crate) fn set_sysctl(&mut self, name: &str, value: &str) -> Result<(), SysctlError> {
        let before = self.sysctl;
        self.sysctl.set(name, value)?;
        if self.sysctl == before {
            return Ok(());
        }
        for ((name, before), (_, now)) in before.list().iter().zip(&self.sysctl.list()) {
            if before != now {
                info!(name, before, now, "tunable changed by hand");
            }
        }
        self.set_tunables();
        let sync = self.sysctl.sync();
        if sync != before.sync() {
            self.sync.set_tunables(&mut self.plane, sync);
        }
        self.refresh_directing();
        Ok(())
    }

    /// A director without them would let packets of services by mark pass: that is a problem until the
    /// next start.
    fn set_mark_rules(&mut self, rules: &[MarkRule]) {
        if let Err(error) = self.plane.set_mark_rules(rules) {
            let text = format!("the data plane did not take the [[mark]] rules: {error:?}");
            self.problems.set("mark", text, Instant::now());
        }
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) const fn lease_length(&self) -> Option<Duration> {
        self.lease
    }

    pub(crate) const fn leases_refused(&self) -> u64 {
        self.leases_refused
    }

    pub(crate) const fn routes_current(&self) -> bool {
        self.routes_current
    }

    /// Tells the programs what this node is now. The caller renews the lease.
    pub(crate) fn set_role(&mut self, role: Role) {
        if role == Role::Active && self.role != Role::Active {
            self.epoch = self.epoch.saturating_add(1);
        }
        self.role = role;
        self.set_apply_guard();
        self.refresh_directing();
    }

    fn set_apply_guard(&mut self) {
        let secs = apply_guard(self.role);
        self.plane.set_tunable(Tunable::ApplyGuardSecs, secs);
    }

    /// Whoever starts or stops a sync daemon calls this: `backup_only` depends on it.
    pub(crate) fn refresh_directing(&mut self) {
        self.plane.set_directing(self.inputs());
    }

    /// What the programs do while the lease holds.
    pub(crate) fn function(&self) -> Function {
        directing::function(self.inputs())
    }

    fn inputs(&self) -> Inputs {
        Inputs {
            mode: self.mode,
            role: self.role,
            backup_daemon_runs: self.sync.daemons.runs(SyncRole::Backup) && !self.backup_is_beside,
            backup_only: self.sysctl.backup_only(),
        }
    }

    /// A promotion begins: connections are offered from here on. `ends_backup` when it will end the
    /// sync backup.
    pub(crate) fn expect_sync_master(&mut self, ends_backup: bool) {
        self.sync.expect_master(&mut self.plane);
        self.run_backup_beside(ends_backup);
    }

    /// Whether the sync backup that runs is to gate what is directed here (`backup_only`).
    pub(crate) fn run_backup_beside(&mut self, is_beside: bool) {
        self.backup_is_beside = is_beside;
        self.refresh_directing();
    }

    /// What the peer has told so far is in the table when this returns, or as much of it as there is time
    /// for.
    pub(crate) fn apply_synced(&mut self) {
        self.sync.daemons.apply_all(&mut self.plane);
    }

    /// See [`crate::sync::SyncDaemons::tell_all`].
    pub(crate) fn tell_all(&mut self, is_wanted: bool) {
        self.sync.daemons.tell_all(&mut self.plane, is_wanted);
    }

    /// Has the sync daemon of a role run, or not, as the roles of all virtual routers want it.
    pub(crate) fn settle_sync(&mut self, role: SyncRole, is_wanted: bool) {
        if is_wanted {
            self.sync.want(&mut self.plane, &self.network, role);
        } else {
            self.sync.unwant(&mut self.plane, role);
        }
        if role == SyncRole::Backup {
            self.backup_is_beside = false;
        }
        self.judge_sync();
        self.refresh_directing();
    }

    /// Stops both sync daemons; the master sends what it has.
    pub(crate) fn stop_sync(&mut self) {
        self.sync.stop_all(&mut self.plane);
        self.refresh_directing();
    }

    /// Tries to start the sync daemon that should run and does not, and judges those that do.
    pub(crate) fn tend_sync(&mut self) {
        self.sync.tend(&mut self.plane, &self.network);
        self.judge_sync();
        self.refresh_directing();
    }

    fn judge_sync(&mut self) {
        let (network, problems) = (&self.network, &mut self.problems);
        self.sync.judge(network, problems, Instant::now());
    }

    /// # Errors
    /// See [`SyncError`].
    pub(crate) fn start_sync_by_hand(
        &mut self,
        role: SyncRole,
        spec: &SyncSpec,
    ) -> Result<(), SyncError> {
        if role == SyncRole::Backup && self.backup_is_beside {
            // The role's would end soon.
            self.settle_sync(role, false);
        }
        let started = self.sync.start_by_hand(&mut self.plane, role, spec);
        self.refresh_directing();
        started
    }

    /// # Errors
    /// [`SyncError::NotRunning`].
    pub(crate) fn stop_sync_by_hand(&mut self, role: SyncRole) -> Result<(), SyncError> {
        let stopped = self.sync.stop_by_hand(&mut self.plane, role);
        self.refresh_directing();
        stopped
    }

    /// The daemon ends: sync daemons without a role are resumed by the next one.
    pub(crate) fn let_go(&mut self) {
        self.sync.daemons.let_go(&mut self.plane);
    }

    /// Tries again what failed before.
    pub(crate) fn retry(&mut self) {
        self.retry_routes();
        self.attach_to_new_links();
        self.tend_sync();
        self.problems.expire(Instant::now());
    }

    /// Moves the deadline ahead by the length of the lease; without a length there is none.
    ///
    /// Not before the data plane knows this host's addresses and routes: those of the daemon before
    /// may have moved to another node since. Gives back whether there is a lease now.
    pub(crate) fn renew_lease(&mut self) -> bool {
        if !self.routes_known {
            return false;
        }
        let deadline_boottime_ns = self.lease.map(|length| {
            boottime_ns().saturating_add(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX))
        });
        if self.plane.set_lease(Lease {
            epoch: self.epoch,
            deadline_boottime_ns,
        }) {
            self.lease_ends = deadline_boottime_ns;
            return true;
        }
        self.lease_ends = None;
        if self.leases_refused == 0 {
            let in_force = self.plane.lease().epoch;
            error!(
                epoch = self.epoch,
                in_force, "a higher epoch is in force, lease refused"
            );
        }
        self.leases_refused = self.leases_refused.saturating_add(1);
        false
    }

    /// Whether the lease was not renewed in time: the programs have dropped since.
    pub(crate) fn lease_has_lapsed(&self) -> bool {
        self.lease_ends.is_some_and(|ends| boottime_ns() >= ends)
    }
}

const fn apply_guard(role: Role) -> u32 {
    match role {
        Role::Active => APPLY_GUARD_ACTIVE,
        Role::Standby => APPLY_GUARD_STANDBY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_lets_synced_entries_change_every_connection() {
        let guards = [Role::Active, Role::Standby].map(apply_guard);
        assert_eq!(guards, [2, 0]);
    }
}
