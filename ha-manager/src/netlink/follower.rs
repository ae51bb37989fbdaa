//! A thread that follows the host's network and tells the owner of the data plane.
//!
//! Two sockets: one only hears events, one only asks. An event is never interpreted, it makes the
//! next dump due: what is handed on is always a whole picture, so a lost event costs nothing but
//! time. Dumps follow when events have been quiet for [`QUIET`], at the latest [`LATENCY_MAX`]
//! after the first one, and every [`RESYNC`] in any case, for changes the kernel does not announce.
//!
//! Events of routes alone wait longer on a host with many of them: a dump is not made for them before
//! [`REST`] times what the last one took, so that a routing daemon that changes its mind all the time
//! costs no more than a fifth of a processor. Those of links, addresses and rules never wait for that.
//!
//! A thread of its own, without any capability: a dump of a full table takes tenths of a second, and
//! the owner of the data plane has a lease to renew. What it gets is ready to be used.

use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup};
use tokio::runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;

use super::{NetlinkError, NetworkState, dump};
use crate::daemon::Command;
use crate::privileges;

/// The first event after this long is answered at once: a virtual address that arrives is served
/// within milliseconds. Events closer together than this are answered by one dump.
const QUIET: Duration = Duration::from_millis(20);
/// A dump follows an event after at most this long, if it is not of routes.
const LATENCY_MAX: Duration = Duration::from_millis(200);
/// Events of routes wait so many times what the last dump took.
const REST: u32 = 4;
/// But no longer than this.
const REST_MAX: Duration = Duration::from_secs(5);
/// A dump is made this often without any event.
const RESYNC: Duration = Duration::from_secs(30);
/// A dump that takes longer will not end.
const DUMP_MAX: Duration = Duration::from_secs(30);
/// Pause before the sockets are opened again after a failure.
const REOPEN: Duration = Duration::from_secs(1);

/// Follows the network for the life of the daemon.
pub struct Follower {
    first: NetworkState,
    /// Whom to tell. The thread ends when this is gone unused.
    begin: oneshot::Sender<mpsc::Sender<Command>>,
    /// The thread ends when this is gone.
    stop: Following,
}

/// The network is followed as long as this is there.
pub struct Following {
    _stop: oneshot::Sender<()>,
}

impl Follower {
    /// Listens for events, then takes the first picture: nothing can change unseen in between.
    /// `reserved` is how many addresses are given to the data plane beside its routes.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn start(reserved: usize) -> Result<Follower, NetlinkError> {
        let (tell, told) = oneshot::channel();
        let (begin, owner) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let body = move || {
            if let Err(error) = privileges::drop_all() {
                warn!(%error, "the thread of netlink keeps its privileges");
            }
            match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(async {
                    tokio::select! {
                        () = live(reserved, tell, owner) => {}
                        // It is gone.
                        _ = stopped => {}
                    }
                }),
                Err(error) => drop(tell.send(Err(error.into()))),
            }
        };
        thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(body)?;
        let first = told.await.unwrap_or(Err(NetlinkError::Closed))?;
        Ok(Follower {
            first,
            begin,
            stop: Following { _stop: stop },
        })
    }

    /// The first picture.
    pub fn state(&self) -> &NetworkState {
        &self.first
    }

    /// Sends every picture to the owner, until that is gone. Also one that is like the last: the owner
    /// changes the network itself, and what somebody undid between two pictures shows in neither.
    #[must_use]
    pub fn run(self, owner: mpsc::Sender<Command>) -> Following {
        // A thread that is gone has said why.
        let _ = self.begin.send(owner);
        self.stop
    }
}

/// The thread's life.
async fn live(
    reserved: usize,
    tell: oneshot::Sender<Result<NetworkState, NetlinkError>>,
    owner: oneshot::Receiver<mpsc::Sender<Command>>,
) {
    let mut eye = Eye {
        sockets: None,
        last: NetworkState::default(),
        reserved,
    };
    let first = eye.reopen().await.map(|()| eye.last.clone());
    if tell.send(first).is_err() {
        return;
    }
    if let Ok(owner) = owner.await {
        eye.run(owner).await;
    }
}

/// What looks at the network.
struct Eye {
    sockets: Option<Sockets>,
    /// The last picture.
    last: NetworkState,
    reserved: usize,
}

impl Eye {
    async fn run(mut self, owner: mpsc::Sender<Command>) {
        loop {
            let looked = match &mut self.sockets {
                Some(_) => self.look(&owner).await,
                None => self.reopen().await,
            };
            match looked {
                Ok(()) => {
                    if owner
                        .send(Command::Network(self.last.clone()))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) => {
                    warn!(%error, "routes and links cannot be read, trying again");
                    self.sockets = None;
                    sleep_until(Instant::now() + REOPEN).await;
                }
            }
        }
    }

    async fn reopen(&mut self) -> Result<(), NetlinkError> {
        let mut sockets = Sockets::open()?;
        let dumped = sockets.dump(self.reserved).await?;
        self.take(dumped);
        self.sockets = Some(sockets);
        Ok(())
    }

    /// Waits until a picture is due, and takes it. Links come first where the rest takes long.
    async fn look(&mut self, owner: &mpsc::Sender<Command>) -> Result<(), NetlinkError> {
        let Some(sockets) = &mut self.sockets else {
            return Err(NetlinkError::Closed);
        };
        sockets.wait_until_due().await?;
        if sockets.took > QUIET {
            let links = sockets.in_time(dump::links(&sockets.ask)).await?;
            if links != self.last.links {
                self.last.links = links;
                let picture = Command::Network(self.last.clone());
                // One that is gone is noticed next.
                let _ = owner.send(picture).await;
            }
        }
        let dumped = sockets.dump(self.reserved).await?;
        self.take(dumped);
        Ok(())
    }

    /// Routes that are as they were stay the same list, which the owner need not look at.
    fn take(&mut self, mut dumped: NetworkState) {
        if dumped.routes == self.last.routes {
            dumped.routes = self.last.routes.clone();
        }
        self.last = dumped;
    }
}

/// Events of the kernel that have been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Heard {
    /// Of links, addresses and rules.
    urgent: u64,
    /// All others: of routes.
    routes: u64,
}

impl Heard {
    /// An overrun is a message too; it comes with a flood, which is of routes.
    fn note(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        let is_of_a_route = if let NetlinkPayload::InnerMessage(inner) = &message.payload {
            matches!(
                inner,
                RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_)
            )
        } else {
            true
        };
        let count = if is_of_a_route {
            &mut self.routes
        } else {
            &mut self.urgent
        };
        *count = count.wrapping_add(1);
    }
}

/// An open pair of sockets. Dropping it closes both.
struct Sockets {
    ask: Handle,
    heard: watch::Receiver<Heard>,
    tasks: [JoinHandle<()>; 3],
    /// When the last dump ended.
    dumped: Instant,
    /// How long it took.
    took: Duration,
    /// What had been heard before it.
    answered: Heard,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Sockets {
    fn open() -> Result<Sockets, NetlinkError> {
        let (asking, ask, _) = rtnetlink::new_connection()?;
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv6Rule,
        ];
        let (hearing, kept_open, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        let (tell, heard) = watch::channel(Heard::default());
        let forward = async move {
            let _kept_open = kept_open;
            while let Some((message, _)) = messages.next().await {
                tell.send_modify(|heard| heard.note(&message));
            }
        };
        let tasks = [
            tokio::spawn(asking),
            tokio::spawn(hearing),
            tokio::spawn(forward),
        ];
        Ok(Sockets {
            ask,
            heard,
            tasks,
            dumped: Instant::now(),
            took: Duration::ZERO,
            answered: Heard::default(),
        })
    }

    async fn wait_until_due(&mut self) -> Result<(), NetlinkError> {
        let resync = self.dumped + RESYNC;
        let rest = (self.took * REST).min(REST_MAX);
        // Of the first event and of the last.
        let mut times: Option<(Instant, Instant)> = None;
        loop {
            let heard = *self.heard.borrow_and_update();
            let now = Instant::now();
            if heard != self.answered && times.is_none() {
                times = Some((now, now));
            }
            let due = times.map(|(first, last)| {
                let at_once = first.duration_since(self.dumped) >= QUIET;
                let due = if at_once {
                    first
                } else {
                    (last + QUIET).min(first + LATENCY_MAX)
                };
                if heard.urgent == self.answered.urgent {
                    due.max(self.dumped + rest)
                } else {
                    due
                }
            });
            let due = due.map_or(resync, |due| due.min(resync));
            if due <= now {
                self.answered = heard;
                return Ok(());
            }
            match timeout_at(due, self.heard.changed()).await {
                Ok(Ok(())) => {
                    let now = Instant::now();
                    times = Some(times.map_or((now, now), |(first, _)| (first, now)));
                }
                Ok(Err(_)) => return Err(NetlinkError::Closed),
                Err(_) => {}
            }
        }
    }

    async fn dump(&mut self, reserved: usize) -> Result<NetworkState, NetlinkError> {
        let begun = Instant::now();
        let dumped = self.in_time(dump::whole(&self.ask, reserved)).await;
        self.dumped = Instant::now();
        self.took = self.dumped.duration_since(begun);
        dumped
    }

    async fn in_time<T>(
        &self,
        dumped: impl Future<Output = Result<T, NetlinkError>>,
    ) -> Result<T, NetlinkError> {
        match timeout_at(Instant::now() + DUMP_MAX, dumped).await {
            Ok(dumped) => dumped,
            Err(_) => Err(NetlinkError::Closed),
        }
    }
}

#[cfg(test)]
mod tests;
