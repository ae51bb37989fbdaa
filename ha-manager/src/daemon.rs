//! `directord run`: start order, the owner of the data plane, shutdown order.
//!
//! Start. Nothing is touched before step 3, and no packet is before step 5.
//! 1. The configuration is valid (the caller's part).
//! 2. Privileges and the bpffs are there, and so are the interfaces the configuration names; that
//!    of `[[vrrp]]` has an address of its own.
//! 3. The control socket is ours; it is the lock against a second director.
//! 4. Macvlans of virtual routers are made. Links and routes are read, and followed from here on.
//! 5. The data plane opens: pinned maps are adopted, or made; programs are attached. The lock on
//!    the pin directory is ours from here on, so whatever virtual addresses this host has are ours
//!    to remove.
//! 6. With `[[vrrp]]` the election's sockets are opened; the election waits. Virtual addresses
//!    that an earlier life left behind are removed, and the sync backup is started.
//! 7. The routes are handed to the data plane and the lease is set: from here on this node directs
//!    again. Not before step 6, since another node may have the addresses. Then the election
//!    begins.
//! 8. Capabilities that are needed no longer are given up.
//! 9. Control clients are accepted; "ready" is logged, printed on standard output, and told to the
//!    service manager.
//!
//! Shutdown on SIGTERM or SIGINT:
//! 1. No new clients. Expiry walk, lease renewal and the watch on the network end.
//! 2. With `[[vrrp]]` the role is given up: sync daemons stopped, priority 0, virtual addresses
//!    removed, notify scripts told of the stop ([`crate::failover`]); then macvlans go.
//! 3. Each client's request that has begun is still answered, for at most [`STOP_GRACE`]. Not
//!    before step 2: a client that sends half a request holds up nothing but the end.
//! 4. The data plane is let go. Programs and maps stay pinned and attached and keep forwarding.
//!    A lease is neither extended nor cut short: with fencing on, the programs stop by themselves
//!    when it lapses; without, they go on until `directord detach`.
//! 5. The control socket is removed, which lets the next director start.
//! 6. The last log lines are written, if they are read.
//!
//! No step waits for a reader of the log: see [`crate::telemetry`].

mod full_tables;
mod owner;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::{DataPlane, OpenError, Options};
use ipvs_control::{Reply, Request};
use nix::sys::prctl;
use syncproto::net::interface_mtu;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, info, info_span, warn};

use crate::addresses::{AddressError, Addresses, Assigned};
use crate::config::Config;
use crate::control_server::{self, ControlError, ControlSocket, Limits};
use crate::failover::driver::{Event, Failover, FailoverError};
use crate::metrics::Snapshot;
use crate::metrics::server::{Listener as MetricsListener, MetricsError, Server as MetricsServer};
use crate::netlink::{Follower, NetlinkError, NetworkState};
use crate::privileges::{self, PrivilegeError};
use crate::telemetry::{self, LineQueue, TelemetryError};
use crate::vmac::{Tender, VmacError, VmacSpec, Vmacs};
use owner::Owner;

/// Commands that wait for the owner; each client has at most one.
const COMMANDS_MAX: usize = 64;
/// How long clients get to take their last answer at shutdown.
const STOP_GRACE: Duration = Duration::from_secs(1);
/// A whole round of the expiry walk takes about this long.
const WALK_ROUND: Duration = Duration::from_secs(1);
/// Table positions in one step of the walk, for tables up to [`WALK_STEPS_MAX`] such steps.
const WALK_BUDGET: u32 = 16_384;
/// Steps in a round; of larger tables each step takes more.
const WALK_STEPS_MAX: u32 = 256;
/// What failed before is tried again this often.
const RETRY: Duration = Duration::from_secs(1);
/// `ip_vs_est.c`: a sample for the rates is taken this often.
const ESTIMATE: Duration = Duration::from_secs(2);
/// `ip_vs_lblc.c: CHECK_EXPIRE_INTERVAL`.
const CLEAN_CACHES: Duration = Duration::from_secs(60);
/// The election is told this often that the owner is alive.
const BEAT: Duration = Duration::from_millis(100);

/// What the owner of the data plane is asked or told.
#[derive(Debug)]
pub enum Command {
    /// A control client's request; the answer goes to `reply`.
    Request {
        request: Request,
        reply: oneshot::Sender<Reply>,
    },
    /// The server of metrics wants to know everything.
    Metrics { reply: oneshot::Sender<Snapshot> },
    /// Links or routes have changed.
    Network(NetworkState),
}

/// Why the daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("data plane: {0}")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Network(#[from] NetlinkError),
    #[error(transparent)]
    Failover(#[from] FailoverError),
    #[error("interface {interface} of {section} does not exist")]
    NoInterface {
        interface: String,
        section: &'static str,
    },
    #[error(
        "interface {interface} has no address of its own beside the virtual ones ({addresses})"
    )]
    OnlyVirtual {
        interface: String,
        addresses: String,
    },
    #[error(
        "{name}: {addresses} addresses make an advert of {length} bytes, the MTU of {interface} \
         ({mtu}) allows {allowed} of them: move the rest to vips_excluded"
    )]
    AdvertTooLong {
        name: String,
        addresses: usize,
        length: usize,
        interface: String,
        mtu: usize,
        allowed: usize,
    },
    #[error("addresses: {0}")]
    Addresses(#[from] AddressError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error("control socket {}: {source}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error(transparent)]
    Vmac(#[from] VmacError),
    #[error("runtime: {0}")]
    Runtime(io::Error),
}

/// Runs a director until it is told to stop.
///
/// # Errors
/// See [`DaemonError`].
pub fn run(config: Config) -> Result<(), DaemonError> {
    // Declared first, so that it is dropped last: with the last line written.
    let log = telemetry::init(config.log, config.log_level)?;
    let has_election = !config.vrrp.is_empty();
    privileges::check(&config.pin_dir, has_election)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    // One thread runs everything, so the span holds for every task.
    let _span = info_span!("run", director = config.name).entered();
    if config.has_password()
        && let Err(error) = prctl::set_dumpable(false)
    {
        warn!(%error, "a core file of this process may hold the password");
    }
    for remark in config.remarks() {
        warn!("{remark}");
    }
    runtime.block_on(start(config, log.queue()))
}

async fn start(config: Config, log: LineQueue) -> Result<(), DaemonError> {
    let signals = Signals::install().map_err(DaemonError::Runtime)?;
    let socket = ControlSocket::claim(&config.control_path())?;
    let specs = config.vrrp.iter().filter_map(VmacSpec::of);
    let mut vmacs = Vmacs::start(specs.collect()).await?;
    let ended = direct(config, log, signals, &socket, &mut vmacs).await;
    // Of a director that did not come up; else nothing is left.
    vmacs.stop().await;
    drop(socket);
    ended
}

/// From the first look at the network to the last word.
async fn direct(
    mut config: Config,
    log: LineQueue,
    signals: Signals,
    socket: &ControlSocket,
    vmacs: &mut Vmacs,
) -> Result<(), DaemonError> {
    let path = config.control_path();
    let metrics = config.metrics.map(MetricsListener::bind);
    let follower = Follower::start().await?;
    // The programs are attached to macvlans as to any other interface.
    config.interfaces.extend(guarded(&config));
    check_interfaces(&config, follower.state())?;
    check_addresses(&config, follower.state())?;
    check_adverts(&config)?;
    let plane = DataPlane::open(&options_of(&config)).inspect_err(log_whole)?;
    let mut network = follower.state().clone();
    for wanting in vmacs.tend(&network, &plane.attachments()).await {
        warn!("{wanting}");
    }
    vmacs.show(&mut network);
    let failover = (!config.vrrp.is_empty()).then(|| Failover::open(&config));
    let mut owner = Owner::new(config, plane, failover.transpose()?, log);
    owner.bring_up(network).await;
    privileges::drop_unneeded()?;

    let (to_owner, commands) = mpsc::channel(COMMANDS_MAX);
    let (stop, stopped) = watch::channel(false);
    let listener = socket.listener().map_err(|source| DaemonError::Listen {
        path: path.clone(),
        source,
    })?;
    let server = control_server::serve(listener, to_owner.clone(), Limits::default(), stopped);
    let server = tokio::spawn(server);
    let metrics = metrics.map(|listener| MetricsServer::start(listener, to_owner.clone()));
    let metrics = metrics.transpose()?;
    owner.watch_metrics(metrics.as_ref().map(MetricsServer::trouble));
    let network = tokio::spawn(follower.run(to_owner));
    owner.log_ready(&path);
    telemetry::announce(&owner.ready_line(&path));
    if let Err(error) = telemetry::notify("READY=1") {
        warn!(%error, "the service manager cannot be told");
    }

    let mut running = Running {
        owner,
        commands,
        signals,
        vmacs: Tender::start(std::mem::take(vmacs)),
    };
    let reason = running.until_stopped().await;
    info!(reason, "stopping");
    let _ = stop.send(true);
    network.abort();
    running.owner.leave().await;
    // It may be in the middle of a long text.
    drop(metrics);
    running.vmacs.stop().await;
    running.answer_last(server).await;
    running.owner.let_go();
    Ok(())
}

/// The macvlans of virtual routers.
fn guarded(config: &Config) -> Vec<String> {
    let vmacs = config.vrrp.iter().filter_map(|vrrp| vrrp.vmac.as_ref());
    vmacs.map(|vmac| vmac.name.clone()).collect()
}

/// Interfaces that come later are followed; one that is missing at the start is a mistake. The data
/// plane judges those of `[director]`.
fn check_interfaces(config: &Config, network: &NetworkState) -> Result<(), DaemonError> {
    let vrrp = config.vrrp.iter().flat_map(|vrrp| vrrp.interfaces());
    let sync = config.sync.iter().map(|sync| sync.spec.interface.as_str());
    let named = vrrp.map(|name| (name, "[[vrrp]]"));
    for (name, section) in named.chain(sync.map(|name| (name, "[sync]"))) {
        if !network.links.contains_key(name) {
            let interface = name.to_owned();
            return Err(DaemonError::NoInterface { interface, section });
        }
    }
    Ok(())
}

/// An election whose interface has none but the virtual addresses would remove what its adverts come
/// from. One that has none at all may get one later.
fn check_addresses(config: &Config, network: &NetworkState) -> Result<(), DaemonError> {
    if config.vrrp.is_empty() {
        return Ok(());
    }
    let mut addresses =
        Addresses::open().map_err(|source| DaemonError::Addresses(AddressError::Open(source)))?;
    let listed = addresses.list()?;
    let vips = || config.vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
    let is_virtual = |at: &Assigned| vips().any(|vip| vip.address == at.address);
    for vrrp in &config.vrrp {
        let link = network.links.get(&vrrp.interface);
        let is_ipv6 = vrrp.vips.first().is_some_and(|vip| vip.address.is_ipv6());
        let mut here = listed.clone();
        here.retain(|at| {
            at.address.is_ipv6() == is_ipv6 && link.is_some_and(|link| link.ifindex == at.ifindex)
        });
        if !here.is_empty() && here.iter().all(is_virtual) {
            let here: Vec<String> = here.iter().map(|at| at.address.to_string()).collect();
            return Err(DaemonError::OnlyVirtual {
                interface: vrrp.interface.clone(),
                addresses: here.join(", "),
            });
        }
    }
    Ok(())
}

/// An advert names all addresses of its router, and is never cut into fragments.
fn check_adverts(config: &Config) -> Result<(), DaemonError> {
    for vrrp in &config.vrrp {
        // One that is gone meanwhile is a fault of the election.
        let Ok(mtu) = interface_mtu(&vrrp.interface) else {
            continue;
        };
        let is_ipv6 = vrrp.vips.first().is_some_and(|vip| vip.address.is_ipv6());
        let header = match (is_ipv6, vrrp.authentication.is_header()) {
            (true, _) => 40 + 8,
            (false, true) => 20 + 24 + 8,
            (false, false) => 20 + 8,
        };
        let tail = if vrrp.version == 2 && !is_ipv6 { 8 } else { 0 };
        let each = if is_ipv6 { 16 } else { 4 };
        let (fixed, mtu) = (header + tail, mtu as usize);
        let length = fixed + each * vrrp.vips.len();
        if length > mtu {
            return Err(DaemonError::AdvertTooLong {
                name: vrrp.name.clone(),
                addresses: vrrp.vips.len(),
                length,
                interface: vrrp.interface.clone(),
                mtu,
                allowed: mtu.saturating_sub(fixed) / each,
            });
        }
    }
    Ok(())
}

/// A verifier's report has thousands of lines; the operator's one line is printed by the caller.
fn log_whole(error: &OpenError) {
    debug!(%error, "data plane does not open");
}

fn options_of(config: &Config) -> Options {
    Options {
        pin_dir: config.pin_dir.clone(),
        interfaces: config.interfaces.clone(),
        guarded: guarded(config),
        attach: config.attach,
        sizes: config.sizes,
    }
}

/// The signals that end a director.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The owner and what drives it.
struct Running {
    owner: Owner,
    commands: mpsc::Receiver<Command>,
    signals: Signals,
    vmacs: Tender,
}

/// What the loop of [`Running::until_stopped`] turns for, apart from failover and signals.
enum Turn {
    Beat,
    CleanCaches,
    Command(Command),
    Estimate,
    Received,
    Renew,
    Retry,
    /// Macvlans that cannot be had now.
    Vmacs(Vec<String>),
    Walk,
}

impl Running {
    /// One event at a time. Signals are few and failover must not wait, so they come first; but after
    /// each event of failover comes one of the rest, if any is ready.
    /// Whichever of the rest are ready get their turn at random, so that neither a flood of
    /// requests holds up the lease and the walk, nor the walk the requests.
    async fn until_stopped(&mut self) -> &'static str {
        let pace = Pace::of(self.owner.table_size());
        self.owner.set_walk_budget(pace.budget);
        let received = self.owner.received();
        let mut walk = every(pace.interval);
        let mut renewal = self.owner.lease_length().map(|length| every(length / 3));
        let mut retry = every(RETRY);
        let mut estimate = every(ESTIMATE);
        let mut clean_caches = every(CLEAN_CACHES);
        let mut beat = every(BEAT);
        // The rest has its turn after each of failover's, however much others make of those.
        let mut is_owed = false;
        loop {
            let Running {
                owner,
                commands,
                signals,
                vmacs,
            } = self;
            let turn = async {
                tokio::select! {
                    () = tick(&mut renewal) => Turn::Renew,
                    _ = estimate.tick() => Turn::Estimate,
                    _ = clean_caches.tick() => Turn::CleanCaches,
                    _ = beat.tick() => Turn::Beat,
                    _ = walk.tick() => Turn::Walk,
                    _ = retry.tick() => Turn::Retry,
                    () = received.notified() => Turn::Received,
                    wanting = vmacs.wanting() => Turn::Vmacs(wanting),
                    Some(command) = commands.recv() => Turn::Command(command),
                }
            };
            let failover = owner.failover_event();
            let event: Result<Turn, Event> = if is_owed {
                tokio::select! {
                    biased;
                    reason = signals.next() => return reason,
                    turn = turn => Ok(turn),
                    event = failover => Err(event),
                }
            } else {
                tokio::select! {
                    biased;
                    reason = signals.next() => return reason,
                    event = failover => Err(event),
                    turn = turn => Ok(turn),
                }
            };
            is_owed = event.is_err();
            owner.beat();
            match event {
                Err(event) => owner.fail_over(event).await,
                Ok(Turn::Beat) => owner.check_health(),
                Ok(Turn::CleanCaches) => owner.clean_caches(),
                Ok(Turn::Command(command)) => {
                    let is_picture = matches!(command, Command::Network(_));
                    owner.handle(command);
                    if is_picture {
                        vmacs.tell(owner.network(), owner.attachments());
                    }
                }
                Ok(Turn::Estimate) => owner.estimate(),
                Ok(Turn::Received) => owner.apply_received(),
                Ok(Turn::Renew) => owner.renew_lease(),
                Ok(Turn::Retry) => {
                    owner.retry().await;
                    vmacs.tell(owner.network(), owner.attachments());
                }
                Ok(Turn::Vmacs(wanting)) => owner.report_vmacs(wanting),
                Ok(Turn::Walk) => owner.walk(pace.budget),
            }
        }
    }

    /// Answers what clients have begun until they are gone, or the grace is over.
    async fn answer_last(&mut self, mut server: JoinHandle<()>) {
        let latest = Instant::now() + STOP_GRACE;
        loop {
            tokio::select! {
                _ = &mut server => return,
                () = sleep_until(latest) => {
                    warn!("control clients did not take their answers in time");
                    server.abort();
                    return;
                }
                Some(command) = self.commands.recv() => self.owner.handle(command),
            }
        }
    }
}

/// How the expiry walk is cut into steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    /// Table positions in one step.
    budget: u32,
    interval: Duration,
}

impl Pace {
    fn of(table_size: u32) -> Pace {
        let budget = WALK_BUDGET.max(table_size.div_ceil(WALK_STEPS_MAX));
        let steps = table_size.div_ceil(budget).max(1);
        Pace {
            budget,
            interval: WALK_ROUND / steps,
        }
    }
}

/// First after one period, never in bursts.
fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next tick of an interval that may not be wanted.
async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_of_the_walk_takes_a_second_whatever_the_table_size() {
        for log2 in 8..=24 {
            let size = 1u32 << log2;
            let pace = Pace::of(size);
            let steps = size.div_ceil(pace.budget);
            assert!(steps <= WALK_STEPS_MAX, "2^{log2}");
            assert!(pace.interval * steps <= WALK_ROUND, "2^{log2}");
            assert!(pace.interval * (steps + 1) > WALK_ROUND, "2^{log2}");
        }
        assert_eq!(
            Pace::of(1 << 20),
            Pace {
                budget: 16_384,
                interval: Duration::from_micros(15_625)
            }
        );
    }
}
