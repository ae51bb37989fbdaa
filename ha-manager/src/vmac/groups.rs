//! IPv6 groups that the interface below is a member of for its macvlan.
//!
//! A macvlan's own reports of membership must not go out: they would move the virtual MAC address to
//! the port of a router that is not the master (`guard` of the data plane). But a switch that snoops
//! gives a group of IPv6 to those ports only from which it was reported (RFC 4541 §3): without a report
//! a backup hears no master, and no client can ask for an address. So the interface below reports them,
//! from its own MAC address, in every role; what then arrives there is the macvlan's as before.
//!
//! Groups of IPv4 that matter here are in 224.0.0.0/24, which every switch forwards (RFC 4541 §2.1.2).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use socket2::{Domain, Socket, Type};
use tokio::task::spawn_blocking;

use crate::config::{VmacConfig, VrrpConfig};

/// A socket that receives nothing, and is a member as long as it is open.
#[derive(Debug)]
pub(super) struct Membership {
    /// Of the interface.
    pub(super) index: u32,
    _socket: Socket,
}

/// Those that adverts are sent to, and that clients ask for the addresses on the macvlan.
pub(super) fn of(vrrp: &VrrpConfig, vmac: &VmacConfig) -> BTreeSet<Ipv6Addr> {
    let here = vrrp.all_vips().filter(|vip| vip.interface == vmac.name);
    let mut groups: BTreeSet<Ipv6Addr> = here
        .filter_map(|vip| match vip.address {
            IpAddr::V6(address) => Some(solicited_node(address)),
            IpAddr::V4(_) => None,
        })
        .collect();
    if let IpAddr::V6(group) = vrrp::Family::V6.group()
        && vrrp.is_ipv6()
        && !vmac.xmit_base
        && vrrp.peers.is_empty()
    {
        groups.insert(group);
    }
    groups
}

/// RFC 4291 §2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// Not in the caller's thread: the kernel's lock of network configuration is waited for.
pub(super) async fn join(groups: BTreeSet<Ipv6Addr>, index: u32) -> io::Result<Membership> {
    let joined = spawn_blocking(move || {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM.cloexec(), None)?;
        for group in &groups {
            socket.join_multicast_v6(group, index)?;
        }
        Ok(Membership {
            index,
            _socket: socket,
        })
    });
    joined
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use vrrp::wire::MacAddr;

    use super::*;
    use crate::config::Vip;

    fn router(vips: &[&str], vmac: &VmacConfig) -> VrrpConfig {
        let vip = |address: &&str| Vip {
            address: address.parse().unwrap(),
            prefix_len: 64,
            interface: vmac.name.clone(),
        };
        VrrpConfig::plain("VI_1", 51, vips.iter().map(vip).collect())
    }

    #[test]
    fn groups_are_those_of_the_adverts_and_of_each_address_on_the_macvlan() {
        let mut vmac = VmacConfig {
            name: "vrrp6.51".to_owned(),
            mac: MacAddr([0, 0, 0x5e, 0, 2, 51]),
            xmit_base: false,
        };
        let group = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let both = ["fe80::100", "2001:db8::12:100"];
        let mut router = router(&both, &vmac);
        let nodes = [group("ff02::1:ff00:100"), group("ff02::1:ff12:100")];
        let all = BTreeSet::from([group("ff02::12"), nodes[0], nodes[1]]);
        assert_eq!(of(&router, &vmac), all);
        // Another interface has the other address.
        router.vips[1].interface = "eth1".to_owned();
        assert_eq!(
            of(&router, &vmac),
            BTreeSet::from([group("ff02::12"), nodes[0]])
        );
        // Adverts go out below.
        vmac.xmit_base = true;
        assert_eq!(of(&router, &vmac), BTreeSet::from([nodes[0]]));
    }

    #[test]
    fn a_router_of_ipv4_needs_no_group() {
        let vmac = VmacConfig {
            name: "vrrp.51".to_owned(),
            mac: MacAddr([0, 0, 0x5e, 0, 1, 51]),
            xmit_base: false,
        };
        assert_eq!(of(&router(&["192.0.2.100"], &vmac), &vmac), BTreeSet::new());
    }
}
