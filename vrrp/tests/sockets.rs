//! The sockets on a veth pair in a namespace of the test's own thread: packets are put into one
//! end and arrive at the other.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::IpAddr;
use std::process::Command;

use link::{Wire, addr, ip, is_readable, link, mac, mend_v4, own_namespace, v4, v6, v6_packet};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use vrrp::net::packet::{Announcement, Announcer, Sent};
use vrrp::net::socket::{AdvertSocket, BUFFER_LEN, Place, Queue};
use vrrp::wire::{MacAddr, Refusal, arp, ndp};
use vrrp::{AdvertCodec, Authentication, Config, Parameters, Peer, Priority};

mod link;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const NEAR: Place<'static> = Place {
    interface: "near0",
    send_on: None,
    source: None,
    neighbours: &[],
};

/// One kind of virtual router, and the addresses of its two routers.
struct Kind {
    name: &'static str,
    parameters: Parameters,
    own: &'static str,
    peer: &'static str,
}

impl Kind {
    fn config(&self) -> Config {
        Config::new(self.parameters.clone()).unwrap()
    }

    /// The peer's advertisement, from its IP header on.
    fn advert(&self, vrid: u8) -> Vec<u8> {
        let mut parameters = self.parameters.clone();
        parameters.vrid = vrid;
        for peer in &mut parameters.peers {
            peer.address = addr(self.own);
        }
        let mut codec = AdvertCodec::new(&Config::new(parameters).unwrap());
        let outgoing = codec.encode(Priority(150), addr(self.peer)).remove(0);
        match (addr(self.peer), outgoing.destination) {
            (IpAddr::V6(from), IpAddr::V6(to)) => v6_packet(from, to, 255, &outgoing.bytes),
            _ => outgoing.bytes,
        }
    }
}

/// Of both versions and families, to the group and to a peer, with every authentication.
fn kinds() -> Vec<Kind> {
    let password = Authentication::password("secret12");
    let of_v4 = || Parameters {
        vrid: 51,
        addresses: vec![addr("10.78.0.100")],
        ..Parameters::default()
    };
    let of_v6 = || Parameters {
        vrid: 51,
        addresses: vec![addr("fe80::100"), addr("fd00:78::100")],
        ..Parameters::default()
    };
    let kind = |name, parameters: Parameters| {
        let is_v4 = parameters.addresses[0].is_ipv4();
        let (own, peer) = match (is_v4, parameters.peers.is_empty()) {
            (true, _) => ("10.78.0.1", "10.78.0.2"),
            (false, true) => ("fe80::1", "fe80::2"),
            (false, false) => ("fd00:78::1", "fd00:78::2"),
        };
        Kind {
            name,
            parameters,
            own,
            peer,
        }
    };
    let v2 = |authentication| Parameters {
        version: 2,
        authentication,
        ..of_v4()
    };
    let peers = |address| vec![Peer::new(addr(address))];
    vec![
        kind("v3 v4", of_v4()),
        kind(
            "v3 v4 unicast",
            Parameters {
                peers: peers("10.78.0.2"),
                ..of_v4()
            },
        ),
        kind("v3 v6", of_v6()),
        kind(
            "v3 v6 unicast",
            Parameters {
                peers: peers("fd00:78::2"),
                ..of_v6()
            },
        ),
        kind("v2", v2(Authentication::None)),
        kind("v2 pass", v2(Authentication::Simple(password))),
        kind("v2 ah", v2(Authentication::Header(password))),
        kind(
            "v2 ah unicast",
            Parameters {
                peers: peers("10.78.0.2"),
                ..v2(Authentication::Header(password))
            },
        ),
        kind(
            "v2 v6",
            Parameters {
                version: 2,
                ..of_v6()
            },
        ),
    ]
}

#[test]
fn announcements_leave_as_they_are_written() {
    own_namespace();
    let mut announcer = Announcer::open().unwrap();
    // Made after the announcer was.
    link();
    let (far, vip, vip_v6) = (Wire::new(), v4("10.78.0.100"), v6("fd00:78::100"));
    let ifindex = if_nametoindex("near0").unwrap();
    let of_v4 = announcement(ifindex, "10.78.0.100");
    let of_v6 = announcement(ifindex, "fd00:78::100");
    let of_a_router = Announcement {
        is_router: true,
        ..of_v6
    };
    let all = Sent {
        taken: 4,
        refused: Vec::new(),
    };
    assert_eq!(announcer.announce(&[of_v4, of_v6, of_v4, of_a_router]), all);
    far.receive(|frame| frame == arp::gratuitous(vip, MAC));
    far.receive(|frame| frame == ndp::unsolicited(vip_v6, MAC, false));
    far.receive(|frame| frame == arp::gratuitous(vip, MAC));
    far.receive(|frame| frame == ndp::unsolicited(vip_v6, MAC, true));
    assert_eq!(announcer.announce(&[]), Sent::default());
}

#[test]
fn an_interface_that_is_gone_or_down_holds_up_no_other() {
    own_namespace();
    link();
    ip("link add down0 type veth peer name down1");
    let (far, mut announcer) = (Wire::new(), Announcer::open().unwrap());
    let [near, down] = ["near0", "down0"].map(|name| if_nametoindex(name).unwrap());
    let at = |ifindex, last| announcement(ifindex, &format!("10.78.0.{last}"));
    let batch = [
        at(down, 100),
        at(near, 101),
        at(near + 100, 102),
        at(near, 103),
        at(down, 104),
    ];
    let refused = [
        (2, Errno::ENODEV),
        (0, Errno::ENETDOWN),
        (4, Errno::ENETDOWN),
    ];
    assert_eq!(
        announcer.announce(&batch),
        Sent {
            taken: 5,
            refused: refused.to_vec(),
        }
    );
    for address in ["10.78.0.101", "10.78.0.103"] {
        far.receive(|frame| frame == arp::gratuitous(v4(address), MAC));
    }
}

/// Neither the queue of a device nor the socket's share of memory is ever waited for, and what found
/// no room can be sent later.
#[test]
fn a_full_queue_takes_what_it_can_and_refuses_nothing() {
    own_namespace();
    link();
    let (far, mut announcer) = (Wire::new(), Announcer::open().unwrap());
    let near = if_nametoindex("near0").unwrap();
    let batch: Vec<Announcement> = (1..=255)
        .map(|last| announcement(near, &format!("10.78.0.{last}")))
        .collect();
    // A device that takes next to nothing; the second has room for more than a socket may have.
    for limit in ["600", "100000000"] {
        tc(&format!(
            "qdisc replace dev near0 root tbf rate 8bit burst 100 limit {limit}"
        ));
        let full = (0..200).map(|_| announcer.announce(&batch));
        let full = full.into_iter().find(|sent| sent.taken < batch.len());
        let full = full.unwrap_or_else(|| panic!("a queue of {limit} bytes has no end"));
        assert_eq!(full.refused, [], "{limit}");
        tc("qdisc del dev near0 root");
        let rest = &batch[full.taken..];
        let taken = rest.len();
        let refused = Vec::new();
        assert_eq!(announcer.announce(rest), Sent { taken, refused });
        for last in full.taken + 1..=255 {
            let address = v4(&format!("10.78.0.{last}"));
            far.receive(|frame| frame == arp::gratuitous(address, MAC));
        }
    }
}

fn announcement(ifindex: u32, address: &str) -> Announcement {
    Announcement {
        ifindex,
        mac: MAC,
        address: addr(address),
        is_router: false,
    }
}

fn tc(words: &str) {
    let status = Command::new("tc").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "tc {words}");
}

#[test]
fn every_kind_of_router_hears_its_adverts_in_the_election_queue_and_others_apart() {
    own_namespace();
    link();
    let far = Wire::new();
    for kind in kinds() {
        let name = kind.name;
        let config = kind.config();
        let place = Place {
            neighbours: &[53, 54],
            ..NEAR
        };
        let socket = AdvertSocket::open(&place, &config).unwrap();
        assert_eq!(socket.source(), addr(kind.own), "{name}");
        assert!(socket.is_current(&place, &config).unwrap(), "{name}");
        let mut codec = AdvertCodec::new(&config);
        // A neighbour's is nobody's business here, and no other queue's either.
        for (vrid, queue, wanted) in [
            (51, Queue::Election, Ok(Priority(150))),
            (53, Queue::Other, Err(Refusal::UnknownVrid)),
            (52, Queue::Other, Err(Refusal::UnknownVrid)),
            (54, Queue::Other, Err(Refusal::UnknownVrid)),
            (51, Queue::Election, Ok(Priority(150))),
        ] {
            far.send(&kind.advert(vrid));
            if vrid > 52 {
                continue;
            }
            assert!(is_readable(socket.fd(queue)), "{name} {vrid}");
            let mut buffer = [0; BUFFER_LEN];
            let received = socket.receive(queue, &mut buffer).unwrap().unwrap();
            if wanted.is_ok() {
                // Its sequence number begins anew, as it does not for a router that goes on.
                codec = AdvertCodec::new(&config);
            }
            let judged = codec.decode(&received.datagram(&buffer), socket.source(), true);
            let judged = judged.map(|accepted| {
                assert_eq!(accepted.heard.source, addr(kind.peer), "{name}");
                accepted.heard.priority
            });
            assert_eq!(judged, wanted, "{name} {vrid}");
            for queue in [Queue::Election, Queue::Other] {
                assert_eq!(socket.receive(queue, &mut buffer).unwrap(), None, "{name}");
            }
        }
    }
}

#[test]
fn adverts_of_every_kind_leave_with_the_right_headers() {
    own_namespace();
    link();
    ip("neigh add 10.78.0.2 lladdr 02:00:00:00:00:02 dev near0");
    ip("neigh add fd00:78::2 lladdr 02:00:00:00:00:02 dev near0");
    let far = Wire::new();
    for kind in kinds() {
        let name = kind.name;
        let mut config = kind.config();
        if config.is_unicast() {
            let unicast_ttl = 64;
            let parameters = Parameters {
                unicast_ttl,
                ..kind.parameters
            };
            config = Config::new(parameters).unwrap();
        }
        let socket = AdvertSocket::open(&NEAR, &config).unwrap();
        let mut codec = AdvertCodec::new(&config);
        for outgoing in codec.encode(Priority(100), socket.source()) {
            socket.send(&outgoing).unwrap();
            let sent = outgoing.bytes;
            let frame = far.receive(|frame| frame.ends_with(&sent[20..]));
            let (ethernet, packet) = frame.split_at(14);
            assert_eq!(ethernet[6..12], mac("near0"), "{name}");
            let ttl = if config.is_unicast() { 64 } else { 255 };
            let to: &[u8] = match (config.is_unicast(), packet[0] >> 4) {
                (true, _) => &[2, 0, 0, 0, 0, 2],
                (false, 4) => &[1, 0, 0x5e, 0, 0, 0x12],
                (false, _) => &[0x33, 0x33, 0, 0, 0, 0x12],
            };
            assert_eq!(&ethernet[..6], to, "{name}");
            match (socket.source(), outgoing.destination) {
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    let mut wanted = v6_packet(from, to, ttl, &sent);
                    // The flow label is the kernel's.
                    wanted[1..4].copy_from_slice(&packet[1..4]);
                    assert_eq!(packet, wanted, "{name}");
                }
                _ => {
                    assert_eq!(packet, sent, "{name}");
                    assert_eq!(packet[8], ttl, "{name}");
                }
            }
        }
    }
}

#[test]
fn over_ipv4_what_does_not_look_right_is_in_the_other_queue() {
    own_namespace();
    link();
    let kind = kinds().remove(0);
    let config = kind.config();
    let socket = AdvertSocket::open(&NEAR, &config).unwrap();
    let far = Wire::new();
    let advert = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = kind.advert(51);
        change(&mut packet);
        mend_v4(&mut packet);
        packet
    };
    let (election, other) = (Queue::Election, Queue::Other);
    let own = v4(kind.own).octets();
    for (queue, verdict, packet) in [
        (election, Ok(()), advert(&|_| {})),
        (election, Err(Refusal::Checksum), advert(&|p| p[27] ^= 1)),
        (election, Err(Refusal::Length), advert(&|p| p.push(0))),
        (other, Err(Refusal::Ttl), advert(&|p| p[8] = 254)),
        (other, Err(Refusal::Type), advert(&|p| p[20] = 0x32)),
        (other, Err(Refusal::Short), advert(&|p| p.truncate(27))),
        (other, Err(Refusal::Short), advert(&|p| p.truncate(20))),
        (
            other,
            // Its checksum is one of those that fit whatever the destination.
            Err(Refusal::Destination),
            advert(&|p| p[16..20].copy_from_slice(&own)),
        ),
        // Options are nothing wrong.
        (
            other,
            Ok(()),
            advert(&|p| {
                p[0] = 0x46;
                p.splice(20..20, [1, 1, 1, 0]);
            }),
        ),
    ] {
        far.send(&packet);
        judged(&socket, &config, queue, verdict);
    }
}

#[test]
fn over_ipv6_what_does_not_look_right_is_in_the_other_queue() {
    own_namespace();
    link();
    let kind = kinds().remove(2);
    let config = kind.config();
    let socket = AdvertSocket::open(&NEAR, &config).unwrap();
    let far = Wire::new();
    let good = kind.advert(51);
    let message = &good[40..];
    let (peer, group, own) = (v6(kind.peer), v6("ff02::12"), v6(kind.own));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut message = message.to_vec();
        change(&mut message);
        v6_packet(peer, group, 255, &message)
    };
    let (election, other) = (Queue::Election, Queue::Other);
    for (queue, verdict, packet) in [
        (election, Ok(()), good.clone()),
        (election, Err(Refusal::Checksum), changed(&|m| m[7] ^= 1)),
        (election, Err(Refusal::Length), changed(&|m| m.push(0))),
        (other, Err(Refusal::UnknownVrid), changed(&|m| m[1] = 52)),
        (other, Err(Refusal::Type), changed(&|m| m[0] = 0x32)),
        (other, Err(Refusal::Short), changed(&|m| m.truncate(7))),
        (
            other,
            Err(Refusal::Ttl),
            v6_packet(peer, group, 254, message),
        ),
        (
            other,
            Err(Refusal::Cast),
            v6_packet(peer, own, 255, message),
        ),
    ] {
        far.send(&packet);
        judged(&socket, &config, queue, verdict);
    }
}

/// What arrives is in the wanted queue, nothing in the other one, and is judged as wanted.
#[track_caller]
fn judged(socket: &AdvertSocket, config: &Config, queue: Queue, wanted: Result<(), Refusal>) {
    assert!(is_readable(socket.fd(queue)), "{wanted:?}");
    let mut buffer = [0; BUFFER_LEN];
    let received = socket.receive(queue, &mut buffer).unwrap().unwrap();
    assert_eq!(received.lost, 0);
    let mut codec = AdvertCodec::new(config);
    let judged = codec.decode(&received.datagram(&buffer), socket.source(), true);
    assert_eq!(judged.map(drop), wanted);
    for queue in [Queue::Election, Queue::Other] {
        assert_eq!(socket.receive(queue, &mut buffer).unwrap(), None);
    }
}

#[test]
fn what_is_longer_than_the_buffer_is_known_by_its_length() {
    own_namespace();
    link();
    let kind = kinds().remove(0);
    let socket = AdvertSocket::open(&NEAR, &kind.config()).unwrap();
    let mut packet = kind.advert(51);
    packet.resize(1400, 0);
    mend_v4(&mut packet);
    Wire::new().send(&packet);
    assert!(is_readable(socket.fd(Queue::Election)));
    let mut buffer = [0; 100];
    let received = socket.receive(Queue::Election, &mut buffer);
    let received = received.unwrap().unwrap();
    assert_eq!(received.len, 1400);
    let mut codec = AdvertCodec::new(&kind.config());
    let judged = codec.decode(&received.datagram(&buffer), socket.source(), true);
    assert_eq!(judged, Err(Refusal::Truncated));
}

#[test]
fn a_full_queue_of_others_takes_nothing_from_the_election_and_is_counted() {
    own_namespace();
    link();
    let kind = kinds().remove(0);
    let socket = AdvertSocket::open(&NEAR, &kind.config()).unwrap();
    let far = Wire::new();
    let other = kind.advert(52);
    for _ in 0..5000 {
        far.send(&other);
    }
    far.send(&kind.advert(51));
    assert!(is_readable(socket.fd(Queue::Election)));
    let mut buffer = [0; BUFFER_LEN];
    let received = socket
        .receive(Queue::Election, &mut buffer)
        .unwrap()
        .unwrap();
    assert_eq!(received.lost, 0);
    let mut queued = 0;
    while socket.receive(Queue::Other, &mut buffer).unwrap().is_some() {
        queued += 1;
    }
    assert!(queued > 0);
    far.send(&other);
    assert!(is_readable(socket.fd(Queue::Other)));
    let received = socket.receive(Queue::Other, &mut buffer).unwrap().unwrap();
    // A kernel that looks at the queue before the filter counts the advertisement as well.
    assert!((5000..=5001).contains(&(queued + received.lost)));
}

#[test]
fn what_a_router_sends_itself_does_not_come_back() {
    own_namespace();
    link();
    for kind in [kinds().remove(0), kinds().remove(2)] {
        let config = kind.config();
        let socket = AdvertSocket::open(&NEAR, &config).unwrap();
        let own = AdvertCodec::new(&config).encode(Priority(100), socket.source());
        socket.send(&own[0]).unwrap();
        // The peer's, sent later, is the first to arrive.
        Wire::new().send(&kind.advert(51));
        judged(&socket, &config, Queue::Election, Ok(()));
    }
}

#[test]
fn adverts_leave_and_arrive_through_a_macvlan_with_the_virtual_mac() {
    own_namespace();
    link();
    let virtual_mac = [0, 0, 0x5e, 0, 1, 51];
    ip("link add vrrp.51 link near0 address 00:00:5e:00:01:33 type macvlan mode private");
    ip("link set vrrp.51 addrgenmode none");
    ip("link set vrrp.51 up");
    ip("addr add fe80::1/64 dev vrrp.51 nodad");
    for name in ["accept_local", "rp_filter"] {
        let value = if name == "accept_local" { "1" } else { "0" };
        let path = format!("/proc/sys/net/ipv4/conf/vrrp.51/{name}");
        std::fs::write(path, value).unwrap();
    }
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    let far = Wire::new();
    let place = Place {
        send_on: Some("vrrp.51"),
        ..NEAR
    };
    for kind in [kinds().remove(0), kinds().remove(2)] {
        let config = kind.config();
        let socket = AdvertSocket::open(&place, &config).unwrap();
        assert_eq!(socket.source(), addr(kind.own), "{}", kind.name);
        let own = AdvertCodec::new(&config).encode(Priority(100), socket.source());
        socket.send(&own[0]).unwrap();
        let frame = far.receive(|frame| frame.ends_with(&own[0].bytes[20..]));
        assert_eq!(frame[6..12], virtual_mac, "{}", kind.name);
        // The other router uses the same MAC, or its own.
        far.send_from(virtual_mac, &kind.advert(51));
        judged(&socket, &config, Queue::Election, Ok(()));
        far.send(&kind.advert(51));
        judged(&socket, &config, Queue::Election, Ok(()));
        assert!(socket.is_current(&place, &config).unwrap());
    }
    ip("link del vrrp.51");
    let error = AdvertSocket::open(&place, &kinds().remove(0).config()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENODEV));
}

#[test]
fn an_interface_that_is_not_usable_is_refused_by_its_error() {
    own_namespace();
    let config = kinds().remove(0).config();
    let error = |interface| {
        let place = Place { interface, ..NEAR };
        AdvertSocket::open(&place, &config)
            .unwrap_err()
            .raw_os_error()
    };
    assert_eq!(error("near0"), Some(nix::libc::ENODEV));
    link();
    let socket = AdvertSocket::open(&NEAR, &config).unwrap();
    assert_eq!(error("far0"), Some(nix::libc::EADDRNOTAVAIL));
    ip("addr add 10.78.0.9/24 dev near0");
    assert!(socket.is_current(&NEAR, &config).unwrap());
    ip("addr del 10.78.0.1/24 dev near0");
    assert!(!socket.is_current(&NEAR, &config).unwrap_or(false));
    ip("link set near0 down");
    assert_eq!(error("near0"), Some(nix::libc::ENETUNREACH));
    ip("link del near0");
    let gone = socket.is_current(&NEAR, &config).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(nix::libc::ENODEV));
    let own = AdvertCodec::new(&config).encode(Priority(100), addr("10.78.0.1"));
    assert!(socket.send(&own[0]).is_err());
}

#[test]
fn a_source_address_is_used_as_given_and_missed_when_it_goes() {
    own_namespace();
    link();
    // As directors of services that bind early have it.
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/ip_nonlocal_bind");
        std::fs::write(path, "1").unwrap();
    }
    for kind in kinds() {
        let config = kind.config();
        let given = match config.family() {
            vrrp::Family::V4 => "10.78.0.7",
            vrrp::Family::V6 => "fd00:78::7",
        };
        let place = Place {
            source: Some(addr(given)),
            ..NEAR
        };
        let missing = AdvertSocket::open(&place, &config).unwrap_err();
        let not_there = Some(nix::libc::EADDRNOTAVAIL);
        assert_eq!(missing.raw_os_error(), not_there, "{}", kind.name);
        let word = if given.contains(':') { " nodad" } else { "" };
        let len = if given.contains(':') { 64 } else { 24 };
        ip(&format!("addr add {given}/{len} dev near0{word}"));
        let socket = AdvertSocket::open(&place, &config).expect(kind.name);
        assert_eq!(socket.source(), addr(given));
        assert!(socket.is_current(&place, &config).unwrap());
        ip(&format!("addr del {given}/{len} dev near0"));
        let gone = socket.is_current(&place, &config).unwrap_err();
        assert_eq!(gone.raw_os_error(), not_there, "{}", kind.name);
    }
}

/// The kernel takes the address added last for the first of its kind.
#[test]
fn a_link_local_source_is_none_of_the_virtual_ones() {
    own_namespace();
    link();
    let kind = kinds().remove(2);
    let config = kind.config();
    let before = AdvertSocket::open(&NEAR, &config).unwrap();
    ip("addr add fe80::100/128 dev near0 nodad");
    assert!(before.is_current(&NEAR, &config).unwrap());
    let socket = AdvertSocket::open(&NEAR, &config).unwrap();
    assert_eq!(socket.source(), addr("fe80::1"));
    ip("addr del fe80::1/64 dev near0");
    let gone = socket.is_current(&NEAR, &config).unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(nix::libc::EADDRNOTAVAIL));
    // All that is left: the caller refuses to begin with it.
    let socket = AdvertSocket::open(&NEAR, &config).unwrap();
    assert_eq!(socket.source(), addr("fe80::100"));
    ip("addr del fe80::100/128 dev near0");
    let none = AdvertSocket::open(&NEAR, &config).unwrap_err();
    assert_eq!(none.raw_os_error(), Some(nix::libc::EADDRNOTAVAIL));
}
