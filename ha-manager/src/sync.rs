//! The sync daemons: which run, with what, and their threads.
//!
//! ```text
//!   programs --ring of offers--> master threads --datagrams--> peer
//!   peer --datagrams--> backup threads --batches--> owner of the data plane --> apply program
//! ```
//!
//! A daemon has one thread for each port, 1 to 64 of them (`sync_ports`), and a connection always takes
//! the same port. The threads share nothing with the owner but the ring, bounded channels and
//! counters. All run without any capability. With several ports one thread deals the offers of the
//! ring to them; a port that is full holds it, and so the others, until it has room again.
//!
//! A daemon that an operator or a role has started is recorded in the maps; the programs of a
//! master go on offering while no daemon runs. The daemon that takes over resumes it, throws away
//! what lay in the ring for too long, and has everything offered again that had a packet since the
//! one before it was at work. One that is started anew has everything offered again that was ever
//! offered: so the peer's table is whole again after an outage.
//!
//! A master that was late, or could not send, has those connections offered again that had a packet
//! here since then. The others are left to the peer, which may have taken them over meanwhile.
//!
//! How the owner drives it: [`SyncDaemons::new`] and [`SyncDaemons::prepare`] at the start, then
//! [`SyncDaemons::resume`] without a role or [`SyncDaemons::forget`] with one;
//! [`SyncDaemons::apply_received`] whenever [`SyncDaemons::received`] is notified;
//! [`SyncDaemons::tend`] about once a second; [`SyncDaemons::let_go`] at the end.

mod backup;
mod ear;
mod losses;
mod master;
mod offer;
mod report;
mod start;
mod upkeep;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataplane::common::rules::sync::SyncRules;
use dataplane::{DataPlane, OfferReader};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use syncproto::net;
use syncproto::sender::SenderConfig;
use syncproto::wire::{SeqOrder, Version};
use tokio::sync::Notify;

use crate::config::{DEFAULT_FLUSH, DEFAULT_TABLE_SHARE, SyncTunables};
use backup::Backup;
use master::Master;
use report::add_up;
use start::{allow_many_sockets, no_offers, not_started, refused};
use upkeep::Again;

pub use ear::SyncEar;
pub use report::{Named, SyncDaemonStatus, SyncPortStatus};

/// Most threads of a daemon. Source: `ip_vs.h: IPVS_SYNC_PORTS_MAX`.
const PORTS_MAX: u16 = *syncproto::limits::THREADS.end();

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
    /// What connections of the peer may fill of each table here. Unit: percent.
    pub table_share: u32,
}

impl Default for SyncOptions {
    fn default() -> SyncOptions {
        SyncOptions {
            tunables: SyncTunables::default(),
            flush_age: DEFAULT_FLUSH,
            peers: Vec::new(),
            seq_order: SeqOrder::HOST,
            table_share: DEFAULT_TABLE_SHARE,
        }
    }
}

/// The sync daemons of this node; the one owner of their threads.
pub struct SyncDaemons {
    options: SyncOptions,
    /// Threads of each daemon that runs, fixed when the first of them starts.
    ports: u16,
    master: Option<Master>,
    backup: Option<Backup>,
    /// The ring of offers while no master reads it: mapping its memory takes longer than the rest of a
    /// master's start, and a promotion waits for that.
    offers: Option<OfferReader>,
    /// Woken when the backup has received something.
    received: Arc<Notify>,
    /// Recorded daemons that could not be resumed, and the reason that was logged.
    unresumed: Vec<(SyncRole, String)>,
    /// See [`SyncDaemons::tell_all`].
    tells_all: bool,
    /// Offers were lost that will be made again.
    again: Option<Again>,
    /// How long that was put off the last time, for the next.
    again_after: u32,
}

impl SyncDaemons {
    pub fn new(options: SyncOptions) -> SyncDaemons {
        SyncDaemons {
            ports: options.tunables.ports,
            options,
            master: None,
            backup: None,
            offers: None,
            received: Arc::new(Notify::new()),
            unresumed: Vec::new(),
            tells_all: false,
            again: None,
            again_after: 0,
        }
    }

    /// Hands the tunables of offers to the data plane and opens their ring; the first call, before
    /// any daemon starts. A ring that cannot be had is tried again when a master starts.
    pub fn prepare(&mut self, plane: &mut DataPlane) {
        allow_many_sockets();
        self.offers = plane.offers().ok();
        plane.set_sync_share(self.options.table_share);
        // The daemon before may have ended in the middle of a handover.
        self.tell_all(plane, false);
        self.set_tunables(plane, self.options.tunables);
    }

    /// New tunables, at any time.
    ///
    /// The rules of offers hold from the next packet on, the version from the next message on, the
    /// length of the queue at once; the size of socket buffers holds for daemons that start later, and
    /// the number of ports from the next start while no daemon runs.
    pub fn set_tunables(&mut self, plane: &mut DataPlane, tunables: SyncTunables) {
        self.options.tunables = tunables;
        plane.set_sync_rules(&SyncRules {
            threshold: tunables.threshold,
            period: tunables.period,
            refresh_ticks: tunables.refresh_secs.saturating_mul(1000),
            retries: tunables.retries,
            persist_mode: tunables.persist_mode,
        });
        plane.set_sync_version(match tunables.version {
            Version::V0 => 0,
            Version::V1 => 1,
        });
        if let Some(master) = &self.master {
            master.set_version(tunables.version);
            master.set_queue_max(tunables.qlen_max as usize);
        }
    }

    /// Starts a daemon. A master has everything offered that was ever offered: the peer may have missed
    /// some while nobody sent.
    ///
    /// # Errors
    /// See [`SyncError`]; nothing runs then that did not run before.
    pub fn start(
        &mut self,
        plane: &mut DataPlane,
        role: SyncRole,
        spec: &SyncSpec,
    ) -> Result<(), SyncError> {
        self.start_since(plane, role, spec, 0)
    }

    /// A master has everything offered again that had its last packet at `since_ns` or later.
    fn start_since(
        &mut self,
        plane: &mut DataPlane,
        role: SyncRole,
        spec: &SyncSpec,
        since_ns: u64,
    ) -> Result<(), SyncError> {
        let net = start::net_config(spec, &self.options)?;
        // As the kernel: a missing interface is reported before a role that runs already.
        let mtu = net::interface_mtu(&spec.interface).map_err(refused)?;
        if self.runs(role) {
            return Err(SyncError::Running(role));
        }
        let spec = start::filled(role, spec, &net, mtu);
        let ports = self.ports_of_a_start();
        let nets = start::of_ports(&net, ports);
        match role {
            SyncRole::Master => {
                let tunables = &self.options.tunables;
                let config = SenderConfig {
                    version: tunables.version,
                    sync_id: spec.sync_id,
                    maxlen: spec.maxlen.into(),
                    flush_age: self.options.flush_age,
                    queue_max: tunables.qlen_max as usize,
                    seq_order: self.options.seq_order,
                };
                let opened = Master::open(&nets)?;
                let offers = match self.offers.take() {
                    Some(offers) => offers,
                    None => plane.offers().map_err(no_offers)?,
                };
                let master = Master::start(spec.clone(), nets, opened, &config, offers)?;
                master.hurry(self.tells_all);
                self.master = Some(master);
                plane.set_sync_master(true);
                self.again = None;
                plane.offer_again_since(since_ns);
            }
            SyncRole::Backup => {
                let received = Arc::clone(&self.received);
                let order = self.options.seq_order;
                self.backup = Some(Backup::start(spec.clone(), nets, order, received)?);
            }
        }
        self.ports = ports;
        self.unresumed.retain(|(known, _)| *known != role);
        plane.record_sync_daemon(role, Some(&spec));
        Ok(())
    }

    /// As many as the daemon of the other role has, if it runs.
    fn ports_of_a_start(&self) -> u16 {
        if SyncRole::ALL.into_iter().any(|role| self.runs(role)) {
            self.ports
        } else {
            // A power of two, by its range; anything else is rounded down to one.
            let asked = self.options.tunables.ports.clamp(1, PORTS_MAX);
            1 << asked.ilog2()
        }
    }

    /// Has the programs offer connections from here on, for a master that is about to start: what
    /// they offer waits for it.
    pub fn expect_master(&mut self, plane: &mut DataPlane) {
        if self.master.is_none() {
            plane.set_sync_master(true);
        }
    }

    /// Applies what the backup has received so far, or as much of it as there is time for.
    pub fn apply_all(&mut self, plane: &mut DataPlane) {
        if let Some(backup) = &mut self.backup {
            backup.apply_all(plane);
        }
    }

    /// While it is wanted the peer is told of every connection from its first packet on, and without
    /// waiting for others to fill a message: this node is about to hand its role over.
    pub fn tell_all(&mut self, plane: &mut DataPlane, is_wanted: bool) {
        plane.tell_all(is_wanted);
        self.tells_all = is_wanted;
        if let Some(master) = &self.master {
            master.hurry(is_wanted);
        }
    }

    /// Messages of the master that wait for their sockets; without a master there are none.
    pub fn backlog(&self) -> u64 {
        self.master.as_ref().map_or(0, Master::backlog)
    }

    /// Age at which a part-filled message is sent.
    pub const fn flush_age(&self) -> Duration {
        self.options.flush_age
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
                if let Some(backup) = self.backup.take() {
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
        if let Some(backup) = self.backup.take() {
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

    /// What connections of the peer may fill of each table here. Unit: percent.
    pub fn table_share(&self) -> u32 {
        self.options.table_share
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
}

/// A lock whose holder failed still holds whole values.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
