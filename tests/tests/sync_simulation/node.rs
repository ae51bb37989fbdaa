//! A director as far as synchronisation knows it: connections of its own with packets, senders and
//! receivers by port, and the table of what it heard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dataplane_common::rules::sync::{Decision, SyncRules, SyncView, decide, first_endtime};
use syncproto::conn::{Addresses, Ends, SyncConn};
use syncproto::receiver::Receiver;
use syncproto::sender::{Sender, SenderConfig};
use syncproto::wire::{SeqOrder, Version, WalkConfig};

use crate::link::{Datagram, Faults, Link};
use crate::millis;
use crate::model::{Applied, Backup, Key, Row, key_of};
use crate::random::Random;
use crate::traffic;

/// What both nodes have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeConfig {
    /// A power of two. Kernel name: `sync_ports`.
    pub(crate) ports: usize,
    pub(crate) flush_age: Duration,
    pub(crate) maxlen: usize,
    pub(crate) queue_max: usize,
    pub(crate) version: Version,
    pub(crate) rules: SyncRules,
    /// Longest time between two steps of a scenario.
    pub(crate) pace_ms: usize,
}

impl NodeConfig {
    pub(crate) fn random(random: &mut Random, faults: Faults) -> NodeConfig {
        let lossless = faults.loss == 0.0;
        NodeConfig {
            ports: 1 << random.below(7),
            flush_age: millis([0, 1, 5, 100, 2000][random.below(5)]),
            maxlen: [1, 100, 600, 1472, 9000][random.below(5)],
            queue_max: if lossless {
                usize::MAX
            } else {
                1 + random.below(4)
            },
            version: any_version(random),
            pace_ms: [30, 30, 2000][random.below(3)],
            rules: SyncRules {
                threshold: random.below(4) as u32,
                period: [0, 1, 5, 50][random.below(4)],
                refresh_ticks: [0, 0, 500, 10_000][random.below(4)],
                retries: random.below(4) as u32,
                persist_mode: random.one_in(5),
            },
        }
    }
}

pub(crate) fn any_version(random: &mut Random) -> Version {
    [Version::V0, Version::V1, Version::V1][random.below(3)]
}

/// A connection, or template, that packets pass through here.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) conn: SyncConn,
    pub(crate) one_packet: bool,
    /// Place of its template.
    pub(crate) controller: Option<usize>,
    old_state: u8,
    pkts: u32,
    endtime: u64,
}

/// What was offered, as the version of its message can say it.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) conn: SyncConn,
    pub(crate) port: usize,
}

/// What was heard, and what that did.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) conn: SyncConn,
    pub(crate) port: usize,
    pub(crate) at_ms: u64,
    pub(crate) applied: Applied,
}

pub(crate) struct Node {
    config: NodeConfig,
    sync_id: u8,
    start: Instant,
    now_ms: u64,
    is_master: bool,
    is_backup: bool,
    pub(crate) live: Vec<Live>,
    senders: Vec<Sender>,
    receivers: Vec<Receiver>,
    pub(crate) backup: Backup,
    /// Datagrams heard since the table was checked.
    unchecked: u32,
    pub(crate) pushed: u64,
    pub(crate) offers: BTreeMap<Key, Vec<Offer>>,
    pub(crate) heard: BTreeMap<Key, Vec<Heard>>,
    /// Messages that mention a connection, for those that were handed to the link.
    pub(crate) mentions: BTreeMap<Key, u32>,
}

impl Node {
    #[allow(clippy::disallowed_methods, reason = "some time to begin with")]
    pub(crate) fn new(config: NodeConfig, sync_id: u8) -> Node {
        let sender = || {
            Sender::new(SenderConfig {
                version: config.version,
                sync_id,
                maxlen: config.maxlen,
                flush_age: config.flush_age,
                queue_max: config.queue_max,
                seq_order: SeqOrder::Little,
            })
        };
        Node {
            config,
            sync_id,
            start: Instant::now(),
            now_ms: 0,
            is_master: false,
            is_backup: false,
            live: Vec::new(),
            senders: (0..config.ports).map(|_| sender()).collect(),
            receivers: Vec::new(),
            backup: Backup::default(),
            unchecked: 0,
            pushed: 0,
            offers: BTreeMap::new(),
            heard: BTreeMap::new(),
            mentions: BTreeMap::new(),
        }
    }

    pub(crate) fn start_master(&mut self, random: &mut Random) {
        self.is_master = true;
        // Told apart from the other node's by their client's network.
        for (conn, one_packet, controller) in traffic::connections(self.sync_id, random) {
            self.add(conn, one_packet, controller);
        }
    }

    pub(crate) fn stop_master(&mut self) {
        self.is_master = false;
    }

    pub(crate) fn start_backup(&mut self, sync_id: u8) {
        self.is_backup = true;
        let walk = WalkConfig {
            sync_id,
            seq_order: SeqOrder::Little,
            ..WalkConfig::default()
        };
        let ports = 0..self.config.ports;
        self.receivers = ports.map(|_| Receiver::new(walk)).collect();
    }

    pub(crate) fn stop_backup(&mut self) {
        self.is_backup = false;
    }

    /// Becomes master for what it heard of.
    pub(crate) fn take_over(&mut self) {
        self.is_master = true;
        let rows: Vec<_> = self.backup.rows.clone().into_iter().collect();
        for (key, row) in rows {
            self.add(conn_of(&key, &row), false, None);
            let live = self.live.last_mut().expect("just added");
            live.pkts = row.in_pkts;
            live.old_state = row.old_state;
        }
    }

    pub(crate) fn set_version(&mut self, version: Version) {
        self.config.version = version;
        self.senders
            .iter_mut()
            .for_each(|sender| sender.set_version(version));
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.backup.advance(ms);
    }

    /// Some packets from clients.
    pub(crate) fn traffic(&mut self, random: &mut Random) {
        if !self.is_master || self.live.is_empty() {
            return;
        }
        for _ in 0..random.below(6) {
            let index = random.below(self.live.len());
            let live = &mut self.live[index];
            if !live.conn.is_template() {
                traffic::packet(&mut live.conn, random);
                self.packet(index);
            }
        }
    }

    /// Puts what is due on the link.
    pub(crate) fn transmit(&mut self, index: usize, link: &mut Link, random: &mut Random) {
        let now = self.now();
        for port in 0..self.senders.len() {
            while let Some(message) = self.senders[port].poll_transmit(now) {
                assert!(message.message().len() <= self.config.maxlen || message.count() == 1);
                let datagram = Datagram {
                    from: index,
                    port,
                    bytes: message.message().to_vec(),
                    count: message.count().into(),
                };
                self.mention(&datagram.bytes);
                link.send(datagram, random);
                self.senders[port].recycle(message);
            }
        }
    }

    pub(crate) fn flush(&mut self, link: &mut Link, random: &mut Random) {
        self.senders.iter_mut().for_each(Sender::flush);
        self.transmit(0, link, random);
    }

    pub(crate) fn discard(&mut self) {
        self.senders.iter_mut().for_each(Sender::discard);
    }

    pub(crate) fn pending(&self) -> u64 {
        self.senders.iter().map(Sender::pending_entries).sum()
    }

    pub(crate) fn hear(&mut self, datagram: &Datagram, link: &mut Link) {
        if !self.is_backup {
            link.unheard[datagram.from].add(datagram);
            return;
        }
        let (backup, heard) = (&mut self.backup, &mut self.heard);
        self.receivers[datagram.port].receive(&datagram.bytes, |conn| {
            let applied = backup.apply(&conn);
            heard.entry(key_of(&conn)).or_default().push(Heard {
                conn,
                port: datagram.port,
                at_ms: backup.now_ms,
                applied,
            });
        });
        // A recount of the whole table is not cheap.
        self.unchecked += 1;
        if self.unchecked >= 16 {
            self.check();
        }
    }

    pub(crate) fn check(&mut self) {
        self.unchecked = 0;
        self.backup.check();
    }

    pub(crate) fn senders(&self) -> &[Sender] {
        &self.senders
    }

    pub(crate) fn receivers(&self) -> &[Receiver] {
        &self.receivers
    }

    fn now(&self) -> Instant {
        self.start + millis(self.now_ms)
    }

    fn add(&mut self, conn: SyncConn, one_packet: bool, controller: Option<usize>) {
        self.live.push(Live {
            old_state: conn.state,
            conn,
            one_packet,
            controller,
            pkts: 0,
            endtime: first_endtime(self.now_ms * 1_000_000),
        });
    }

    /// A packet of a connection: it is considered, and then what controls it.
    fn packet(&mut self, index: usize) {
        let live = &mut self.live[index];
        live.pkts += 1;
        let controller = live.controller;
        if self.config.version == Version::V0 {
            let ipv6 = live.conn.addresses.is_ipv6();
            if ipv6 || live.one_packet || !self.consider(index) {
                return;
            }
        } else if !live.one_packet {
            self.consider(index);
        }
        if let Some(template) = controller {
            self.live[template].pkts += 1;
            self.consider(template);
        }
    }

    /// Offers a connection if the rules want it.
    fn consider(&mut self, index: usize) -> bool {
        let live = &mut self.live[index];
        let view = SyncView {
            protocol: live.conn.protocol,
            template: live.conn.is_template(),
            under_template: live.controller.is_some(),
            state: live.conn.state,
            old_state: live.old_state,
            pkts: live.pkts,
            timeout_secs: live.conn.timeout_secs,
            endtime: live.endtime,
        };
        let decision = decide(&self.config.rules, &view, self.now_ms * 1_000_000);
        let Decision::Send { endtime, .. } = decision else {
            return false;
        };
        live.endtime = endtime;
        live.old_state = live.conn.state;
        let conn = live.conn.clone();
        let key = key_of(&conn);
        let port = traffic::hash(&key) & (self.config.ports - 1);
        self.senders[port].push(&conn, self.start + millis(self.now_ms));
        self.pushed += 1;
        let conn = traffic::as_said(conn, self.config.version);
        // Version 0 leaves engine data out, and with it a part of the key.
        self.offers
            .entry(key_of(&conn))
            .or_default()
            .push(Offer { conn, port });
        true
    }

    /// Counts which connections a message mentions.
    fn mention(&mut self, bytes: &[u8]) {
        let mut keys = Vec::new();
        let walk = WalkConfig {
            seq_order: SeqOrder::Little,
            ..WalkConfig::default()
        };
        let mut tap = Receiver::new(walk);
        tap.receive(bytes, |conn| keys.push(key_of(&conn)));
        assert_eq!(tap.counters().refused.total(), 0, "of our own making");
        keys.sort();
        keys.dedup();
        for key in keys {
            *self.mentions.entry(key).or_default() += 1;
        }
    }
}

/// The connection that a row would be told as.
fn conn_of(key: &Key, row: &Row) -> SyncConn {
    use std::net::SocketAddr::{V4, V6};
    let addresses = match (row.client, key.virt, row.dest) {
        (V4(client), V4(virt), V4(dest)) => Addresses::V4(Ends { client, virt, dest }),
        (V6(client), V6(virt), V6(dest)) => Addresses::V6(Ends { client, virt, dest }),
        other => panic!("mixed families: {other:?}"),
    };
    let pe = syncproto::conn::Pe::new(&row.engine, &key.engine_data).map(Box::new);
    SyncConn {
        protocol: key.protocol,
        addresses,
        flags: row.flags,
        state: row.state,
        fwmark: row.fwmark,
        timeout_secs: (row.timeout_ms / 1000) as u32,
        seq: (row.flags & 0x0600 != 0).then_some(row.seq),
        pe,
    }
}
