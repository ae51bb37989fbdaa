//! The table of a backup, written from the rules and not from our data plane: what becomes of an
//! accepted entry, with services, counters and timers. Slow and plain on purpose.
//!
//! The rules are those of `ip_vs_sync.c: ip_vs_proc_conn`, `ip_vs_conn.c: ip_vs_bind_dest`,
//! `ip_vs_try_bind_dest` and `ip_vs_ctl.c: ip_vs_service_find`, `ip_vs_find_dest`. Numbers are
//! spelt out here: nothing is shared with what is tested but the connection itself.
//!
//! DIFFERS: the kernel never finds an entry again that has client port 0 and not NO_CPORT, or
//! NO_CPORT and a client port, and keeps a copy for every message; here such a key has one row.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use syncproto::conn::{SeqPair, SyncConn};

const METHOD: u32 = 0x0007;
const SYNC: u32 = 0x0020;
const NOOUTPUT: u32 = 0x0080;
const INACTIVE: u32 = 0x0100;
const SEQ: u32 = 0x0600;
const NO_CPORT: u32 = 0x0800;
const TEMPLATE: u32 = 0x1000;
const ONE_PACKET: u32 = 0x2000;

/// Seconds by state, for entries that say none.
const TCP_TIMEOUTS: [u64; 11] = [2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120];
const UDP_TIMEOUT: u64 = 300;
const SCTP_TIMEOUTS: [u64; 14] = [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61];
/// Seconds, where there is no table: templates, AH, ESP.
const OTHER_TIMEOUT: u64 = 180;

/// Seconds a kernel's timer lasts at most (2^30 ticks of 4 ms).
pub(crate) const LONGEST_TIMEOUT: u64 = 4_294_967;

/// What a virtual service is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ServiceKey {
    Address { protocol: u8, addr: SocketAddr },
    Mark { mark: u32, ipv6: bool },
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) key: ServiceKey,
    /// The one added last stands first.
    pub(crate) servers: Vec<Server>,
}

#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// 0 masquerading, 1 local node, 2 tunnelling, 3 direct routing.
    pub(crate) method: u32,
    pub(crate) active: i64,
    /// Active and inactive.
    pub(crate) total: i64,
    pub(crate) persistent: i64,
}

/// What identifies a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) template: bool,
    pub(crate) protocol: u8,
    pub(crate) client: SocketAddr,
    pub(crate) virt: SocketAddr,
    /// Of a template of a persistence engine, which looks at it and not at the client's port.
    pub(crate) engine_data: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) client: SocketAddr,
    pub(crate) dest: SocketAddr,
    pub(crate) flags: u32,
    pub(crate) state: u8,
    pub(crate) old_state: u8,
    pub(crate) fwmark: u32,
    pub(crate) in_pkts: u32,
    pub(crate) timeout_ms: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) seq: SeqPair,
    pub(crate) engine: Vec<u8>,
    /// Service and server by their places.
    pub(crate) bound: Option<(usize, usize)>,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Created,
    Updated,
    /// The real server had changed: the old row has gone, and this is another one.
    Replaced,
    /// The end of a connection that was replaced: without effect.
    Late,
}

#[derive(Clone, Debug)]
pub(crate) struct Backup {
    pub(crate) services: Vec<Service>,
    pub(crate) rows: BTreeMap<Key, Row>,
    /// First value of `sync_threshold` here.
    pub(crate) threshold: u32,
    /// Least port that is not privileged. Kernel name: `ip_unprivileged_port_start`.
    pub(crate) unprivileged: u16,
    pub(crate) now_ms: u64,
}

impl Default for Backup {
    fn default() -> Self {
        Backup {
            services: Vec::new(),
            rows: BTreeMap::new(),
            threshold: 3,
            unprivileged: 1024,
            now_ms: 0,
        }
    }
}

impl Backup {
    /// Applies an accepted entry.
    pub(crate) fn apply(&mut self, conn: &SyncConn) -> Applied {
        let dest = conn.addresses.dest();
        let template = conn.flags & TEMPLATE != 0;
        let Some(key) = self.find(conn) else {
            self.create(conn);
            return Applied::Created;
        };
        if !template && self.rows[&key].dest != dest {
            if conn.flags & INACTIVE != 0 {
                return Applied::Late;
            }
            self.remove(&key);
            self.create(conn);
            return Applied::Replaced;
        }
        self.update(&key, conn);
        Applied::Updated
    }

    /// Lets time pass, and ends what has run out.
    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        let over = |row: &Row| row.deadline_ms <= self.now_ms;
        let over: Vec<_> = self.rows.iter().filter(|(_, row)| over(row)).collect();
        let over: Vec<Key> = over.into_iter().map(|(key, _)| key.clone()).collect();
        for key in over {
            self.remove(&key);
        }
    }

    /// What must hold after every entry, whatever it was.
    pub(crate) fn check(&self) {
        let mut counted: BTreeMap<(usize, usize), [i64; 3]> = BTreeMap::new();
        for (key, row) in &self.rows {
            let said = format!("{key:?} {row:?}");
            assert_eq!(row.flags & !(0x1f87 | SYNC), 0, "unknown flags: {said}");
            assert!(row.flags & SYNC != 0, "not marked as synchronised: {said}");
            assert_eq!(row.flags & ONE_PACKET, 0, "{said}");
            let both = NO_CPORT | TEMPLATE;
            assert!(row.flags & both != both, "{said}");
            assert_eq!(key.template, row.flags & TEMPLATE != 0, "{said}");
            assert!(key.template || key.engine_data.is_empty(), "{said}");
            let states = match key.protocol {
                _ if key.template => 2,
                6 => TCP_TIMEOUTS.len(),
                132 => SCTP_TIMEOUTS.len(),
                17 | 50 | 51 => 1,
                other => panic!("protocol {other}: {said}"),
            };
            assert!(usize::from(row.state) < states, "{said}");
            assert_eq!(row.state, row.old_state, "{said}");
            assert_eq!(row.in_pkts, self.threshold, "{said}");
            assert!(row.timeout_ms >= 1000, "ends before it is there: {said}");
            assert!(row.deadline_ms > self.now_ms, "outlived its timer: {said}");
            assert!(row.deadline_ms <= self.now_ms + row.timeout_ms, "{said}");
            let Some((service, server)) = row.bound else {
                continue;
            };
            let method = self.services[service].servers[server].method;
            assert_eq!(row.flags & METHOD, method, "{said}");
            assert_eq!(row.flags & NOOUTPUT != 0, method != 0, "{said}");
            let [active, total, persistent] = counted.entry((service, server)).or_default();
            if key.template {
                *persistent += 1;
            } else {
                *total += 1;
                *active += i64::from(row.flags & INACTIVE == 0);
            }
        }
        for (at, service) in self.services.iter().enumerate() {
            for (place, server) in service.servers.iter().enumerate() {
                let kept = [server.active, server.total, server.persistent];
                let counted = counted.get(&(at, place)).copied().unwrap_or_default();
                assert_eq!(kept, counted, "counts of {}", server.addr);
            }
        }
    }

    fn find(&self, conn: &SyncConn) -> Option<Key> {
        let key = key_of(conn);
        if self.rows.contains_key(&key) {
            return Some(key);
        }
        if key.template {
            return None;
        }
        // A connection that waits for its client's port.
        let mut waiting = key;
        waiting.client.set_port(0);
        let row = self.rows.get(&waiting)?;
        (row.flags & NO_CPORT != 0).then_some(waiting)
    }

    fn create(&mut self, conn: &SyncConn) {
        let mut row = Row {
            client: conn.addresses.client(),
            dest: conn.addresses.dest(),
            flags: conn.flags & 0x1f87 | SYNC,
            state: 0,
            old_state: 0,
            fwmark: conn.fwmark,
            in_pkts: 0,
            timeout_ms: 3000,
            deadline_ms: self.now_ms + 3000,
            seq: SeqPair::default(),
            engine: Vec::new(),
            bound: None,
        };
        let key = key_of(conn);
        if let (true, Some(pe)) = (key.template, &conn.pe) {
            row.engine = pe.name().to_vec();
        }
        self.bind(&key, &mut row);
        self.finish(&mut row, &key, conn);
        self.rows.insert(key, row);
    }

    fn update(&mut self, key: &Key, conn: &SyncConn) {
        let mut row = self.rows[key].clone();
        let changed = (row.flags ^ conn.flags) & INACTIVE != 0;
        if let (true, false, Some((service, server))) = (changed, key.template, row.bound) {
            let ends = conn.flags & INACTIVE != 0;
            self.services[service].servers[server].active += if ends { -1 } else { 1 };
        }
        row.flags = row.flags & !(INACTIVE | SEQ) | conn.flags & (INACTIVE | SEQ);
        if row.bound.is_none() {
            self.bind(key, &mut row);
        }
        self.finish(&mut row, key, conn);
        self.rows.insert(key.clone(), row);
    }

    /// What ends every application of an entry.
    fn finish(&self, row: &mut Row, key: &Key, conn: &SyncConn) {
        if let Some(seq) = conn.seq {
            row.seq = seq;
        }
        row.in_pkts = self.threshold;
        row.state = conn.state;
        row.old_state = conn.state;
        let state = usize::from(conn.state);
        let secs = match (conn.timeout_secs, key.protocol) {
            (0, _) if key.template => OTHER_TIMEOUT,
            (0, 6) => TCP_TIMEOUTS[state],
            (0, 17) => UDP_TIMEOUT,
            (0, 132) => SCTP_TIMEOUTS[state],
            (0, _) => OTHER_TIMEOUT,
            (said, _) => u64::from(said).min(LONGEST_TIMEOUT),
        };
        row.timeout_ms = secs * 1000;
        row.deadline_ms = self.now_ms + row.timeout_ms;
    }

    fn bind(&mut self, key: &Key, row: &mut Row) {
        let Some(place) = self.find_server(key, row) else {
            return;
        };
        let server = &mut self.services[place.0].servers[place.1];
        row.bound = Some(place);
        row.flags &= !(METHOD | NOOUTPUT);
        row.flags |= server.method;
        if server.method != 0 {
            row.flags |= NOOUTPUT;
        }
        if key.template {
            row.flags |= INACTIVE;
            server.persistent += 1;
        } else {
            server.total += 1;
            server.active += i64::from(row.flags & INACTIVE == 0);
        }
    }

    fn remove(&mut self, key: &Key) {
        let row = self.rows.remove(key).expect("it is there");
        let Some((service, server)) = row.bound else {
            return;
        };
        let server = &mut self.services[service].servers[server];
        if key.template {
            server.persistent -= 1;
        } else {
            server.total -= 1;
            server.active -= i64::from(row.flags & INACTIVE == 0);
        }
    }

    fn find_server(&self, key: &Key, row: &Row) -> Option<(usize, usize)> {
        let service = self.find_service(key, row.fwmark)?;
        let by_port = |port: u16| {
            let wanted = SocketAddr::new(row.dest.ip(), port);
            let servers = &self.services[service].servers;
            servers.iter().position(|server| server.addr == wanted)
        };
        let dport = row.dest.port();
        let mut ports = [dport, 0];
        if row.fwmark != 0 && row.flags & METHOD != 0 {
            ports.reverse();
        }
        let server = ports.into_iter().find_map(by_port)?;
        Some((service, server))
    }

    fn find_service(&self, key: &Key, fwmark: u32) -> Option<usize> {
        let find = |wanted| self.services.iter().position(|s| s.key == wanted);
        let at = |port| {
            find(ServiceKey::Address {
                protocol: key.protocol,
                addr: SocketAddr::new(key.virt.ip(), port),
            })
        };
        let ipv6 = key.virt.is_ipv6();
        let by_mark = (fwmark != 0).then_some(ServiceKey::Mark { mark: fwmark, ipv6 });
        let vport = key.virt.port();
        let ftp_data = key.protocol == 6 && (vport == 20 || vport >= self.unprivileged);
        by_mark
            .and_then(find)
            .or_else(|| at(vport))
            .or_else(|| ftp_data.then(|| at(21)).flatten())
            .or_else(|| at(0))
    }
}

/// The key a message names.
pub(crate) fn key_of(conn: &SyncConn) -> Key {
    let template = conn.flags & TEMPLATE != 0;
    let mut client = conn.addresses.client();
    let mut engine_data = Vec::new();
    if let (true, Some(pe)) = (template, &conn.pe) {
        engine_data = pe.data().to_vec();
        client.set_port(0);
    }
    Key {
        template,
        protocol: conn.protocol,
        client,
        virt: conn.addresses.virt(),
        engine_data,
    }
}
