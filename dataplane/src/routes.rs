//! The host's routes as the data plane uses them.
//!
//! | file | holds |
//! | --- | --- |
//! | `table` | a picture of the host's routes that fits |
//! | `in_force` | what the maps hold, and the way from one picture to the next |

mod in_force;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipvs_model::service::EditError;

pub(crate) use in_force::Routes;
pub use table::RouteTable;

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

impl Route {
    const fn key(&self) -> Prefix {
        (self.prefix, self.prefix_len)
    }
}

/// Where packets for a destination go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NextHop {
    pub(crate) ifindex: u32,
    pub(crate) via: IpAddr,
}

/// Address and length of a prefix. In this order what is within a prefix follows it at once.
pub(crate) type Prefix = (IpAddr, u8);

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

/// The prefix length of one address.
pub(crate) const fn whole(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The last address of a prefix.
pub(crate) fn last_of((addr, prefix_len): Prefix) -> IpAddr {
    let length = u32::from(prefix_len);
    match addr {
        IpAddr::V4(addr) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            Ipv4Addr::from_bits(addr.to_bits() | host).into()
        }
        IpAddr::V6(addr) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            Ipv6Addr::from_bits(addr.to_bits() | host).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_made_usable_or_refused() {
        let route = |prefix: &str, prefix_len, gateway: Option<&str>| Route {
            prefix: prefix.parse().unwrap(),
            prefix_len,
            kind: RouteKind::Unicast,
            ifindex: 7,
            gateway: gateway.map(|text| text.parse().unwrap()),
        };
        let odd = route("10.0.0.1", 24, None);
        assert_eq!(usable(&odd).unwrap().prefix.to_string(), "10.0.0.0");
        let mixed = route("10.0.0.0", 8, Some("fe80::1"));
        assert_eq!(usable(&mixed).unwrap().kind, RouteKind::Unusable);
        let long = route("10.0.0.0", 33, None);
        assert!(matches!(usable(&long), Err(EditError::Invalid(_))));
    }

    #[test]
    fn a_prefix_ends_with_its_last_address() {
        for (addr, length, last) in [
            ("0.0.0.0", 0, "255.255.255.255"),
            ("10.0.0.0", 8, "10.255.255.255"),
            ("10.0.0.1", 32, "10.0.0.1"),
            ("2001:db8::", 127, "2001:db8::1"),
            ("2001:db8::1", 128, "2001:db8::1"),
        ] {
            let prefix = (addr.parse().unwrap(), length);
            assert_eq!(last_of(prefix).to_string(), last);
        }
    }
}
