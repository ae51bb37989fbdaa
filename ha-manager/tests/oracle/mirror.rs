//! The model of a backup, told of what is the data plane's own way, and compared with it.
//!
//! Where the data plane differs from the kernel on purpose, the model is made to do the same, and it
//! is counted, see [`UnlikeKernel`]. What is left out of a run is in [`Mirror::refuses`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use dataplane::Edit;
use ipvs_model::entry::ConnEntry;
use ipvs_model::service::ServiceKey;
use syncproto::conn::SyncConn;

use crate::model::{self, Applied, Backup, Key, LONGEST_TIMEOUT, Row};
use crate::node::{OUTCOMES, Seen};
use crate::plan::{self, NO_CPORT, ODD_CLIENT, Planned, TEMPLATE};
use crate::traffic;

/// The test cannot tell any more what must be over and what must not.
pub(crate) const STANDSTILL: Duration = Duration::from_millis(500);
/// Nothing is said of a connection that ends so soon. Unit: milliseconds.
const NEAR_END_MS: u64 = 800;
/// So long after its end the model forgets a connection; the data plane has by then. Unit:
/// milliseconds.
const FORGOTTEN_MS: u64 = 1200;
/// What the clock of the programs is late, with a reserve. Unit: milliseconds.
const TICK_MS: u64 = 20;

/// Differences from the kernel that the README names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum UnlikeKernel {
    /// "An unbound connection whose server is configured in the meantime is made anew at the next
    /// message about it." The kernel binds it in place.
    MadeAnew,
    /// Of those: a connection without its client's port that has one now.
    MadeAnewWithPort,
    /// "Its server is looked up by the mark and method that this message says, in the kernel by those
    /// stored." The kernel would have found one; so too for a template when the message names another
    /// server.
    LookedUpByEntry,
    /// "A timeout above 4294967 s is shown as it is."
    LongTimeout,
}

/// The connection something is wrong with.
#[derive(Clone, Debug)]
pub(crate) struct About {
    protocol: u8,
    client: IpAddr,
    virt: SocketAddr,
}

impl About {
    pub(crate) fn is_of(&self, conn: &SyncConn) -> bool {
        self.protocol == conn.protocol
            && self.client == conn.addresses.client().ip()
            && self.virt == conn.addresses.virt()
    }
}

#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) what: String,
    pub(crate) about: Option<About>,
}

pub(crate) struct Mirror {
    model: Backup,
    /// In the order of the model's services.
    planned: Vec<Planned>,
    outcomes: BTreeMap<&'static str, u64>,
    pub(crate) expired: u64,
    /// Service and server of every binding that was seen.
    pub(crate) bound: BTreeSet<(usize, usize)>,
    pub(crate) unlike_kernel: BTreeMap<UnlikeKernel, u64>,
}

impl Mirror {
    pub(crate) fn new(now_ms: u64) -> Mirror {
        let planned = plan::services();
        let server = |method| model::Server {
            addr: NOWHERE,
            method,
            active: 0,
            total: 0,
            persistent: 0,
        };
        let services = planned.iter().map(|service| model::Service {
            key: NO_SERVICE,
            servers: (service.servers.iter())
                .map(|(_, method)| server(*method))
                .collect(),
        });
        Mirror {
            model: Backup {
                services: services.collect(),
                now_ms,
                ..Backup::default()
            },
            planned,
            outcomes: OUTCOMES.map(|(outcome, _)| (outcome, 0)).into(),
            expired: 0,
            bound: BTreeSet::new(),
            unlike_kernel: BTreeMap::new(),
        }
    }

    pub(crate) const fn outcomes(&self) -> &BTreeMap<&'static str, u64> {
        &self.outcomes
    }

    /// Lets time pass. What is over stays a while, until the data plane must have forgotten it.
    pub(crate) fn pass_to(&mut self, now_ms: u64) {
        let rows = self.model.rows.len();
        self.model.now_ms = now_ms.saturating_sub(FORGOTTEN_MS);
        self.model.advance(0);
        self.model.now_ms = now_ms;
        self.expired += (rows - self.model.rows.len()) as u64;
    }

    /// Whether a connection is about to end, or to be forgotten.
    pub(crate) fn next_end_within(&self, ms: u64) -> bool {
        let until = self.model.now_ms + ms;
        self.model.rows.values().any(|row| row.deadline_ms <= until)
    }

    /// A server that was removed is unfindable, but keeps its connections and its counters, and has
    /// them when it comes back (`ip_vs_ctl.c: ip_vs_trash_get_dest`): it keeps its place.
    pub(crate) fn edit(&mut self, edit: &Edit) {
        match edit {
            Edit::AddService { key, .. } => {
                let at = self.service(key);
                self.model.services[at].key = model_key(key);
            }
            Edit::DeleteService { key } => {
                let at = self.service(key);
                self.model.services[at].key = NO_SERVICE;
                for server in &mut self.model.services[at].servers {
                    server.addr = NOWHERE;
                }
            }
            Edit::AddServer {
                service, server, ..
            } => {
                let (at, place) = self.server(service, server);
                self.model.services[at].servers[place].addr = *server;
            }
            Edit::DeleteServer { service, server } => {
                let (at, place) = self.server(service, server);
                self.model.services[at].servers[place].addr = NOWHERE;
            }
            Edit::EditService { .. } | Edit::EditServer { .. } | Edit::Flush => unreachable!(),
        }
    }

    fn service(&self, key: &ServiceKey) -> usize {
        let mut all = self.planned.iter();
        all.position(|planned| planned.key == *key).unwrap()
    }

    fn server(&self, service: &ServiceKey, server: &SocketAddr) -> (usize, usize) {
        let at = self.service(service);
        let mut servers = self.planned[at].servers.iter();
        let place = servers.position(|(addr, _)| addr == server).unwrap();
        (at, place)
    }

    /// Why a message with these entries is not sent; all of them are results of damage, or a matter
    /// of time.
    pub(crate) fn refuses(&self, conns: &[SyncConn]) -> Option<&'static str> {
        conns.iter().find_map(|conn| {
            let client = conn.addresses.client().ip();
            let is_odd_client = client == plan::client(client.is_ipv6(), ODD_CLIENT);
            let is_template = conn.flags & TEMPLATE != 0;
            if self.is_near_its_end(conn) {
                Some("near its end")
            } else if let Some(pe) = &conn.pe
                && is_template
            {
                // "Told apart by a hash of 16 bits": none of these have one hash.
                (!traffic::is_call(pe.data())).then_some("engine data of no call")
            } else if is_template {
                None
            } else if !plan::is_in_place(conn) {
                Some("replies could look like another's")
            } else {
                // The kernel never finds these again, and keeps a copy for every message.
                (plan::is_odd(conn) != is_odd_client).then_some("client port")
            }
        })
    }

    fn is_near_its_end(&self, conn: &SyncConn) -> bool {
        let keys: [Key; 2] = keys(conn).into();
        keys.iter().any(|key| {
            let row = self.model.rows.get(key);
            row.is_some_and(|row| row.deadline_ms < self.model.now_ms + NEAR_END_MS)
        })
    }

    pub(crate) fn apply(&mut self, conn: &SyncConn) {
        if u64::from(conn.timeout_secs) > LONGEST_TIMEOUT {
            self.note(UnlikeKernel::LongTimeout);
        }
        let applied = match self.make_anew(conn) {
            Some(applied) => applied,
            None => self.apply_in_place(conn),
        };
        let outcome = match applied {
            Applied::Created => "created",
            Applied::Updated => "updated",
            Applied::Replaced => "replaced",
            Applied::Late => "late",
        };
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// An unbound connection whose server is there by now is another one. `None` where the entry is
    /// not about one: nothing has changed then.
    fn make_anew(&mut self, conn: &SyncConn) -> Option<Applied> {
        let (key, waiting) = keys(conn);
        let found = self.found(&key, &waiting)?;
        let row = &self.model.rows[&found];
        if row.bound.is_some() || row.dest != conn.addresses.dest() {
            return None;
        }
        // So that the model makes one, whatever else is there.
        let old = self.model.rows.remove(&found).unwrap();
        let other = if waiting == key {
            None
        } else {
            self.model.rows.remove(&waiting)
        };
        assert_eq!(self.model.apply(conn), Applied::Created);
        if let Some(other) = other {
            self.model.rows.insert(waiting, other);
        }
        if self.model.rows[&key].bound.is_none() {
            self.model.rows.remove(&key);
            self.model.rows.insert(found, old);
            return None;
        }
        self.note(UnlikeKernel::MadeAnew);
        if found != key {
            self.note(UnlikeKernel::MadeAnewWithPort);
        }
        Some(Applied::Replaced)
    }

    fn apply_in_place(&mut self, conn: &SyncConn) -> Applied {
        let (key, waiting) = keys(conn);
        let before = self.found(&key, &waiting);
        let before = before.and_then(|found| Some((self.model.rows.get(&found)?.clone(), found)));
        let applied = self.model.apply(conn);
        if let (Applied::Updated, Some((old, found))) = (applied, before)
            && old.bound.is_none()
            && let Some(row) = self.model.rows.get_mut(&found)
            && let Some((service, place)) = row.bound.take()
        {
            let server = &mut self.model.services[service].servers[place];
            row.flags = row.flags & !BINDING | old.flags & BINDING;
            if found.template {
                server.persistent -= 1;
                row.flags = row.flags & !INACTIVE | conn.flags & INACTIVE;
            } else {
                server.total -= 1;
                server.active -= i64::from(row.flags & INACTIVE == 0);
            }
            self.note(UnlikeKernel::LookedUpByEntry);
        }
        applied
    }

    /// As the model finds it.
    fn found(&self, key: &Key, waiting: &Key) -> Option<Key> {
        let rows = &self.model.rows;
        if rows.contains_key(key) {
            Some(key.clone())
        } else {
            waits_for(rows, key, waiting)
        }
    }

    fn note(&mut self, what: UnlikeKernel) {
        *self.unlike_kernel.entry(what).or_default() += 1;
    }

    /// Compares everything; `lag` is how late an entry may have been applied.
    ///
    /// # Errors
    /// The first difference.
    pub(crate) fn compare(&mut self, seen: &Seen, lag: Duration) -> Result<(), Wrong> {
        let mut listed = BTreeMap::new();
        for entry in &seen.entries {
            if let Some(other) = listed.insert(key_of_entry(entry), entry) {
                return Err(wrong(entry, format!("twice: {entry:?} {other:?}")));
            }
        }
        let lag_ms = lag.as_millis() as u64;
        let mut counts: BTreeMap<(usize, usize), Counts> = BTreeMap::new();
        for (key, row) in &self.model.rows {
            let entry = listed.remove(key);
            let is_near = row.deadline_ms <= seen.until_ms + TICK_MS;
            if let Some(place) = row.bound {
                let inactive = row.flags & INACTIVE != 0;
                (counts.entry(place).or_default()).add(key.template, inactive, is_near);
            }
            if !is_near && let Err(what) = self.same(key, row, entry, seen, lag_ms) {
                let about = About {
                    protocol: key.protocol,
                    client: key.client.ip(),
                    virt: key.virt,
                };
                return Err(Wrong {
                    what: format!("{what}\nwanted {key:?} {row:?}\n   got {entry:?}"),
                    about: Some(about),
                });
            }
        }
        if let Some(entry) = listed.values().next() {
            return Err(wrong(entry, format!("nothing of the kind: {entry:?}")));
        }
        self.compare_servers(seen, &counts)?;
        self.bound.extend(counts.keys());
        Ok(())
    }

    fn same(
        &self,
        key: &Key,
        row: &Row,
        entry: Option<&ConnEntry>,
        seen: &Seen,
        lag_ms: u64,
    ) -> Result<(), String> {
        let Some(entry) = entry else {
            return Err("missing".to_owned());
        };
        let least = row.deadline_ms.saturating_sub(seen.until_ms + TICK_MS) / 1000;
        let most = (row.deadline_ms + lag_ms + TICK_MS - seen.from_ms) / 1000;
        let is_long = row.timeout_ms == LONGEST_TIMEOUT * 1000;
        let expires = u64::from(entry.expires_secs);
        // The client's port of an engine's template is not kept: nothing looks at it.
        let client = if key.engine_data.is_empty() {
            row.client
        } else {
            SocketAddr::new(row.client.ip(), 0)
        };
        let engine = entry.pe.as_ref().map_or(&[][..], |pe| pe.name());
        let data = entry.pe.as_ref().map_or(&[][..], |pe| pe.data());
        for (what, is_right) in [
            ("client", entry.client == client),
            ("real server", entry.dest == row.dest),
            ("flags", entry.flags.0 == row.flags),
            ("state", entry.state == row.state),
            ("fwmark", entry.fwmark == row.fwmark),
            ("packets", entry.in_pkts == row.in_pkts),
            ("bound", entry.bound == row.bound.is_some()),
            ("controls", entry.controls == 0),
            ("engine", engine == row.engine),
            ("engine data", data == key.engine_data),
            ("timer", expires >= least && (is_long || expires <= most)),
        ] {
            if !is_right {
                return Err(what.to_owned());
            }
        }
        Ok(())
    }

    fn compare_servers(
        &self,
        seen: &Seen,
        counts: &BTreeMap<(usize, usize), Counts>,
    ) -> Result<(), Wrong> {
        let fail = |what| Err(Wrong { what, about: None });
        for (at, service) in self.model.services.iter().enumerate() {
            for (place, server) in service.servers.iter().enumerate() {
                let kept = [server.active, server.total, server.persistent];
                let counted = counts.get(&(at, place)).copied().unwrap_or_default();
                if kept.map(|kept| kept as u64) != counted.most {
                    return fail(format!("the model miscounts: {server:?} {counted:?}"));
                }
            }
        }
        for view in &seen.services {
            let at = self.service(&view.service.key);
            for (server, view) in view.service.servers.iter().zip(&view.servers) {
                let (_, place) = self.server(&self.planned[at].key, &server.key);
                let counted = counts.get(&(at, place)).copied().unwrap_or_default();
                let got = [view.active, view.active + view.inactive, view.persistent];
                let ranges = counted.least.into_iter().zip(counted.most);
                let is_right = (ranges.zip(got))
                    .all(|((least, most), got)| (least..=most).contains(&got.into()));
                if !is_right {
                    return fail(format!(
                        "active, all, persistent of {} in {}: {got:?}, wanted {counted:?}",
                        server.key, self.planned[at].key
                    ));
                }
            }
        }
        Ok(())
    }
}

const INACTIVE: u32 = 0x0100;
/// What binding changes: method and NOOUTPUT.
const BINDING: u32 = 0x0087;
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), 0);
const NO_SERVICE: model::ServiceKey = model::ServiceKey::Address {
    protocol: 255,
    addr: NOWHERE,
};

/// Active, all, persistent: without what is near its end, and with it.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    least: [u64; 3],
    most: [u64; 3],
}

impl Counts {
    fn add(&mut self, template: bool, inactive: bool, is_near: bool) {
        let one = if template {
            [0, 0, 1]
        } else {
            [u64::from(!inactive), 1, 0]
        };
        for (at, one) in one.into_iter().enumerate() {
            self.most[at] += one;
            self.least[at] += if is_near { 0 } else { one };
        }
    }
}

/// The key an entry names, and that of the connection that waits for its client's port.
fn keys(conn: &SyncConn) -> (Key, Key) {
    let key = model::key_of(conn);
    let mut waiting = key.clone();
    waiting.client.set_port(0);
    (key, waiting)
}

fn waits_for(rows: &BTreeMap<Key, Row>, key: &Key, waiting: &Key) -> Option<Key> {
    let row = rows.get(waiting).filter(|_| !key.template)?;
    (row.flags & NO_CPORT != 0).then(|| waiting.clone())
}

fn model_key(key: &ServiceKey) -> model::ServiceKey {
    match *key {
        ServiceKey::Address { protocol, addr } => model::ServiceKey::Address {
            protocol: protocol.number(),
            addr,
        },
        ServiceKey::Fwmark { mark, ipv6 } => model::ServiceKey::Mark { mark, ipv6 },
    }
}

fn key_of_entry(entry: &ConnEntry) -> Key {
    let mut client = entry.client;
    let mut engine_data = Vec::new();
    if let Some(pe) = &entry.pe {
        engine_data = pe.data().to_vec();
        client.set_port(0);
    }
    Key {
        template: entry.flags.0 & TEMPLATE != 0,
        protocol: entry.protocol,
        client,
        virt: entry.virt,
        engine_data,
    }
}

fn wrong(entry: &ConnEntry, what: String) -> Wrong {
    let about = About {
        protocol: entry.protocol,
        client: entry.client.ip(),
        virt: entry.virt,
    };
    Wrong {
        what,
        about: Some(about),
    }
}
