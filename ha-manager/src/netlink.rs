//! The host's links, addresses and routes of both families, followed through rtnetlink.
//!
//! | file | holds |
//! | --- | --- |
//! | `dump` | asking the kernel for all there is |
//! | `follower` | when that is done, and who is told |
//! | `routes` | routes and rules as the data plane can use them |

mod dump;
mod follower;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use dataplane::{RouteKind, RouteTable};
use vrrp::wire::MacAddr;

use crate::status::LinkState;
pub use follower::{Follower, Following};

/// The host's network at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    pub links: BTreeMap<String, Link>,
    /// As many as the data plane has room for.
    pub routes: RouteTable,
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
    /// Whether the host says that `address` is its own, and on which interface.
    pub fn local(&self, address: IpAddr) -> Option<u32> {
        let whole = if address.is_ipv4() { 32 } else { 128 };
        let route = self.routes.get(address, whole)?;
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
        self.addresses.iter().any(|(address, at)| {
            *at == ifindex && address.is_ipv6() == ipv6 && !except.contains(address)
        })
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_looked_for_on_its_interface_and_elsewhere() {
        let vip = IpAddr::from([10, 0, 0, 100]);
        let six: IpAddr = "2001:db8::100".parse().unwrap();
        let state = NetworkState {
            addresses: [(vip, 2), (vip, 7), (six, 9)].into(),
            ..NetworkState::default()
        };
        assert_eq!(state.elsewhere(vip, Some(2)), Some(7));
        assert_eq!(state.elsewhere(vip, None), Some(2));
        assert_eq!(state.elsewhere(six, Some(9)), None);
        assert!(state.has_address(2, false, &[]) && !state.has_address(2, false, &[vip]));
        assert!(!state.has_address(9, false, &[]) && state.has_address(9, true, &[vip]));
    }
}
