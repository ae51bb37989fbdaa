//! Interfaces with the MAC address of a virtual router, which lie on another: the director takes what
//! comes there, and the guard keeps in what would say to switches where the address is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod lab;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use dataplane::common::verdict::Event;
use dataplane::{AttachMode, DataPlane, Options};
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use lab::director::*;
use lab::packets::*;
use lab::sides::{Side, Sides, routes, routes6};
use lab::{has_tcx, ifindex, ip};

const VMAC: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NAME: &str = "vrrp.51";
const CLIENT: &str = "10.100.0.5:40000";
const VIP: &str = "10.50.0.1:80";
const SERVER: &str = "10.200.0.11:8080";
const LIMIT: Duration = Duration::from_secs(20);

/// Nothing is up yet, so that the first frame it sends meets the guard.
fn make() {
    ip(&format!(
        "link add {NAME} link client0 address 00:00:5e:00:01:33 type macvlan mode private"
    ));
}

fn options(sides: &Sides, mode: AttachMode) -> Options {
    let mut options = sides.options(mode);
    options.interfaces.push(NAME.to_owned());
    options.guarded.push(NAME.to_owned());
    options
}

fn open(sides: &Sides, mode: AttachMode) -> DataPlane {
    let mut plane = DataPlane::open(&options(sides, mode)).unwrap();
    let mut known = routes();
    known.extend(routes6());
    plane.set_routes(&known).unwrap();
    plane
}

fn held_back(plane: &DataPlane) -> u64 {
    let counters = plane.counters();
    let name = Event::HeldBack.name();
    counters.iter().find(|(known, _)| *known == name).unwrap().1
}

/// A frame from the virtual MAC address, through a packet socket.
fn send(ethertype: u16, packet: &[u8]) {
    let mut bytes = [0xff; 6].to_vec();
    bytes.extend_from_slice(&VMAC);
    bytes.extend_from_slice(&ethertype.to_be_bytes());
    bytes.extend_from_slice(packet);
    // SAFETY: plain system calls; the address and the bytes live during the call.
    unsafe {
        let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
        let mut to: libc::sockaddr_ll = std::mem::zeroed();
        to.sll_family = libc::AF_PACKET as u16;
        to.sll_ifindex = ifindex(NAME) as i32;
        let sent = libc::sendto(
            socket,
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        );
        // A frame that is held back is an error of its sender's (ENOBUFS).
        let refused = std::io::Error::last_os_error();
        assert!(
            sent == bytes.len() as isize || refused.raw_os_error() == Some(libc::ENOBUFS),
            "{refused}"
        );
        libc::close(socket);
    }
}

/// An ICMPv6 message of this kind about an address, from another.
fn neighbour(kind: u8, from: &str, about: &str, hop_by_hop: bool) -> Vec<u8> {
    let mut packet = icmpv6(from, "ff02::1", kind, false);
    let about: std::net::Ipv6Addr = about.parse().unwrap();
    packet[48..64].copy_from_slice(&about.octets());
    if hop_by_hop {
        packet.splice(40..40, [58, 0, 5, 2, 0, 0, 1, 0]);
        packet[5] += 8;
        packet[6] = 0;
    }
    packet
}

fn ipv4_of(protocol: u8) -> Vec<u8> {
    let mut packet = udp("10.1.0.1:1", "224.0.0.18:1").bytes();
    packet[9] = protocol;
    packet
}

fn under_both(body: fn(AttachMode)) {
    for mode in [AttachMode::Tcx, AttachMode::Clsact] {
        if mode == AttachMode::Tcx && !has_tcx("attaching") {
            continue;
        }
        let run = std::thread::spawn(move || body(mode));
        assert!(run.join().is_ok(), "under {mode:?}");
    }
}

#[test]
fn what_says_where_the_address_is_stays_in_and_the_rest_goes_out() {
    under_both(|mode| {
        let mut sides = Sides::dual();
        make();
        let mut plane = open(&sides, mode);
        let vip: IpAddr = "fe80::100".parse().unwrap();
        plane.set_router_addresses(&[vip]).unwrap();
        ip(&format!("link set {NAME} up"));
        for (what, stays, ethertype, packet) in [
            ("IGMP", true, ETH_IPV4, ipv4_of(2)),
            ("an advert", false, ETH_IPV4, ipv4_of(112)),
            ("UDP", false, ETH_IPV4, ipv4_of(17)),
            ("gratuitous ARP", false, 0x0806, arp(1, "10.50.0.1")),
            (
                "MLD 1",
                true,
                ETH_IPV6,
                neighbour(131, "fe80::1", "ff02::12", true),
            ),
            (
                "MLD 2",
                true,
                ETH_IPV6,
                neighbour(143, "fe80::1", "::", true),
            ),
            (
                "a router solicitation",
                true,
                ETH_IPV6,
                neighbour(133, "fe80::1", "::", false),
            ),
            (
                "detection",
                true,
                ETH_IPV6,
                neighbour(135, "::", "fe80::1", false),
            ),
            (
                "a question",
                false,
                ETH_IPV6,
                neighbour(135, "fe80::1", "fe80::9", false),
            ),
            (
                "its own address",
                true,
                ETH_IPV6,
                neighbour(136, "fe80::1", "fe80::1", false),
            ),
            (
                "the same behind options",
                true,
                ETH_IPV6,
                neighbour(136, "fe80::1", "fe80::1", true),
            ),
            (
                "a virtual address",
                false,
                ETH_IPV6,
                neighbour(136, "fe80::100", "fe80::100", false),
            ),
            (
                "an echo request",
                false,
                ETH_IPV6,
                neighbour(128, "fe80::1", "::", false),
            ),
            ("an IPv6 advert", false, ETH_IPV6, {
                let mut packet = neighbour(49, "fe80::1", "::", false);
                packet[6] = 112;
                packet
            }),
        ] {
            let before = held_back(&plane);
            send(ethertype, &packet);
            let out = sides.drain_frames();
            let went = out
                .iter()
                .any(|(_, frame)| frame[6..12] == VMAC && frame[14..] == packet);
            assert_eq!(went, !stays, "{what}: {out:02x?}");
            assert!(!stays || held_back(&plane) > before, "{what}");
        }
    });
}

#[test]
fn the_hosts_own_membership_reports_stay_in() {
    under_both(|mode| {
        let mut sides = Sides::dual();
        make();
        let plane = open(&sides, mode);
        ip(&format!("link set {NAME} up"));
        for group in ["224.0.0.18/32", "ff02::12/128"] {
            let before = held_back(&plane);
            ip(&format!("addr add {group} dev {NAME} autojoin"));
            let deadline = Instant::now() + LIMIT;
            while held_back(&plane) == before {
                assert!(Instant::now() < deadline, "no report about {group}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let out = sides.drain_frames();
        let ours = out.iter().find(|(_, frame)| frame[6..12] == VMAC);
        assert_eq!(ours, None);
    });
}

fn to_vmac(packet: &[u8]) -> Vec<u8> {
    ip_frame(VMAC, packet)
}

/// What comes to the virtual address is sent on, and so are replies, whatever the stack forwards.
fn is_directed(sides: &mut Sides, port: u16) {
    let client = format!("10.100.0.5:{port}");
    let request = tcp(&client, VIP, SYN);
    let sent = Ip {
        dst: endpoint(SERVER),
        ttl: 63,
        ..request.clone()
    };
    let out = sides.exchange_frame(Side::Client, &to_vmac(&request.bytes()));
    assert_eq!(out, [(Side::Server, sent.bytes())]);
    let reply = tcp(SERVER, &client, SYN | ACK);
    let sent = Ip {
        src: endpoint(VIP),
        ttl: 63,
        ..reply.clone()
    };
    let out = sides.exchange(Side::Server, &reply.bytes());
    assert_eq!(out, [(Side::Client, sent.bytes())]);
}

#[test]
fn what_comes_to_the_virtual_address_is_directed_and_answered() {
    under_both(|mode| {
        let mut sides = Sides::dual();
        make();
        let mut plane = open(&sides, mode);
        ip(&format!("link set {NAME} up"));
        lab::sysctl("net.ipv4.ip_forward", "0");
        let nat = service(Protocol::Tcp, VIP);
        add_service(&mut plane, nat, Scheduler::Rr);
        add_server(&mut plane, nat, SERVER, NAT, 1);
        is_directed(&mut sides, 40_000);
        let direct = service(Protocol::Tcp, "10.50.0.2:80");
        add_service(&mut plane, direct, Scheduler::Rr);
        add_server(&mut plane, direct, "10.200.0.11:80", DR, 1);
        let request = tcp(CLIENT, "10.50.0.2:80", SYN);
        let sent = Ip {
            ttl: 63,
            ..request.clone()
        };
        let out = sides.exchange_frame(Side::Client, &to_vmac(&request.bytes()));
        assert_eq!(out, [(Side::Server, sent.bytes())]);
        // The address of the interface below is no other one.
        let out = sides.exchange_frame(Side::Client, &ip_frame(OWN, &request.bytes()));
        assert_eq!(out.len(), 1);

        // Made again, it is another device.
        ip(&format!("link del {NAME}"));
        plane.reattach().unwrap();
        make();
        ip(&format!("link set {NAME} up"));
        let out = sides.exchange_frame(Side::Client, &to_vmac(&request.bytes()));
        // Nobody is attached to it: the stack has no such port.
        assert_eq!((out.len(), out[0].1[33]), (1, RST | ACK));
        plane.reattach().unwrap();
        is_directed(&mut sides, 40_001);
        let before = held_back(&plane);
        send(ETH_IPV4, &ipv4_of(2));
        // The host has reports of its own to make.
        assert!(held_back(&plane) > before);
        let out = sides.drain_frames();
        assert!(
            out.iter().all(|(_, frame)| frame[6..12] != VMAC),
            "{out:02x?}"
        );

        // The next daemon takes over, and the last one leaves nothing.
        drop(plane);
        let plane = open(&sides, mode);
        assert!(plane.was_adopted());
        is_directed(&mut sides, 40_002);
        drop(plane);
        let report = DataPlane::detach(&options(&sides, mode).pin_dir).unwrap();
        let guards = report.removed.iter().filter(|pin| pin.starts_with("guard"));
        assert_eq!(guards.count(), 1, "{report:?}");
        for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
            let left = SchedClassifier::query_tcx(NAME, direction);
            assert_eq!(left.map_or(0, |(_, programs)| programs.len()), 0);
        }
    });
}
