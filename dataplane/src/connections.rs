//! Reads the connection table for listings.

use std::net::Ipv4Addr;

use dataplane_common::NS_PER_SEC;
use dataplane_common::entry::{Conn4, ConnWord, NO_SERVER};
use dataplane_common::key::FlowKey4;
use dataplane_common::rules::transition::is_expired;
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;

use crate::maps::{Maps, load};
use crate::{ConnectionCount, timer_ns};

/// Places that one page looks at, at most.
const PAGE_PLACES: u32 = 1 << 16;

/// Live connections from place `cursor` on, at most `limit`; a page may be empty and have a next.
pub(crate) fn page(maps: &Maps, cursor: u64, limit: usize) -> (Vec<ConnEntry>, Option<u64>) {
    let now_ns = timer_ns();
    let size = maps.conns4.len();
    let mut entries = Vec::new();
    let mut index = u32::try_from(cursor).unwrap_or(size);
    let end = size.min(index.saturating_add(PAGE_PLACES));
    while index < end && entries.len() < limit {
        entries.extend(live(maps, index, now_ns).map(|conn| entry(&conn, now_ns)));
        index += 1;
    }
    (entries, (index < size).then_some(u64::from(index)))
}

pub(crate) fn count(maps: &Maps) -> ConnectionCount {
    let now_ns = timer_ns();
    let mut count = ConnectionCount::default();
    for index in 0..maps.conns4.len() {
        if !ConnWord(load(maps.conns4.word(index, 0))).is_free() {
            count.taken += 1;
            count.live += u32::from(live(maps, index, now_ns).is_some());
        }
    }
    count
}

/// A copy of a live entry whose word did not change its incarnation while it was read.
fn live(maps: &Maps, index: u32, now_ns: u64) -> Option<Conn4> {
    let before = ConnWord(load(maps.conns4.word(index, 0)));
    if !before.is_usable(before.generation()) {
        return None;
    }
    let conn = maps.conns4.read(index);
    let after = ConnWord(load(maps.conns4.word(index, 0)));
    let same = after.is_usable(before.generation());
    (same && !is_expired(conn.deadline_ns, now_ns)).then_some(conn)
}

fn entry(conn: &Conn4, now_ns: u64) -> ConnEntry {
    let word = ConnWord(conn.word);
    let addr = |be: dataplane_common::Be32| Ipv4Addr::from(be.to_host());
    let mut flags = u32::from(conn.conn_flags);
    if word.is(ConnWord::INACTIVE) {
        flags |= ConnFlags::INACTIVE;
    }
    if word.is(ConnWord::NOOUTPUT) {
        flags |= ConnFlags::NOOUTPUT;
    }
    if conn.key.kind == FlowKey4::KIND_TEMPLATE {
        flags |= ConnFlags::TEMPLATE;
    }
    ConnEntry {
        protocol: conn.key.protocol,
        client: (addr(conn.key.src), conn.key.sport.to_host()).into(),
        virt: (addr(conn.key.dst), conn.key.dport.to_host()).into(),
        dest: (addr(conn.daddr), conn.dport.to_host()).into(),
        flags: ConnFlags(flags),
        state: word.state(),
        expires_secs: (conn.deadline_ns.saturating_sub(now_ns) / NS_PER_SEC) as u32,
        in_pkts: conn.in_pkts as u32,
        controls: word.controls(),
        fwmark: conn.fwmark,
        bound: conn.server != NO_SERVER,
    }
}
