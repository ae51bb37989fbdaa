//! A veth pair in a namespace of the test's own thread: `near0`, where sockets are opened, and
//! `far0`, into which frames are put and where they arrive.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::Command;

use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{LinkAddr, MsgFlags, bind, recv, sendto};
use socket2::{Domain, Protocol, Socket, Type};

/// Unit: milliseconds. Nothing here takes longer, on however slow a machine.
const LIMIT: u16 = 30_000;
/// Looks for a carrier, each a process or two.
const LOOKS: u32 = 5000;
/// ETH_P_ALL in network order, as a packet socket wants it.
const ALL_FRAMES: i32 = 0x0003_u16.to_be() as i32;
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub(crate) fn own_namespace() {
    assert!(nix::unistd::geteuid().is_root(), "these tests need root");
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
}

/// Both ends are up; the near one has addresses of both families.
pub(crate) fn link() {
    ip("link add near0 type veth peer name far0");
    ip("link set near0 addrgenmode none");
    ip("link set far0 addrgenmode none");
    ip("addr add 10.78.0.1/24 dev near0");
    ip("link set near0 up");
    ip("link set far0 up");
    ip("addr add fe80::1/64 dev near0 nodad");
    ip("addr add fd00:78::1/64 dev near0 nodad");
    // Until its carrier has been seen, what is sent on it is lost without a word.
    let seen = (0..LOOKS).any(|_| is_up("near0") && is_up("far0"));
    assert!(seen, "no carrier after {LOOKS} looks");
}

fn is_up(link: &str) -> bool {
    let shown = Command::new("ip")
        .args(["-o", "link", "show", link])
        .output();
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    shown.contains("state UP")
}

pub(crate) fn ip(words: &str) {
    let status = Command::new("ip").args(words.split_whitespace()).status();
    assert!(status.unwrap().success(), "ip {words}");
}

pub(crate) fn link_address(interface: &str) -> LinkAddr {
    let addresses = getifaddrs()
        .unwrap()
        .filter(|found| found.interface_name == interface);
    let mut links = addresses.filter_map(|found| Some(*found.address?.as_link_addr()?));
    links.next().unwrap()
}

pub(crate) fn mac(interface: &str) -> [u8; 6] {
    link_address(interface).addr().unwrap()
}

pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(LIMIT)).unwrap() == 1
}

/// The far end.
pub(crate) struct Wire {
    socket: Socket,
    link: LinkAddr,
}

impl Wire {
    pub(crate) fn new() -> Wire {
        let protocol = Some(Protocol::from(ALL_FRAMES));
        let socket = Socket::new(Domain::PACKET, Type::RAW, protocol).unwrap();
        let link = link_address("far0");
        bind(socket.as_raw_fd(), &link).unwrap();
        Wire { socket, link }
    }

    /// Puts a packet in from a MAC address of its own.
    pub(crate) fn send(&self, packet: &[u8]) {
        self.send_from(PEER_MAC, packet);
    }

    pub(crate) fn send_from(&self, source: [u8; 6], packet: &[u8]) {
        let (destination, kind) = destination_of(packet);
        let header = [destination.as_slice(), &source, &kind].concat();
        let frame = [header.as_slice(), packet].concat();
        let fd = self.socket.as_raw_fd();
        let sent = sendto(fd, &frame, &self.link, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    }

    /// The next frame that arrives and is of the wanted kind: the host says things of its own.
    pub(crate) fn receive(&self, mut is_wanted: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
        loop {
            assert!(is_readable(self.socket.as_fd()), "no such frame");
            let mut frame = [0; 2048];
            let len = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()).unwrap();
            if is_wanted(&frame[..len]) {
                return frame[..len].to_vec();
            }
        }
    }
}

/// Where a packet goes on Ethernet (RFC 1112, RFC 2464), and its type.
fn destination_of(packet: &[u8]) -> ([u8; 6], [u8; 2]) {
    if packet[0] >> 4 == 4 {
        let [_, b, c, d] = packet[16..20].try_into().unwrap();
        let is_group = packet[16] >> 4 == 0xe;
        let group = [1, 0, 0x5e, b & 0x7f, c, d];
        (if is_group { group } else { mac("near0") }, [8, 0])
    } else {
        let [a, b, c, d] = packet[36..40].try_into().unwrap();
        let is_group = packet[24] == 0xff;
        let group = [0x33, 0x33, a, b, c, d];
        (if is_group { group } else { mac("near0") }, [0x86, 0xdd])
    }
}

/// A message of IPv6 behind its header.
pub(crate) fn v6_packet(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    message: &[u8],
) -> Vec<u8> {
    let [l1, l2] = u16::try_from(message.len()).unwrap().to_be_bytes();
    let start = [0x6c, 0, 0, 0, l1, l2, 112, hop_limit];
    let addresses = [source.octets(), destination.octets()].concat();
    [start.as_slice(), &addresses, message].concat()
}

/// Makes length and checksum of an IPv4 header fit the packet.
pub(crate) fn mend_v4(packet: &mut [u8]) {
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
}

pub(crate) fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub(crate) fn v6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}
