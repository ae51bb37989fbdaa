//! Packets as recordings write them, made by hand and sent from the other end of the link.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::{Domain, Socket, Type};

use crate::host::Neighbour;

/// That of `lan0`.
const TO: [u8; 6] = [2, 0, 0, 0, 0x77, 1];
const FROM: [u8; 6] = [2, 0, 0, 0, 0, 9];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// The far end of `lan0`.
pub(crate) struct Wire {
    socket: Socket,
    link: LinkAddr,
}

impl Wire {
    pub(crate) fn open(neighbour: &Neighbour) -> Wire {
        neighbour.run(|| {
            let mut links = getifaddrs()
                .unwrap()
                .filter(|it| it.interface_name == "lan1");
            let link = links.find_map(|it| it.address?.as_link_addr().copied());
            Wire {
                socket: Socket::new(Domain::PACKET, Type::RAW, None).unwrap(),
                link: link.unwrap(),
            }
        })
    }

    /// Sends a packet, so often: `TCP FROM > TO [FLAGS]`, `UDP FROM > TO len PAYLOAD` or
    /// `SCTP FROM > TO chunk TYPE`.
    pub(crate) fn send(&self, text: &str, times: u32) {
        let frame = frame(text);
        for _ in 0..times {
            sendto(
                self.socket.as_raw_fd(),
                &frame,
                &self.link,
                MsgFlags::empty(),
            )
            .unwrap();
        }
    }
}

fn frame(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split(' ').collect();
    let (from, to) = (end(words[1]), end(words[3]));
    let rest = words.get(4..).unwrap_or_default();
    let payload = match rest.iter().position(|word| *word == "len") {
        Some(at) => vec![b'q'; rest[at + 1].parse().unwrap()],
        None => Vec::new(),
    };
    let (protocol, segment) = match words[0] {
        "TCP" => (TCP, tcp(from, to, flags(rest[0]), &payload)),
        "UDP" => (UDP, udp(from, to, &payload)),
        "SCTP" => (SCTP, sctp(from, to, rest[1].parse().unwrap())),
        other => panic!("{other}"),
    };
    let mut frame = [TO, FROM].concat();
    match (from.0, to.0) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(20 + segment.len()).unwrap().to_be_bytes();
            let mut header = vec![
                0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, protocol, 0, 0,
            ];
            header.extend(from.octets());
            header.extend(to.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            frame.extend([8, 0]);
            frame.extend(header);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(segment.len()).unwrap().to_be_bytes();
            frame.extend([
                0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], protocol, 64,
            ]);
            frame.extend(from.octets());
            frame.extend(to.octets());
        }
        other => panic!("{other:?}"),
    }
    frame.extend(segment);
    frame
}

type End = (IpAddr, u16);

/// `ADDRESS:PORT`, with or without brackets.
fn end(text: &str) -> End {
    let (ip, port) = text.rsplit_once(':').unwrap();
    let ip = ip.trim_matches(['[', ']']);
    (ip.parse().unwrap(), port.parse().unwrap())
}

fn flags(text: &str) -> u8 {
    let bit = |letter| match letter {
        'F' => 1,
        'S' => 2,
        'R' => 4,
        'P' => 8,
        'A' => 16,
        '[' | ']' => 0,
        other => panic!("{other}"),
    };
    text.chars().map(bit).sum()
}

fn tcp(from: End, to: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut segment = ports(from, to);
    segment.extend([
        0, 0, 3, 0xe8, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    segment.extend(payload);
    with_checksum(from, to, TCP, segment, 16)
}

fn udp(from: End, to: End, payload: &[u8]) -> Vec<u8> {
    let mut datagram = ports(from, to);
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    with_checksum(from, to, UDP, datagram, 6)
}

/// One chunk; INIT and INIT-ACK have their fixed fields and nothing else.
fn sctp(from: End, to: End, chunk: u8) -> Vec<u8> {
    const INIT: u8 = 1;
    const INIT_ACK: u8 = 2;
    let tag: u32 = if chunk == INIT { 0 } else { 1 };
    let mut packet = ports(from, to);
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    if matches!(chunk, INIT | INIT_ACK) {
        packet.extend([chunk, 0, 0, 20]);
        packet.extend([0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    } else {
        packet.extend([chunk, 0, 0, 4]);
    }
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

fn ports(from: End, to: End) -> Vec<u8> {
    [from.1.to_be_bytes(), to.1.to_be_bytes()].concat()
}

fn with_checksum(from: End, to: End, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
    let mut covered = Vec::new();
    for ip in [from.0, to.0] {
        match ip {
            IpAddr::V4(ip) => covered.extend(ip.octets()),
            IpAddr::V6(ip) => covered.extend(ip.octets()),
        }
    }
    covered.extend([0, protocol]);
    covered.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
    covered.extend(&segment);
    let sum = match checksum(&covered) {
        0 if protocol == UDP => u16::MAX,
        sum => sum,
    };
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

/// RFC 4960 appendix B.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
