//! What the director makes of the network: where virtual addresses are, routes, interfaces that come
//! and go.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use tracing::{debug, info, warn};

use super::Director;
use crate::netlink::{Link, NetworkState};
use crate::status::LinkState;

/// Keys of problems.
const REFUSED: &str = "routes";
const ADDRESSES_REFUSED: &str = "routes of virtual addresses";
const LEFT_OUT: &str = "routes left out";

impl Director {
    /// The virtual addresses are at these places now. Gives back whether the data plane knows.
    pub(crate) fn hold_addresses(&mut self, held: BTreeMap<IpAddr, u32>) -> bool {
        self.held = held;
        self.place_addresses()
    }

    /// Takes over a new picture of the network; its routes in turns, see [`Director::follow_routes`].
    ///
    /// A picture taken before a role change may arrive after it, so what this node knows of its
    /// virtual addresses on their interfaces wins. Gives back whether the picture said otherwise:
    /// then somebody has to look.
    pub(crate) fn set_network(&mut self, network: NetworkState) -> bool {
        for name in &self.interfaces {
            report_link(name, self.network.links.get(name), network.links.get(name));
        }
        let differs = differs(&self.managed, &self.held, &network);
        let same_routes = network.routes.is_copy_of(&self.network.routes);
        self.network = network;
        self.attach_to_new_links();
        if self.network.extra_rules > 0 && !self.rules_reported {
            self.rules_reported = true;
            warn!(
                rules = self.network.extra_rules,
                "policy routing rules beside the default ones exist and are ignored"
            );
        }
        if !same_routes || !self.routes_known {
            self.report_left_out();
            self.plane.begin_routes(self.network.routes.clone());
            self.routes_current = false;
            self.routes_refused = false;
        }
        // A refusal is told to whoever needs an address, and tried again.
        self.place_addresses();
        differs
    }

    /// The host's addresses and routes are in force when this returns, or were refused.
    pub(crate) fn follow_all_routes(&mut self) {
        while self.has_routes_to_follow() {
            self.follow_routes();
        }
    }

    /// Whether another turn of [`Director::follow_routes`] is wanted.
    pub(crate) const fn has_routes_to_follow(&self) -> bool {
        !self.routes_current && !self.routes_refused
    }

    /// One turn of putting the host's routes in force: a few milliseconds.
    pub(crate) fn follow_routes(&mut self) {
        match self.plane.follow_routes() {
            Ok(is_done) => {
                if is_done {
                    let routes = self.network.routes.routes().len();
                    debug!(routes, "routes are in force");
                    self.routes_known = true;
                    self.problems.clear(REFUSED);
                }
                self.routes_current = is_done;
            }
            Err(error) => {
                let text = format!("the data plane does not take the host's routes: {error:?}");
                self.problems.set(REFUSED, text, Instant::now());
                self.routes_refused = true;
            }
        }
    }

    /// Tries again what the data plane has refused.
    pub(super) fn retry_routes(&mut self) {
        self.routes_refused = false;
        self.place_addresses();
    }

    fn place_addresses(&mut self) -> bool {
        let places = places(&self.managed, &self.held, &self.network);
        match self.plane.place_addresses(&places) {
            Ok(()) => {
                self.problems.clear(ADDRESSES_REFUSED);
                true
            }
            Err(error) => {
                let text = format!("the data plane does not take the virtual addresses: {error:?}");
                self.problems.set(ADDRESSES_REFUSED, text, Instant::now());
                false
            }
        }
    }

    fn report_left_out(&mut self) {
        let left_out = self.network.routes.left_out();
        if left_out == 0 {
            self.problems.clear(LEFT_OUT);
            return;
        }
        let text = format!(
            "{left_out} routes of this host are not followed: there are more than 65536 of a family"
        );
        self.problems.set(LEFT_OUT, text, Instant::now());
    }

    /// An interface that came back is another device: the director has to be attached anew.
    pub(super) fn attach_to_new_links(&mut self) {
        let attachments = self.plane.attachments();
        let is_new = |name: &&String| {
            let Some(link) = self.network.links.get(*name) else {
                return false;
            };
            !attachments
                .iter()
                .any(|known| known.interface == **name && known.ifindex == link.ifindex)
        };
        let new: Vec<&String> = self.interfaces.iter().filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        match self.plane.reattach() {
            Ok(()) => info!(interfaces = ?new, "attached to interfaces that came back"),
            Err(errors) => {
                let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
                warn!(interfaces = ?new, ?errors, "cannot attach to interfaces, trying again");
            }
        }
    }
}

/// Where the virtual addresses are: where this node holds them, else where the host has them beside
/// their interface: `lo` of a director that is a server too.
fn places(
    managed: &BTreeMap<IpAddr, String>,
    held: &BTreeMap<IpAddr, u32>,
    network: &NetworkState,
) -> BTreeMap<IpAddr, Option<u32>> {
    let place = |(address, interface): (&IpAddr, &String)| {
        let own = network.links.get(interface).map(|link| link.ifindex);
        let held = held.get(address).copied();
        let place = held.or_else(|| network.elsewhere(*address, own));
        (*address, place)
    };
    managed.iter().map(place).collect()
}

/// Whether a picture has a virtual address missing where this node holds it, or on its interface
/// while this node does not.
fn differs(
    managed: &BTreeMap<IpAddr, String>,
    held: &BTreeMap<IpAddr, u32>,
    network: &NetworkState,
) -> bool {
    let differs = |(address, interface): (&IpAddr, &String)| {
        let is_at = |ifindex: u32| network.addresses.contains(&(*address, ifindex));
        match held.get(address) {
            Some(ifindex) => !is_at(*ifindex),
            None => (network.links.get(interface)).is_some_and(|link| is_at(link.ifindex)),
        }
    };
    managed.iter().any(differs)
}

fn report_link(interface: &str, before: Option<&Link>, after: Option<&Link>) {
    match (before, after) {
        (Some(_), None) => {
            warn!(
                interface,
                "interface is gone, its traffic is not handled any more"
            );
        }
        (Some(before), Some(after)) if before.ifindex != after.ifindex => {
            warn!(interface, "interface was replaced by another device");
        }
        (Some(before), Some(after)) if before.state != after.state => match after.state {
            LinkState::Up => info!(interface, "link is up"),
            LinkState::NoCarrier => warn!(interface, "link has no carrier"),
            LinkState::Down | LinkState::Gone => warn!(interface, "link is down"),
        },
        (None, Some(after)) => info!(interface, ifindex = after.ifindex, "interface found"),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const VIPS: [IpAddr; 2] = [
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100)),
    ];
    const LO: u32 = 1;
    const ETH0: u32 = 2;

    /// Held or not, and where the picture has the address: where it is local, and whether somebody
    /// has to look.
    #[test]
    fn a_virtual_address_is_this_nodes_only_on_its_interface() {
        for (is_held, here, local, is_odd) in [
            (false, &[][..], None, false),
            (false, &[LO], Some(LO), false),
            (false, &[ETH0], None, true),
            (false, &[LO, ETH0], Some(LO), true),
            (true, &[], Some(ETH0), true),
            (true, &[LO], Some(ETH0), true),
            (true, &[ETH0], Some(ETH0), false),
            (true, &[LO, ETH0], Some(ETH0), false),
        ] {
            for vip in VIPS {
                let managed = BTreeMap::from([(vip, "eth0".to_owned())]);
                let held = is_held.then_some((vip, ETH0)).into_iter().collect();
                let network = network(vip, here);
                let case = format!("{vip} {is_held} {here:?}");
                assert_eq!(differs(&managed, &held, &network), is_odd, "{case}");
                let places = places(&managed, &held, &network);
                assert_eq!(places, BTreeMap::from([(vip, local)]), "{case}");
            }
        }
    }

    fn network(vip: IpAddr, here: &[u32]) -> NetworkState {
        let link = |ifindex| Link {
            ifindex,
            state: LinkState::Up,
            mac: None,
        };
        NetworkState {
            links: [("lo", LO), ("eth0", ETH0)]
                .map(|(name, ifindex)| (name.to_owned(), link(ifindex)))
                .into(),
            addresses: here.iter().map(|ifindex| (vip, *ifindex)).collect(),
            ..NetworkState::default()
        }
    }
}
