//! The election thread: drives the virtual routers of this node.
//!
//! A thread of its own, so that a slow reload, a netlink dump or a full log never delays an
//! advertisement. It holds the sockets and the machines ([`vrrp::Group`]) and talks to the owner of
//! the data plane by four things, none of which makes it wait:
//!
//! ```text
//!   owner --- inbox: orders by router, question, resign, stop; the newest wins ---------> thread
//!   owner --- pulse: when the owner was last seen alive ------------------------------> thread
//!   owner <-- watch: one ElectionView per router, the newest wins -- teller <---------- thread
//!   owner <-- counters -------------------------------------------------------------- thread
//!                                           sockets, closed and open -- opener <------> thread
//! ```
//!
//! Two helpers wait for what the thread must not wait for: locks that ordinary threads hold, of the
//! watch and of the log, and the kernel's lock of network configuration.
//!
//! The thread only elects. Addresses, sync daemons and the data plane follow the views, in the
//! owner. Routers of a sync group change together; any other router is a group of its own.
//!
//! # In time
//!
//! The thread runs under SCHED_RR where that is allowed, so that no load of the node delays it, and
//! the memory of the process is locked, its program from the start, so that nothing that it needs has
//! to be fetched. What was got of
//! that, and how late the advertisements are, is in the status ([`ElectionStatus::scheduling`],
//! [`ElectionStatus::lateness`]).
//!
//! # Under a flood
//!
//! Each turn of the loop takes at most `ELECTION_BUDGET` advertisements, of other routers first than
//! the turn before, and serves the timers; then at most `OTHER_BUDGET` of the packets that do not
//! even look like an advertisement of their router, whose sockets it then leaves alone for
//! `OTHER_PAUSE`; the kernel drops what comes meanwhile, counted as `lost_other`. Our own
//! advertisements are therefore late by a few hundred microseconds at worst. The master's have a
//! socket to themselves ([`vrrp::net::socket`]) and are not pushed out, unless the flood is made of
//! what could be the master's: then packets are lost by chance (`lost_election`), and a backup may
//! take over that has lost all of three intervals. Before it does, it reads what is queued, so a
//! thread that was merely late does not take over from a living master. However much there is to
//! read, the thread waits a third of its time, longer turns than of 4 ms aside (`rest`).
//!
//! # What makes it FAULT
//!
//! Whatever the owner says ([`Elections::set_fault`]); an owner that gives no sign of life; the
//! delay after the start; an interface that is gone, down or without address, which is looked at
//! every second, whenever a send fails, before a backup takes over, and whenever the owner withdraws
//! its fault; a backup that is about to take over while it has no sockets, and has heard nothing for
//! that reason; a master none of whose advertisements could be sent for three intervals, which is
//! tried again every second, or when new sockets are there; and another router of its group in
//! FAULT. An error that says nothing about the interface, as when there is no memory to look, is
//! none (`look_errors`). Sockets of an interface that has come back
//! are opened again, for which the thread keeps `CAP_NET_RAW`.
//!
//! # When the process stood still
//!
//! A master that was not served for so long that another may have taken over is Backup before it
//! sends or reads anything ([`vrrp::VirtualRouter`]). The owner stood still with it and may look at
//! a view of before: [`Elections::ask`] has the thread say what is true now.
//!
//! The clock of the thread, of the owner's pulse and of the lease is CLOCK_BOOTTIME: a node that was
//! suspended stood still as well.

use std::io::{self, PipeWriter, Write};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::sync::watch;
use tracing::warn;

use counters::Counters;
use opener::Answers;
use party::Party;
use thread::{ElectionThread, Helpers};

mod counters;
mod member;
mod opener;
mod party;
mod post;
mod rest;
mod scheduling;
mod teller;
mod thread;
mod view;

pub use counters::{LATENESS_BOUNDS_US, Lateness};
pub use view::{ElectionRole, ElectionStatus, ElectionView, Yielding};

/// The first fault of every router: its owner has not said that it can serve.
const NOT_YET_READY: &str = "not yet ready";
/// The fault of every router until [`ThreadOptions::startup_delay`] is over.
pub(crate) const STARTS_LATER: &str = "vrrp_startup_delay_ms is not over";

/// One virtual router as the thread needs it.
#[derive(Clone, Debug)]
pub struct RouterSpec {
    /// For the log and the status.
    pub name: String,
    /// Where it advertises.
    pub interface: String,
    pub config: vrrp::Config,
    /// The address advertisements come from; else the interface's own.
    pub source: Option<IpAddr>,
    /// A macvlan on the interface, through which advertisements are sent and heard.
    pub send_on: Option<String>,
    /// Whether an interface that is down is a fault. One that is gone, or has no address, always is.
    pub track_interface: bool,
}

/// How the thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadOptions {
    /// Of SCHED_RR, 1 to 99; 0 for ordinary scheduling. Default 50.
    pub rt_priority: u8,
    /// Whether to lock the memory of the process. Default true.
    pub lock_memory: bool,
    /// How long after the start no router takes part. Default 0.
    pub startup_delay: Duration,
}

impl Default for ThreadOptions {
    fn default() -> ThreadOptions {
        ThreadOptions {
            rt_priority: 50,
            lock_memory: true,
            startup_delay: Duration::ZERO,
        }
    }
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
    #[error("a group of routers names router {0}, which does not exist or is in two groups")]
    Group(usize),
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
    /// The election thread first: the others end after it.
    threads: Vec<JoinHandle<()>>,
}

/// What both sides see.
#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    routers: Vec<(RouterSpec, Arc<Counters>)>,
    /// What the thread was granted.
    scheduling: OnceLock<String>,
    memory_locked: bool,
}

/// Orders of the owner. The lock is held only to copy them.
#[derive(Clone, Debug, Default)]
struct Inbox {
    /// By router.
    orders: Vec<Orders>,
    /// Questions put so far.
    asked: u64,
    resign: bool,
    end: Option<End>,
}

/// What the owner wants of one router.
#[derive(Clone, Debug, Default)]
struct Orders {
    /// What is bad on this node.
    fault: Option<String>,
    /// The sum of what tracking adds to the priority.
    weights: i32,
    /// Addresses somebody else removed, so far.
    vips_lost: u64,
    /// Orders so far about the role, and the last of them.
    handovers: u64,
    handover: Handover,
}

/// What is to become of a role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Handover {
    /// Let another router have it.
    Yield,
    /// Preempt again.
    #[default]
    Reclaim,
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
/// `groups` name routers by number that change together; a router in none stands alone.
///
/// Every router begins with the fault "not yet ready", until the owner sets it to `None`.
///
/// `pulse` holds the milliseconds of CLOCK_BOOTTIME at which the owner of the data plane was last
/// seen alive; when they are older than `pulse_max` every router is in FAULT, since a hung owner
/// must not be advertised for.
///
/// Has to be called before privileges are given up: the thread's scheduling and locked memory need
/// some. What cannot be had is done without, and the status says so.
///
/// # Errors
/// A socket is refused (`CAP_NET_RAW`), no thread can be had, or a group names a router wrongly.
pub fn start(
    routers: Vec<RouterSpec>,
    groups: Vec<Vec<usize>>,
    options: ThreadOptions,
    pulse: Arc<AtomicU64>,
    pulse_max: Duration,
) -> Result<Elections, ElectionError> {
    let groups = party::complete(groups, routers.len())?;
    let (woken, wake) = io::pipe().map_err(ElectionError::Thread)?;
    // A pipe that is full wakes the thread as well: the owner never waits for it.
    fcntl(&wake, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|error| ElectionError::Thread(error.into()))?;
    let first = Orders {
        fault: Some(NOT_YET_READY.to_owned()),
        ..Orders::default()
    };
    let inbox = Inbox {
        orders: vec![first; routers.len()],
        ..Inbox::default()
    };
    let memory_locked = options.lock_memory && lock_memory();
    let shared = Arc::new(Shared {
        inbox: Mutex::new(inbox),
        routers: routers.into_iter().map(counted).collect(),
        scheduling: OnceLock::new(),
        memory_locked,
    });
    let parties = groups
        .into_iter()
        .map(|group| Party::open(&group, &shared.routers))
        .collect::<Result<Vec<_>, _>>()?;
    let (publish, views) = watch::channel(thread::views(&parties));
    let rt_priority = options.rt_priority;
    let failed = ElectionError::Thread;
    let (teller, telling) =
        teller::start(publish, Arc::clone(&shared), rt_priority).map_err(failed)?;
    let answers = Answers::default();
    let waker = wake.try_clone().map_err(failed)?;
    let opened = move || drop((&waker).write(&[0]));
    let (opener, opening) = opener::start(Arc::clone(&answers), opened).map_err(failed)?;
    let helpers = Helpers {
        teller,
        opener,
        answers,
    };
    let pulse = thread::Pulse::new(pulse, pulse_max);
    let delay = options.startup_delay;
    let thread = ElectionThread::new(parties, Arc::clone(&shared), helpers, woken, pulse, delay);
    let thread = thread.map_err(failed)?;
    let electing = std::thread::Builder::new()
        .name("vrrp".to_owned())
        .spawn(move || thread.run(rt_priority))
        .map_err(failed)?;
    Ok(Elections {
        shared,
        views,
        wake,
        threads: vec![electing, telling, opening],
    })
}

/// Has the calling thread, and those that it starts later, served before ordinary ones.
///
/// # Errors
/// That takes `CAP_SYS_NICE`.
pub(crate) fn prefer_this_thread() -> Result<(), Errno> {
    scheduling::nice()
}

fn lock_memory() -> bool {
    let locked = scheduling::lock_memory();
    if let Err(reason) = &locked {
        warn!(
            reason,
            "the memory of this process is not locked, adverts may be late"
        );
    }
    locked.is_ok()
}

fn counted(spec: RouterSpec) -> (RouterSpec, Arc<Counters>) {
    let counters = Counters::default();
    counters.changed(thread::boottime());
    counters.set_effective_priority(spec.config.priority().0);
    (spec, Arc::new(counters))
}

impl Elections {
    /// The views of all routers, in order. When the sender is gone the thread has ended.
    ///
    /// A borrowed value keeps the thread from publishing the next one: copy it at once.
    pub fn changes(&self) -> watch::Receiver<Vec<ElectionView>> {
        self.views.clone()
    }

    /// Says what is bad on this node for a router, or `None` when nothing is. Numbers that do not
    /// exist are ignored, here and below.
    pub fn set_fault(&self, router: usize, reason: Option<String>) {
        self.order(router, |orders| orders.fault = reason);
    }

    /// Says what tracking adds to a router's priority.
    pub fn set_weights(&self, router: usize, sum: i32) {
        self.order(router, |orders| orders.weights = sum);
    }

    /// Says that somebody else removed an address of a router; a master leaves the role for the time
    /// of its skew, as keepalived does.
    pub fn vip_lost(&self, router: usize) {
        self.order(router, |orders| {
            orders.vips_lost = orders.vips_lost.saturating_add(1);
        });
    }

    /// Has a master, and the others of its group, let another router have the role. It stays master
    /// until that one is heard; [`ElectionView::yields`] and [`ElectionView::yield_failed`] tell
    /// what becomes of it.
    pub fn yield_role(&self, router: usize) {
        self.hand_over(router, Handover::Yield);
    }

    /// Ends what [`Elections::yield_role`] left: the router preempts again.
    pub fn reclaim(&self, router: usize) {
        self.hand_over(router, Handover::Reclaim);
    }

    pub fn status(&self) -> Vec<ElectionStatus> {
        let views = self.views.borrow().clone();
        let now = thread::boottime();
        let scheduling = self.shared.scheduling.get();
        let scheduling = scheduling.map_or_else(|| "starting".to_owned(), String::clone);
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
                lateness: counters.lateness(),
                scheduling: scheduling.clone(),
                memory_locked: self.shared.memory_locked,
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
        if self.threads.is_empty() {
            return;
        }
        self.shared.inbox().end = Some(how);
        self.wake_up();
        for thread in self.threads.drain(..) {
            // A thread that has panicked has nothing more to say.
            let _ = thread.join();
        }
    }

    fn hand_over(&self, router: usize, handover: Handover) {
        self.order(router, |orders| {
            orders.handover = handover;
            orders.handovers = orders.handovers.saturating_add(1);
        });
    }

    fn order(&self, router: usize, change: impl FnOnce(&mut Orders)) {
        if let Some(orders) = self.shared.inbox().orders.get_mut(router) {
            change(orders);
        }
        self.wake_up();
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

    /// A copy of the orders, unless the owner is writing: it may have lost its processor to the
    /// thread that asks.
    fn try_inbox(&self) -> Option<Inbox> {
        match self.inbox.try_lock() {
            Ok(inbox) => Some(inbox.clone()),
            Err(TryLockError::Poisoned(inbox)) => Some(inbox.into_inner().clone()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
