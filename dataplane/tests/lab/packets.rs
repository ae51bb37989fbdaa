//! Frames and packets made by hand, of both families, with right checksums.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

mod check;
mod icmp;

pub use check::{checksum, checksums_hold, crc32c, transport_of};
pub use icmp::{arp, icmp_echo, icmp_error, icmpv6, neighbour_solicitation};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

/// Chunk types of SCTP (RFC 9260 §3.2).
pub const DATA: u8 = 0;
pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const ABORT: u8 = 6;
pub const SHUTDOWN: u8 = 7;
pub const SHUTDOWN_ACK: u8 = 8;
pub const COOKIE_ECHO: u8 = 10;
pub const COOKIE_ACK: u8 = 11;
pub const SHUTDOWN_COMPLETE: u8 = 14;

pub const ETH_IPV4: u16 = 0x0800;
pub const ETH_IPV6: u16 = 0x86dd;

/// Hardware address of the devices' other end as the tools write it, see [`super::tap::PEER`].
pub const PEER_MAC_TEXT: &str = "02:00:00:00:00:09";

/// An IP packet to be, everything by default but the addresses.
#[derive(Clone, Debug)]
pub struct Ip {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub protocol: u8,
    /// Of TCP.
    pub flags: u8,
    /// Or hop limit.
    pub ttl: u8,
    /// Or traffic class.
    pub tos: u8,
    /// Flags and offset of the IPv4 fragment field.
    pub fragment: u16,
    /// Of IPv4.
    pub options: Vec<u8>,
    /// Extension headers of IPv6: type, and the header whose first byte is filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Of SCTP: the chunks.
    pub payload: Vec<u8>,
    /// Leaves the UDP checksum zero.
    pub no_checksum: bool,
}

pub fn endpoint(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("endpoint {text}"))
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
        extensions: Vec::new(),
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

/// An SCTP packet of one chunk.
pub fn sctp(src: &str, dst: &str, kind: u8) -> Ip {
    Ip {
        protocol: SCTP,
        payload: chunk(kind),
        ..tcp(src, dst, 0)
    }
}

/// A chunk of SCTP with the shortest value its type can have.
pub fn chunk(kind: u8) -> Vec<u8> {
    let value: &[u8] = match kind {
        INIT | INIT_ACK => &[0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1],
        DATA => &[0; 12],
        _ => &[],
    };
    let mut chunk = vec![kind, 0, 0, 4 + value.len() as u8];
    chunk.extend_from_slice(value);
    chunk
}

impl Ip {
    pub fn is_ipv6(&self) -> bool {
        self.dst.is_ipv6()
    }

    /// The IP packet.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.ipv4(src, dst, &transport),
            (IpAddr::V6(_), IpAddr::V6(_)) => self.ipv6(&transport),
            mixed => panic!("{mixed:?}"),
        }
    }

    fn ipv4(&self, src: Ipv4Addr, dst: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let total = (header_len + transport.len()) as u16;
        let mut ip = vec![0x40 | (header_len / 4) as u8, self.tos];
        ip.extend_from_slice(&total.to_be_bytes());
        ip.extend_from_slice(&[0x12, 0x34]);
        ip.extend_from_slice(&self.fragment.to_be_bytes());
        ip.extend_from_slice(&[self.ttl, self.protocol, 0, 0]);
        ip.extend_from_slice(&src.octets());
        ip.extend_from_slice(&dst.octets());
        ip.extend_from_slice(&self.options);
        let check = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        ip.extend_from_slice(transport);
        ip
    }

    fn ipv6(&self, transport: &[u8]) -> Vec<u8> {
        let kinds = self.extensions.iter().map(|(kind, _)| *kind);
        let mut kinds = kinds.chain([self.protocol]);
        let first = kinds.next().unwrap_or(self.protocol);
        let mut body = Vec::new();
        for ((_, header), next) in self.extensions.iter().zip(kinds) {
            let at = body.len();
            body.extend_from_slice(header);
            body[at] = next;
        }
        body.extend_from_slice(transport);
        let mut ip = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
        ip.extend_from_slice(&(body.len() as u16).to_be_bytes());
        ip.extend_from_slice(&[first, self.ttl]);
        ip.extend_from_slice(&octets(self.src.ip()));
        ip.extend_from_slice(&octets(self.dst.ip()));
        ip.extend_from_slice(&body);
        ip
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.src.port().to_be_bytes());
        bytes.extend_from_slice(&self.dst.port().to_be_bytes());
        if self.protocol == SCTP {
            bytes.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0]);
            bytes.extend_from_slice(&self.payload);
            let crc = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            return bytes;
        }
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
        let (src, dst) = (octets(self.src.ip()), octets(self.dst.ip()));
        let check = check::transport(&src, &dst, self.protocol, &bytes);
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
        ip_frame([0; 6], &self.bytes())
    }
}

/// The bytes of an address.
pub fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    }
}

/// An IP packet of either family in a frame.
pub fn ip_frame(to: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 {
        ETH_IPV6
    } else {
        ETH_IPV4
    };
    frame(to, ethertype, packet)
}

pub fn frame(to: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend_from_slice(&[2, 0, 0, 0, 0, 9]);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// The same address in IPv6, as the recordings number both: 10.50.0.1 is fd00:50::1.
pub fn in_ipv6(addr: Ipv4Addr) -> std::net::Ipv6Addr {
    let text = match addr.octets() {
        [127, ..] => String::from("::1"),
        [224, ..] => String::from("ff02::1"),
        [0, ..] => String::from("::"),
        [_, b, 0, d] => format!("fd00:{b}::{d}"),
        [_, b, c, d] => format!("fd00:{b}:0:{c}::{d}"),
    };
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

/// The same endpoint in IPv6.
pub fn endpoint_in_ipv6(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddr::new(in_ipv6(*v4.ip()).into(), v4.port()),
        SocketAddr::V6(_) => addr,
    }
}

/// The same in text: `[fd00:50::1]:80`.
pub fn text_in_ipv6(text: &str) -> String {
    endpoint_in_ipv6(endpoint(text)).to_string()
}
