//! What must hold when everything has arrived.

use std::fmt;

use crate::link::Link;
use crate::model::{Applied, Key};
use crate::node::{Heard, Node, Offer};

const CHANGEABLE: u32 = 0x0700;

/// What a scenario's link promises.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promises {
    /// Nothing that was offered is missing.
    pub(crate) complete: bool,
    /// What goes through one port stays in order.
    pub(crate) in_order: bool,
}

/// A connection and all that was said about it, for the message of a failure.
struct Said<'a> {
    key: &'a Key,
    from: usize,
    offers: &'a [Offer],
    heard: &'a [Heard],
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Said {
            key,
            from,
            offers,
            heard,
        } = self;
        write!(f, "{key:?} of node {from}: {offers:#?} became {heard:#?}")
    }
}

/// What became of the connections that were offered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    /// Mentioned in a message that was sent.
    pub(crate) connections: u64,
    pub(crate) heard: u64,
    pub(crate) rows: u64,
    /// Entries that told of another real server, and of the end of a replaced connection.
    pub(crate) replaced: u64,
    pub(crate) late: u64,
    offers: u64,
    /// Of `heard`, by the losses of the link; and its variance.
    expected: f64,
    variance: f64,
}

impl Kept {
    pub(crate) fn add(&mut self, other: &Kept) {
        self.connections += other.connections;
        self.heard += other.heard;
        self.rows += other.rows;
        self.replaced += other.replaced;
        self.late += other.late;
        self.offers += other.offers;
        self.expected += other.expected;
        self.variance += other.variance;
    }

    /// Connections share messages, so what is heard of them is not independent: an entry of a full
    /// message has sixty companions. Twelve deviations of independent ones are generous to that.
    pub(crate) fn check_against_expectation(&self) {
        let off = (self.heard as f64 - self.expected).abs();
        assert!(off <= 12.0 * self.variance.sqrt(), "{self}");
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |count: f64| 100.0 * count / self.connections.max(1) as f64;
        write!(
            f,
            "{} connections in {} offers; heard of {:.3} %, expected {:.3} %; {} rows at the end, {} replaced, {} late ends",
            self.connections,
            self.offers,
            share(self.heard as f64),
            share(self.expected),
            self.rows,
            self.replaced,
            self.late
        )
    }
}

/// Every entry, message and datagram is somewhere.
pub(crate) fn check_counters(nodes: &[Node; 2], link: &Link) {
    for (index, node) in nodes.iter().enumerate() {
        let (mut entries, mut messages, mut dropped) = (0, 0, 0);
        for counters in node.senders().iter().map(|sender| sender.counters()) {
            entries += counters.entries;
            messages += counters.messages;
            dropped += counters.drop_queue_full + counters.drop_discarded + counters.not_carried;
        }
        assert_eq!(node.pushed, entries + dropped, "offered: sent or dropped");
        let [sent, lost, duplicated, delivered, unheard] = [
            &link.sent,
            &link.lost,
            &link.duplicated,
            &link.delivered,
            &link.unheard,
        ]
        .map(|tallies| tallies[index]);
        assert_eq!((sent.datagrams, sent.entries), (messages, entries));
        assert_eq!(
            (delivered.datagrams, delivered.entries),
            (
                sent.datagrams - lost.datagrams + duplicated.datagrams,
                sent.entries - lost.entries + duplicated.entries
            ),
            "received: sent, less lost, and duplicated"
        );
        let (mut heard, mut accepted, mut refused) = (0, 0, 0);
        for counters in nodes[1 - index].receivers().iter().map(|r| r.counters()) {
            heard += counters.messages;
            accepted += counters.entries;
            refused += counters.refused.total();
            assert_eq!((counters.foreign_messages, counters.trailing_bytes), (0, 0));
        }
        assert_eq!(heard, delivered.datagrams - unheard.datagrams);
        assert_eq!(accepted + refused, delivered.entries - unheard.entries);
        assert_eq!(refused, 0, "of our own making");
    }
}

/// Holds what `backup` knows against what `master`, node number `from`, offered.
pub(crate) fn check_tables(
    master: &Node,
    backup: &Node,
    link: &Link,
    from: usize,
    promises: Promises,
) -> Kept {
    let mut kept = Kept::default();
    for (key, offers) in &master.offers {
        let heard = backup.heard.get(key).map_or(&[][..], Vec::as_slice);
        let said = Said {
            key,
            from,
            offers,
            heard,
        };
        kept.offers += offers.len() as u64;
        if let Some(mentions) = master.mentions.get(key) {
            let known = 1.0 - link.loss().powi(*mentions as i32);
            kept.connections += 1;
            kept.heard += u64::from(!heard.is_empty());
            kept.expected += known;
            kept.variance += known * (1.0 - known);
        }
        for entry in heard {
            let offered = |offer: &Offer| offer.conn == entry.conn && offer.port == entry.port;
            assert!(offers.iter().any(offered), "nobody offered this: {said}");
        }
        if promises.in_order {
            // What was heard is what was offered, less some.
            let mut left = offers.iter();
            let in_order = |entry: &Heard| left.any(|offer| offer.conn == entry.conn);
            assert!(heard.iter().all(in_order), "out of order: {said}");
        }
        if promises.complete {
            assert_eq!(heard.len(), offers.len(), "something is missing: {said}");
        }
        check_row(backup, promises, &said);
        let did = |what| heard.iter().filter(|entry| entry.applied == what).count() as u64;
        kept.replaced += did(Applied::Replaced);
        kept.late += did(Applied::Late);
        kept.rows += u64::from(backup.backup.rows.contains_key(key));
    }
    for key in backup.heard.keys() {
        assert!(master.offers.contains_key(key), "nobody has {key:?}");
    }
    for key in backup.backup.rows.keys() {
        assert!(backup.heard.contains_key(key), "nobody told of {key:?}");
    }
    kept
}

/// The row of a connection says what an offer said; the last one, if nothing can have been lost.
fn check_row(backup: &Node, promises: Promises, said: &Said<'_>) {
    let Said {
        key, offers, heard, ..
    } = said;
    // What counted last: the late end of a connection that was replaced did not.
    let effective = heard.iter().rfind(|entry| entry.applied != Applied::Late);
    let Some(row) = backup.backup.rows.get(*key) else {
        // It lasted as long as the last entry that counted said.
        let now_ms = backup.backup.now_ms;
        let ended = effective.is_none_or(|last| last.at_ms + timeout_ms(&last.conn) <= now_ms);
        assert!(ended, "has no row: {said}");
        return;
    };
    let equal = |conn: &syncproto::conn::SyncConn| {
        row.state == conn.state
            && row.timeout_ms == timeout_ms(conn)
            && (row.dest == conn.addresses.dest() || key.template)
            && (row.flags ^ conn.flags) & CHANGEABLE == 0
    };
    if promises.complete {
        let last = effective.expect("there is a row");
        assert!(
            equal(&last.conn),
            "not as it was offered last: {row:?} {said}"
        );
        let last_offer = &offers.last().expect("there is one").conn;
        let late = heard
            .last()
            .is_some_and(|entry| entry.applied == Applied::Late);
        assert!(
            late || equal(last_offer),
            "not as it was offered last: {row:?} {said}"
        );
    } else {
        let any = offers.iter().any(|offer| equal(&offer.conn));
        assert!(any, "as it was never offered: {row:?} {said}");
    }
}

/// Of an entry; what the backup takes when the entry says none.
fn timeout_ms(conn: &syncproto::conn::SyncConn) -> u64 {
    let own = match (conn.protocol, conn.state) {
        _ if conn.is_template() => 180,
        (17, _) => 300,
        (6, 1) | (132, 8) => 900,
        (6, 2 | 4 | 5) => 120,
        (6, 3 | 7) => 60,
        (6, 6) => 10,
        (132, 2) => 4,
        (132, _) => 61,
        other => panic!("{other:?} is never offered"),
    };
    1000 * match conn.timeout_secs {
        0 => own,
        secs => u64::from(secs),
    }
}
