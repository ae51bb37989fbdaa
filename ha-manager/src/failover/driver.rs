//! Carries out the machines' steps: the one place that turns roles into deeds.
//!
//! Lives in the task that owns the data plane. Everything is done when a call returns, and bounded:
//! the kernel answers for addresses at once, and sync threads that end have a grace.

mod announcing;
pub(super) mod claim;
mod handing_over;
pub(super) mod health;
mod lease;
mod notifying;
pub(super) mod patience;
mod report;
mod stepping;
mod steps;
mod views;
mod watching;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::fsm::Input;
use super::handover::Handover;
use super::instance::Instance;
use super::split::Split;
use crate::addresses::Addresses;
use crate::arp_watch::AddressWatch;
use crate::config::Config;
use crate::director::Director;
use crate::notify::{Notifier, NotifyError};
use crate::script_runner::{Runner, RunnerError};
use crate::sync::SyncEar;
use crate::tracking::{Tracking, TrackingError};
use crate::vrrp_driver::{self, ElectionError, ElectionView, Elections, RouterSpec};
use announcing::Routers;
use claim::Claim;
use notifying::GroupsTold;
use vrrp::net::packet::Announcer;

/// An owner of the data plane that was last seen this long ago hangs: it is not advertised for.
/// Longer than its longest turn, even where a lease is shorter.
const PULSE_MAX_LEAST: Duration = Duration::from_secs(1);
/// Between two tries of a step.
const PAUSE: Duration = Duration::from_millis(20);
/// Steps in one turn; the rest of the daemon is waiting meanwhile.
const STEPS_MAX: usize = 64;
/// Between two looks at what addresses the host has.
const LOOK_GAP: Duration = Duration::from_millis(250);
/// After a promotion the former master may still answer for this long.
pub(super) const SETTLE: Duration = Duration::from_millis(1500);

/// Between two reads of claims: whoever floods them is read no more often.
const CLAIMS_GAP: Duration = Duration::from_millis(10);

/// Why there is no failover manager.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    #[error("election: {0}")]
    Election(#[from] ElectionError),
    #[error("another directord of this host takes part in vrid {vrid} on {interface}")]
    Twice { vrid: u8, interface: String },
    #[error("[[vrrp]]: {0}")]
    Router(#[from] vrrp::ConfigError),
    #[error(transparent)]
    Runner(#[from] RunnerError),
    #[error(transparent)]
    Tracking(#[from] TrackingError),
    #[error(transparent)]
    Notify(#[from] NotifyError),
    #[error("{what}: {source}")]
    Socket {
        what: &'static str,
        source: io::Error,
    },
}

/// What wakes the failover manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A block of announcements is due.
    Announce,
    /// The node before has had the time to tell its last.
    BackupEnds,
    /// Somebody claims one of our addresses.
    Claim,
    /// The election has something new.
    Election,
    /// A handover goes on.
    Handover,
    /// The host's addresses may not be as they should.
    Look,
    /// It is time to ask who else has the addresses.
    Probe,
    /// What is tracked has changed.
    Tracked,
    /// A turn ended before its work did, or a step that failed is tried again.
    Unfinished,
}

/// The failover manager of this node.
pub(crate) struct Failover {
    instances: Vec<Instance>,
    /// Routers that change together; one that is in none is alone.
    groups: Vec<Vec<usize>>,
    /// Until the daemon ends.
    elections: Option<Elections>,
    views: watch::Receiver<Vec<ElectionView>>,
    /// Views that do not answer this question are of before the node stood still.
    asked: u64,
    pulse: Arc<AtomicU64>,
    pulse_max: Duration,
    addresses: Addresses,
    announcer: Announcer,
    routers: Routers,
    watch: AddressWatch,
    /// Claims are not read before.
    claims_from: Instant,
    split: Split,
    /// Hears another sync master while no backup runs.
    ear: Option<SyncEar>,
    handover: Option<Handover>,
    /// When the sync backup is stopped after a promotion.
    backup_ends: Option<Instant>,
    /// Another master was seen while this node was one.
    was_split: bool,
    tracking: Tracking,
    /// Until the daemon ends.
    notifier: Option<Notifier>,
    groups_told: GroupsTold,
    /// What time is counted from.
    begun: Instant,
    unfinished: bool,
    look: Option<Instant>,
    looked: Instant,
}

impl Failover {
    /// Opens sockets and starts the election, which waits until [`Failover::bring_up`] is through.
    ///
    /// # Errors
    /// See [`FailoverError`].
    pub(crate) fn open(config: &Config) -> Result<Failover, FailoverError> {
        let failed = |what| move |source| FailoverError::Socket { what, source };
        let mut instances = Vec::new();
        let mut routers = Vec::new();
        for vrrp in &config.vrrp {
            let is_ipv6 = vrrp.vips.first().is_some_and(|vip| vip.address.is_ipv6());
            let claim = Claim::stake(&vrrp.interface, vrrp.vrid, is_ipv6)?;
            routers.push(RouterSpec {
                name: vrrp.name.clone(),
                interface: vrrp.interface.clone(),
                config: vrrp.router()?,
                source: vrrp.source,
                send_on: (vrrp.sends_on() != vrrp.interface).then(|| vrrp.sends_on().to_owned()),
                track_interface: vrrp.track.own_interface,
            });
            instances.push(Instance::new(vrrp.clone(), claim));
        }
        // It has to be started before privileges are given up.
        let runner = Runner::for_config(config)?;
        let tracking = Tracking::start(config, runner.clone())?;
        let notifier = Notifier::start(config, runner)?;
        let groups: Vec<Vec<usize>> = config
            .vrrp_groups
            .iter()
            .map(|it| it.members.clone())
            .collect();
        let vips = config.vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
        let vips: Vec<IpAddr> = vips.map(|vip| vip.address).collect();
        let addresses = Addresses::open().map_err(failed("netlink socket"))?;
        let announcer = Announcer::open().map_err(failed("packet socket for announcements"))?;
        let watch = AddressWatch::open(&vips).map_err(failed("packet socket for claims"))?;
        let pulse = Arc::new(AtomicU64::new(health::boottime_ms()));
        let pulse_max = config.lease.unwrap_or_default().max(PULSE_MAX_LEAST);
        let elections = vrrp_driver::start(
            routers,
            groups.clone(),
            vrrp_driver::ThreadOptions {
                rt_priority: config.vrrp_thread.rt_priority,
                startup_delay: config.vrrp_thread.startup_delay,
                ..vrrp_driver::ThreadOptions::default()
            },
            Arc::clone(&pulse),
            pulse_max,
        )?;
        let views = elections.changes();
        for (instance, view) in instances.iter_mut().zip(views.borrow().iter()) {
            instance.view = view.clone();
        }
        Ok(Failover {
            instances,
            groups_told: GroupsTold::new(groups.len()),
            groups,
            elections: Some(elections),
            views,
            asked: 0,
            pulse,
            pulse_max,
            addresses,
            announcer,
            routers: Routers::default(),
            watch,
            claims_from: Instant::now(),
            split: Split::default(),
            ear: None,
            handover: None,
            backup_ends: None,
            was_split: false,
            tracking,
            notifier: Some(notifier),
            begun: Instant::now(),
            unfinished: false,
            look: None,
            looked: Instant::now(),
        })
    }

    /// Removes what an earlier life left behind, and lets the election begin when that is done.
    pub(crate) async fn bring_up(&mut self, director: &mut Director) {
        loop {
            self.advance(director).await;
            match self.retry_at() {
                Some(at) => sleep_until(at).await,
                None if self.unfinished => {}
                None => break,
            }
        }
        self.check_health(director);
    }

    /// Waits for what this manager has to do next. Safe to drop at any time.
    pub(crate) async fn event(&mut self) -> Event {
        if self.unfinished {
            return Event::Unfinished;
        }
        let (announce, probe, retry) = (
            self.earliest(|instance| Some(self.begun + instance.announcements.next_due()?)),
            self.earliest(|instance| instance.probe),
            self.retry_at(),
        );
        let handover = self.handover.as_ref().map(Handover::tick);
        let (views, tracking) = (&mut self.views, &mut self.tracking);
        let changed = async {
            if views.changed().await.is_err() {
                // The check of its health says so; there is nothing more to hear.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = changed => Event::Election,
            () = at(retry) => Event::Unfinished,
            () = at(announce) => Event::Announce,
            () = claimed(&self.watch, self.claims_from) => Event::Claim,
            () = at(handover) => Event::Handover,
            () = at(self.backup_ends) => Event::BackupEnds,
            () = at(self.look) => Event::Look,
            () = at(probe) => Event::Probe,
            () = tracking.changed() => Event::Tracked,
        }
    }

    fn earliest(&self, of: impl Fn(&Instance) -> Option<Instant>) -> Option<Instant> {
        self.instances.iter().filter_map(of).min()
    }

    /// The time of announcements.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) async fn handle(&mut self, event: Event, director: &mut Director) {
        match event {
            Event::Election | Event::Unfinished => self.advance(director).await,
            Event::Announce => self.announce_again(director),
            Event::BackupEnds => self.end_backup(director),
            Event::Claim => {
                self.claims_from = Instant::now() + CLAIMS_GAP;
                self.hear_claims(director);
                self.advance_handover(director);
            }
            Event::Handover => self.advance_handover(director),
            Event::Look => self.look_at_addresses(director),
            Event::Probe => self.probe(director),
            Event::Tracked => self.check_health(director),
        }
    }

    /// There is a new picture of the network; `differs` when it has our addresses otherwise than
    /// this node left them.
    pub(crate) fn network_changed(&mut self, director: &mut Director, differs: bool) {
        if differs && self.look.is_none() {
            self.look = Some(Instant::now().max(self.looked + LOOK_GAP));
        }
        for instance in &mut self.instances {
            instance.health.note_devices(&director.network);
        }
        self.check_health(director);
    }

    /// Every second: what failed before is tried again.
    pub(crate) async fn retry(&mut self, director: &mut Director) {
        for index in 0..self.instances.len() {
            let machine = self.instances.get(index).map(|instance| &instance.machine);
            if machine.is_some_and(|machine| machine.is_stuck()) {
                self.step_once(index, director).await;
            }
        }
        self.advance(director).await;
        self.judge_adverts(director);
        self.watch_for_a_split(director);
        self.tracking.report(&mut director.problems);
        if let Some(notifier) = &self.notifier {
            notifier.report(&mut director.problems);
        }
        self.check_health(director);
    }

    /// Ends the roles in their documented order, then the election.
    pub(crate) async fn leave(&mut self, director: &mut Director) {
        for instance in &mut self.instances {
            instance.machine.handle(Input::Stop);
            instance.retry_at = None;
        }
        self.end_handover(director, "the director is stopped");
        while (self.instances.iter()).any(|instance| instance.machine.step().is_some()) {
            // The sync daemons' grace may be as long as a short lease.
            if self.may_direct() && !director.lease_has_lapsed() {
                director.renew_lease();
            }
            match self.next_due() {
                Some(index) => self.step_once(index, director).await,
                None => match self.retry_at() {
                    Some(at) => sleep_until(at).await,
                    None => break,
                },
            }
        }
        if let Some(elections) = self.elections.take() {
            elections.stop();
        }
        if let Some(notifier) = self.notifier.take() {
            notifier.stop().await;
        }
    }
}

/// Waits for claims, but not before a moment.
async fn claimed(watch: &AddressWatch, from: Instant) {
    sleep_until(from).await;
    watch.readable().await;
}

/// A moment that may never come.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
