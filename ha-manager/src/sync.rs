//! The sync daemons: which run, with what, and their threads.
//!
//! ```text
//!   programs --ring of offers--> master thread --datagrams--> peer
//!   peer --datagrams--> backup thread --batches--> owner of the data plane --> apply program
//! ```
//!
//! The threads share nothing with the owner but the ring, a bounded channel and counters. Both run
//! without any capability.
//!
//! A daemon that an operator or a role has started is recorded in the maps; the programs of a
//! master go on offering while no daemon runs. The daemon that takes over resumes it, throws away
//! what lay in the ring for too long, and has everything offered again that was ever offered: so
//! the peer's table is whole again after an outage.
//!
//! How the owner drives it: [`SyncDaemons::new`] and [`SyncDaemons::prepare`] at the start, then
//! [`SyncDaemons::resume`] without a role or [`SyncDaemons::forget`] with one;
//! [`SyncDaemons::apply_received`] whenever [`SyncDaemons::received`] is notified;
//! [`SyncDaemons::tend`] about once a second; [`SyncDaemons::let_go`] at the end.

mod backup;
mod master;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::common::rules::sync::SyncRules;
use dataplane::{DataPlane, OfferReader, OpenError};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use syncproto::limits;
use syncproto::net::{self, NetConfig, NetError};
use syncproto::wire::SeqOrder;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::{DEFAULT_FLUSH, SyncTunables};
use backup::Backup;
use master::Master;

/// Longest interface name, as the kernel's `IP_VS_IFNAME_MAXLEN` less its terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

/// Longest pause before lost offers are made again. Unit: calls of [`SyncDaemons::tend`], seconds.
const AGAIN_AFTER_MAX: u32 = 64;

/// How the daemons of this node work, whoever starts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    pub tunables: SyncTunables,
    /// When a part-filled message is sent.
    pub flush_age: Duration,
    /// Directors that are sent to, and heard, in place of the group; none is the group.
    pub peers: Vec<IpAddr>,
    /// Byte order of version 0's sequence block.
    pub seq_order: SeqOrder,
}

impl Default for SyncOptions {
    fn default() -> SyncOptions {
        SyncOptions {
            tunables: SyncTunables::default(),
            flush_age: DEFAULT_FLUSH,
            peers: Vec::new(),
            seq_order: SeqOrder::HOST,
        }
    }
}

/// The sync daemons of this node; the one owner of their threads.
pub struct SyncDaemons {
    options: SyncOptions,
    master: Option<Master>,
    backup: Option<Backup>,
    /// The ring of offers while no master reads it: mapping its memory takes longer than the rest of a
    /// master's start, and a promotion waits for that.
    offers: Option<OfferReader>,
    /// Woken when the backup has received something.
    received: Arc<Notify>,
    /// Recorded daemons that could not be resumed, and the reason that was logged.
    unresumed: Vec<(SyncRole, String)>,
    /// Offers were lost; they are made again after so many more calls of [`SyncDaemons::tend`].
    again_in: Option<u32>,
    /// How long that was the last time, for the next.
    again_after: u32,
}

/// One daemon, for `directord status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemonStatus {
    pub role: SyncRole,
    pub spec: SyncSpec,
    /// Name and count, in a fixed order: messages, entries, bytes, then drops by reason.
    pub counters: Vec<(&'static str, u64)>,
    /// What is wrong with it at this moment, for an operator.
    pub problem: Option<String>,
    /// What was not as it should be when it started.
    pub warning: Option<String>,
}

impl SyncDaemons {
    pub fn new(options: SyncOptions) -> SyncDaemons {
        SyncDaemons {
            options,
            master: None,
            backup: None,
            offers: None,
            received: Arc::new(Notify::new()),
            unresumed: Vec::new(),
            again_in: None,
            again_after: 0,
        }
    }

    /// Hands the tunables of offers to the data plane and opens their ring; the first call, before
    /// any daemon starts. A ring that cannot be had is tried again when a master starts.
    pub fn prepare(&mut self, plane: &mut DataPlane) {
        self.offers = plane.offers().ok();
        let tunables = &self.options.tunables;
        plane.set_sync_rules(&SyncRules {
            threshold: tunables.threshold,
            period: tunables.period,
            refresh_ticks: tunables.refresh_secs.saturating_mul(1000),
            retries: tunables.retries,
            persist_mode: tunables.persist_mode,
        });
    }

    /// Starts the daemons that ran when the daemon before this one ended. One that cannot start
    /// now is tried again by [`SyncDaemons::tend`].
    pub fn resume(&mut self, plane: &mut DataPlane) {
        for role in SyncRole::ALL {
            if self.runs(role) {
                continue;
            }
            let Some(spec) = plane.recorded_sync_daemon(role) else {
                continue;
            };
            match self.start(plane, role, &spec) {
                Ok(()) => {
                    self.unresumed.retain(|(known, _)| *known != role);
                    info!(
                        role = role.name(),
                        interface = spec.interface,
                        "sync daemon resumed"
                    );
                }
                Err(error) => self.not_resumed(role, &spec, &error),
            }
        }
    }

    fn not_resumed(&mut self, role: SyncRole, spec: &SyncSpec, error: &SyncError) {
        let reason = format!("{} sync daemon on {}: {error}", role.name(), spec.interface);
        if self.unresumed.contains(&(role, reason.clone())) {
            return;
        }
        warn!(
            role = role.name(),
            reason, "sync daemon is not resumed, trying again"
        );
        self.unresumed.retain(|(known, _)| *known != role);
        self.unresumed.push((role, reason));
    }

    /// Forgets the daemons of a run before: a role decides which of them run.
    pub fn forget(&mut self, plane: &mut DataPlane) {
        for role in SyncRole::ALL {
            plane.record_sync_daemon(role, None);
        }
        plane.set_sync_master(false);
    }

    /// Starts a daemon.
    ///
    /// # Errors
    /// See [`SyncError`]; nothing runs then that did not run before.
    pub fn start(
        &mut self,
        plane: &mut DataPlane,
        role: SyncRole,
        spec: &SyncSpec,
    ) -> Result<(), SyncError> {
        let net = net_config(spec, &self.options.tunables)?;
        // As the kernel: a missing interface is reported before a role that runs already.
        let mtu = net::interface_mtu(&spec.interface).map_err(refused)?;
        if self.runs(role) {
            return Err(SyncError::Running(role));
        }
        let spec = filled(role, spec, &net, mtu);
        match role {
            SyncRole::Master => {
                let plan = master::Plan {
                    sync_id: spec.sync_id,
                    maxlen: spec.maxlen.into(),
                    flush_age: self.options.flush_age,
                    queue_max: self.options.tunables.qlen_max as usize,
                };
                let socket = Master::open(&net)?;
                let offers = match self.offers.take() {
                    Some(offers) => offers,
                    None => plane.offers().map_err(no_offers)?,
                };
                self.master = Some(Master::start(spec.clone(), socket, plan, offers)?);
                plane.set_sync_master(true);
                // The peer may have missed some while nobody sent.
                plane.offer_all_again();
            }
            SyncRole::Backup => {
                let received = Arc::clone(&self.received);
                self.backup = Some(Backup::start(spec.clone(), &net, received)?);
            }
        }
        plane.record_sync_daemon(role, Some(&spec));
        Ok(())
    }

    /// Stops a daemon. What a backup has received is applied first; what a master has been offered
    /// is sent first.
    ///
    /// # Errors
    /// [`SyncError::NotRunning`].
    pub fn stop(&mut self, plane: &mut DataPlane, role: SyncRole) -> Result<(), SyncError> {
        let pending = self.unresumed.iter().any(|(known, _)| *known == role);
        if !self.runs(role) && !pending {
            return Err(SyncError::NotRunning(role));
        }
        self.unresumed.retain(|(known, _)| *known != role);
        plane.record_sync_daemon(role, None);
        match role {
            SyncRole::Master => {
                plane.set_sync_master(false);
                if let Some(master) = self.master.take() {
                    self.offers = master.stop();
                }
            }
            SyncRole::Backup => {
                if let Some(mut backup) = self.backup.take() {
                    backup.stop(plane);
                }
            }
        }
        Ok(())
    }

    /// Ends the threads and leaves the records: the next daemon resumes them.
    pub fn let_go(&mut self, plane: &mut DataPlane) {
        if let Some(master) = self.master.take() {
            master.stop();
        }
        if let Some(mut backup) = self.backup.take() {
            backup.stop(plane);
        }
    }

    pub fn runs(&self, role: SyncRole) -> bool {
        match role {
            SyncRole::Master => self.master.is_some(),
            SyncRole::Backup => self.backup.is_some(),
        }
    }

    /// The running daemons, master first, with every value filled in.
    pub fn list(&self) -> Vec<(SyncRole, SyncSpec)> {
        let master = self.master.iter().map(|m| (SyncRole::Master, m.spec()));
        let backup = self.backup.iter().map(|b| (SyncRole::Backup, b.spec()));
        master
            .chain(backup)
            .map(|(role, spec)| (role, spec.clone()))
            .collect()
    }

    pub fn status(&self) -> Vec<SyncDaemonStatus> {
        let master = self.master.iter().map(Master::status);
        let backup = self.backup.iter().map(Backup::status);
        master.chain(backup).collect()
    }

    /// What is wrong with daemons that should run and do not.
    pub fn problems(&self) -> Vec<String> {
        self.unresumed
            .iter()
            .map(|(_, reason)| reason.clone())
            .collect()
    }

    /// Woken when there is something for [`SyncDaemons::apply_received`].
    pub fn received(&self) -> Arc<Notify> {
        Arc::clone(&self.received)
    }

    /// Applies what the backup has received, a bounded part of it at a time; wakes itself again
    /// when there is more.
    pub fn apply_received(&mut self, plane: &mut DataPlane) {
        if let Some(backup) = &mut self.backup {
            backup.apply_some(plane);
        }
    }

    /// To be called about once a second: tries again what failed, and has offers made again that a
    /// late master threw away.
    pub fn tend(&mut self, plane: &mut DataPlane) {
        self.restart_failed(plane);
        if !self.unresumed.is_empty() {
            self.resume(plane);
        }
        if self.master.as_ref().is_some_and(Master::has_lost) && self.again_in.is_none() {
            // While sending fails, every try is twice as long after the last.
            self.again_in = Some(self.again_after);
            self.again_after = (self.again_after * 2).clamp(1, AGAIN_AFTER_MAX);
            warn!(
                in_secs = self.again_in,
                "sync master has lost offers: it was late, or could not send; all are made again"
            );
        }
        match &mut self.again_in {
            Some(0) => {
                self.again_in = None;
                plane.offer_all_again();
            }
            Some(left) => *left -= 1,
            None => self.again_after = self.again_after.saturating_sub(1),
        }
    }

    /// A thread that has failed leaves its daemon to be started anew.
    fn restart_failed(&mut self, plane: &mut DataPlane) {
        let is_dead = |role: &SyncRole| match role {
            SyncRole::Master => self.master.as_ref().is_some_and(|it| !it.is_alive()),
            SyncRole::Backup => self.backup.as_ref().is_some_and(|it| !it.is_alive()),
        };
        let dead: Vec<SyncRole> = SyncRole::ALL.into_iter().filter(is_dead).collect();
        for role in dead {
            let listed = self.list().into_iter().find(|(known, _)| *known == role);
            let Some((_, spec)) = listed else { continue };
            warn!(
                role = role.name(),
                "the thread of a sync daemon has failed, starting it anew"
            );
            if self.stop(plane, role).is_ok()
                && let Err(error) = self.start(plane, role, &spec)
            {
                plane.record_sync_daemon(role, Some(&spec));
                self.not_resumed(role, &spec, &error);
            }
        }
    }
}

fn net_config(spec: &SyncSpec, tunables: &SyncTunables) -> Result<NetConfig, SyncError> {
    let name = &spec.interface;
    if name.is_empty() || name.len() > INTERFACE_NAME_MAX {
        let length = name.len();
        let reason = format!("interface name of {length} bytes is not between 1 and 15");
        return Err(SyncError::Invalid(reason));
    }
    let group = match spec.group {
        None => limits::DEFAULT_GROUP,
        Some(IpAddr::V4(group)) if group.is_multicast() => group,
        Some(IpAddr::V4(group)) => {
            return Err(SyncError::Invalid(format!(
                "{group} is not a multicast group"
            )));
        }
        Some(IpAddr::V6(_)) => return Err(SyncError::Unsupported("IPv6 groups".to_owned())),
    };
    let or = |value: u16, default: u16| if value == 0 { default } else { value };
    Ok(NetConfig {
        interface: name.clone(),
        group,
        port: or(spec.port, limits::DEFAULT_PORT),
        ttl: u8::try_from(or(spec.ttl.into(), limits::DEFAULT_TTL.into())).unwrap_or(u8::MAX),
        sock_size: tunables.sock_size as usize,
    })
}

/// The spec with every default filled in.
fn filled(role: SyncRole, spec: &SyncSpec, net: &NetConfig, mtu: u32) -> SyncSpec {
    let maxlen = match role {
        SyncRole::Master => limits::master_maxlen(spec.maxlen.into(), false),
        SyncRole::Backup => limits::backup_maxlen(spec.maxlen.into(), mtu as usize, false),
    };
    SyncSpec {
        interface: net.interface.clone(),
        sync_id: spec.sync_id,
        maxlen: u16::try_from(maxlen).unwrap_or(u16::MAX),
        group: Some(net.group.into()),
        port: net.port,
        ttl: net.ttl,
    }
}

fn refused(error: NetError) -> SyncError {
    match error {
        NetError::NoInterface(name) => SyncError::NoDevice(name),
        NetError::NotMulticast(group) => no_group(group),
        step @ NetError::Step { .. } => SyncError::Socket(step.to_string()),
    }
}

fn no_group(group: Ipv4Addr) -> SyncError {
    SyncError::Invalid(format!("{group} is not a multicast group"))
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn no_offers(error: OpenError) -> SyncError {
    SyncError::Socket(format!("cannot read the offers of the programs: {error}"))
}
