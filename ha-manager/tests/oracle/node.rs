//! The real side: a data plane with its sync backup, and the socket of the one who sends to it.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use dataplane::{DataPlane, Edit, ServiceView, timer_ns};
use ha_manager::sync::{SyncDaemons, SyncOptions};
use ipvs_model::entry::ConnEntry;
use ipvs_model::sync::{SyncRole, SyncSpec};
use socket2::SockRef;
use syncproto::limits::{DEFAULT_GROUP, DEFAULT_PORT};
use syncproto::receiver::ReceiverCounters;
use syncproto::wire::WalkConfig;

use crate::host::{Host, ip};

pub(crate) const SYNC_ID: u8 = 5;
/// Nothing here takes longer, on however slow a machine.
const LIMIT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_micros(30);
const MS_NS: u64 = 1_000_000;

/// What became of an entry: its name in the model, and the counter of the backup.
pub(crate) const OUTCOMES: [(&str, &str); 4] = [
    ("created", "applied_new"),
    ("updated", "applied_known"),
    ("replaced", "applied_replaced"),
    ("late", "ignored_late_end"),
];
/// What must not happen here.
const NEVER: [&str; 7] = [
    "guarded",
    "drop_table_full",
    "drop_reply_collision",
    "drop_busy",
    "drop_no_share",
    "extra_lost",
    "drop_socket_full",
];

/// As the backup's own receiver.
pub(crate) fn config() -> WalkConfig {
    WalkConfig {
        sync_id: SYNC_ID,
        engines: &["sip"],
        ..WalkConfig::default()
    }
}

/// What is listed at a moment.
pub(crate) struct Seen {
    /// Milliseconds of the data plane's clock, before and after.
    pub(crate) from_ms: u64,
    pub(crate) until_ms: u64,
    pub(crate) entries: Vec<ConnEntry>,
    pub(crate) services: Vec<ServiceView>,
}

pub(crate) struct Node {
    daemons: SyncDaemons,
    plane: DataPlane,
    socket: UdpSocket,
    _host: Host,
}

impl Node {
    /// Moves the calling thread into new namespaces.
    pub(crate) fn new() -> Node {
        let host = Host::new();
        ip("link set lo multicast on");
        ip("route add 224.0.0.0/4 dev lo");
        let mut plane = host.open();
        let mut daemons = SyncDaemons::new(SyncOptions::default());
        daemons.prepare(&mut plane);
        let spec = SyncSpec {
            interface: "lo".to_owned(),
            sync_id: SYNC_ID,
            maxlen: 0,
            group: None,
            port: 0,
            ttl: 0,
        };
        daemons.start(&mut plane, SyncRole::Backup, &spec).unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&socket)
            .set_multicast_if_v4(&Ipv4Addr::LOCALHOST)
            .unwrap();
        socket.connect((DEFAULT_GROUP, DEFAULT_PORT)).unwrap();
        Node {
            daemons,
            plane,
            socket,
            _host: host,
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        timer_ns() / MS_NS
    }

    pub(crate) fn send(&self, message: &[u8]) {
        self.socket.send(message).unwrap();
    }

    pub(crate) fn edit(&mut self, edit: &Edit) {
        self.plane.edit(edit).unwrap();
    }

    /// Until something has been made of everything that was sent: what the model made of it.
    ///
    /// # Errors
    /// What is otherwise.
    pub(crate) fn settle(
        &mut self,
        heard: &ReceiverCounters,
        outcomes: &BTreeMap<&'static str, u64>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            self.daemons.apply_received(&mut self.plane);
            let counts = self.counts();
            let differs = |(name, wanted): (&'static str, u64)| {
                let count = counts.get(name).copied().unwrap_or_default();
                (count != wanted).then(|| format!("{name}: {count}, wanted {wanted}"))
            };
            let early: Vec<String> = heard.iter().filter_map(differs).collect();
            let wanted = OUTCOMES.map(|(outcome, name)| (name, outcomes[outcome]));
            let never = NEVER.map(|name| (name, 0));
            let wrong = wanted.into_iter().chain(never).filter_map(differs);
            let wrong: Vec<String> = wrong.collect();
            if early.is_empty() && wrong.is_empty() {
                return Ok(());
            }
            let applied = OUTCOMES.iter().map(|(_, name)| *name).chain(NEVER);
            let applied: u64 = applied.filter_map(|name| counts.get(name)).sum();
            let is_done = early.is_empty() && applied >= heard.entries;
            if is_done || Instant::now() > deadline {
                let what = [early, wrong].concat().join(", ");
                return Err(format!("{what}\n{}", self.clues()));
            }
            thread::sleep(PAUSE);
        }
    }

    /// Where a datagram may have been lost.
    fn clues(&self) -> String {
        let read = |name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
        let snmp = read("snmp");
        let udp = snmp.lines().filter(|line| line.starts_with("Udp:"));
        let counters = self.plane.counters();
        let counters = counters.into_iter().filter(|(_, count)| *count != 0);
        format!(
            "{}\n{}{:?}\n{:?}",
            udp.collect::<Vec<_>>().join("\n"),
            read("udp"),
            counters.collect::<Vec<_>>(),
            self.daemons.problems()
        )
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        let status = self.daemons.status();
        let backup = status.into_iter().find(|it| it.role == SyncRole::Backup);
        backup.unwrap().counters.into_iter().collect()
    }

    /// The tables, and a step of the expiry walk.
    pub(crate) fn look(&mut self) -> Seen {
        self.plane.expire_step(u32::MAX);
        let from_ms = self.now_ms();
        let (mut entries, mut cursor) = (Vec::new(), Some(0));
        while let Some(from) = cursor {
            let (page, next) = self.plane.connections(from, usize::MAX);
            entries.extend(page);
            cursor = next;
        }
        Seen {
            from_ms,
            entries,
            services: self.plane.list(None).unwrap(),
            until_ms: self.now_ms(),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.daemons.stop(&mut self.plane, SyncRole::Backup);
    }
}
