//! The election thread: drives the virtual routers of this node.
//!
//! A thread of its own, so that a slow reload, a netlink dump or a full log never delays an
//! advertisement. It holds the sockets and the machines ([`vrrp::VirtualRouter`]) and talks to the
//! owner of the data plane by four things, none of which makes it wait:
//!
//! ```text
//!   owner --- inbox: faults by router, question, resign, stop; the newest wins ---------> thread
//!   owner --- pulse: when the owner was last seen alive ------------------------------> thread
//!   owner <-- watch: one ElectionView per router, the newest wins --------------------- thread
//!   owner <-- counters -------------------------------------------------------------- thread
//! ```
//!
//! The thread only elects. Addresses, sync daemons and the data plane follow the views, in the
//! owner.
//!
//! # Under a flood
//!
//! Each turn of the loop takes at most `ELECTION_BUDGET` advertisements, then serves the
//! timers, then takes at most `OTHER_BUDGET` of the packets that do not even look like an
//! advertisement of this router and leaves their socket alone for `OTHER_PAUSE`; the
//! kernel drops what comes meanwhile, counted as `lost_other`. Our own advertisements are therefore
//! late by a few microseconds at worst. The master's have a socket to themselves
//! ([`vrrp::net::socket`]) and are not pushed out, unless the flood is made of what could be
//! the master's: then packets are lost by chance (`lost_election`), and a backup may take over that
//! has lost all of three intervals. Before it does, it reads what is queued, so a thread that was
//! merely late does not take over from a living master.
//!
//! # What makes it FAULT
//!
//! Whatever the owner says ([`Elections::set_fault`]); an owner that gives no sign of life; an
//! interface that is gone, down or without address, which is looked at every second, whenever a send
//! fails, and whenever the owner withdraws its fault; and a master none of whose advertisements could
//! be sent for three intervals, which is tried again every second with new sockets. Sockets of an
//! interface that has come back are opened again, for which the thread keeps `CAP_NET_RAW`.
//!
//! # When the process stood still
//!
//! A master that was not served for so long that another may have taken over is Backup before it
//! sends or reads anything ([`vrrp::VirtualRouter`]). The owner stood still with it and may look at
//! a view of before: [`Elections::ask`] has the thread say what is true now.

use std::io::{self, PipeWriter, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;
use vrrp::VrrpState;

use counters::Counters;
use router::Router;
use thread::ElectionThread;

mod counters;
mod router;
mod thread;

/// The first fault of every router: its owner has not said that it can serve.
const NOT_YET_READY: &str = "not yet ready";

/// One virtual router as the thread needs it.
#[derive(Clone, Debug)]
pub struct RouterSpec {
    /// For the log and the status.
    pub name: String,
    /// Where it advertises.
    pub interface: String,
    pub config: vrrp::Config,
}

/// What a virtual router is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElectionRole {
    /// Takes no part: it has resigned.
    Init,
    Backup,
    Master,
    Fault,
}

impl From<VrrpState> for ElectionRole {
    fn from(state: VrrpState) -> ElectionRole {
        match state {
            VrrpState::Initialize => ElectionRole::Init,
            VrrpState::Backup => ElectionRole::Backup,
            VrrpState::Master => ElectionRole::Master,
            VrrpState::Fault => ElectionRole::Fault,
        }
    }
}

/// What the owner has to act on. Only the newest value counts, so a slow reader loses nothing that
/// it still needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionView {
    pub role: ElectionRole,
    /// Grows with each change of the role.
    pub transitions: u64,
    /// Grows whenever the addresses must be announced again: another master was heard while this
    /// one is master, and stays it.
    pub announce: u64,
    /// Who is master and with which priority, for a backup that has heard one.
    pub master: Option<(Ipv4Addr, u8)>,
    /// Why it is in [`ElectionRole::Fault`].
    pub fault: Option<String>,
    /// The last question of [`Elections::ask`] that was put before this view was taken.
    pub answered: u64,
}

/// One virtual router for `directord status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionStatus {
    pub name: String,
    pub interface: String,
    pub vrid: u8,
    pub view: ElectionView,
    /// How long it has had its role.
    pub since: Duration,
    /// As configured.
    pub priority: u8,
    /// As advertised.
    pub effective_priority: u8,
    /// In a fixed order; refusals last, each as `refused_<reason>`.
    pub counters: Vec<(&'static str, u64)>,
    /// How much later than planned the latest of our own advertisements went out. Unit:
    /// microseconds.
    pub lateness_max_us: u64,
}

/// Why the thread cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    #[error("no socket for {name} on {interface}: {source}")]
    Socket {
        name: String,
        interface: String,
        source: io::Error,
    },
    #[error("no election thread: {0}")]
    Thread(#[source] io::Error),
}

/// The running thread.
///
/// Dropping it ends the thread as a crash would, without a word to the other routers; see
/// [`stop`](Self::stop).
#[derive(Debug)]
pub struct Elections {
    shared: Arc<Shared>,
    views: watch::Receiver<Vec<ElectionView>>,
    wake: PipeWriter,
    thread: Option<JoinHandle<()>>,
}

/// What both sides see.
#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    routers: Vec<(RouterSpec, Counters)>,
}

/// Orders of the owner. The lock is held only to copy them.
#[derive(Debug, Default)]
struct Inbox {
    /// By router.
    faults: Vec<Option<String>>,
    /// Questions put so far.
    asked: u64,
    resign: bool,
    end: Option<End>,
}

/// How the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Masters give up with priority 0.
    Clean,
    /// Nothing more is sent.
    Silent,
}

/// Starts the thread in the network namespace of the caller. The sockets are open when this
/// returns, except on an interface that is missing or has no address: that is a fault, which ends
/// when the interface is usable.
///
/// Every router begins with the fault "not yet ready", until the owner sets it to `None`.
///
/// `pulse` holds the milliseconds of CLOCK_MONOTONIC at which the owner of the data plane was last
/// seen alive; when they are older than `pulse_max` every router is in FAULT, since a hung owner
/// must not be advertised for.
///
/// # Errors
/// A socket is refused (`CAP_NET_RAW`), or no thread can be had.
pub fn start(
    routers: Vec<RouterSpec>,
    pulse: Arc<AtomicU64>,
    pulse_max: Duration,
) -> Result<Elections, ElectionError> {
    let (woken, wake) = io::pipe().map_err(ElectionError::Thread)?;
    let faults = vec![Some(NOT_YET_READY.to_owned()); routers.len()];
    let inbox = Inbox {
        faults,
        ..Inbox::default()
    };
    let routers: Vec<_> = routers
        .into_iter()
        .map(|spec| {
            let counters = Counters::default();
            counters.changed(thread::monotonic(), spec.config.priority().0);
            (spec, counters)
        })
        .collect();
    let shared = Arc::new(Shared {
        inbox: Mutex::new(inbox),
        routers,
    });
    let machines = shared
        .routers
        .iter()
        .map(|(spec, _)| Router::open(spec))
        .collect::<Result<Vec<_>, _>>()?;
    let (publish, views) = watch::channel(machines.iter().map(Router::view).collect());
    let thread = ElectionThread::new(
        machines,
        Arc::clone(&shared),
        publish,
        woken,
        thread::Pulse::new(pulse, pulse_max),
    )
    .map_err(ElectionError::Thread)?;
    let thread = std::thread::Builder::new()
        .name("vrrp".to_owned())
        .spawn(move || thread.run())
        .map_err(ElectionError::Thread)?;
    Ok(Elections {
        shared,
        views,
        wake,
        thread: Some(thread),
    })
}

impl Elections {
    /// The views of all routers, in order. When the sender is gone the thread has ended.
    ///
    /// A borrowed value keeps the thread from publishing the next one: copy it at once.
    pub fn changes(&self) -> watch::Receiver<Vec<ElectionView>> {
        self.views.clone()
    }

    /// Says what is bad on this node for a router, or `None` when nothing is. Numbers that do not
    /// exist are ignored.
    pub fn set_fault(&self, router: usize, reason: Option<String>) {
        if let Some(fault) = self.shared.inbox().faults.get_mut(router) {
            *fault = reason;
        }
        self.wake_up();
    }

    pub fn status(&self) -> Vec<ElectionStatus> {
        let views = self.views.borrow().clone();
        let now = thread::monotonic();
        let routers = self.shared.routers.iter().zip(views);
        routers
            .map(|((spec, counters), view)| ElectionStatus {
                name: spec.name.clone(),
                interface: spec.interface.clone(),
                vrid: spec.config.vrid(),
                view,
                since: now.saturating_sub(counters.since()),
                priority: spec.config.priority().0,
                effective_priority: counters.effective_priority(),
                counters: counters.list(),
                lateness_max_us: counters.lateness_max_us(),
            })
            .collect()
    }

    /// Asks for views that are of this moment or later. They have in [`ElectionView::answered`] the
    /// number that is given back, or a higher one.
    pub fn ask(&self) -> u64 {
        let mut inbox = self.shared.inbox();
        inbox.asked = inbox.asked.saturating_add(1);
        let asked = inbox.asked;
        drop(inbox);
        self.wake_up();
        asked
    }

    /// Has every router give up for good: masters advertise priority 0, and nothing brings them
    /// back. The thread goes on until [`stop`](Self::stop).
    pub fn resign(&self) {
        self.shared.inbox().resign = true;
        self.wake_up();
    }

    /// Ends the thread and waits for it. Masters advertise priority 0 first.
    pub fn stop(mut self) {
        self.end(End::Clean);
    }

    fn end(&mut self, how: End) {
        if let Some(thread) = self.thread.take() {
            self.shared.inbox().end = Some(how);
            self.wake_up();
            // A thread that has panicked has nothing more to say.
            let _ = thread.join();
        }
    }

    /// A pipe that is full wakes the thread as well, and one that is closed has none to wake.
    fn wake_up(&self) {
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Elections {
    fn drop(&mut self) {
        self.end(End::Silent);
    }
}

impl Shared {
    /// Nothing panics while the lock is held.
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
