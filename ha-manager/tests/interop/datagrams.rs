//! Connections of every kind, the messages our encoder makes of them, and a capture of those.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use ipvs_model::flags::ConnFlags;
use pcap_file::pcap::{PcapPacket, PcapWriter};
use syncproto::buffer::{Layout, Packed, SyncBuffer};
use syncproto::conn::{Addresses, Ends, Pe, SeqPair, SeqRecord, SyncConn};

/// A datagram of ours and what is in it.
pub(crate) struct Message {
    pub(crate) conns: Vec<SyncConn>,
    pub(crate) bytes: Vec<u8>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
/// Masquerading, local, tunnelling, direct routing.
const METHODS: [u32; 4] = [0, 1, 2, 3];

/// One message per group, which has to fit.
pub(crate) fn messages(layout: Layout, groups: &[Vec<SyncConn>]) -> Vec<Message> {
    let now = Instant::now();
    let message = |conns: &Vec<SyncConn>| {
        let mut buffer = SyncBuffer::new(layout);
        for conn in conns {
            assert_eq!(buffer.push(conn, now), Packed::Stored);
        }
        Message {
            conns: conns.clone(),
            bytes: buffer.message().to_vec(),
        }
    };
    groups.iter().map(message).collect()
}

/// Connections without options in IPv4: methods, protocols and states, templates, marks, flags.
pub(crate) fn plain_ipv4() -> Vec<SyncConn> {
    plain(|nth| {
        let [high, low] = nth.to_be_bytes();
        let end = |net, port| SocketAddrV4::new(Ipv4Addr::new(10, net, high, low), port);
        Addresses::V4(Ends {
            client: end(100, 40_000 + nth),
            virt: end(50, 80),
            dest: end(200, 8080),
        })
    })
}

/// The same in IPv6.
pub(crate) fn plain_ipv6() -> Vec<SyncConn> {
    plain(|nth| {
        let end = |net, port| {
            let address = Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0xffff, nth);
            SocketAddrV6::new(address, port, 0, 0)
        };
        Addresses::V6(Ends {
            client: end(0x100, 40_000 + nth),
            virt: end(0x50, 443),
            dest: end(0x200, 8443),
        })
    })
}

fn plain(addresses: impl Fn(u16) -> Addresses) -> Vec<SyncConn> {
    let mut kinds = Vec::new();
    for method in METHODS {
        for (protocol, states) in [(TCP, 11), (UDP, 1), (SCTP, 14)] {
            kinds.extend((0..states).map(|state| (protocol, method, state)));
        }
        let template = method | ConnFlags::TEMPLATE;
        for protocol in [0, TCP, UDP] {
            kinds.extend([(protocol, template, 0), (protocol, template, 1)]);
        }
        let inactive = method | ConnFlags::INACTIVE;
        kinds.push((TCP, inactive, 5));
        kinds.push((TCP, inactive | ConnFlags::NO_CPORT, 7));
        kinds.push((TCP, method | ConnFlags::SYNC | ConnFlags::NOOUTPUT, 1));
        kinds.push((TCP, method | ConnFlags::NFCT, 1));
    }
    let conn = |(nth, (protocol, flags, state)): (u16, (u8, u32, u8))| SyncConn {
        protocol,
        addresses: addresses(nth),
        flags,
        state,
        fwmark: if protocol == 0 { u32::from(nth) + 1 } else { 0 },
        timeout_secs: 10 * u32::from(nth),
        seq: None,
        pe: None,
    };
    (0..).zip(kinds).map(conn).collect()
}

/// Some of the connections with shifted sequence numbers.
pub(crate) fn with_seq(conns: &[SyncConn]) -> Vec<SyncConn> {
    let flags = [
        ConnFlags::IN_SEQ,
        ConnFlags::OUT_SEQ,
        ConnFlags::IN_SEQ | ConnFlags::OUT_SEQ,
    ];
    let shifted = |(conn, flags): (&SyncConn, u32)| SyncConn {
        flags: conn.flags | flags,
        seq: Some(SeqPair {
            input: SeqRecord {
                init_seq: 0x8123_4567,
                delta: -3,
                previous_delta: 0,
            },
            output: SeqRecord {
                init_seq: 1,
                delta: 0x1234,
                previous_delta: -0x0100,
            },
        }),
        ..conn.clone()
    };
    conns.iter().zip(flags).map(shifted).collect()
}

/// Some of the connections with data of a persistence engine, of lengths that want padding.
pub(crate) fn with_engine(conns: &[SyncConn]) -> Vec<SyncConn> {
    let lengths = [1, 2, 3, 4, 255];
    let known = |(conn, length): (&SyncConn, usize)| SyncConn {
        flags: conn.flags | ConnFlags::TEMPLATE,
        state: 1,
        pe: Pe::new(b"sip", &vec![b'c'; length]).map(Box::new),
        ..conn.clone()
    };
    conns.iter().zip(lengths).map(known).collect()
}

/// The messages as UDP datagrams in a pcap file.
pub(crate) fn capture(messages: &[Message], group: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    for (second, message) in (0..).zip(messages) {
        let frame = frame(&message.bytes, group, port);
        let length = frame.len().try_into().unwrap();
        let packet = PcapPacket::new(Duration::from_secs(second), length, &frame);
        writer.write_packet(&packet).unwrap();
    }
    writer.into_writer()
}

fn frame(payload: &[u8], group: Ipv4Addr, port: u16) -> Vec<u8> {
    let be16 = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let [_, b, c, d] = group.octets();
    let mut ip = [
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 1, 17, 0, 0, 10, 3, 0, 1, 0, 0, 0, 0,
    ];
    ip[2..4].copy_from_slice(&be16(28 + payload.len()));
    ip[16..].copy_from_slice(&group.octets());
    let sum: u32 = ip
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut frame = vec![
        0x01,
        0x00,
        0x5e,
        b & 0x7f,
        c,
        d,
        2,
        0,
        0,
        0,
        1,
        1,
        0x08,
        0x00,
    ];
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&[0xc0, 0x00]);
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&be16(8 + payload.len()));
    // No checksum.
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(payload);
    frame
}
