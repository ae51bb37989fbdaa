//! The sockets on a veth pair in a namespace of the test's own thread: packets are put into one
//! end and arrive at the other.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv, sendto};
use socket2::{Domain, Protocol, Socket, Type};
use vrrp::net::packet::Announcer;
use vrrp::net::socket::{AdvertSocket, BUFFER_LEN, Queue};
use vrrp::wire::v3::{Advert, Expected, Identification, receive};
use vrrp::wire::{MacAddr, Refusal, arp, ndp};
use vrrp::{Interval, Priority};

const VIP: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 100);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// Where adverts go on Ethernet, and from the far end (RFC 1112).
const ETHERNET: [u8; 14] = [1, 0, 0x5e, 0, 0, 0x12, 2, 0, 0, 0, 0, 2, 8, 0];
/// ETH_P_ARP in network order, as a packet socket wants it.
const ARP_FRAMES: i32 = 0x0806_u16.to_be() as i32;
/// ETH_P_IPV6 likewise.
const IPV6_FRAMES: i32 = 0x86dd_u16.to_be() as i32;
const EXPECTED: Expected<'_> = Expected {
    vrid: 51,
    addresses: &[VIP],
    running: true,
};
/// Unit: milliseconds. Nothing here takes longer, on however slow a machine.
const LIMIT: u16 = 30_000;
/// Looks for a carrier, each a process or two.
const LOOKS: u32 = 5000;

#[test]
fn announcements_leave_as_they_are_written() {
    own_namespace();
    let mut announcer = Announcer::open().unwrap();
    // Made after the announcer was.
    link();
    let far = packet_socket("far0", ARP_FRAMES);
    let near = if_nametoindex("near0").unwrap();
    for _ in 0..3 {
        announcer.announce(near, MAC, VIP).unwrap();
        assert!(is_readable(far.as_fd()));
        let mut frame = [0; 100];
        let len = recv(far.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
        assert_eq!(frame[..len], arp::gratuitous(VIP, MAC));
    }
    let error = announcer.announce(near + 100, MAC, VIP).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENODEV));
    ip("link set near0 down");
    let error = announcer.announce(near, MAC, VIP).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENETDOWN));
}

#[test]
fn neighbour_advertisements_leave_as_they_are_written() {
    own_namespace();
    let mut announcer = Announcer::open().unwrap();
    link();
    let far = packet_socket("far0", IPV6_FRAMES);
    let near = if_nametoindex("near0").unwrap();
    let vip: Ipv6Addr = "2001:db8:1::100".parse().unwrap();
    for is_router in [false, true] {
        announcer.announce_v6(near, MAC, vip, is_router).unwrap();
        let sent = ndp::unsolicited(vip, MAC, is_router);
        let mut frame = [0; 200];
        // The host says things of its own.
        loop {
            assert!(is_readable(far.as_fd()));
            let len = recv(far.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
            if frame[..len] == sent {
                break;
            }
        }
    }
}

#[test]
fn only_what_looks_like_an_advert_of_this_router_is_in_the_election_queue() {
    own_namespace();
    link();
    let socket = AdvertSocket::open("near0", 51).unwrap();
    assert_eq!(socket.source(), OWN);
    assert!(socket.is_current("near0").unwrap());
    let far = Wire::new();
    for (queue, verdict, packet) in [
        (Queue::Election, Ok(()), advert(|_| {})),
        (
            Queue::Election,
            Err(Refusal::Checksum),
            advert(|p| p[27] ^= 1),
        ),
        (Queue::Election, Err(Refusal::Length), advert(|p| p.push(0))),
        (
            Queue::Other,
            Err(Refusal::UnknownVrid),
            advert(|p| p[21] = 52),
        ),
        (Queue::Other, Err(Refusal::Ttl), advert(|p| p[8] = 254)),
        (Queue::Other, Err(Refusal::Type), advert(|p| p[20] = 0x32)),
        (
            Queue::Other,
            Err(Refusal::Short),
            advert(|p| p.truncate(27)),
        ),
        (
            Queue::Other,
            Err(Refusal::Short),
            advert(|p| p.truncate(20)),
        ),
        (
            Queue::Other,
            Err(Refusal::Destination),
            advert(|p| p[16..20].copy_from_slice(&OWN.octets())),
        ),
        // Options are nothing wrong.
        (
            Queue::Other,
            Ok(()),
            advert(|p| {
                p[0] = 0x46;
                p.splice(20..20, [1, 1, 1, 0]);
            }),
        ),
        (
            Queue::Election,
            Err(Refusal::Truncated),
            advert(|p| p.resize(1400, 0)),
        ),
    ] {
        far.send(&packet);
        assert!(is_readable(socket.fd(queue)), "{verdict:?}");
        let mut buffer = [0; BUFFER_LEN];
        let received = socket.receive(queue, &mut buffer).unwrap().unwrap();
        assert_eq!((received.len, received.lost), (packet.len(), 0));
        let bytes = buffer.get(..received.len).unwrap_or(&buffer);
        let judged = receive(bytes, received.len, &EXPECTED);
        assert_eq!(judged.map(|_| ()), verdict);
        for queue in [Queue::Election, Queue::Other] {
            assert_eq!(socket.receive(queue, &mut buffer).unwrap(), None);
        }
    }
}

#[test]
fn a_full_queue_of_others_takes_nothing_from_the_election_and_is_counted() {
    own_namespace();
    link();
    let socket = AdvertSocket::open("near0", 51).unwrap();
    let far = Wire::new();
    let other = advert(|p| p[21] = 52);
    for _ in 0..5000 {
        far.send(&other);
    }
    far.send(&advert(|_| {}));
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
    let socket = AdvertSocket::open("near0", 51).unwrap();
    socket.send(&advert(|_| {})).unwrap();
    let far = Wire::new();
    // The peer's, sent later, is the first to arrive.
    far.send(&advert(|_| {}));
    assert!(is_readable(socket.fd(Queue::Election)));
    let mut buffer = [0; BUFFER_LEN];
    assert!(
        socket
            .receive(Queue::Election, &mut buffer)
            .unwrap()
            .is_some()
    );
    assert_eq!(socket.receive(Queue::Election, &mut buffer).unwrap(), None);
}

#[test]
fn an_interface_that_is_not_usable_is_refused_by_its_error() {
    own_namespace();
    let error = |interface| {
        AdvertSocket::open(interface, 51)
            .unwrap_err()
            .raw_os_error()
    };
    assert_eq!(error("near0"), Some(nix::libc::ENODEV));
    link();
    let socket = AdvertSocket::open("near0", 51).unwrap();
    assert_eq!(error("far0"), Some(nix::libc::EADDRNOTAVAIL));
    ip("addr add 10.78.0.9/24 dev near0");
    assert!(socket.is_current("near0").unwrap());
    ip("addr del 10.78.0.1/24 dev near0");
    assert!(!socket.is_current("near0").unwrap_or(false));
    ip("link set near0 down");
    assert_eq!(error("near0"), Some(nix::libc::ENETUNREACH));
    ip("link del near0");
    let gone = socket.is_current("near0").unwrap_err();
    assert_eq!(gone.raw_os_error(), Some(nix::libc::ENODEV));
    assert!(socket.send(&advert(|_| {})).is_err());
}

/// The far end, into which frames are put.
struct Wire {
    socket: Socket,
    link: LinkAddr,
}

impl Wire {
    fn new() -> Wire {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
        Wire {
            socket,
            link: link_address("far0"),
        }
    }

    fn send(&self, packet: &[u8]) {
        let frame = [ETHERNET.as_slice(), packet].concat();
        let sent = sendto(
            self.socket.as_raw_fd(),
            &frame,
            &self.link,
            MsgFlags::empty(),
        );
        assert_eq!(sent, Ok(frame.len()));
    }
}

/// The peer's advertisement with bytes changed; the header is made to fit.
fn advert(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let advert = Advert {
        vrid: 51,
        priority: Priority(150),
        interval: Interval::DEFAULT,
        addresses: &[VIP],
    };
    let mut packet = advert.to_packet(PEER, Identification::FIRST);
    change(&mut packet);
    let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let words = packet[..header_len].chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

fn own_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
}

fn link() {
    ip("link add near0 type veth peer name far0");
    ip("addr add 10.78.0.1/24 dev near0");
    ip("link set near0 up");
    ip("link set far0 up");
    // Until its carrier has been seen, what is sent on it is lost without a word.
    let is_up = |link: &str| {
        let shown = Command::new("ip")
            .args(["-o", "link", "show", link])
            .output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        shown.contains("state UP")
    };
    let seen = (0..LOOKS).any(|_| is_up("near0") && is_up("far0"));
    assert!(seen, "no carrier after {LOOKS} looks");
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

fn packet_socket(interface: &str, protocol: i32) -> Socket {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(protocol))).unwrap();
    bind(socket.as_raw_fd(), &link_address(interface)).unwrap();
    socket
}

fn link_address(interface: &str) -> LinkAddr {
    let addresses = getifaddrs()
        .unwrap()
        .filter(|found| found.interface_name == interface);
    let mut links = addresses.filter_map(|found| Some(*found.address?.as_link_addr()?));
    links.next().unwrap()
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(LIMIT)).unwrap() == 1
}
