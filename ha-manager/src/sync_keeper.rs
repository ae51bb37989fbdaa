//! Which sync daemon should run: by this node's role, or by an operator's hand.
//!
//! With a `[[vrrp]]` and a `[sync]` section the role decides: the master runs while any virtual router
//! of this node is active, the backup while any is not, so that a node of an active/active pair runs
//! both. An operator's start or stop is carried out all the same, marked as manual, and lasts until
//! the next change of role. Without them there is only the operator's hand.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use dataplane::DataPlane;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use tracing::{info, warn};

use crate::config::{Config, SyncConfig, SyncTunables};
use crate::netlink::NetworkState;
use crate::problems::Problems;
use crate::status::{By, LinkState, SyncStatus};
use crate::sync::{SyncDaemonStatus, SyncDaemons, SyncEar, SyncOptions};

/// Messages with another sync id are a problem for this long after the last one.
const OTHER_ID_HOLD: Duration = Duration::from_secs(10);
/// The backup's counter of messages with a sync id that is not its own.
const REFUSED_SYNC_ID: &str = "refused_message_sync_id";
/// A share that is filled is a problem for this long after the last connection refused for it.
const SHARE_HOLD: Duration = Duration::from_secs(10);
/// The backup's counter of those.
const NO_SHARE: &str = "drop_no_share";

/// What the interface was when a daemon was started on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    ifindex: u32,
    /// One of its own, from which messages are sent.
    has_address: bool,
}

/// Who wants one of the daemons.
#[derive(Debug, Default)]
struct Post {
    /// The role does; not after an operator's hand has been in it.
    is_wanted: bool,
    /// Where it was started for the role.
    started_at: Option<Place>,
    /// Why it does not run although it is wanted.
    failure: Option<SyncError>,
}

/// The sync daemons and who wants them.
pub(crate) struct SyncKeeper {
    pub(crate) daemons: SyncDaemons,
    /// What the daemons of a role run with.
    config: Option<SyncConfig>,
    /// What an operator's start leaves out, with or without a role.
    defaults: Option<SyncSpec>,
    master: Post,
    backup: Post,
    /// Not the sync interface's own.
    virtual_addresses: Vec<IpAddr>,
    /// Messages with another sync id when they were counted last.
    other_ids: u64,
    /// Connections refused because the peer's had filled their share, when they were counted last.
    no_share: u64,
}

impl SyncKeeper {
    pub(crate) fn new(config: &Config) -> SyncKeeper {
        let vips = config.vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
        SyncKeeper {
            daemons: SyncDaemons::new(options(config)),
            // Without an election there is no role to follow.
            config: config.sync.clone().filter(|_| !config.vrrp.is_empty()),
            defaults: config.sync.as_ref().map(|sync| sync.spec.clone()),
            master: Post::default(),
            backup: Post::default(),
            virtual_addresses: vips.map(|vip| vip.address).collect(),
            other_ids: 0,
            no_share: 0,
        }
    }

    /// Before anything else: the daemons of a run before go on, unless a role decides.
    pub(crate) fn begin(&mut self, plane: &mut DataPlane) {
        self.daemons.prepare(plane);
        if self.config.is_some() {
            self.daemons.forget(plane);
        } else {
            self.daemons.resume(plane);
        }
    }

    /// An operator's change of tunables; see [`SyncDaemons::set_tunables`].
    pub(crate) fn set_tunables(&mut self, plane: &mut DataPlane, tunables: SyncTunables) {
        self.daemons.set_tunables(plane, tunables);
    }

    const fn post(&self, role: SyncRole) -> &Post {
        match role {
            SyncRole::Master => &self.master,
            SyncRole::Backup => &self.backup,
        }
    }

    const fn post_mut(&mut self, role: SyncRole) -> &mut Post {
        match role {
            SyncRole::Master => &mut self.master,
            SyncRole::Backup => &mut self.backup,
        }
    }

    /// The role is about to want the master: connections are offered from here on, and what the peer
    /// has told is in the table when the first packet comes.
    pub(crate) fn expect_master(&mut self, plane: &mut DataPlane) {
        if self.config.is_some() {
            self.daemons.apply_all(plane);
            self.daemons.expect_master(plane);
        }
    }

    /// The role wants this daemon. One that an operator started is started anew, as the section says.
    pub(crate) fn want(&mut self, plane: &mut DataPlane, network: &NetworkState, role: SyncRole) {
        if self.config.is_none() {
            return;
        }
        if self.post(role).is_wanted && self.daemons.runs(role) {
            return;
        }
        if self.daemons.runs(role) {
            self.stop(plane, role);
        }
        self.daemons.forget_unresumed(plane);
        *self.post_mut(role) = Post {
            is_wanted: true,
            ..Post::default()
        };
        self.start_wanted(plane, network, role);
    }

    /// The role wants this daemon no longer, whoever started it.
    pub(crate) fn unwant(&mut self, plane: &mut DataPlane, role: SyncRole) {
        if self.config.is_none() {
            return;
        }
        if self.daemons.runs(role) {
            self.stop(plane, role);
        } else if role == SyncRole::Master {
            // It may have been expected.
            plane.set_sync_master(false);
        }
        // None of them may come to life under another role.
        self.daemons.forget_unresumed(plane);
        *self.post_mut(role) = Post::default();
    }

    fn stop(&mut self, plane: &mut DataPlane, role: SyncRole) {
        match self.daemons.stop(plane, role) {
            Ok(()) => info!(role = role.name(), "sync daemon stopped"),
            Err(error) => warn!(role = role.name(), %error, "sync daemon does not stop"),
        }
    }

    /// Backup first: it applies what it has received.
    pub(crate) fn stop_all(&mut self, plane: &mut DataPlane) {
        for role in [SyncRole::Backup, SyncRole::Master] {
            if self.daemons.runs(role) {
                self.stop(plane, role);
            }
            *self.post_mut(role) = Post::default();
        }
        self.daemons.forget_unresumed(plane);
    }

    /// About once a second: starts what is wanted and does not run, and starts it again on an
    /// interface that is not what it was: another device, or one that has an address now.
    pub(crate) fn tend(&mut self, plane: &mut DataPlane, network: &NetworkState) {
        self.daemons.tend(plane);
        let here = self.place(network);
        for role in SyncRole::ALL {
            if !self.post(role).is_wanted {
                continue;
            }
            let is_elsewhere = here.is_some() && here != self.post(role).started_at;
            if is_elsewhere && self.daemons.runs(role) {
                info!(role = role.name(), "the sync interface is not what it was");
                self.stop(plane, role);
            }
            if self.daemons.runs(role) {
                self.post_mut(role).failure = None;
            } else {
                self.start_wanted(plane, network, role);
            }
        }
    }

    fn place(&self, network: &NetworkState) -> Option<Place> {
        let config = self.config.as_ref()?;
        let ifindex = network.links.get(&config.spec.interface)?.ifindex;
        let has_address = network.has_address(ifindex, config.is_ipv6(), &self.virtual_addresses);
        Some(Place {
            ifindex,
            has_address,
        })
    }

    fn start_wanted(&mut self, plane: &mut DataPlane, network: &NetworkState, role: SyncRole) {
        let place = self.place(network);
        let Some(config) = &self.config else {
            return;
        };
        let spec = config.spec_of(role);
        let started = self.daemons.start(plane, role, &spec);
        let post = self.post_mut(role);
        match started {
            Ok(()) => {
                let (interface, sync_id) = (&spec.interface, spec.sync_id);
                info!(
                    role = role.name(),
                    interface, sync_id, "sync daemon started"
                );
                post.failure = None;
                post.started_at = place;
            }
            Err(error) => post.failure = Some(error),
        }
    }

    /// Whether the role has this daemon run; not after an operator's hand has been in it.
    pub(crate) const fn is_wanted(&self, role: SyncRole) -> bool {
        self.post(role).is_wanted
    }

    /// An operator's start.
    ///
    /// # Errors
    /// See [`SyncError`].
    pub(crate) fn start_by_hand(
        &mut self,
        plane: &mut DataPlane,
        role: SyncRole,
        spec: &SyncSpec,
    ) -> Result<(), SyncError> {
        let spec = match &self.defaults {
            Some(defaults) => or_default(spec, defaults),
            None => spec.clone(),
        };
        self.daemons.start(plane, role, &spec)?;
        *self.post_mut(role) = Post::default();
        self.log_hand("started", role);
        Ok(())
    }

    /// An operator's stop.
    ///
    /// # Errors
    /// [`SyncError::NotRunning`].
    pub(crate) fn stop_by_hand(
        &mut self,
        plane: &mut DataPlane,
        role: SyncRole,
    ) -> Result<(), SyncError> {
        self.daemons.stop(plane, role)?;
        *self.post_mut(role) = Post::default();
        self.log_hand("stopped", role);
        Ok(())
    }

    fn log_hand(&self, what: &str, role: SyncRole) {
        let role = role.name();
        if self.config.is_some() {
            info!(
                role,
                "sync daemon {what} by hand, until the next change of role"
            );
        } else {
            info!(role, "sync daemon {what} by hand");
        }
    }

    /// Hears another master, where a backup of the role's would.
    pub(crate) fn listen(&self) -> Option<SyncEar> {
        let spec = self.config.as_ref()?.spec_of(SyncRole::Backup);
        let is_free = !self.daemons.runs(SyncRole::Backup);
        is_free.then(|| self.daemons.listen(&spec)).flatten()
    }

    /// Looks for what an operator should know.
    pub(crate) fn judge(&mut self, network: &NetworkState, problems: &mut Problems, now: Instant) {
        let is_usable = self.judge_interface(network, problems, now);
        for role in SyncRole::ALL {
            let (name, key) = (role.name(), format!("sync daemon {}", role.name()));
            match &self.post(role).failure {
                Some(error) => {
                    let text = format!("sync: the {name} daemon does not run: {error}");
                    problems.set(&key, text, now);
                }
                None => problems.clear(&key),
            }
        }
        let daemons = self.daemons.status();
        for role in SyncRole::ALL {
            let key = format!("sync {}", role.name());
            let daemon = daemons.iter().find(|daemon| daemon.role == role);
            // An interface without an address has been judged above, where the role chose it.
            let warned = |daemon: &&SyncDaemonStatus| {
                let role_chose = self.post(daemon.role).is_wanted;
                daemon.warning.clone().filter(|_| !role_chose)
            };
            let wrong = daemon.and_then(|daemon| daemon.problem.clone());
            match wrong.or_else(|| daemon.as_ref().and_then(warned)) {
                // What its interface lacks has been said.
                Some(problem) if is_usable => problems.set(&key, format!("sync: {problem}"), now),
                Some(_) | None => problems.clear(&key),
            }
        }
        match self.daemons.problems().first() {
            Some(problem) => problems.set("sync resume", format!("sync: {problem}"), now),
            None => problems.clear("sync resume"),
        }
        let backup = daemons.iter().find(|d| d.role == SyncRole::Backup);
        let counted = |name| backup.map_or(0, |daemon| counter(daemon, name));
        let (other_ids, no_share) = (counted(REFUSED_SYNC_ID), counted(NO_SHARE));
        if no_share > self.no_share {
            let share = self.daemons.table_share();
            let text = format!(
                "sync: the peer's connections have filled their share of the table \
                 (table_share {share} %)"
            );
            problems.seen("sync share", text, SHARE_HOLD, now);
        }
        self.no_share = no_share;
        if let Some(SyncDaemonStatus { spec, .. }) = backup
            && other_ids > self.other_ids
        {
            let text = format!(
                "sync: messages with other sync ids arrive on {} (ours: {})",
                spec.interface, spec.sync_id
            );
            problems.seen("sync ids", text, OTHER_ID_HOLD, now);
        }
        self.other_ids = other_ids;
    }

    /// Gives back whether the interface that the role's daemons use can be used.
    fn judge_interface(
        &self,
        network: &NetworkState,
        problems: &mut Problems,
        now: Instant,
    ) -> bool {
        let Some(config) = &self.config else {
            return true;
        };
        let interface = &config.spec.interface;
        let has_address = self.place(network).is_some_and(|place| place.has_address);
        let wrong = match network.links.get(interface).map(|link| link.state) {
            None | Some(LinkState::Gone) => "is gone",
            Some(LinkState::Down) => "is down",
            Some(LinkState::NoCarrier) => "has no carrier",
            Some(LinkState::Up) if !has_address && config.is_ipv6() => "has no IPv6 address",
            Some(LinkState::Up) if !has_address => "has no IPv4 address",
            Some(LinkState::Up) => {
                problems.clear("sync interface");
                return true;
            }
        };
        let text = format!("sync: interface {interface} {wrong}, connections are not copied");
        problems.set("sync interface", text, now);
        false
    }

    pub(crate) fn status(&self) -> Vec<SyncStatus> {
        let status = |daemon: SyncDaemonStatus| {
            let by = if self.post(daemon.role).is_wanted {
                By::Role
            } else {
                By::Manual
            };
            SyncStatus::of(daemon, by)
        };
        self.daemons.status().into_iter().map(status).collect()
    }
}

fn options(config: &Config) -> SyncOptions {
    let options = SyncOptions {
        tunables: config.sysctl.sync(),
        ..SyncOptions::default()
    };
    match &config.sync {
        Some(sync) => SyncOptions {
            flush_age: sync.flush,
            peers: sync.peers.clone(),
            seq_order: sync.seq_order,
            table_share: sync.table_share,
            ..options
        },
        None => options,
    }
}

fn counter(daemon: &SyncDaemonStatus, name: &str) -> u64 {
    let mut counters = daemon.counters.iter();
    let found = counters.find(|(known, _)| *known == name);
    found.map_or(0, |(_, count)| *count)
}

/// What is left out is taken from `[sync]`; a sync id of 0 is one an operator can mean.
fn or_default(spec: &SyncSpec, defaults: &SyncSpec) -> SyncSpec {
    let or = |value: u16, default: u16| if value == 0 { default } else { value };
    SyncSpec {
        interface: spec.interface.clone(),
        sync_id: spec.sync_id,
        maxlen: or(spec.maxlen, defaults.maxlen),
        group: spec.group.or(defaults.group),
        port: or(spec.port, defaults.port),
        ttl: if spec.ttl == 0 {
            defaults.ttl
        } else {
            spec.ttl
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_gets_the_sections_values_for_what_is_left_out() {
        let asked = SyncSpec {
            interface: "eth7".to_owned(),
            sync_id: 0,
            maxlen: 0,
            group: None,
            port: 0,
            ttl: 0,
        };
        let defaults = SyncSpec {
            interface: "eth2".to_owned(),
            sync_id: 51,
            maxlen: 1000,
            group: Some([224, 0, 0, 82].into()),
            port: 9000,
            ttl: 3,
        };
        let filled = or_default(&asked, &defaults);
        assert_eq!((filled.interface.as_str(), filled.sync_id), ("eth7", 0));
        assert_eq!((filled.maxlen, filled.port, filled.ttl), (1000, 9000, 3));
        assert_eq!(filled.group, defaults.group);
        assert_eq!(or_default(&defaults, &asked), defaults);
    }
}
