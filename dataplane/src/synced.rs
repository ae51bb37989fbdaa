//! Connections and templates that another director tells of: has them applied
//! (`ip_vs_sync.c: ip_vs_proc_conn`).

use std::net::SocketAddr;

use dataplane_common::batch::{BatchItem, BatchResult, NO_HINT, REGION_ITEMS, says};
use dataplane_common::entry::NO_SERVER;
use dataplane_common::extra::HAS_EXTRA;
use dataplane_common::key::Be16;
use dataplane_common::settings::Settings;
use dataplane_common::{FlowKey, FlowKey4, FlowKey6};
use ipvs_model::extra::{Pe, SeqPair};
use ipvs_model::flags::ConnFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;

use crate::DataPlane;
use crate::bindings::{Bindings, Bound};
use crate::convert::{addr_words, family_of};
use crate::free_places::FreePlaces;
use crate::mapped::store;
use crate::sweep::Place;

/// A connection or template as a master tells of it; the receiver has checked states and flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncedConn {
    /// IP protocol number; 0 for a template of a fwmark service, whose `virt` is the mark.
    pub protocol: u8,
    pub client: SocketAddr,
    pub virt: SocketAddr,
    pub dest: SocketAddr,
    /// As they are to be stored, see [`ConnFlags`]; TEMPLATE says that it is one.
    pub flags: ConnFlags,
    pub state: u8,
    pub fwmark: u32,
    /// 0 is not said: the state's own timeout here.
    pub timeout_secs: u32,
    /// What few connections have beside the rest.
    pub extra: Option<Box<Extra>>,
}

/// What few connections have beside the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    pub seq: Option<SeqPair>,
    /// Of templates alone.
    pub pe: Option<Pe>,
}

/// What became of a batch of synchronised connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    pub created: u64,
    pub updated: u64,
    /// The real server had changed.
    pub replaced: u64,
    /// The end of a connection that another one has replaced.
    pub late: u64,
    /// This node directs and saw a packet of the connection just now.
    pub guarded: u64,
    pub table_full: u64,
    /// The way back belongs to another connection.
    pub reply_collision: u64,
    /// Another hand was at the entry.
    pub busy: u64,
    /// Synchronisation has had its share of the table, see [`DataPlane::set_sync_share`].
    pub no_share: u64,
    /// Applied, but there was no room for its sequence records or engine data, or another template with
    /// other data has the same hash.
    pub extra_lost: u64,
}

impl ApplyReport {
    pub(crate) fn count(&mut self, result: Option<BatchResult>) {
        let counter = match result {
            Some(BatchResult::Created) => &mut self.created,
            Some(BatchResult::Updated) => &mut self.updated,
            Some(BatchResult::Replaced) => &mut self.replaced,
            Some(BatchResult::Late) => &mut self.late,
            Some(BatchResult::Guarded) => &mut self.guarded,
            Some(BatchResult::TableFull) => &mut self.table_full,
            Some(BatchResult::ReplyCollision) => &mut self.reply_collision,
            Some(BatchResult::NoShare) => &mut self.no_share,
            Some(
                BatchResult::Untouched
                | BatchResult::Marked
                | BatchResult::Swept
                | BatchResult::Kept
                | BatchResult::Missed
                | BatchResult::Offered
                | BatchResult::RingFull
                | BatchResult::Postponed,
            )
            | None => &mut self.busy,
        };
        *counter += 1;
    }
}

/// Region of the batch array; the expiry walk has another.
const REGION: u32 = 1;
/// Its first place.
const FIRST: u32 = REGION * REGION_ITEMS;

impl DataPlane {
    /// Creates or refreshes connections through the *apply* program; results stand in the items.
    pub fn apply(&mut self, items: &mut [BatchItem]) {
        for chunk in items.chunks_mut(REGION_ITEMS as usize) {
            for (at, item) in (FIRST..).zip(chunk.iter()) {
                self.maps.batch.write(at, *item);
            }
            self.programs.apply(REGION, chunk.len() as u32);
            for (at, item) in (FIRST..).zip(chunk.iter_mut()) {
                item.result = self.maps.batch.read(at).result;
            }
        }
    }

    /// Creates or refreshes connections another director tells of; each is bound to its real server
    /// if that is configured here.
    pub fn apply_synced(&mut self, conns: &[SyncedConn]) -> ApplyReport {
        let mut report = ApplyReport::default();
        self.note_no_cport(conns);
        let settings = self.maps.settings.read(0);
        let mut bindings = Bindings::default();
        for chunk in conns.chunks(REGION_ITEMS as usize) {
            let given = self.apply_chunk(chunk, &settings, &mut bindings);
            // Another hand was at their entry; that is over by now.
            let missed: Vec<SyncedConn> = self.missed(chunk).cloned().collect();
            self.settle(chunk, &given, &mut report);
            if !missed.is_empty() {
                let given = self.apply_chunk(&missed, &settings, &mut bindings);
                report.busy -= missed.len() as u64;
                self.settle(&missed, &given, &mut report);
            }
        }
        report
    }

    /// Runs the program over at most one region of entries; gives back the free places they were given.
    fn apply_chunk(
        &mut self,
        chunk: &[SyncedConn],
        settings: &Settings,
        bindings: &mut Bindings,
    ) -> [u32; REGION_ITEMS as usize] {
        let mut given = [NO_HINT; REGION_ITEMS as usize];
        let ipv6 = chunk.iter().filter(|conn| conn.client.is_ipv6()).count();
        (self.places.v6).refill(&self.maps.conns6, ipv6);
        (self.places.v4).refill(&self.maps.conns4, chunk.len() - ipv6);
        for ((at, conn), free) in (FIRST..).zip(chunk).zip(&mut given) {
            let bound = bindings.of(&self.maps, &self.services, settings, conn);
            *free = self.places.of(conn).take().unwrap_or(NO_HINT);
            let item = BatchItem {
                index: *free,
                ..item(settings, conn, bound)
            };
            self.maps.batch.write(at, item);
        }
        self.programs.apply(REGION, chunk.len() as u32);
        given
    }

    /// The entries that the last run missed, but for those about a connection of which a later one has
    /// spoken.
    fn missed<'a>(&self, chunk: &'a [SyncedConn]) -> impl Iterator<Item = &'a SyncedConn> {
        (0..chunk.len())
            .filter(|nth| self.maps.result(FIRST + *nth as u32) == BatchResult::Missed as u8)
            .filter_map(|nth| chunk[nth..].split_first())
            .filter(|(conn, later)| !later.iter().any(|other| is_about_same(conn, other)))
            .map(|(conn, _)| conn)
    }

    /// Counts what became of the entries of the last run, and keeps what few have beside the rest. A
    /// free place that was not needed is for another connection.
    fn settle(&mut self, chunk: &[SyncedConn], given: &[u32], report: &mut ApplyReport) {
        for ((at, conn), free) in (FIRST..).zip(chunk).zip(given) {
            let result = BatchResult::from_number(self.maps.result(at));
            report.count(result);
            if matches!(result, Some(BatchResult::Created | BatchResult::Replaced)) {
                let place = self.maps.applied_at(at);
                if self
                    .sweep
                    .is_behind(&self.maps, conn.client.is_ipv6(), place)
                {
                    self.sync_made.count(conn);
                }
            } else if *free != NO_HINT {
                self.places.of(conn).give_back(*free);
            }
            if let Some(extra) = &conn.extra {
                let kept = self.keep_extra(at, extra, result);
                report.extra_lost += u64::from(!kept);
            }
        }
    }

    /// From the first connection without a port of its client on, entries that name one are compared
    /// with these too.
    fn note_no_cport(&mut self, conns: &[SyncedConn]) {
        if conns
            .iter()
            .any(|conn| conn.flags.contains(ConnFlags::NO_CPORT))
        {
            store!(self.maps.settings, 0, Settings.sync_no_cport, half, 1);
        }
    }

    /// False when there is no room for it.
    fn keep_extra(&mut self, at: u32, extra: &Extra, result: Option<BatchResult>) -> bool {
        let is_new = match result {
            Some(BatchResult::Created | BatchResult::Replaced) => true,
            Some(BatchResult::Updated) => false,
            _ => return true,
        };
        let item = self.maps.batch.read(at);
        let place = Place {
            family: item.family,
            index: item.index,
            generation: item.generation,
        };
        self.extras.note(&mut self.maps, place, extra, is_new)
    }
}

/// Connections made by synchronisation where this round of the walk has looked already.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Made {
    pub(crate) v4: u64,
    pub(crate) v6: u64,
}

impl Made {
    fn count(&mut self, conn: &SyncedConn) {
        if conn.client.is_ipv6() {
            self.v6 += 1;
        } else {
            self.v4 += 1;
        }
    }
}

/// Places for connections that are applied.
#[derive(Debug, Default)]
pub(crate) struct Places {
    v4: FreePlaces,
    v6: FreePlaces,
}

impl Places {
    fn of(&mut self, conn: &SyncedConn) -> &mut FreePlaces {
        if conn.client.is_ipv6() {
            &mut self.v6
        } else {
            &mut self.v4
        }
    }
}

/// The item that has an entry applied. One that is forwarded by a method the programs do not have is
/// kept like any other: its packets are dropped.
fn item(settings: &Settings, conn: &SyncedConn, bound: Option<Bound>) -> BatchItem {
    let template = is_template(conn);
    let (server, server_generation, method) = match bound {
        Some(found) => (found.slot, found.generation, found.method),
        None => (NO_SERVER, 0, method(conn)),
    };
    // INACTIVE and NOOUTPUT live in the entry's word.
    let dropped = ConnFlags::FWD_MASK
        | ConnFlags::INACTIVE
        | ConnFlags::NOOUTPUT
        | ConnFlags::ONE_PACKET
        | ConnFlags::TEMPLATE;
    let kind = if template { ConnFlags::TEMPLATE } else { 0 };
    let extra = if conn.extra.is_some() {
        u32::from(HAS_EXTRA)
    } else {
        0
    };
    let flags = conn.flags.0 & !dropped & u32::from(u16::MAX) | method | kind | extra;
    let mut says = 0;
    if conn.flags.contains(ConnFlags::INACTIVE) {
        says |= says::INACTIVE;
    }
    // A new template has the activity of its server's flags (`ip_vs_conn.c: ip_vs_bind_dest`).
    if template && bound.is_some() {
        says |= says::NEW_INACTIVE;
    }
    let nooutput = match bound {
        Some(_) => method != ForwardMethod::Masquerading as u32,
        None => conn.flags.contains(ConnFlags::NOOUTPUT),
    };
    if nooutput {
        says |= says::NOOUTPUT;
    }
    if settings.sync_no_cport != 0 {
        says |= says::NO_CPORT;
    }
    BatchItem {
        key: flow_key(conn),
        daddr: addr_words(conn.dest.ip()),
        dport: Be16::from_host(conn.dest.port()),
        conn_flags: flags as u16,
        server,
        server_generation,
        timeout_secs: timeout(settings, conn),
        fwmark: conn.fwmark,
        state: conn.state,
        says,
        family: family_of(conn.client.ip()),
        ..BatchItem::default()
    }
}

/// Number of the forwarding method an entry says.
pub(crate) const fn method(conn: &SyncedConn) -> u32 {
    conn.flags.0 & ConnFlags::FWD_MASK
}

/// Whether two entries are about one connection.
fn is_about_same(one: &SyncedConn, other: &SyncedConn) -> bool {
    (one.protocol, one.client, one.virt) == (other.protocol, other.client, other.virt)
}

/// Only a template can have no protocol.
fn is_template(conn: &SyncedConn) -> bool {
    conn.protocol == 0 || conn.flags.contains(ConnFlags::TEMPLATE)
}

fn flow_key(conn: &SyncedConn) -> FlowKey6 {
    let port = |addr: &SocketAddr| Be16::from_host(addr.port());
    let (client, virt) = (addr_words(conn.client.ip()), addr_words(conn.virt.ip()));
    if is_template(conn) {
        let has_pe = conn.extra.as_ref().is_some_and(|extra| extra.pe.is_some());
        FlowKey {
            // An engine's data tell its templates apart, whatever the client's port (`ip_vs_pe_sip.c`).
            sport: if has_pe { Be16(0) } else { port(&conn.client) },
            apart: conn.extra.as_ref().map_or(0, |extra| pe_hash(extra)),
            ..FlowKey::template(client, virt, port(&conn.virt), conn.protocol)
        }
    } else {
        let key = FlowKey::flow(
            client,
            port(&conn.client),
            virt,
            port(&conn.virt),
            conn.protocol,
        );
        // No packet meets such a connection (`ip_vs_conn.c: __ip_vs_conn_in_get`).
        let unsure = conn.flags.contains(ConnFlags::NO_CPORT) && conn.client.port() != 0;
        FlowKey {
            apart: if unsure { FlowKey4::PORT_UNSURE } else { 0 },
            ..key
        }
    }
}

/// Tells templates of one client apart by what a persistence engine stored (`ip_vs_pe_sip.c`): never 0
/// when there is something.
///
/// DIFFERS: the kernel compares the data themselves; two that give one hash are one template here.
fn pe_hash(extra: &Extra) -> u16 {
    let Some(pe) = &extra.pe else {
        return 0;
    };
    // FNV-1a, folded.
    let hash = pe.data().iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    });
    ((hash ^ hash >> 16) as u16).max(1)
}

/// A timeout that the master does not say is that of the state here.
fn timeout(settings: &Settings, conn: &SyncedConn) -> u32 {
    /// Of what has no timeouts by state.
    const TIMEOUT_SECS: u32 = 3 * 60;
    if conn.timeout_secs != 0 {
        return conn.timeout_secs;
    }
    let state = usize::from(conn.state & 15);
    match Protocol::from_number(conn.protocol) {
        _ if is_template(conn) => TIMEOUT_SECS,
        Some(Protocol::Tcp) => settings.tcp_timeout_secs[state],
        Some(Protocol::Udp) => settings.udp_timeout_secs,
        Some(Protocol::Sctp) => settings.sctp_timeout_secs[state],
        None => TIMEOUT_SECS,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::settings::default_settings;

    pub(crate) fn conn(protocol: u8) -> SyncedConn {
        SyncedConn {
            protocol,
            client: "10.0.0.9:1024".parse().unwrap(),
            virt: "192.0.2.1:80".parse().unwrap(),
            dest: "10.0.0.1:8080".parse().unwrap(),
            flags: ConnFlags(ForwardMethod::DirectRouting as u32),
            state: 1,
            fwmark: 0,
            timeout_secs: 0,
            extra: None,
        }
    }

    #[test]
    fn a_timeout_that_is_not_said_is_that_of_the_state_and_of_a_template_three_minutes() {
        let settings = default_settings(256, 256);
        let template = SyncedConn {
            flags: ConnFlags(ConnFlags::TEMPLATE),
            ..conn(6)
        };
        let said = SyncedConn {
            timeout_secs: 77,
            ..conn(17)
        };
        let sctp = SyncedConn {
            state: 8,
            ..conn(132)
        };
        let secs = [conn(6), conn(17), sctp, conn(51), template, said]
            .map(|conn| timeout(&settings, &conn));
        assert_eq!(secs, [900, 300, 900, 180, 180, 77]);
    }

    #[test]
    fn the_key_of_a_template_is_no_connections_key() {
        let template = SyncedConn {
            flags: ConnFlags(ConnFlags::TEMPLATE),
            ..conn(6)
        };
        assert!(flow_key(&template).is_template());
        assert!(flow_key(&conn(0)).is_template());
        assert!(!flow_key(&conn(6)).is_template());
    }
}
