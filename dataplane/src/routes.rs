//! The host's routes as the data plane uses them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use dataplane_common::service::RouteRecord;
use dataplane_common::{Addr6, Be32};
use ipvs_model::service::EditError;

use crate::convert::{AF_INET6, addr_words, be, be6, ip_of};
use crate::loader::chain;
use crate::maps::{Maps, ROUTES_MAX};

/// What a route does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// Delivered to this host.
    Local,
    Unicast,
    /// Blackhole, unreachable, prohibit, broadcast, multicast: nothing is sent there.
    Unusable,
}

/// One route; of several to the same prefix the caller gives the best one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub prefix: IpAddr,
    pub prefix_len: u8,
    pub kind: RouteKind,
    pub ifindex: u32,
    /// `None` when destinations are on the link. Of the family of the prefix.
    pub gateway: Option<IpAddr>,
}

/// Where packets for a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) ifindex: u32,
    pub(crate) via: IpAddr,
}

/// Length and address of a prefix.
type Prefix = (u8, IpAddr);

/// The routes in force.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: BTreeMap<Prefix, Route>,
    /// Lengths that occur, of both families.
    lengths: BTreeSet<u8>,
    /// `routes` is what the maps hold. Not so before the first hand-over: a daemon before this one
    /// may have left others.
    in_step: bool,
}

impl Routes {
    /// Replaces the routes in the maps: what is new or changed first, then what is gone.
    pub(crate) fn replace(&mut self, maps: &mut Maps, routes: &[Route]) -> Result<(), EditError> {
        let routes = routes.iter().map(usable).collect::<Result<Vec<_>, _>>()?;
        let ipv6 = routes.iter().filter(|route| route.prefix.is_ipv6()).count();
        let most = ipv6.max(routes.len() - ipv6);
        if most > ROUTES_MAX {
            let text = format!("{most} routes, at most {ROUTES_MAX} are followed");
            return Err(EditError::NoSpace(text));
        }
        let new = Routes::of(&routes);
        let held = self.held(maps);
        // A hand-over that fails half way leaves the maps as nobody knows them.
        let in_step = std::mem::replace(&mut self.in_step, false);
        let failed = |error: MapError| EditError::DataPlane(chain(&error));
        for (prefix, route) in &new.routes {
            if in_step && self.routes.get(prefix) == Some(route) {
                continue;
            }
            insert(maps, *prefix, record(route)).map_err(failed)?;
        }
        for prefix in held {
            if !new.routes.contains_key(&prefix) {
                remove(maps, prefix).map_err(failed)?;
            }
        }
        *self = new;
        Ok(())
    }

    fn of(routes: &[Route]) -> Routes {
        let by_prefix = routes
            .iter()
            .map(|route| ((route.prefix_len, route.prefix), *route));
        Routes {
            routes: by_prefix.collect(),
            lengths: routes.iter().map(|route| route.prefix_len).collect(),
            in_step: true,
        }
    }

    /// What the maps hold, as far as it was there before.
    fn held(&self, maps: &Maps) -> Vec<Prefix> {
        if self.in_step {
            return self.routes.keys().copied().collect();
        }
        let prefix4 = |key: Key<u32>| {
            let addr = Ipv4Addr::from(u32::from_be(key.data()));
            (key.prefix_len() as u8, IpAddr::from(addr))
        };
        let prefix6 = |key: Key<Addr6>| (key.prefix_len() as u8, ip_of(key.data(), AF_INET6));
        let held4 = maps.routes4.keys().flatten().map(prefix4);
        let held6 = maps.routes6.keys().flatten().map(prefix6);
        held4.chain(held6).collect()
    }

    /// The longest match.
    pub(crate) fn lookup(&self, addr: IpAddr) -> Option<&Route> {
        let lengths = self.lengths.iter().rev();
        let mut prefixes = lengths.filter_map(|length| Some((*length, masked(addr, *length)?)));
        prefixes.find_map(|prefix| self.routes.get(&prefix))
    }

    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        self.lookup(addr)
            .is_some_and(|route| route.kind == RouteKind::Local)
    }

    /// `None` when nothing can be sent there.
    pub(crate) fn next_hop(&self, addr: IpAddr) -> Option<NextHop> {
        let route = self.lookup(addr)?;
        (route.kind == RouteKind::Unicast).then(|| NextHop {
            ifindex: route.ifindex,
            via: route.gateway.unwrap_or(addr),
        })
    }
}

/// A route as it can be used: without host bits in its prefix.
///
/// DIFFERS: nothing is sent by an IPv4 route with an IPv6 gateway; next hops are of the packets' own
/// family here.
fn usable(route: &Route) -> Result<Route, EditError> {
    let Some(prefix) = masked(route.prefix, route.prefix_len) else {
        let text = format!("route to {}/{}", route.prefix, route.prefix_len);
        return Err(EditError::Invalid(text));
    };
    let route = Route { prefix, ..*route };
    match route.gateway {
        Some(gateway) if gateway.is_ipv6() != prefix.is_ipv6() => Ok(Route {
            kind: RouteKind::Unusable,
            gateway: None,
            ..route
        }),
        Some(_) | None => Ok(route),
    }
}

/// The first `prefix_len` bits of an address; `None` if it has not that many.
pub(crate) fn masked(addr: IpAddr, prefix_len: u8) -> Option<IpAddr> {
    let length = u32::from(prefix_len);
    match addr {
        IpAddr::V4(addr) => {
            let mask = u32::MAX
                .checked_shl(32u32.checked_sub(length)?)
                .unwrap_or(0);
            Some(Ipv4Addr::from_bits(addr.to_bits() & mask).into())
        }
        IpAddr::V6(addr) => {
            let mask = u128::MAX
                .checked_shl(128u32.checked_sub(length)?)
                .unwrap_or(0);
            Some(Ipv6Addr::from_bits(addr.to_bits() & mask).into())
        }
    }
}

fn insert(maps: &mut Maps, (length, addr): Prefix, record: RouteRecord) -> Result<(), MapError> {
    let length = u32::from(length);
    match addr {
        IpAddr::V4(addr) => maps
            .routes4
            .insert(&Key::new(length, be(addr).0), record, 0),
        IpAddr::V6(addr) => maps.routes6.insert(&Key::new(length, be6(addr)), record, 0),
    }
}

fn remove(maps: &mut Maps, (length, addr): Prefix) -> Result<(), MapError> {
    let length = u32::from(length);
    match addr {
        IpAddr::V4(addr) => maps.routes4.remove(&Key::new(length, be(addr).0)),
        IpAddr::V6(addr) => maps.routes6.remove(&Key::new(length, be6(addr))),
    }
}

fn record(route: &Route) -> RouteRecord {
    RouteRecord {
        kind: match route.kind {
            RouteKind::Local => RouteRecord::LOCAL,
            RouteKind::Unicast => RouteRecord::UNICAST,
            RouteKind::Unusable => RouteRecord::UNUSABLE,
        },
        ifindex: route.ifindex,
        gateway: route.gateway.map_or([Be32(0); 4], addr_words),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: &str, prefix_len: u8, kind: RouteKind, gateway: Option<&str>) -> Route {
        let gateway = gateway.map(|text| text.parse().unwrap());
        Route {
            prefix: prefix.parse().unwrap(),
            prefix_len,
            kind,
            ifindex: 7,
            gateway,
        }
    }

    fn via(table: &Routes, addr: &str) -> Option<String> {
        let hop = table.next_hop(addr.parse().unwrap())?;
        assert_eq!(hop.ifindex, 7);
        Some(hop.via.to_string())
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = Routes::of(&[
            route("0.0.0.0", 0, RouteKind::Unicast, Some("10.0.0.254")),
            route("10.0.0.0", 24, RouteKind::Unicast, None),
            route("10.0.0.1", 32, RouteKind::Local, None),
            route("10.0.1.0", 24, RouteKind::Unusable, None),
        ]);
        assert_eq!(via(&table, "192.0.2.1").as_deref(), Some("10.0.0.254"));
        assert_eq!(via(&table, "10.0.0.9").as_deref(), Some("10.0.0.9"));
        assert_eq!(via(&table, "10.0.0.1"), None);
        assert_eq!(via(&table, "10.0.1.1"), None);
        assert!(table.is_local("10.0.0.1".parse().unwrap()));
        assert!(!table.is_local("::a00:1".parse().unwrap()));
    }

    #[test]
    fn both_families_have_routes_of_the_same_length() {
        let table = Routes::of(&[
            route("::", 0, RouteKind::Unicast, Some("fe80::1")),
            route("2001:db8::", 32, RouteKind::Unicast, None),
            route("2001:db8::1", 128, RouteKind::Local, None),
            route("10.0.0.1", 32, RouteKind::Local, None),
        ]);
        assert_eq!(via(&table, "2001:db9::1").as_deref(), Some("fe80::1"));
        assert_eq!(via(&table, "2001:db8::2").as_deref(), Some("2001:db8::2"));
        assert!(table.is_local("2001:db8::1".parse().unwrap()));
        assert_eq!(via(&table, "192.0.2.1"), None);
    }

    #[test]
    fn without_a_route_there_is_no_next_hop() {
        assert_eq!(via(&Routes::default(), "10.0.0.1"), None);
    }

    #[test]
    fn a_route_is_made_usable_or_refused() {
        let odd = route("10.0.0.1", 24, RouteKind::Unicast, None);
        assert_eq!(usable(&odd).unwrap().prefix.to_string(), "10.0.0.0");
        let mixed = route("10.0.0.0", 8, RouteKind::Unicast, Some("fe80::1"));
        assert_eq!(usable(&mixed).unwrap().kind, RouteKind::Unusable);
        let long = route("10.0.0.0", 33, RouteKind::Unicast, None);
        assert!(matches!(usable(&long), Err(EditError::Invalid(_))));
    }
}
