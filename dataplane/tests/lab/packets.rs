//! Frames and packets made by hand, with right checksums.

use std::net::Ipv4Addr;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Sum of 16-bit words, folded and complemented (RFC 1071).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet to be, everything by default but the addresses.
#[derive(Clone, Debug)]
pub struct Ip {
    pub src: (Ipv4Addr, u16),
    pub dst: (Ipv4Addr, u16),
    pub protocol: u8,
    pub flags: u8,
    pub ttl: u8,
    pub tos: u8,
    /// Flags and offset of the fragment field.
    pub fragment: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// Leaves the UDP checksum zero.
    pub no_checksum: bool,
}

pub fn endpoint(text: &str) -> (Ipv4Addr, u16) {
    let addr: std::net::SocketAddrV4 = text.parse().unwrap();
    (*addr.ip(), addr.port())
}

pub fn tcp(src: &str, dst: &str, flags: u8) -> Ip {
    Ip {
        src: endpoint(src),
        dst: endpoint(dst),
        protocol: TCP,
        flags,
        ttl: 64,
        tos: 0,
        fragment: 0x4000,
        options: Vec::new(),
        payload: Vec::new(),
        no_checksum: false,
    }
}

pub fn udp(src: &str, dst: &str) -> Ip {
    Ip {
        protocol: UDP,
        payload: b"payload".to_vec(),
        ..tcp(src, dst, 0)
    }
}

impl Ip {
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let header_len = 20 + self.options.len();
        let total = (header_len + transport.len()) as u16;
        let mut ip = vec![0x40 | (header_len / 4) as u8, self.tos];
        ip.extend_from_slice(&total.to_be_bytes());
        ip.extend_from_slice(&[0x12, 0x34]);
        ip.extend_from_slice(&self.fragment.to_be_bytes());
        ip.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        ip.extend_from_slice(&self.src.0.octets());
        ip.extend_from_slice(&self.dst.0.octets());
        ip.extend_from_slice(&self.options);
        let check = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        ip.extend_from_slice(&transport);
        ip
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.src.1.to_be_bytes());
        bytes.extend_from_slice(&self.dst.1.to_be_bytes());
        let at = if self.protocol == TCP {
            bytes.extend_from_slice(&[0, 0, 3, 0xe8, 0, 0, 0, 0, 0x50, self.flags]);
            bytes.extend_from_slice(&[0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            bytes.extend_from_slice(&(8 + self.payload.len() as u16).to_be_bytes());
            bytes.extend_from_slice(&[0, 0]);
            6
        };
        bytes.extend_from_slice(&self.payload);
        let len = (bytes.len() as u16).to_be_bytes();
        let (src, dst) = (self.src.0.octets(), self.dst.0.octets());
        let check = checksum(&[&src, &dst, &[0, self.protocol], &len, &bytes]);
        let check = if check == 0 && self.protocol == UDP {
            0xffff
        } else {
            check
        };
        if !self.no_checksum {
            bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
        }
        bytes
    }

    /// With an Ethernet header for a device whose address is all zeros.
    pub fn frame(&self) -> Vec<u8> {
        frame([0; 6], 0x0800, &self.bytes())
    }
}

pub fn frame(to: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Whether IP and transport checksums of a packet are right.
pub fn checksums_hold(packet: &[u8]) -> bool {
    let header_len = usize::from(packet[0] & 0xf) * 4;
    if checksum(&[&packet[..header_len]]) != 0 {
        return false;
    }
    let transport = &packet[header_len..];
    match packet[9] {
        1 => checksum(&[transport]) == 0,
        protocol => {
            let len = (transport.len() as u16).to_be_bytes();
            checksum(&[&packet[12..20], &[0, protocol], &len, transport]) == 0
        }
    }
}

/// [`super::tap::PEER`] as the tools write it.
pub const PEER_MAC_TEXT: &str = "02:00:00:00:00:09";

/// An echo request (type 8) or its reply (type 0) as a whole IPv4 packet.
pub fn icmp_echo(src: &str, dst: &str, kind: u8, sequence: u16) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0, 0x54, 0x44];
    body.extend_from_slice(&sequence.to_be_bytes());
    let check = checksum(&[&body]);
    body[2..4].copy_from_slice(&check.to_be_bytes());
    let (src, dst): (Ipv4Addr, Ipv4Addr) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut packet = vec![
        0x45,
        0,
        0,
        20 + body.len() as u8,
        0,
        1,
        0x40,
        0,
        64,
        1,
        0,
        0,
    ];
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    let check = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet.extend_from_slice(&body);
    packet
}

/// An ARP packet over Ethernet about `target`: operation 1 asks, 2 answers.
pub fn arp(operation: u8, target: &str) -> Vec<u8> {
    let target: Ipv4Addr = target.parse().unwrap();
    let mut body = vec![
        0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 9, 10, 1, 0, 2,
    ];
    body.extend_from_slice(&[0; 6]);
    body.extend_from_slice(&target.octets());
    body
}
