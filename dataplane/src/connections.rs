//! Reads the connection tables for listings: IPv4, then IPv6.

use dataplane_common::entry::{Conn, ConnWord, NO_SERVER};
use dataplane_common::extra::HAS_EXTRA;
use dataplane_common::rules::transition::is_expired;
use dataplane_common::{Address, NS_PER_SEC};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;

use crate::convert::socket_addr;
use crate::extras::Extras;
use crate::mapped::{Mapped, load};
use crate::maps::Maps;
use crate::sweep::Place;
use crate::{ConnectionCount, Fill, timer_ns};

/// Places that one page looks at, at most.
const PAGE_PLACES: u64 = 1 << 16;
/// Port shown for what cannot be found any more (`ip_vs_conn.c: ip_vs_check_template`).
const UNFINDABLE_PORT: u16 = 0xffff;

/// Offsets of the fields that both kinds of entry begin with.
pub(crate) const WORD: usize = 0;
pub(crate) const DEADLINE: usize = 8;

/// Live connections from place `cursor` on, at most `limit`; a page may be empty and have a next.
pub(crate) fn page(
    maps: &Maps,
    extras: &Extras,
    cursor: u64,
    limit: usize,
) -> (Vec<ConnEntry>, Option<u64>) {
    let now_ns = timer_ns();
    let first6 = u64::from(maps.conns4.len());
    let size = first6 + u64::from(maps.conns6.len());
    let mut entries = Vec::new();
    let mut place = cursor.min(size);
    let end = size.min(place + PAGE_PLACES);
    while place < end && entries.len() < limit {
        entries.extend(if place < first6 {
            listed(&maps.conns4, place as u32, now_ns, maps, extras)
        } else {
            listed(&maps.conns6, (place - first6) as u32, now_ns, maps, extras)
        });
        place += 1;
    }
    (entries, (place < size).then_some(place))
}

pub(crate) fn count(maps: &Maps) -> ConnectionCount {
    let now_ns = timer_ns();
    ConnectionCount {
        v4: fill(&maps.conns4, now_ns),
        v6: fill(&maps.conns6, now_ns),
    }
}

fn fill<A: Address>(table: &Mapped<Conn<A>>, now_ns: u64) -> Fill {
    let mut fill = Fill {
        places: table.len(),
        ..Fill::default()
    };
    for index in 0..table.len() {
        let word = ConnWord(load(table.word(index, WORD)));
        if !word.is_free() {
            fill.taken += 1;
            let deadline_ns = load(table.word(index, DEADLINE));
            fill.live += u32::from(is_live(word, deadline_ns, now_ns));
        }
    }
    fill
}

/// Published, not marked, not over. What controls others lives past its deadline.
fn is_live(word: ConnWord, deadline_ns: u64, now_ns: u64) -> bool {
    let over = is_expired(deadline_ns, now_ns) && word.controls() == 0;
    word.is_usable(word.generation()) && !over
}

/// A live entry whose word did not change its incarnation while it was read.
fn listed<A: Address>(
    table: &Mapped<Conn<A>>,
    index: u32,
    now_ns: u64,
    maps: &Maps,
    extras: &Extras,
) -> Option<ConnEntry> {
    let before = ConnWord(load(table.word(index, WORD)));
    if !before.is_usable(before.generation()) {
        return None;
    }
    let conn = table.read(index);
    let after = ConnWord(load(table.word(index, WORD)));
    let same = after.is_usable(before.generation());
    if !same || !is_live(after, conn.deadline_ns, now_ns) {
        return None;
    }
    let mut entry = entry(&conn, now_ns);
    if conn.conn_flags & HAS_EXTRA != 0 {
        let place = Place {
            family: A::FAMILY,
            index,
            generation: after.generation(),
        };
        let extra = extras.get(maps, place);
        entry.pe = extra.and_then(|extra| extra.pe).map(Box::new);
    }
    Some(entry)
}

fn entry<A: Address>(conn: &Conn<A>, now_ns: u64) -> ConnEntry {
    let word = ConnWord(conn.word);
    let mut flags = u32::from(conn.conn_flags & !HAS_EXTRA);
    if word.is(ConnWord::INACTIVE) {
        flags |= ConnFlags::INACTIVE;
    }
    if word.is(ConnWord::NOOUTPUT) {
        flags |= ConnFlags::NOOUTPUT;
    }
    if conn.key.is_template() {
        flags |= ConnFlags::TEMPLATE;
    }
    let key = conn.key.to_words();
    let mut client = socket_addr(key.src, key.sport, A::FAMILY);
    let mut virt = socket_addr(key.dst, key.dport, A::FAMILY);
    let mut dest = socket_addr(conn.daddr.to_words(), conn.dport, A::FAMILY);
    if key.is_template() && word.is(ConnWord::DETACHED) {
        client.set_port(0);
        virt.set_port(UNFINDABLE_PORT);
        dest.set_port(UNFINDABLE_PORT);
    }
    ConnEntry {
        protocol: key.protocol,
        client,
        virt,
        dest,
        flags: ConnFlags(flags),
        state: word.state(),
        expires_secs: (conn.deadline_ns.saturating_sub(now_ns) / NS_PER_SEC) as u32,
        in_pkts: conn.in_pkts as u32,
        controls: word.controls(),
        fwmark: conn.fwmark,
        bound: conn.server != NO_SERVER,
        pe: None,
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::entry::{Conn4, Conn6};
    use dataplane_common::{Be16, Be32, FlowKey};

    use super::*;
    use crate::convert::be6;

    #[test]
    fn a_template_that_was_given_up_is_shown_as_unfindable() {
        let key = FlowKey::template(Be32::from_host(0x0a00_0000), Be32::from_host(7), Be16(0), 0);
        let conn = Conn4 {
            word: ConnWord::LIVE | ConnWord::INACTIVE,
            key,
            daddr: Be32::from_host(0x0a00_0001),
            dport: Be16::from_host(80),
            ..Conn4::default()
        };
        let shown = entry(&conn, 0);
        assert_eq!(shown.virt.to_string(), "0.0.0.7:0");
        assert_eq!(shown.dest.to_string(), "10.0.0.1:80");
        assert!(
            shown
                .flags
                .contains(ConnFlags::TEMPLATE | ConnFlags::INACTIVE)
        );
        let word = conn.word | ConnWord::DETACHED;
        let shown = entry(&Conn4 { word, ..conn }, 0);
        let ports = (shown.client.port(), shown.virt.port(), shown.dest.port());
        assert_eq!(ports, (0, 0xffff, 0xffff));
    }

    #[test]
    fn what_controls_others_is_alive_past_its_deadline() {
        let word = ConnWord(ConnWord::LIVE);
        assert!(!is_live(word, 5, 5));
        assert!(is_live(word.controlling_one_more().unwrap(), 5, 5));
    }

    #[test]
    fn ipv6_addresses_are_shown_as_they_stand_in_the_key() {
        let at = |text: &str| be6(text.parse().unwrap());
        let port = Be16::from_host;
        let key = FlowKey::flow(
            at("2001:db8::9"),
            port(1024),
            at("2001:db8::1"),
            port(80),
            6,
        );
        let conn = Conn6 {
            key,
            ..Conn6::default()
        };
        let shown = entry(&conn, 0);
        assert_eq!(shown.client.to_string(), "[2001:db8::9]:1024");
        assert_eq!(shown.virt.to_string(), "[2001:db8::1]:80");
    }
}
