//! The host's links and IPv4 routes, followed through rtnetlink.
//!
//! Two sockets: one only hears events, one only asks. An event is never interpreted, it makes the
//! next dump due: what is handed on is always a whole picture, so a lost event costs nothing but
//! time. Dumps follow when events have been quiet for [`QUIET`], at the latest [`LATENCY_MAX`]
//! after the first one, at once after an overrun, and every [`RESYNC`] in any case, for changes
//! the kernel does not announce.

mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
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
use tracing::{debug, warn};
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
    /// Ordered by prefix, then length.
    pub routes: Vec<Route>,
    /// The host's addresses with their interfaces. One that is on several has one route in `routes`.
    pub addresses: BTreeSet<(Ipv4Addr, u32)>,
    /// Policy routing rules beside the three defaults.
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
    pub fn local(&self, address: Ipv4Addr) -> Option<u32> {
        let at = self.position(address).ok()?;
        let route = self.routes.get(at)?;
        (route.kind == RouteKind::Local).then_some(route.ifindex)
    }

    /// An interface that has `address`, other than `except`.
    pub fn elsewhere(&self, address: Ipv4Addr, except: Option<u32>) -> Option<u32> {
        let places = self.addresses.range((address, 0)..=(address, u32::MAX));
        let mut places = places.map(|(_, ifindex)| *ifindex);
        places.find(|ifindex| Some(*ifindex) != except)
    }

    /// Whether the interface has an address of its own, beside those in `except`.
    pub fn has_address(&self, ifindex: u32, except: &[Ipv4Addr]) -> bool {
        self.routes.iter().any(|route| {
            route.kind == RouteKind::Local
                && route.prefix_len == 32
                && route.ifindex == ifindex
                && !except.contains(&route.prefix)
        })
    }

    /// Makes `address` this host's, on `ifindex`, or takes it away. Gives back whether that
    /// changed anything.
    pub fn set_local(&mut self, address: Ipv4Addr, ifindex: Option<u32>) -> bool {
        if self.local(address) == ifindex {
            return false;
        }
        let route = ifindex.map(|ifindex| Route {
            prefix: address,
            prefix_len: 32,
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

    fn position(&self, address: Ipv4Addr) -> Result<usize, usize> {
        let key = |route: &Route| (route.prefix, route.prefix_len);
        self.routes.binary_search_by_key(&(address, 32), key)
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
    last: NetworkState,
}

impl Follower {
    /// Listens for events, then takes the first picture: nothing can change unseen in between.
    ///
    /// # Errors
    /// See [`NetlinkError`].
    pub async fn start() -> Result<Follower, NetlinkError> {
        let sockets = Sockets::open()?;
        let last = sockets.dump().await?;
        Ok(Follower {
            sockets: Some(sockets),
            last,
        })
    }

    /// The picture taken last.
    pub fn state(&self) -> &NetworkState {
        &self.last
    }

    /// Sends every changed picture to the owner, until that is gone.
    pub async fn run(mut self, owner: mpsc::Sender<Command>) {
        loop {
            let dumped = match &mut self.sockets {
                Some(sockets) => sockets.next_dump().await,
                None => self.reopen().await,
            };
            match dumped {
                Ok(state) if state == self.last => debug!("network unchanged"),
                Ok(state) => {
                    self.last = state.clone();
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
    let request = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let messages = collect_routes(ask.route().get(request).execute()).await?;
    let routes = routes::convert(&messages);
    Ok(NetworkState {
        links,
        routes,
        addresses: routes::addresses(&messages),
        extra_rules: count_extra_rules(ask).await?,
    })
}

/// A kernel without policy routing has no rules to list.
async fn count_extra_rules(ask: &Handle) -> Result<u32, NetlinkError> {
    let mut extra_rules = 0;
    let mut rules = ask.rule().get(IpVersion::V4).execute();
    loop {
        match rules.try_next().await {
            Ok(Some(rule)) => extra_rules += u32::from(!routes::is_default_rule(&rule)),
            Ok(None) => return Ok(extra_rules),
            Err(rtnetlink::Error::NetlinkError(refused))
                if refused.raw_code() == -(Errno::EOPNOTSUPP as i32) =>
            {
                return Ok(0);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn collect_routes(
    stream: impl Stream<Item = Result<RouteMessage, rtnetlink::Error>>,
) -> Result<Vec<RouteMessage>, NetlinkError> {
    let mut stream = std::pin::pin!(stream);
    let mut messages = Vec::new();
    while let Some(message) = stream.try_next().await? {
        if messages.len() == ROUTES_MAX {
            return Err(NetlinkError::TooManyRoutes);
        }
        messages.push(message);
    }
    Ok(messages)
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
mod tests {
    use super::*;

    #[test]
    fn carrier_and_administrative_state_are_told_apart() {
        let state = |flags| {
            let mut message = LinkMessage::default();
            message.header.index = 7;
            message.header.flags = flags;
            message.header.link_layer_type = LinkLayerType::Ether;
            message.attributes = vec![
                LinkAttribute::IfName("eth0".to_owned()),
                LinkAttribute::Address(vec![2, 0, 0, 0, 0, 7]),
            ];
            let (name, link) = link_of(&message).unwrap();
            assert_eq!((name.as_str(), link.ifindex), ("eth0", 7));
            assert_eq!(link.mac, Some(MacAddr([2, 0, 0, 0, 0, 7])));
            link.state
        };
        assert_eq!(state(LinkFlags::Up | LinkFlags::LowerUp), LinkState::Up);
        assert_eq!(state(LinkFlags::Up), LinkState::NoCarrier);
        assert_eq!(state(LinkFlags::LowerUp), LinkState::Down);
        assert_eq!(link_of(&LinkMessage::default()), None);
    }

    #[test]
    fn a_local_address_is_added_and_taken_away_in_place() {
        let route = |prefix: &str, prefix_len, kind| Route {
            prefix: prefix.parse().unwrap(),
            prefix_len,
            kind,
            ifindex: 2,
            gateway: None,
        };
        let before = NetworkState {
            routes: vec![
                route("0.0.0.0", 0, RouteKind::Unicast),
                route("10.0.0.0", 24, RouteKind::Unicast),
                route("10.0.0.1", 32, RouteKind::Local),
                route("10.0.0.255", 32, RouteKind::Unusable),
            ],
            ..NetworkState::default()
        };
        let vip = "10.0.0.100".parse().unwrap();
        let mut state = before.clone();
        assert!(state.set_local(vip, Some(7)));
        assert!(!state.set_local(vip, Some(7)));
        assert_eq!(state.local(vip), Some(7));
        assert!(
            state
                .routes
                .is_sorted_by_key(|route| (route.prefix, route.prefix_len))
        );
        assert!(state.has_address(2, &[vip]) && state.has_address(7, &[]));
        assert!(!state.has_address(7, &[vip]));
        assert!(state.set_local(vip, None));
        assert!(!state.set_local(vip, None));
        assert_eq!(state, before);
        let broadcast = "10.0.0.255".parse().unwrap();
        assert_eq!(state.local(broadcast), None);
    }

    #[tokio::test]
    async fn the_loopback_interface_is_seen_with_its_local_route() {
        let follower = Follower::start().await.unwrap();
        let state = follower.state();
        let lo = state.links["lo"];
        if lo.state == LinkState::Up {
            assert!(state.routes.iter().any(|route| {
                route.kind == dataplane::RouteKind::Local && route.ifindex == lo.ifindex
            }));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_events_is_answered_once_and_in_bounded_time() {
        let (due, events) = mpsc::channel(1);
        let (_, ask, _) = rtnetlink::new_connection().unwrap();
        let idle = || tokio::spawn(std::future::ready(()));
        let mut sockets = Sockets {
            ask,
            events,
            tasks: [idle(), idle(), idle()],
            dumped: Instant::now(),
        };
        let burst = tokio::spawn(async move {
            loop {
                if due.send(()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let start = Instant::now();
        sockets.wait_until_due().await.unwrap();
        assert!(
            start.elapsed() <= LATENCY_MAX + QUIET,
            "{:?}",
            start.elapsed()
        );
        assert!(start.elapsed() >= QUIET);
        burst.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_event_after_a_quiet_time_is_answered_at_once() {
        let (due, events) = mpsc::channel(1);
        let (_, ask, _) = rtnetlink::new_connection().unwrap();
        let idle = || tokio::spawn(std::future::ready(()));
        let mut sockets = Sockets {
            ask,
            events,
            tasks: [idle(), idle(), idle()],
            dumped: Instant::now(),
        };
        tokio::time::advance(QUIET).await;
        due.send(()).await.unwrap();
        let start = Instant::now();
        sockets.wait_until_due().await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
