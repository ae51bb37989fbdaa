//! Connections and what packets do to them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{SocketAddrV4, SocketAddrV6};

use syncproto::conn::{Addresses, Ends, Pe, SeqPair, SeqRecord, SyncConn};
use syncproto::wire::Version;

use crate::model::Key;
use crate::random::Random;

const INACTIVE: u32 = 0x0100;
const SEQ: u32 = 0x0600;
const TEMPLATE: u32 = 0x1000;

/// State of a TCP connection, whether it counts as active, its timeout in seconds, and where a
/// packet may take it.
type TcpState = (u8, bool, u32, &'static [u8]);
const TCP: [TcpState; 7] = [
    (2, false, 120, &[2, 3, 1]),
    (3, false, 60, &[1, 1, 3, 6]),
    (1, true, 900, &[1, 1, 1, 1, 1, 1, 4, 7, 6]),
    (4, false, 120, &[4, 5, 6]),
    (5, false, 120, &[5, 5, 3]),
    (6, false, 10, &[6, 3]),
    (7, false, 60, &[7, 5, 8]),
];
const SCTP: [TcpState; 4] = [
    (2, false, 4, &[8, 2]),
    (8, true, 900, &[8, 8, 8, 9, 13]),
    (9, false, 61, &[9, 13]),
    (13, false, 61, &[13, 2]),
];

/// Connections of a node, each with whether it is of one packet alone and the place of its
/// template. Templates come before what they control.
pub(crate) fn connections(
    network: u8,
    random: &mut Random,
) -> Vec<(SyncConn, bool, Option<usize>)> {
    let mut made: Vec<(SyncConn, bool, Option<usize>)> = Vec::new();
    for number in 0..20 + random.below(30) as u16 {
        let protocol = [6, 6, 6, 17, 132][random.below(5)];
        let template = (protocol != 132 && random.one_in(6)).then(|| {
            made.push((template(network, number, protocol, random), false, None));
            made.len() - 1
        });
        let ipv6 = random.one_in(5) && template.is_none();
        let conn = SyncConn {
            protocol,
            addresses: addresses(network, number, ipv6, random),
            flags: [0, 0x83][random.below(2)] | INACTIVE,
            state: if protocol == 17 { 0 } else { 2 },
            fwmark: 0,
            timeout_secs: match protocol {
                17 => 300,
                132 => 4,
                _ => 120,
            },
            seq: None,
            pe: None,
        };
        made.push((conn, protocol == 17 && random.one_in(8), template));
    }
    made
}

/// What a packet from the client does to a connection.
pub(crate) fn packet(conn: &mut SyncConn, random: &mut Random) {
    let states: &[TcpState] = match conn.protocol {
        6 => &TCP,
        132 => &SCTP,
        _ => &[],
    };
    if let Some((.., next)) = states.iter().find(|(state, ..)| *state == conn.state) {
        conn.state = next[random.below(next.len())];
        // States without a row, LAST_ACK among them, are passed through.
        if let Some((_, active, timeout_secs, _)) = states.iter().find(|s| s.0 == conn.state) {
            conn.timeout_secs = *timeout_secs;
            conn.flags = conn.flags & !INACTIVE | if *active { 0 } else { INACTIVE };
        }
        // The connection was made anew, with another real server.
        if conn.state == 3 && random.one_in(2) {
            change_server(conn, random);
        }
    } else if conn.protocol == 6 {
        conn.state = 2;
    }
    if conn.protocol == 6 && random.one_in(40) {
        let record = |random: &mut Random| SeqRecord {
            init_seq: random.next() as u32,
            delta: random.below(50) as i32 - 25,
            previous_delta: random.below(50) as i32 - 25,
        };
        conn.flags |= SEQ;
        conn.seq = Some(SeqPair {
            input: record(random),
            output: record(random),
        });
    }
}

/// The same as a message of this version says it.
pub(crate) fn as_said(mut conn: SyncConn, version: Version) -> SyncConn {
    conn.flags &= !0x40;
    if version == Version::V0 {
        conn.flags &= 0xffff;
        conn.fwmark = 0;
        conn.timeout_secs = 0;
        conn.pe = None;
        conn.seq = conn.says_seq().then(|| conn.seq.unwrap_or_default());
    }
    conn
}

/// By which a connection keeps to one port.
pub(crate) fn hash(key: &Key) -> usize {
    let mut hasher = DefaultHasher::new();
    (key.protocol, key.client, key.virt).hash(&mut hasher);
    hasher.finish() as usize
}

fn template(network: u8, number: u16, protocol: u8, random: &mut Random) -> SyncConn {
    let call_id = format!("{number}@call.example.org");
    let pe = (protocol == 17 && random.one_in(2))
        .then(|| Pe::new(b"sip", call_id.as_bytes()).map(Box::new))
        .flatten();
    let mut addresses = addresses(network, number, false, random);
    if let Addresses::V4(ends) = &mut addresses {
        ends.client.set_port(0);
    }
    SyncConn {
        protocol,
        addresses,
        flags: TEMPLATE | INACTIVE,
        state: 1,
        fwmark: 0,
        timeout_secs: 360,
        seq: None,
        pe,
    }
}

fn addresses(network: u8, number: u16, ipv6: bool, random: &mut Random) -> Addresses {
    let v4 = |a: u32, port| SocketAddrV4::new(a.into(), port);
    let client = 0x0a00_0000 | u32::from(network) << 16 | u32::from(number);
    let ends = Ends {
        client: v4(client, 1024 + number),
        virt: v4(0xc000_020a, 80),
        dest: v4(0xac10_0000 | random.below(4) as u32, 8080),
    };
    if !ipv6 {
        return Addresses::V4(ends);
    }
    let v6 = |end: SocketAddrV4| SocketAddrV6::new(end.ip().to_ipv6_mapped(), end.port(), 0, 0);
    Addresses::V6(Ends {
        client: v6(ends.client),
        virt: v6(ends.virt),
        dest: v6(ends.dest),
    })
}

fn change_server(conn: &mut SyncConn, random: &mut Random) {
    let port = 8080 + random.below(3) as u16;
    match &mut conn.addresses {
        Addresses::V4(ends) => ends.dest.set_port(port),
        Addresses::V6(ends) => ends.dest.set_port(port),
    }
}
