//! A picture of the host's routes that fits into the data plane.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipvs_model::service::EditError;

use super::{Prefix, Route, RouteKind, usable};
use crate::maps::ROUTES_MAX;

/// The host's routes as they are handed over: one for each prefix, ordered by prefix, then length, and
/// of neither family more than there is room for. Copies share one list.
///
/// Of a host that has more the host's own addresses come first, then what is on a link, then the
/// shortest prefixes: what is left out then mostly goes the way of a shorter prefix that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    routes: Arc<[Route]>,
    left_out: usize,
}

impl RouteTable {
    /// Of several routes to one prefix the last counts. `reserved` places of each family are kept for
    /// addresses that are given beside ([`crate::DataPlane::place_addresses`]).
    ///
    /// # Errors
    /// [`EditError::Invalid`]: a prefix is longer than an address.
    pub fn new(routes: &[Route], reserved: usize) -> Result<RouteTable, EditError> {
        let mut by_prefix = BTreeMap::new();
        for route in routes {
            let route = usable(route)?;
            by_prefix.insert(route.key(), route);
        }
        let found = by_prefix.len();
        let room = ROUTES_MAX.saturating_sub(reserved);
        let mut routes: Vec<Route> = by_prefix.into_values().collect();
        let ipv4 = routes.partition_point(|route| route.prefix.is_ipv4());
        if ipv4.max(found - ipv4) > room {
            routes.sort_by_key(importance);
            let mut taken = [0; 2];
            routes.retain(|route| {
                let taken = &mut taken[usize::from(route.prefix.is_ipv6())];
                *taken += 1;
                *taken <= room
            });
            routes.sort_by_key(Route::key);
        }
        Ok(RouteTable {
            left_out: found - routes.len(),
            routes: routes.into(),
        })
    }

    /// Ordered by prefix, then length; IPv4 comes first.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Routes for which there was no room.
    pub const fn left_out(&self) -> usize {
        self.left_out
    }

    /// Whether this is a copy of `other`: quickly told, but not so of tables that were made apart.
    pub fn is_copy_of(&self, other: &RouteTable) -> bool {
        Arc::ptr_eq(&self.routes, &other.routes)
    }

    /// The route to exactly this prefix.
    pub fn get(&self, prefix: IpAddr, prefix_len: u8) -> Option<&Route> {
        let at = self
            .routes
            .binary_search_by_key(&(prefix, prefix_len), Route::key);
        self.routes.get(at.ok()?)
    }
}

/// Less is kept first.
fn importance(route: &Route) -> (bool, bool, u8, Prefix) {
    (
        route.kind != RouteKind::Local,
        route.gateway.is_some(),
        route.prefix_len,
        route.key(),
    )
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn route(prefix: impl Into<IpAddr>, prefix_len: u8, kind: RouteKind) -> Route {
        Route {
            prefix: prefix.into(),
            prefix_len,
            kind,
            ifindex: 2,
            gateway: None,
        }
    }

    #[test]
    fn a_table_is_ordered_and_has_one_route_for_a_prefix() {
        let table = RouteTable::new(
            &[
                route([192, 0, 2, 9], 24, RouteKind::Unusable),
                route([10, 0, 0, 0], 8, RouteKind::Unicast),
                route([192, 0, 2, 0], 24, RouteKind::Unicast),
            ],
            0,
        )
        .unwrap();
        let found = table.routes().iter().map(|it| (it.prefix_len, it.kind));
        let expected = [(8, RouteKind::Unicast), (24, RouteKind::Unicast)];
        assert!(found.eq(expected));
        let net = IpAddr::from([192, 0, 2, 0]);
        assert!(table.get(net, 24).is_some() && table.get(net, 25).is_none());
        assert!(table.is_copy_of(&table.clone()));
        let long = route([10, 0, 0, 0], 33, RouteKind::Unicast);
        assert!(matches!(
            RouteTable::new(&[long], 0),
            Err(EditError::Invalid(_))
        ));
    }

    /// A leaked full table: more than there is room for, longest prefixes behind gateways.
    #[test]
    fn what_matters_most_is_kept_when_there_is_no_room_for_all() {
        let gateway = Some(IpAddr::from([192, 0, 2, 254]));
        let mut routes: Vec<Route> = (0..70_000u32)
            .map(|at| {
                let prefix = Ipv4Addr::from_bits(0x1000_0000 | at << 8);
                Route {
                    gateway,
                    ..route(prefix, 24, RouteKind::Unicast)
                }
            })
            .collect();
        let own = route([203, 0, 113, 1], 32, RouteKind::Local);
        let link = route([203, 0, 113, 0], 24, RouteKind::Unicast);
        let short = Route {
            gateway,
            ..route([0, 0, 0, 0], 0, RouteKind::Unicast)
        };
        let six = route(std::net::Ipv6Addr::LOCALHOST, 128, RouteKind::Local);
        routes.extend([own, link, short, six]);
        let table = RouteTable::new(&routes, 100).unwrap();
        assert_eq!(table.routes().len(), ROUTES_MAX - 100 + 1);
        assert_eq!(table.left_out(), 70_003 - (ROUTES_MAX - 100));
        for kept in [own, link, short, six] {
            assert_eq!(table.get(kept.prefix, kept.prefix_len), Some(&kept));
        }
        assert!(table.routes().is_sorted_by_key(|route| route.key()));
    }
}
