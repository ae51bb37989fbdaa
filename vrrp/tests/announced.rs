//! Every captured announcement of keepalived 2.2.7 against the bytes of this crate.
//!
//! A gratuitous ARP or unsolicited neighbour advertisement has to be of an address that a recorded
//! configuration has, from the hardware address it is announced with there, and is then the same to
//! the byte.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::{IpAddr, Ipv6Addr};

use captures::{Case, bytes, case, names};
use vrrp::Family;
use vrrp::wire::MacAddr;
use vrrp::wire::arp::{Announcement, announcement, gratuitous};
use vrrp::wire::ndp::unsolicited;

mod captures;

const ETHERNET_LEN: usize = 14;
/// The routers, and the hardware addresses of their interfaces.
const ROUTERS: [(&str, MacAddr); 2] = [
    ("a", MacAddr([2, 0, 0, 0, 1, 1])),
    ("b", MacAddr([2, 0, 0, 0, 2, 1])),
];

#[test]
fn announcements_are_the_same_to_the_byte() {
    let (mut announcements, mut answers) = (0, 0);
    for name in names() {
        let case = case(&name);
        for frame in case.frames().iter().filter(|f| f["kind"] == "arp") {
            let whole = bytes(frame["frame_hex"].as_str().unwrap());
            let found = announcement(&whole[ETHERNET_LEN..]);
            if frame["op"] != 1 {
                // The other router's answer, which its kernel gave.
                assert_eq!(found, None, "{name}");
                answers += 1;
                continue;
            }
            let addr = frame["spa"].as_str().unwrap().parse().unwrap();
            let mac = mac(frame["sha"].as_str().unwrap());
            assert_eq!(found, Some(Announcement { addr, mac }), "{name}");
            assert!(is_configured(&case, addr.into(), mac), "{name}: {addr}");
            assert_eq!(gratuitous(addr, mac).as_slice(), whole, "{name}");
            announcements += 1;
        }
    }
    assert_eq!((announcements, answers), (420, 2));
}

#[test]
fn neighbour_advertisements_are_the_same_to_the_byte() {
    let (mut advertisements, mut answers) = (0, 0);
    for name in names() {
        let case = case(&name);
        for frame in case.frames().iter().filter(|f| f["kind"] == "na") {
            if frame["flags_solicited"] == true {
                // An answer of the kernel for an address that is not virtual.
                answers += 1;
                continue;
            }
            let addr: Ipv6Addr = frame["target"].as_str().unwrap().parse().unwrap();
            let mac = mac(frame["tlla"].as_str().unwrap());
            let is_router = frame["flags_router"].as_bool().unwrap();
            let whole = bytes(frame["frame_hex"].as_str().unwrap());
            assert!(is_configured(&case, addr.into(), mac), "{name}: {addr}");
            let ours = unsolicited(addr, mac, is_router);
            assert_eq!(ours.as_slice(), whole, "{name}");
            advertisements += 1;
        }
    }
    assert_eq!((advertisements, answers), (65, 1));
}

/// A virtual address that a router of the case has and is announced with this hardware address, by
/// its configuration.
fn is_configured(case: &Case, address: IpAddr, found: MacAddr) -> bool {
    ROUTERS.iter().any(|(router, own)| {
        case.instances(router).iter().any(|instance| {
            let family = match instance.config.family() {
                Family::V4 => 1,
                Family::V6 => 2,
            };
            let mac = if instance.has_vmac {
                MacAddr([0, 0, 0x5e, 0, family, instance.config.vrid()])
            } else {
                *own
            };
            mac == found && instance.config.addresses().contains(&address)
        })
    })
}

fn mac(text: &str) -> MacAddr {
    let octets: Vec<_> = text
        .split(':')
        .map(|o| u8::from_str_radix(o, 16).unwrap())
        .collect();
    MacAddr(octets.try_into().unwrap())
}
