//! Carries out the machine's steps: the one place that turns a role into deeds.
//!
//! Lives in the task that owns the data plane. What it waits for, the kernel's answers about
//! addresses, is bounded; everything else is done when the call returns.

mod claim;
mod health;
mod patience;
mod steps;

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::announce::Schedule;
use super::fsm::{Effect, Input, Machine, Office, State};
use super::rival::Rival;
use crate::addresses::{Addresses, Assigned};
use crate::arp_watch::ArpWatch;
use crate::config::{Vip, VrrpConfig};
use crate::director::Director;
use crate::status::{MasterStatus, Role as RoleStatus, VipStatus, VrrpStatus};
use crate::vrrp_driver::{
    self, ElectionError, ElectionRole, ElectionStatus, ElectionView, Elections, RouterSpec,
};
use claim::Claim;
use health::Health;
use patience::Patience;
use vrrp::net::packet::Announcer;

/// There is one virtual router.
const ROUTER: usize = 0;
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
const SETTLE: Duration = Duration::from_millis(1500);
/// Who else has the addresses is asked this often.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Why there is no failover manager.
#[derive(Debug, thiserror::Error)]
pub enum FailoverError {
    #[error("election: {0}")]
    Election(#[from] ElectionError),
    #[error("another directord of this host takes part in vrid {vrid} on {interface}")]
    Twice { vrid: u8, interface: String },
    #[error("[[vrrp]]: {0}")]
    Router(#[from] vrrp::ConfigError),
    #[error("{what}: {source}")]
    Socket {
        what: &'static str,
        source: io::Error,
    },
}

/// What wakes the failover manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A block of gratuitous ARP is due.
    Announce,
    /// Somebody claims one of our addresses.
    Claim,
    /// The election has something new.
    Election,
    /// The host's addresses may not be as they should.
    Look,
    /// It is time to ask who else has the addresses.
    Probe,
    /// A turn ended before its work did.
    Unfinished,
}

/// The failover manager of this node.
pub(crate) struct Failover {
    config: VrrpConfig,
    machine: Machine,
    /// Held as long as this node takes part.
    _claim: Option<Claim>,
    /// Until the daemon ends.
    elections: Option<Elections>,
    views: watch::Receiver<Vec<ElectionView>>,
    view: ElectionView,
    /// Views that do not answer this question are of before the node stood still.
    asked: u64,
    pulse: Arc<AtomicU64>,
    pulse_max: Duration,
    addresses: Addresses,
    announcer: Announcer,
    watch: ArpWatch,
    schedule: Schedule,
    rival: Rival,
    health: Health,
    patience: Patience,
    unfinished: bool,
    /// Our addresses as they were seen, or left, last.
    here: Vec<Assigned>,
    look: Option<Instant>,
    looked: Instant,
    probe: Option<Instant>,
    active_since: Option<Instant>,
}

impl Failover {
    /// Opens sockets and starts the election, which waits until [`Failover::bring_up`] is through.
    ///
    /// # Errors
    /// See [`FailoverError`].
    pub(crate) fn open(
        config: VrrpConfig,
        lease: Option<Duration>,
    ) -> Result<Failover, FailoverError> {
        let failed = |what| move |source| FailoverError::Socket { what, source };
        let claim = Claim::stake(&config.interface, config.vrid)?;
        let vips: Vec<Ipv4Addr> = config.all_vips().filter_map(Vip::v4).collect();
        let addresses = Addresses::open().map_err(failed("netlink socket"))?;
        let announcer = Announcer::open().map_err(failed("packet socket for announcements"))?;
        let watch = ArpWatch::open(&vips).map_err(failed("packet socket for ARP"))?;
        let router = RouterSpec {
            name: config.name.clone(),
            interface: config.interface.clone(),
            config: config.router()?,
        };
        let pulse = Arc::new(AtomicU64::new(health::monotonic_ms()));
        let pulse_max = lease.unwrap_or_default().max(PULSE_MAX_LEAST);
        let elections = vrrp_driver::start(vec![router], Arc::clone(&pulse), pulse_max)?;
        let views = elections.changes();
        let view = views.borrow().get(ROUTER).cloned();
        Ok(Failover {
            health: Health::new(&config),
            config,
            machine: Machine::default(),
            _claim: claim,
            elections: Some(elections),
            views,
            view: view.unwrap_or_else(not_started),
            asked: 0,
            pulse,
            pulse_max,
            addresses,
            announcer,
            watch,
            schedule: Schedule::default(),
            rival: Rival::default(),
            patience: Patience::default(),
            unfinished: false,
            here: Vec::new(),
            look: None,
            looked: Instant::now(),
            probe: None,
            active_since: None,
        })
    }

    /// Removes what an earlier life left behind, and lets the election begin when that is done.
    pub(crate) async fn bring_up(&mut self, director: &mut Director) {
        self.advance(director).await;
        self.check_health(director);
    }

    /// Says that the owner of the data plane is alive. When it was not for a while, another node may
    /// have been active meanwhile. Comes before anything is done in a turn.
    pub(crate) fn beat(&mut self, director: &mut Director) {
        let silent = health::beat(&self.pulse);
        if silent >= self.pulse_max || director.lease_has_lapsed() {
            self.lapse(director, silent);
        } else if silent >= PULSE_MAX_LEAST && self.machine.state() == State::Active {
            warn!(silent_ms = silent.as_millis(), "this process stood still");
            self.unsettle(director);
        }
    }

    /// Renews the lease, unless what an earlier life left behind is still there, or cannot be
    /// removed. A lease that has lapsed is not renewed under a role: first the role is given up, and
    /// taken again only on the election's fresh word.
    pub(crate) fn renew_lease(&mut self, director: &mut Director) {
        if director.lease_has_lapsed() {
            self.lapse(director, Duration::ZERO);
        }
        if self.machine.may_direct() {
            director.renew_lease();
        }
    }

    /// What the election said may be of before: nothing is done on its word until it answers.
    fn lapse(&mut self, director: &mut Director, silent: Duration) {
        if !self.machine.may_direct() {
            // The role is being given up already.
            return;
        }
        if let Some(elections) = &self.elections {
            self.asked = elections.ask();
        }
        let before = self.machine.state();
        match before {
            State::Standby | State::Faulted => {
                director.renew_lease();
            }
            State::Promoting(_) | State::Active | State::Demoting(_) => {
                warn!(
                    silent_ms = silent.as_millis(),
                    "the lease was not renewed in time, another node may be active: the role is \
                     given up"
                );
                self.machine.handle(Input::Lapsed);
                self.unfinished = true;
                self.state_changed(before, director);
            }
            State::Stopping(_) | State::Stopped => {}
        }
    }

    /// Waits for what this manager has to do next. Safe to drop at any time.
    pub(crate) async fn event(&mut self) -> Event {
        if self.unfinished {
            return Event::Unfinished;
        }
        let changed = async {
            if self.views.changed().await.is_err() {
                // The check of its health says so; there is nothing more to hear.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = changed => Event::Election,
            () = at(self.schedule.due()) => Event::Announce,
            () = at(self.look) => Event::Look,
            () = at(self.probe) => Event::Probe,
            () = self.watch.readable() => Event::Claim,
        }
    }

    pub(crate) async fn handle(&mut self, event: Event, director: &mut Director) {
        match event {
            Event::Election | Event::Unfinished => self.advance(director).await,
            // The role may have been given up since it was due.
            Event::Announce if self.schedule.due().is_none() => {}
            Event::Announce => self.announce_again(director),
            Event::Probe if self.probe.is_none() => {}
            Event::Claim => self.hear_claims(director),
            Event::Look => self.look_at_addresses(director).await,
            Event::Probe => self.probe(director),
        }
    }

    /// There is a new picture of the network; `differs` when it has our addresses otherwise than
    /// this node left them.
    pub(crate) fn network_changed(&mut self, director: &mut Director, differs: bool) {
        if differs && self.look.is_none() {
            self.look = Some(Instant::now().max(self.looked + LOOK_GAP));
        }
        self.health.note_devices(&director.network);
        self.check_health(director);
    }

    /// Every second: what failed before is tried again.
    pub(crate) async fn retry(&mut self, director: &mut Director) {
        if self.machine.is_stuck() {
            self.step_once(director).await;
        }
        self.advance(director).await;
        self.judge_adverts(director);
        self.check_health(director);
    }

    /// Ends the role in its documented order, then the election.
    pub(crate) async fn leave(&mut self, director: &mut Director) {
        self.machine.handle(Input::Stop);
        while self.machine.step().is_some() {
            self.step_once(director).await;
        }
        if let Some(elections) = self.elections.take() {
            elections.stop();
        }
    }

    /// Takes steps until none is due, or the one that is has failed too often.
    async fn advance(&mut self, director: &mut Director) {
        self.unfinished = false;
        for _ in 0..STEPS_MAX {
            self.renew_lease(director);
            self.take_view(director);
            if self.machine.step().is_none() || self.machine.is_stuck() {
                return;
            }
            self.step_once(director).await;
        }
        self.unfinished = true;
    }

    async fn step_once(&mut self, director: &mut Director) {
        self.beat(director);
        let Some(step) = self.machine.step() else {
            return;
        };
        let before = self.machine.state();
        let started = Instant::now();
        let effect = match self.carry_out(step, director).await {
            Ok(()) => {
                debug!(step = step.name(), took = ?started.elapsed(), "step done");
                self.machine.handle(Input::Done)
            }
            Err(error) => {
                warn!(error, "{} failed", step.name());
                let effect = self.machine.handle(Input::Failed);
                if effect.is_none() {
                    sleep(PAUSE).await;
                }
                effect
            }
        };
        if let Some(Effect::GiveUp(step)) = effect {
            let reason = format!("{} failed", step.name());
            let until = Instant::now() + self.patience.give_up();
            self.health.give_up(reason, until);
            self.check_health(director);
        }
        self.state_changed(before, director);
    }

    /// Feeds the machine what the election said last.
    fn take_view(&mut self, director: &mut Director) {
        let view = if self.election_has_ended() {
            Some(ended())
        } else {
            let view = self.views.borrow_and_update().get(ROUTER).cloned();
            view.filter(|view| view.answered >= self.asked)
        };
        let Some(view) = view else { return };
        let before = self.machine.state();
        if lost_mastership(&self.view, &view) {
            info!("mastership was lost for a moment: the role is given up and taken again");
            self.machine.handle(Input::Elected(Office::Backup));
        }
        let others = view.announce > self.view.announce;
        if view.fault != self.view.fault {
            health::report_fault(&self.config, view.fault.as_deref(), &mut director.problems);
        }
        self.view = view;
        if others && self.view.role == ElectionRole::Master {
            self.hear_other_master(director);
        }
        self.machine
            .handle(Input::Elected(office_of(self.view.role)));
        self.state_changed(before, director);
    }

    /// Its thread is gone, and nobody advertises for this node any more.
    fn election_has_ended(&self) -> bool {
        self.views.has_changed().is_err()
    }

    fn hear_other_master(&mut self, director: &mut Director) {
        let now = Instant::now();
        if self.machine.state() == State::Active {
            self.schedule.ask(now);
            self.unsettle(director);
        }
        if self.rival.hear(now.into_std(), self.config.advert) {
            health::report_rival(&self.config, &self.view, &mut director.problems);
        }
    }

    /// Another node may have had the addresses until now, and may answer for them a little longer.
    fn unsettle(&mut self, director: &mut Director) {
        let now = Instant::now();
        self.active_since = Some(now);
        self.probe = Some(now + SETTLE);
        health::forget_claims(&self.config, &mut director.problems);
    }

    fn state_changed(&mut self, before: State, director: &mut Director) {
        let after = self.machine.state();
        if before == after {
            return;
        }
        if after == State::Active {
            self.patience = Patience::default();
            self.unsettle(director);
        } else if before == State::Active {
            self.active_since = None;
            self.probe = None;
            self.schedule.stop();
            health::forget_claims(&self.config, &mut director.problems);
        }
        let epoch = director.epoch();
        let instance = self.config.name.as_str();
        match after {
            State::Standby => info!(instance, "this node is standby"),
            State::Active => info!(instance, epoch, "this node is active"),
            State::Faulted => match self.view.fault.as_deref() {
                // It is born so, which is no news.
                Some(health::NOT_YET_READY) => {}
                reason => info!(instance, reason, "this node is at fault"),
            },
            State::Promoting(step) => debug!(instance, ?step, "promoting"),
            State::Demoting(step) => debug!(instance, ?step, "demoting"),
            State::Stopping(step) => debug!(instance, ?step, "stopping"),
            State::Stopped => {}
        }
    }

    pub(crate) fn role(&self) -> RoleStatus {
        match self.machine.state() {
            State::Active => RoleStatus::Active,
            State::Faulted => RoleStatus::Fault,
            State::Standby
            | State::Promoting(_)
            | State::Demoting(_)
            | State::Stopping(_)
            | State::Stopped => {
                if self.view.role == ElectionRole::Fault {
                    RoleStatus::Fault
                } else {
                    RoleStatus::Standby
                }
            }
        }
    }

    pub(crate) fn status(&self, director: &Director) -> Option<VrrpStatus> {
        let election = self.elections.as_ref()?.status().into_iter().nth(ROUTER)?;
        let ElectionStatus {
            view,
            since,
            effective_priority,
            mut counters,
            lateness_max_us,
            ..
        } = election;
        counters.push(("advert_lateness_us_max", lateness_max_us));
        let vips = self.config.all_vips().map(|vip| VipStatus {
            address: vip.to_string(),
            interface: vip.interface.clone(),
            present: self.is_present(vip, director),
        });
        Some(VrrpStatus {
            name: self.config.name.clone(),
            interface: self.config.interface.clone(),
            vrid: self.config.vrid,
            state: view.role.into(),
            priority: self.config.priority,
            effective_priority,
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            transitions: view.transitions,
            master: view.master.map(|(address, priority)| MasterStatus {
                address: address.to_string(),
                priority,
            }),
            vips: vips.collect(),
            fault: view.fault,
            counters,
        })
    }

    fn is_present(&self, vip: &Vip, director: &Director) -> bool {
        let link = director.network.links.get(&vip.interface);
        let is_it = |at: &Assigned| {
            at.address == vip.address && link.is_some_and(|link| link.ifindex == at.ifindex)
        };
        self.here.iter().any(is_it)
    }
}

/// Whether this node was master, was not for a time nobody looked, and is again: another node may
/// have been active, so that the role has to be taken anew.
fn lost_mastership(before: &ElectionView, after: &ElectionView) -> bool {
    let is_master = |view: &ElectionView| view.role == ElectionRole::Master;
    is_master(before) && is_master(after) && before.transitions != after.transitions
}

const fn office_of(role: ElectionRole) -> Office {
    match role {
        ElectionRole::Init | ElectionRole::Fault => Office::Fault,
        ElectionRole::Backup => Office::Backup,
        ElectionRole::Master => Office::Master,
    }
}

/// Before the election has said anything.
fn not_started() -> ElectionView {
    ElectionView {
        role: ElectionRole::Init,
        transitions: 0,
        announce: 0,
        master: None,
        fault: None,
        answered: 0,
    }
}

/// After the election's thread has ended without having been told to.
fn ended() -> ElectionView {
    ElectionView {
        role: ElectionRole::Fault,
        fault: Some("the election thread has ended, see the log".to_owned()),
        ..not_started()
    }
}

/// A moment that may never come.
async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mastership_lost_between_two_looks_is_noticed() {
        let view = |role, transitions| ElectionView {
            role,
            transitions,
            ..not_started()
        };
        use ElectionRole::{Backup, Fault, Init, Master};
        for (before, after, lost) in [
            ((Master, 3), (Master, 3), false),
            ((Master, 3), (Master, 5), true),
            ((Master, 3), (Backup, 4), false),
            ((Backup, 3), (Master, 4), false),
            ((Backup, 3), (Master, 6), false),
            ((Fault, 3), (Fault, 5), false),
            ((Init, 0), (Master, 2), false),
        ] {
            let (old, new) = (view(before.0, before.1), view(after.0, after.1));
            assert_eq!(lost_mastership(&old, &new), lost, "{before:?} {after:?}");
        }
        // Another announcement alone changes nothing.
        let again = ElectionView {
            announce: 1,
            ..view(Master, 3)
        };
        assert!(!lost_mastership(&view(Master, 3), &again));
    }
}
