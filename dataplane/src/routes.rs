//! The host's routes as the data plane uses them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use aya::maps::lpm_trie::Key;
use dataplane_common::Be32;
use dataplane_common::service::RouteRecord;
use ipvs_model::service::EditError;

use crate::convert::be;
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

/// One IPv4 route; of several to the same prefix the caller gives the best one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    pub prefix: Ipv4Addr,
    pub prefix_len: u8,
    pub kind: RouteKind,
    pub ifindex: u32,
    /// `None` when destinations are on the link.
    pub gateway: Option<Ipv4Addr>,
}

/// The routes in force, by prefix length and prefix.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: BTreeMap<(u8, Ipv4Addr), Route>,
    /// `routes` is what the map holds. Not so before the first hand-over: a daemon before this one
    /// may have left others.
    in_step: bool,
}

impl Routes {
    /// Replaces the routes in the map: what is new or changed first, then what is gone.
    pub(crate) fn replace(&mut self, maps: &mut Maps, routes: &[Route]) -> Result<(), EditError> {
        if routes.len() > ROUTES_MAX as usize {
            let text = format!("{} routes, at most {ROUTES_MAX} are followed", routes.len());
            return Err(EditError::NoSpace(text));
        }
        let new: BTreeMap<_, _> = routes
            .iter()
            .map(|route| ((route.prefix_len, route.prefix), *route))
            .collect();
        let failed = |error: &dyn std::error::Error| EditError::DataPlane(chain(error));
        let held = self.held(maps);
        // A hand-over that fails half way leaves the map as nobody knows it.
        let in_step = std::mem::replace(&mut self.in_step, false);
        for ((prefix_len, prefix), route) in &new {
            if in_step && self.routes.get(&(*prefix_len, *prefix)) == Some(route) {
                continue;
            }
            let key = Key::new(u32::from(*prefix_len), be(*prefix).0);
            maps.routes4
                .insert(&key, record(route), 0)
                .map_err(|error| failed(&error))?;
        }
        for (prefix_len, prefix) in held {
            if !new.contains_key(&(prefix_len, prefix)) {
                let key = Key::new(u32::from(prefix_len), be(prefix).0);
                maps.routes4.remove(&key).map_err(|error| failed(&error))?;
            }
        }
        self.routes = new;
        self.in_step = true;
        Ok(())
    }

    /// What the map holds, as far as it was there before.
    fn held(&self, maps: &Maps) -> Vec<(u8, Ipv4Addr)> {
        if self.in_step {
            return self.routes.keys().copied().collect();
        }
        let prefix = |key: Key<u32>| (key.prefix_len() as u8, u32::from_be(key.data()).into());
        maps.routes4.keys().flatten().map(prefix).collect()
    }

    /// The longest match.
    pub(crate) fn lookup(&self, addr: Ipv4Addr) -> Option<&Route> {
        (0..=32u8).rev().find_map(|prefix_len| {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(prefix_len))
                .unwrap_or(0);
            let prefix = Ipv4Addr::from(u32::from(addr) & mask);
            self.routes.get(&(prefix_len, prefix))
        })
    }

    pub(crate) fn is_local(&self, addr: Ipv4Addr) -> bool {
        self.lookup(addr)
            .is_some_and(|route| route.kind == RouteKind::Local)
    }

    /// As `ServerRecord::next_hop`: 0 when nothing can be sent there.
    pub(crate) fn next_hop(&self, addr: Ipv4Addr) -> u64 {
        match self.lookup(addr) {
            Some(route) if route.kind == RouteKind::Unicast => {
                let via = be(route.gateway.unwrap_or(addr));
                u64::from(route.ifindex) | u64::from(via.0) << 32
            }
            _ => 0,
        }
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
        gateway: route.gateway.map_or(Be32(0), be),
        reserved: 0,
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

    fn routes(list: &[Route]) -> Routes {
        let routes = list
            .iter()
            .map(|route| ((route.prefix_len, route.prefix), *route))
            .collect();
        Routes {
            routes,
            in_step: true,
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = routes(&[
            route("0.0.0.0", 0, RouteKind::Unicast, Some("10.0.0.254")),
            route("10.0.0.0", 24, RouteKind::Unicast, None),
            route("10.0.0.1", 32, RouteKind::Local, None),
            route("10.0.1.0", 24, RouteKind::Unusable, None),
        ]);
        let hop = |addr: &str| table.next_hop(addr.parse().unwrap());
        let via = |addr: &str| 7 | u64::from(be(addr.parse().unwrap()).0) << 32;
        assert_eq!(hop("192.0.2.1"), via("10.0.0.254"));
        assert_eq!(hop("10.0.0.9"), via("10.0.0.9"));
        assert_eq!(hop("10.0.0.1"), 0);
        assert_eq!(hop("10.0.1.1"), 0);
        assert!(table.is_local("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn without_a_route_there_is_no_next_hop() {
        assert_eq!(routes(&[]).next_hop("10.0.0.1".parse().unwrap()), 0);
    }
}
