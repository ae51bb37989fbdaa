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
//! 3. Each client's request that has begun is still answered, for at most [`running::STOP_GRACE`]. Not
//!    before step 2: a client that sends half a request holds up nothing but the end.
//! 4. The data plane is let go. Programs and maps stay pinned and attached and keep forwarding.
//!    A lease is neither extended nor cut short: with fencing on, the programs stop by themselves
//!    when it lapses; without, they go on until `directord detach`.
//! 5. The control socket is removed, which lets the next director start.
//! 6. The last log lines are written, if they are read.
//!
//! No step waits for a reader of the log: see [`crate::telemetry`].

mod checks;
mod full_tables;
mod owner;
mod running;

use std::io;
use std::path::PathBuf;

use dataplane::{DataPlane, OpenError, Options};
use ipvs_control::{Reply, Request};
use nix::sys::prctl;
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, info_span, warn};

use crate::addresses::AddressError;
use crate::config::Config;
use crate::control_server::{self, ControlError, ControlSocket, Limits};
use crate::failover::driver::{Failover, FailoverError};
use crate::metrics::Snapshot;
use crate::metrics::server::{Listener as MetricsListener, MetricsError, Server as MetricsServer};
use crate::netlink::{Follower, NetlinkError, NetworkState};
use crate::privileges::{self, PrivilegeError};
use crate::telemetry::{self, LineQueue, TelemetryError};
use crate::vmac::{Tender, VmacError, VmacSpec, Vmacs};
use crate::vrrp_driver;
use checks::{check_addresses, check_adverts, check_interfaces};
use owner::Owner;
use running::{Running, Signals};

/// Commands that wait for the owner; each client has at most one.
const COMMANDS_MAX: usize = 64;

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
    // Threads that calls wait in may have been there before this one gives its privileges up.
    let less = || {
        if let Err(error) = privileges::drop_unneeded() {
            warn!(%error, "a thread keeps more privileges than it needs");
        }
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(less)
        .build()
        .map_err(DaemonError::Runtime)?;
    // One thread runs everything, so the span holds for every task.
    let _span = info_span!("run", director = config.name).entered();
    if config.has_password()
        && let Err(error) = prctl::set_dumpable(false)
    {
        warn!(%error, "a core file of this process may hold the password");
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
    let vips = config.vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
    let follower = Follower::start(vips.count()).await?;
    // The programs are attached to macvlans as to any other interface.
    config.interfaces.extend(guarded(&config));
    check_interfaces(&config, follower.state())?;
    check_addresses(&config, follower.state())?;
    check_adverts(&config)?;
    let plane = DataPlane::open(&options_of(&config)).inspect_err(log_whole)?;
    // Not before: a start that fails says one thing.
    for remark in config.remarks() {
        warn!("{remark}");
    }
    let mut network = follower.state().clone();
    for wanting in vmacs.tend(&network, &plane.attachments()).await {
        warn!("{wanting}");
    }
    vmacs.show(&mut network);
    let failover = (!config.vrrp.is_empty()).then(|| Failover::open(&config));
    let is_preferred = failover.is_some() && config.vrrp_thread.rt_priority > 0;
    let mut owner = Owner::new(config, plane, failover.transpose()?, log);
    owner.bring_up(network).await;
    // A lease must not lapse for want of a processor. Threads that begin later inherit it; the script
    // runner is there already.
    if is_preferred && let Err(error) = vrrp_driver::prefer_this_thread() {
        debug!(%error, "the daemon runs at the ordinary nice value");
    }
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
    let network = follower.run(to_owner);
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
    drop(network);
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
