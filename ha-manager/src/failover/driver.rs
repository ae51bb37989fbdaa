//! Carries out the machines' steps: the one place that turns roles into deeds.
//!
//! Lives in the task that owns the data plane. Everything is done when a call returns, and bounded:
//! the kernel answers for addresses at once, and sync threads that end have a grace.

mod announcing;
pub(super) mod claim;
mod handing_over;
pub(super) mod health;
mod notifying;
pub(super) mod patience;
mod report;
mod steps;
mod watching;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::fsm::{Effect, Input, Office, State, Step};
use super::handover::Handover;
use super::instance::{Instance, ended, office_of};
use super::split::Split;
use crate::addresses::Addresses;
use crate::arp_watch::AddressWatch;
use crate::config::Config;
use crate::director::Director;
use crate::notify::{Notifier, NotifyError};
use crate::script_runner::{Runner, RunnerError};
use crate::sync::SyncEar;
use crate::tracking::{Tracking, TrackingError};
use crate::vrrp_driver::{self, ElectionError, ElectionRole, ElectionView, Elections, RouterSpec};
use announcing::Routers;
use claim::Claim;
use notifying::GroupsTold;
use patience::Patience;
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
                send_on: (vrrp.vmac.as_ref())
                    .filter(|vmac| !vmac.xmit_base)
                    .map(|vmac| vmac.name.clone()),
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
        let pulse = Arc::new(AtomicU64::new(health::monotonic_ms()));
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

    /// Says that the owner of the data plane is alive. When it was not for a while, another node may
    /// have been active meanwhile. Comes before anything is done in a turn.
    pub(crate) fn beat(&mut self, director: &mut Director) {
        let silent = health::beat(&self.pulse);
        if silent >= self.pulse_max || director.lease_has_lapsed() {
            self.lapse(director, silent);
        } else if silent >= PULSE_MAX_LEAST && self.instances.iter().any(Instance::is_active) {
            warn!(silent_ms = silent.as_millis(), "this process stood still");
            for index in 0..self.instances.len() {
                self.unsettle(index, director);
            }
        }
    }

    /// What an earlier life left behind is gone, of every router.
    fn may_direct(&self) -> bool {
        let mut instances = self.instances.iter();
        instances.all(|instance| instance.machine.may_direct())
    }

    /// Renews the lease, unless what an earlier life left behind is still there, or cannot be
    /// removed. A lease that has lapsed is not renewed under a role: first the role is given up, and
    /// taken again only on the election's fresh word.
    pub(crate) fn renew_lease(&mut self, director: &mut Director) {
        if director.lease_has_lapsed() {
            self.lapse(director, Duration::ZERO);
        }
        let has_role = |instance: &Instance| instance.machine.needs_lease();
        if self.may_direct() && !director.renew_lease() && self.instances.iter().any(has_role) {
            self.give_up_all(director);
        }
    }

    /// The data plane takes no lease: a higher epoch is in force, or it has no routes.
    fn give_up_all(&mut self, director: &mut Director) {
        warn!("the data plane does not take the lease: the role is given up");
        for index in 0..self.instances.len() {
            let Some(instance) = self.instances.get_mut(index) else {
                continue;
            };
            if instance.machine.needs_lease() {
                let until = Instant::now() + instance.patience.give_up();
                let reason = "the data plane does not take the lease".to_owned();
                instance.health.give_up(reason, until);
                self.tell(index, Input::Lapsed, director);
            }
        }
        self.unfinished = true;
    }

    /// What the election said may be of before: nothing is done on its word until it answers.
    fn lapse(&mut self, director: &mut Director, silent: Duration) {
        if !self.may_direct() {
            // The roles are being given up already.
            return;
        }
        if let Some(elections) = &self.elections {
            self.asked = elections.ask();
        }
        let has_role = |instance: &Instance| instance.machine.needs_lease();
        if !self.instances.iter().any(has_role) {
            let ends = |instance: &Instance| {
                matches!(
                    instance.machine.state(),
                    State::Stopping(_) | State::Stopped
                )
            };
            if !self.instances.iter().any(ends) {
                director.renew_lease();
            }
            return;
        }
        warn!(
            silent_ms = silent.as_millis(),
            "the lease was not renewed in time, another node may be active: the role is given up"
        );
        self.unfinished = true;
        for index in 0..self.instances.len() {
            self.tell(index, Input::Lapsed, director);
        }
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
            () = at(self.look) => Event::Look,
            () = at(probe) => Event::Probe,
            () = tracking.changed() => Event::Tracked,
        }
    }

    fn earliest(&self, of: impl Fn(&Instance) -> Option<Instant>) -> Option<Instant> {
        self.instances.iter().filter_map(of).min()
    }

    /// When a step that has failed is tried again.
    fn retry_at(&self) -> Option<Instant> {
        self.earliest(|instance| {
            let is_paused = instance.machine.step().is_some() && !instance.machine.is_stuck();
            instance.retry_at.filter(|_| is_paused)
        })
    }

    pub(crate) async fn handle(&mut self, event: Event, director: &mut Director) {
        match event {
            Event::Election | Event::Unfinished => self.advance(director).await,
            Event::Announce => self.announce_again(director),
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

    /// Takes steps until none is due, or those that are have failed.
    async fn advance(&mut self, director: &mut Director) {
        self.unfinished = false;
        for _ in 0..STEPS_MAX.saturating_mul(self.instances.len()) {
            self.renew_lease(director);
            self.take_views(director);
            let Some(index) = self.next_due() else {
                return;
            };
            self.step_once(index, director).await;
        }
        self.unfinished = true;
    }

    /// Whose step is the most urgent.
    fn next_due(&self) -> Option<usize> {
        let (now, may_direct) = (Instant::now(), self.may_direct());
        let due = self.instances.iter().enumerate();
        // No promotion begins before the addresses of all other routers are as they should be.
        let waits =
            |instance: &Instance| !may_direct && instance.machine.step() == Some(Step::Direct);
        let due = due.filter(|(_, instance)| instance.is_due(now) && !waits(instance));
        due.min_by_key(|(index, instance)| (instance.machine.urgency(), *index))
            .map(|(index, _)| index)
    }

    async fn step_once(&mut self, index: usize, director: &mut Director) {
        self.beat(director);
        let step = self.instances.get(index).and_then(|it| it.machine.step());
        let Some(step) = step else {
            return;
        };
        let started = Instant::now();
        let done = self.carry_out(index, step, director).await;
        let input = match done {
            Ok(()) => {
                debug!(step = step.name(), took = ?started.elapsed(), "step done");
                Input::Done
            }
            Err(error) => {
                warn!(error, "{} failed", step.name());
                Input::Failed
            }
        };
        if let Some(instance) = self.instances.get_mut(index) {
            instance.retry_at = (input == Input::Failed).then(|| Instant::now() + PAUSE);
        }
        if let Some(Effect::GiveUp(step)) = self.tell(index, input, director) {
            let reason = format!("{} failed", step.name());
            if let Some(instance) = self.instances.get_mut(index) {
                let until = Instant::now() + instance.patience.give_up();
                instance.health.give_up(reason, until);
            }
            self.check_health(director);
        }
    }

    /// Hands a machine an input, and does what its new state brings with it.
    fn tell(&mut self, index: usize, input: Input, director: &mut Director) -> Option<Effect> {
        let machine = &mut self.instances.get_mut(index)?.machine;
        let before = machine.state();
        let effect = machine.handle(input);
        self.state_changed(index, before, director);
        effect
    }

    /// Feeds the machines what the election said last.
    fn take_views(&mut self, director: &mut Director) {
        if self.election_has_ended() {
            for index in 0..self.instances.len() {
                self.take_view(index, ended(), director);
            }
            return;
        }
        let views = self.views.borrow_and_update().clone();
        for (index, view) in views.into_iter().enumerate() {
            if view.answered >= self.asked {
                self.take_view(index, view, director);
            }
        }
    }

    fn take_view(&mut self, index: usize, view: ElectionView, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut instance.view, view);
        let (view, config) = (&instance.view, &instance.config);
        if view.fault != before.fault {
            health::report_fault(config, view.fault.as_deref(), &mut director.problems);
        }
        let is_lost = instance.machine.holds_role() && instance.has_lost_mastership();
        let is_master = view.role == ElectionRole::Master;
        let others = is_master && view.announce > before.announce;
        let lesser = is_master && view.rx_lower > before.rx_lower;
        let office = office_of(view.role);
        if is_lost {
            info!("mastership was lost for a moment: the role is given up and taken again");
            self.tell(index, Input::Elected(Office::Backup), director);
        }
        if others || lesser {
            self.hear_other_master(index, others, director);
        }
        self.notify_of_view(index, &before);
        self.follow_handover(index, director);
        if office == Office::Backup && self.keeps_serving(index) {
            // What a handover has passed on is served until clients have heard of it.
            return;
        }
        if let Some(instance) = self.instances.get_mut(index) {
            instance.told = (office == Office::Master).then_some(instance.view.transitions);
        }
        self.tell(index, Input::Elected(office), director);
    }

    /// Its thread is gone, and nobody advertises for this node any more.
    fn election_has_ended(&self) -> bool {
        self.views.has_changed().is_err()
    }

    fn state_changed(&mut self, index: usize, before: State, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        let after = instance.machine.state();
        if before == after {
            return;
        }
        let epoch = director.epoch();
        let name = instance.config.name.as_str();
        match after {
            State::Standby => info!(instance = name, "this node is standby"),
            State::Active => info!(instance = name, epoch, "this node is active"),
            State::Faulted => match instance.view.fault.as_deref() {
                // It is born so, which is no news.
                Some(health::NOT_YET_READY) => {}
                reason => info!(instance = name, reason, "this node is at fault"),
            },
            State::Promoting(step) => debug!(instance = name, ?step, "promoting"),
            State::Demoting(step) => debug!(instance = name, ?step, "demoting"),
            State::Stopping(step) => debug!(instance = name, ?step, "stopping"),
            State::Stopped => {}
        }
        if after == State::Active {
            instance.patience = Patience::default();
            self.unsettle(index, director);
        } else if before == State::Active {
            instance.active_since = None;
            instance.probe = None;
            instance.probed = 0;
            instance.announcements.stop();
            health::forget_claims(&instance.config, &mut director.problems);
            self.split.forget(index);
        }
        self.notify_of_state(index);
        self.tell_handover(index, after, director);
    }

    /// The time of announcements.
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Another node may have had the addresses until now, and may answer for them a little longer.
    fn unsettle(&mut self, index: usize, director: &mut Director) {
        let Some(instance) = self.instances.get_mut(index) else {
            return;
        };
        if instance.is_active() {
            let now = Instant::now();
            instance.active_since = Some(now);
            instance.probe = Some(now + SETTLE);
            health::forget_claims(&instance.config, &mut director.problems);
            self.split.forget(index);
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
