//! The host's links, addresses and routes of both families, followed through rtnetlink.
//!
//! Two sockets: one only hears events, one only asks. An event is never interpreted, it makes the
//! next dump due: what is handed on is always a whole picture, so a lost event costs nothing but
//! time. Dumps follow when events have been quiet for [`QUIET`], at the latest [`LATENCY_MAX`]
//! after the first one, at once after an overrun, and every [`RESYNC`] in any case, for changes
//! the kernel does not announce.

mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use dataplane::{Route, RouteKind};
use futures_util::{Stream, StreamExt, TryStreamExt};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use nix::errno::Errno;
use rtnetlink::{Handle, IpVersion, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;
use vrrp::wire::MacAddr;

use crate::daemon::Command;
use crate::status::LinkState;

/// The first event after this long is answered at once: a virtual address that arrives is served
/// within milliseconds. Events closer together than this are answered by one dump.
const QUIET: Duration = Duration::from_millis(20);
/// A dump follows an event after at most this long.
const LATENCY_MAX: Duration = Duration::from_millis(200);
/// A dump is made this often without any event.
const RESYNC: Duration = Duration::from_secs(30);
/// A dump that takes longer will not end.
const DUMP_MAX: Duration = Duration::from_secs(30);
/// Pause before the sockets are opened again after a failure.
const REOPEN: Duration = Duration::from_secs(1);
/// Routes one picture can hold; a full Internet table is about a million.
const ROUTES_MAX: usize = 1 << 20;

/// The host's network at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    pub links: BTreeMap<String, Link>,
    /// Ordered by prefix, then length; IPv4 comes first.
    pub routes: Vec<Route>,
    /// The host's addresses with their interfaces. One that is on several has one route in `routes`.
    pub addresses: BTreeSet<(IpAddr, u32)>,
    /// Policy routing rules beside those that every host has.
    pub extra_rules: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub ifindex: u32,
    pub state: LinkState,
    /// `None` for what is no Ethernet.
    pub mac: Option<MacAddr>,
}

impl NetworkState {
    /// Whether `address` is this host's, and on which interface.
    pub fn local(&self, address: IpAddr) -> Option<u32> {
        let at = self.position(address).ok()?;
        let route = self.routes.get(at)?;
        (route.kind == RouteKind::Local).then_some(route.ifindex)
    }

    /// An interface that has `address`, other than `except`.
    pub fn elsewhere(&self, address: IpAddr, except: Option<u32>) -> Option<u32> {
        let places = self.addresses.range((address, 0)..=(address, u32::MAX));
        let mut places = places.map(|(_, ifindex)| *ifindex);
        places.find(|ifindex| Some(*ifindex) != except)
    }

    /// Whether the interface has an address of its own of a family, beside those in `except`.
    pub fn has_address(&self, ifindex: u32, ipv6: bool, except: &[IpAddr]) -> bool {
        self.routes.iter().any(|route| {
            route.kind == RouteKind::Local
                && route.prefix.is_ipv6() == ipv6
                && route.prefix_len == whole(route.prefix)
                && route.ifindex == ifindex
                && !except.contains(&route.prefix)
        })
    }

    /// Makes `address` this host's, on `ifindex`, or takes it away. Gives back whether that
    /// changed anything.
    pub fn set_local(&mut self, address: IpAddr, ifindex: Option<u32>) -> bool {
        if self.local(address) == ifindex {
            return false;
        }
        let route = ifindex.map(|ifindex| Route {
            prefix: address,
            prefix_len: whole(address),
            kind: RouteKind::Local,
            ifindex,
            gateway: None,
        });
        match (self.position(address), route) {
            (Ok(at), Some(route)) => {
                if let Some(known) = self.routes.get_mut(at) {
                    *known = route;
                }
            }
            (Ok(at), None) => drop(self.routes.remove(at)),
            (Err(at), Some(route)) => self.routes.insert(at, route),
            (Err(_), None) => {}
        }
        true
    }

    fn position(&self, address: IpAddr) -> Result<usize, usize> {
        let key = |route: &Route| (route.prefix, route.prefix_len);
        self.routes
            .binary_search_by_key(&(address, whole(address)), key)
    }
}

/// The prefix length of one address.
const fn whole(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// Why the network could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("netlink socket: {0}")]
    Open(#[from] io::Error),
    #[error("netlink dump: {0}")]
    Dump(#[from] rtnetlink::Error),
    #[error("the netlink socket hears nothing any more")]
    Closed,
    #[error("more than {ROUTES_MAX} routes")]
    TooManyRoutes,
}

/// An open pair of sockets. Dropping it closes both.
struct Sockets {
    ask: Handle,
    events: mpsc::Receiver<()>,
    tasks: [JoinHandle<()>; 3],
    /// When the last dump ended.
    dumped: Instant,
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Follows the network for the life of the daemon.
pub struct Follower {
    sockets: Option<Sockets>,
    first: NetworkState,
}

impl Follower {
    /// Listens for events, then takes the first picture: nothing can change unseen in between.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn start() -> Result<Follower, NetlinkError> {
        let sockets = Sockets::open()?;
        let first = sockets.dump().await?;
        Ok(Follower {
            sockets: Some(sockets),
            first,
        })
    }

    /// The first picture.
    pub fn state(&self) -> &NetworkState {
        &self.first
    }

    /// Sends every picture to the owner, until that is gone. Also one that is like the last: the owner
    /// changes the network itself, and what somebody undid between two pictures shows in neither.
    pub async fn run(mut self, owner: mpsc::Sender<Command>) {
        self.first = NetworkState::default();
        loop {
            let dumped = match &mut self.sockets {
                Some(sockets) => sockets.next_dump().await,
                None => self.reopen().await,
            };
            match dumped {
                Ok(state) => {
                    if owner.send(Command::Network(state)).await.is_err() {
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

    async fn reopen(&mut self) -> Result<NetworkState, NetlinkError> {
        let sockets = Sockets::open()?;
        let state = sockets.dump().await?;
        self.sockets = Some(sockets);
        Ok(state)
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
        // One place: an event that is not yet handled stands for all that follow it. An overrun
        // arrives as a message as well and makes a dump due like any other.
        let (due, events) = mpsc::channel(1);
        let forward = async move {
            let _kept_open = kept_open;
            while messages.next().await.is_some() {
                let _ = due.try_send(());
            }
        };
        let tasks = [
            tokio::spawn(asking),
            tokio::spawn(hearing),
            tokio::spawn(forward),
        ];
        let dumped = Instant::now();
        Ok(Sockets {
            ask,
            events,
            tasks,
            dumped,
        })
    }

    /// Waits until a dump is due, and takes it.
    async fn next_dump(&mut self) -> Result<NetworkState, NetlinkError> {
        self.wait_until_due().await?;
        let dumped = self.dump().await;
        self.dumped = Instant::now();
        dumped
    }

    async fn wait_until_due(&mut self) -> Result<(), NetlinkError> {
        match timeout_at(Instant::now() + RESYNC, self.events.recv()).await {
            Ok(Some(())) => {}
            Ok(None) => return Err(NetlinkError::Closed),
            Err(_) => return Ok(()),
        }
        if self.dumped.elapsed() >= QUIET {
            return Ok(());
        }
        let latest = Instant::now() + LATENCY_MAX;
        loop {
            let quiet = (Instant::now() + QUIET).min(latest);
            match timeout_at(quiet, self.events.recv()).await {
                Ok(Some(())) if Instant::now() < latest => {}
                Ok(Some(())) | Err(_) => return Ok(()),
                Ok(None) => return Err(NetlinkError::Closed),
            }
        }
    }

    async fn dump(&self) -> Result<NetworkState, NetlinkError> {
        match timeout_at(Instant::now() + DUMP_MAX, dump(&self.ask)).await {
            Ok(dumped) => dumped,
            Err(_) => Err(NetlinkError::Closed),
        }
    }
}

/// Takes a whole picture.
async fn dump(ask: &Handle) -> Result<NetworkState, NetlinkError> {
    let mut links = BTreeMap::new();
    let mut messages = ask.link().get().execute();
    while let Some(message) = messages.try_next().await? {
        if let Some((name, link)) = link_of(&message) {
            links.insert(name, link);
        }
    }
    let mut messages = Vec::new();
    for request in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        collect_routes(ask.route().get(request).execute(), &mut messages).await?;
    }
    let routes = routes::convert(&messages);
    Ok(NetworkState {
        links,
        routes,
        addresses: routes::addresses(&messages),
        extra_rules: count_extra_rules(ask, IpVersion::V4).await?
            + count_extra_rules(ask, IpVersion::V6).await?,
    })
}

/// A kernel without policy routing, or without IPv6, has no rules to list.
async fn count_extra_rules(ask: &Handle, family: IpVersion) -> Result<u32, NetlinkError> {
    let mut extra_rules = 0;
    let mut rules = ask.rule().get(family).execute();
    loop {
        match rules.try_next().await {
            Ok(Some(rule)) => extra_rules += u32::from(!routes::is_default_rule(&rule)),
            Ok(None) => return Ok(extra_rules),
            Err(rtnetlink::Error::NetlinkError(refused))
                if has_no_such_thing(refused.raw_code()) =>
            {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a kernel without policy routing, or without this family, says.
fn has_no_such_thing(code: i32) -> bool {
    [Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT]
        .map(|error| -(error as i32))
        .contains(&code)
}

/// A kernel without IPv6 lists its IPv4 routes once more, which changes nothing.
async fn collect_routes(
    stream: impl Stream<Item = Result<RouteMessage, rtnetlink::Error>>,
    messages: &mut Vec<RouteMessage>,
) -> Result<(), NetlinkError> {
    let mut stream = std::pin::pin!(stream);
    loop {
        match stream.try_next().await {
            Ok(Some(message)) => messages.push(message),
            Ok(None) => return Ok(()),
            Err(rtnetlink::Error::NetlinkError(refused))
                if has_no_such_thing(refused.raw_code()) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        if messages.len() > ROUTES_MAX {
            return Err(NetlinkError::TooManyRoutes);
        }
    }
}

fn link_of(message: &LinkMessage) -> Option<(String, Link)> {
    let name = message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name.clone())
        } else {
            None
        }
    })?;
    let mac = message.attributes.iter().find_map(|attribute| {
        if let LinkAttribute::Address(address) = attribute {
            <[u8; 6]>::try_from(address.as_slice()).ok().map(MacAddr)
        } else {
            None
        }
    });
    let is_ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let flags = message.header.flags;
    let state = if !flags.contains(LinkFlags::Up) {
        LinkState::Down
    } else if flags.contains(LinkFlags::LowerUp) {
        LinkState::Up
    } else {
        LinkState::NoCarrier
    };
    Some((
        name,
        Link {
            ifindex: message.header.index,
            state,
            mac: mac.filter(|_| is_ethernet),
        },
    ))
}

#[cfg(test)]
mod tests;
