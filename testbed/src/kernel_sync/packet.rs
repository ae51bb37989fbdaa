//! Packets of a client, made by hand: no host behind has to open the sockets.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use crate::sync_rate::burst::Burst;
use anyhow::Result;

/// Ethernet address.
pub(crate) type Mac = [u8; 6];

const TTL: u8 = 64;
/// What a datagram, or a segment with data, carries.
const PAYLOAD: [u8; 4] = *b"sync";
/// Packets of a flow, after which a director with the default threshold of 3 has offered it. A client
/// that opens, and sees the answer of a server that the director does not hear.
pub(crate) const OPENING: [Said; 3] = [Said::Syn, Said::Ack, Said::Ack];
/// Flows whose packets go one after the other: the table sees them mixed.
const TOGETHER: usize = 100;
/// After so many packets: the kernel holds a thousand that it has not looked at, and drops the rest. A
/// flow that lost one would be offered 50 packets later.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
    /// Data without an association: the director has to be told to be sloppy.
    Sctp,
}

impl Transport {
    pub(crate) const fn number(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
            Transport::Sctp => 132,
        }
    }

    /// As the tables of `/proc/net` call it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
            Transport::Sctp => "SCTP",
        }
    }

    pub(crate) const fn ipvsadm_flag(self) -> &'static str {
        match self {
            Transport::Tcp => "--tcp-service",
            Transport::Udp => "--udp-service",
            Transport::Sctp => "--sctp-service",
        }
    }
}

/// What a packet says; only TCP has different words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Syn,
    Ack,
    Fin,
    Reset,
}

impl Said {
    /// RFC 9293 section 3.1.
    const fn flags(self) -> u8 {
        match self {
            Said::Syn => 0x02,
            Said::Ack => 0x10,
            Said::Fin => 0x11,
            Said::Reset => 0x14,
        }
    }
}

/// One client's connection to a virtual service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) transport: Transport,
    pub(crate) client: SocketAddr,
    pub(crate) service: SocketAddr,
}

/// Sends what every flow says, mixed.
///
/// # Errors
/// The socket's.
pub(crate) fn send_flows(burst: &mut Burst, [from, to]: [Mac; 2], flows: &[Flow]) -> Result<()> {
    for some in flows.chunks(TOGETHER) {
        for said in OPENING {
            let frames: Vec<Vec<u8>> = some
                .iter()
                .map(|flow| frame(flow, said, [from, to]))
                .collect();
            burst.send_all(&frames)?;
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// A packet of a flow.
pub(crate) fn frame(flow: &Flow, said: Said, [from, to]: [Mac; 2]) -> Vec<u8> {
    let ports = [flow.client.port(), flow.service.port()];
    let mut segment = match flow.transport {
        Transport::Tcp => tcp(ports, said),
        Transport::Udp => udp(ports),
        Transport::Sctp => sctp(ports),
    };
    let at = match flow.transport {
        Transport::Tcp => Some(16),
        Transport::Udp => Some(6),
        // A director mends what it changes of a CRC32c, and no server looks at this one.
        Transport::Sctp => None,
    };
    let (client, service) = (flow.client.ip(), flow.service.ip());
    let protocol = flow.transport.number();
    if let Some(at) = at {
        let length = u32::try_from(segment.len()).unwrap_or(u32::MAX);
        let mut pseudo = [octets(client), octets(service)].concat();
        pseudo.extend(length.to_be_bytes());
        pseudo.extend([0, 0, 0, protocol]);
        pseudo.extend(&segment);
        put(&mut segment, at, &checksum(&pseudo).to_be_bytes());
    }
    let length = u16::try_from(segment.len()).unwrap_or(u16::MAX);
    let (kind, header) = if client.is_ipv4() {
        (
            [0x08, 0x00],
            ipv4([client, service].map(octets), protocol, length),
        )
    } else {
        (
            [0x86, 0xdd],
            ipv6([client, service].map(octets), protocol, length),
        )
    };
    [&to[..], &from, &kind, &header, &segment].concat()
}

fn ipv4([client, service]: [Vec<u8>; 2], protocol: u8, length: u16) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(length.saturating_add(20).to_be_bytes());
    // No identification, do not fragment, and room for the checksum.
    header.extend([0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    header.extend(client);
    header.extend(service);
    let sum = checksum(&header).to_be_bytes();
    put(&mut header, 10, &sum);
    header
}

fn ipv6([client, service]: [Vec<u8>; 2], protocol: u8, length: u16) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend(length.to_be_bytes());
    header.extend([protocol, TTL]);
    header.extend(client);
    header.extend(service);
    header
}

fn udp([from, to]: [u16; 2]) -> Vec<u8> {
    let mut datagram = [from.to_be_bytes(), to.to_be_bytes()].concat();
    datagram.extend([0, 12, 0, 0]);
    datagram.extend(PAYLOAD);
    datagram
}

fn tcp([from, to]: [u16; 2], said: Said) -> Vec<u8> {
    let (sequence, acknowledged): (u32, u32) = if said == Said::Syn { (1, 0) } else { (2, 1) };
    let mut segment = [from.to_be_bytes(), to.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledged.to_be_bytes());
    segment.extend([0x50, said.flags(), 0x20, 0, 0, 0, 0, 0]);
    segment
}

/// RFC 9260 section 3.3.1: a whole message in a DATA chunk.
fn sctp([from, to]: [u16; 2]) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    // Verification tag, checksum, chunk type, flags B and E, length, TSN.
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 3, 0, 20, 0, 0, 0, 1]);
    // Stream, its sequence number, payload protocol.
    packet.extend([0; 8]);
    packet.extend(PAYLOAD);
    packet
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in to.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| match *pair {
        [high, low] => u32::from(u16::from_be_bytes([high, low])),
        [high] => u32::from(high) << 8,
        _ => 0,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(transport: Transport, client: &str, service: &str) -> Flow {
        Flow {
            transport,
            client: client.parse().unwrap(),
            service: service.parse().unwrap(),
        }
    }

    #[test]
    fn checksums_of_a_packet_add_up_to_nothing() {
        for (client, service, header) in [
            ("198.18.0.1:2000", "192.0.2.100:80", 20),
            ("[2001:db8:c::1]:2000", "[2001:db8:2::100]:80", 40),
        ] {
            for transport in [Transport::Tcp, Transport::Udp] {
                let flow = flow(transport, client, service);
                let frame = frame(&flow, Said::Ack, [[2; 6], [4; 6]]);
                let (ip, segment) = frame[14..].split_at(header);
                if header == 20 {
                    assert_eq!(checksum(ip), 0, "IPv4 header");
                }
                let mut pseudo = [octets(flow.client.ip()), octets(flow.service.ip())].concat();
                pseudo.extend([0, 0, 0, transport.number()]);
                pseudo.extend(u32::try_from(segment.len()).unwrap().to_be_bytes());
                pseudo.extend(segment);
                assert_eq!(checksum(&pseudo), 0, "{transport:?} of {client}");
            }
        }
    }

    #[test]
    fn a_connection_opens_once_and_lengths_are_those_of_the_bytes() {
        let tcp = flow(Transport::Tcp, "198.18.0.1:2000", "192.0.2.100:80");
        let flags = OPENING.map(|said| frame(&tcp, said, [[0; 6]; 2])[14 + 20 + 13]);
        assert_eq!(flags, [0x02, 0x10, 0x10]);
        let sctp = flow(Transport::Sctp, "198.18.0.1:2000", "192.0.2.100:90");
        let bytes = frame(&sctp, Said::Ack, [[0; 6]; 2]);
        let total = u16::from_be_bytes([bytes[16], bytes[17]]);
        assert_eq!(usize::from(total), bytes.len() - 14);
        assert_eq!(bytes.len() - 14 - 20, 12 + 20, "common header and DATA");
    }
}
