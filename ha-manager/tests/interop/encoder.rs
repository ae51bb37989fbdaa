//! What tshark makes of the messages our encoder makes.
//!
//! The dissector does not know options: it takes the option of an entry for the next entry. So an
//! entry with options has a datagram to itself here, in which its fixed part is compared.

use std::net::Ipv4Addr;

use syncproto::buffer::Layout;
use syncproto::conn::{Addresses, SyncConn};
use syncproto::limits::{DEFAULT_PAYLOAD_IPV4, DEFAULT_PORT};
use syncproto::wire::{SeqOrder, Version};

use crate::datagrams::{Message, capture, messages, plain_ipv4, plain_ipv6, with_engine, with_seq};
use crate::dissection::{Dissected, DissectedEntry, dissect, tshark_is_missing};

const SYNC_ID: u8 = 51;

#[test]
fn version_1_dissects_to_the_connections_we_encoded() {
    println!("{}", compare(Version::V1, &v1_groups()));
}

#[test]
fn version_0_dissects_to_the_connections_we_encoded() {
    let plain = plain_ipv4();
    let mut groups: Vec<Vec<SyncConn>> = (1..=61).map(|count| plain[..count].to_vec()).collect();
    // Its sequence block is part of the entry, and the dissector knows it.
    groups.push(with_seq(&plain));
    println!("{}", compare(Version::V0, &groups));
}

/// Every number of entries of either family, both mixed, and options alone.
fn v1_groups() -> Vec<Vec<SyncConn>> {
    let (v4, v6) = (plain_ipv4(), plain_ipv6());
    let mut groups = Vec::new();
    groups.extend((1..=40).map(|count| v4[..count].to_vec()));
    groups.extend((1..=20).map(|count| v6[..count].to_vec()));
    groups.extend(v4.chunks(40).map(<[SyncConn]>::to_vec));
    groups.extend(v6.chunks(20).map(<[SyncConn]>::to_vec));
    let mixed = v4
        .iter()
        .zip(&v6)
        .flat_map(|(v4, v6)| [v4.clone(), v6.clone()]);
    groups.push(mixed.take(26).collect());
    for options in [
        with_seq(&v4),
        with_seq(&v6),
        with_engine(&v4),
        with_engine(&v6),
    ] {
        groups.extend(options.into_iter().map(|conn| vec![conn]));
    }
    groups
}

/// What was compared, or why nothing was.
fn compare(version: Version, groups: &[Vec<SyncConn>]) -> String {
    if let Some(why) = tshark_is_missing() {
        return format!("skipped: {why}");
    }
    let layout = Layout {
        version,
        sync_id: SYNC_ID,
        // The one order the dissector knows.
        seq_order: SeqOrder::Big,
        maxlen: DEFAULT_PAYLOAD_IPV4,
    };
    let sent = messages(layout, groups);
    let group = Ipv4Addr::new(224, 0, 0, 81);
    let dissected = dissect(&capture(&sent, group, DEFAULT_PORT));
    assert_eq!(dissected.len(), sent.len());
    let mut entries = 0;
    for (sent, dissected) in sent.iter().zip(dissected) {
        assert_eq!(dissected, expected(version, sent));
        entries += sent.conns.len();
    }
    format!(
        "{} datagrams, {entries} entries dissected by tshark",
        sent.len()
    )
}

fn expected(version: Version, message: &Message) -> Dissected {
    let entry = |conn: &SyncConn| DissectedEntry {
        protocol: conn.protocol.into(),
        // What ours is in version 0 is its low half.
        flags: match version {
            Version::V0 => conn.flags & 0xffff,
            Version::V1 => conn.flags,
        },
        state: conn.state.into(),
        ports: [
            conn.addresses.client().port(),
            conn.addresses.virt().port(),
            conn.addresses.dest().port(),
        ]
        .map(u32::from),
        fwmark_and_timeout: match version {
            Version::V0 => None,
            Version::V1 => Some((conn.fwmark, conn.timeout_secs)),
        },
    };
    let addresses = |wants_ipv6: bool| {
        let of_family = message.conns.iter().map(|conn| &conn.addresses);
        of_family
            .filter(|addresses| addresses.is_ipv6() == wants_ipv6)
            .map(|addresses: &Addresses| {
                [addresses.client(), addresses.virt(), addresses.dest()].map(|end| end.ip())
            })
            .collect()
    };
    let seqs = message.conns.iter().filter_map(|conn| conn.seq);
    let words = seqs.map(|seq| {
        let record = |record: syncproto::conn::SeqRecord| {
            [
                record.init_seq,
                record.delta.cast_unsigned(),
                record.previous_delta.cast_unsigned(),
            ]
        };
        [record(seq.input), record(seq.output)]
    });
    Dissected {
        sync_id: SYNC_ID.into(),
        size: message.bytes.len().try_into().unwrap(),
        count: message.conns.len().try_into().unwrap(),
        entries: message.conns.iter().map(entry).collect(),
        addresses_ipv4: addresses(false),
        addresses_ipv6: addresses(true),
        seqs: match version {
            Version::V0 => words.collect(),
            Version::V1 => Vec::new(),
        },
    }
}
