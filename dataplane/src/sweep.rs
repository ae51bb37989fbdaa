//! The expiry walk: supplies the *expire* program with what is due, in bounded steps.
//!
//! A round looks at every place of both tables once and has due entries marked, waits one grace
//! period, and has the marked ones freed. Entries that a daemon marked and never freed are met by
//! the next round.

use dataplane_common::batch::{BatchItem, BatchResult, ExpireOp, REGION_ITEMS};
use dataplane_common::entry::{Conn, ConnWord, NO_SERVER};
use dataplane_common::rules::sync::{Copied, is_heard, is_overdue};
use dataplane_common::rules::transition::may_be_freed;
use dataplane_common::service::ServerRecord;
use dataplane_common::settings::Settings;
use dataplane_common::{Address, NS_PER_SEC};
use ipvs_model::flags::ConnFlags;

use crate::connections::{DEADLINE, WORD};
use crate::convert::AF_INET6;
use crate::grace::Grace;
use crate::mapped::{Mapped, load};
use crate::maps::Maps;
use crate::programs::Programs;
use crate::{ConnectionCount, ExpireReport, Fill, timer_ns};

/// Region of the batch array that the walk uses.
const REGION: u32 = 0;

/// A walk that did not go on for so long stood still with its node. As long as a message may be late.
const STANDSTILL_NS: u64 = 2 * NS_PER_SEC;

/// Longest chain of controllers: one of a helper, and its template.
const CONTROLLERS_MAX: u32 = 2;

/// One incarnation of a place in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// 2 or 10: which table.
    pub(crate) family: u8,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// Where the walk is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// Place to look at next: those of IPv4, then those of IPv6.
    next: u64,
    /// Marked in this round, or found marked.
    marked: Vec<Place>,
    /// Found in this round.
    seen: ConnectionCount,
    /// After the scan: `marked` is freed when the grace period is over.
    grace: Option<Grace>,
    /// What this round offers to the backup, beside what is marked.
    offering: Offering,
    /// When the walk went on last.
    stepped_ns: u64,
    /// When this node stood still last: since then the peer may have connections that had no packet
    /// here.
    stood_still_ns: u64,
}

/// Which connections a round offers that no mark asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Offering {
    #[default]
    Marked,
    /// From the next round on: every one that was offered here before and had its last packet at this
    /// time or later.
    AllNext {
        since_ns: u64,
    },
    All {
        since_ns: u64,
    },
}

/// What is to be done about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Marked before.
    Dead,
    Due,
    /// Its server is gone, and `expire_nodest_conn` is set.
    Abandoned,
    Alive,
    ToBeOffered,
}

/// What a scan of some places found.
#[derive(Debug, Default)]
struct Scan {
    due: Vec<Place>,
    abandoned: Vec<Place>,
    offers: Vec<Place>,
}

/// What the scan goes by.
#[derive(Clone, Copy, Debug)]
struct Rules {
    now_ns: u64,
    /// The master daemon runs.
    offers: bool,
    /// What had its last packet at this time or later is offered again.
    again_since_ns: Option<u64>,
    /// What the peer was never told of is offered.
    tells_all: bool,
    /// What had its last packet before that is not offered for its mark or its age.
    stood_still_ns: u64,
    expire_nodest_conn: bool,
    /// Version 0 of the protocol says nothing of IPv6.
    version0: bool,
    /// Connections under a template are not offered.
    persist_mode: bool,
}

impl Sweep {
    /// One step: looks at up to `budget` places, or frees up to `budget` marked ones.
    pub(crate) fn step(
        &mut self,
        maps: &mut Maps,
        programs: &Programs,
        budget: u32,
    ) -> ExpireReport {
        let mut report = ExpireReport::default();
        self.note_time(timer_ns());
        match &self.grace {
            None => self.scan(maps, programs, budget, &mut report),
            Some(grace) if grace.is_over() => self.free(maps, programs, budget, &mut report),
            Some(_) => {}
        }
        report
    }

    /// See [`crate::DataPlane::offer_again_since`].
    pub(crate) fn offer_again(&mut self, since_ns: u64) {
        let asked_ns = match self.offering {
            Offering::Marked => since_ns,
            Offering::AllNext { since_ns: asked_ns } | Offering::All { since_ns: asked_ns } => {
                asked_ns.min(since_ns)
            }
        };
        self.offering = Offering::AllNext { since_ns: asked_ns };
    }

    /// See [`crate::DataPlane::is_offering_again`].
    pub(crate) fn is_offering_again(&self) -> bool {
        self.offering != Offering::Marked
    }

    /// After a standstill, what was to be offered again before it is left to the peer, but for what had
    /// a packet here since it began.
    fn note_time(&mut self, now_ns: u64) {
        let last_ns = std::mem::replace(&mut self.stepped_ns, now_ns);
        if last_ns == 0 || now_ns.saturating_sub(last_ns) <= STANDSTILL_NS {
            return;
        }
        self.stood_still_ns = last_ns;
        match &mut self.offering {
            Offering::Marked => {}
            Offering::AllNext { since_ns } | Offering::All { since_ns } => {
                *since_ns = last_ns.max(*since_ns);
            }
        }
    }

    /// Whether this round has looked at a place already.
    pub(crate) fn is_behind(&self, maps: &Maps, ipv6: bool, index: u32) -> bool {
        let first = if ipv6 { maps.conns4.len() } else { 0 };
        u64::from(first) + u64::from(index) < self.next
    }

    fn scan(
        &mut self,
        maps: &mut Maps,
        programs: &Programs,
        budget: u32,
        report: &mut ExpireReport,
    ) {
        if self.next == 0
            && let Offering::AllNext { since_ns } = self.offering
        {
            self.offering = Offering::All { since_ns };
        }
        let first6 = u64::from(maps.conns4.len());
        let size = first6 + u64::from(maps.conns6.len());
        let end = size.min(self.next + u64::from(budget));
        let rules = self.rules(&maps.settings.read(0));
        let mut scan = Scan::default();
        for place in self.next..end {
            if place < first6 {
                self.look(&maps.conns4, place as u32, &maps.servers, &rules, &mut scan);
            } else {
                let index = (place - first6) as u32;
                self.look(&maps.conns6, index, &maps.servers, &rules, &mut scan);
            }
        }
        report.scanned = (end - self.next) as u32;
        self.next = end;
        self.mark(maps, programs, &scan.due, ExpireOp::MarkIfDue, report);
        self.mark(maps, programs, &scan.abandoned, ExpireOp::Mark, report);
        for chunk in scan.offers.chunks(REGION_ITEMS as usize) {
            let results = expire(maps, programs, chunk, ExpireOp::Offer);
            let done = results
                .iter()
                .filter(|(_, result)| *result == BatchResult::Offered);
            report.offered += done.count() as u32;
        }
        if self.next == size {
            self.seen.v4.places = maps.conns4.len();
            self.seen.v6.places = maps.conns6.len();
            self.end_of_scan(report);
        }
    }

    fn rules(&self, settings: &Settings) -> Rules {
        Rules {
            now_ns: timer_ns(),
            offers: settings.sync_master != 0,
            again_since_ns: match self.offering {
                Offering::All { since_ns } => Some(since_ns),
                Offering::Marked | Offering::AllNext { .. } => None,
            },
            tells_all: settings.sync_tell_all != 0,
            expire_nodest_conn: settings.expire_nodest_conn != 0,
            stood_still_ns: self.stood_still_ns,
            version0: settings.sync_version == 0,
            persist_mode: settings.sync_persist_mode != 0,
        }
    }

    /// Notes what is to be done about one entry.
    fn look<A: Address>(
        &mut self,
        table: &Mapped<Conn<A>>,
        index: u32,
        servers: &Mapped<ServerRecord>,
        rules: &Rules,
        scan: &mut Scan,
    ) {
        let word = ConnWord(load(table.word(index, WORD)));
        let place = Place {
            family: A::FAMILY,
            index,
            generation: word.generation(),
        };
        let found = found(table, index, word, servers, rules);
        let fill = self.fill(A::FAMILY);
        fill.taken += u32::from(found != Found::Nothing);
        fill.live += u32::from(matches!(found, Found::Alive | Found::ToBeOffered));
        match found {
            Found::Nothing | Found::Alive => {}
            Found::Dead => self.marked.push(place),
            Found::Due => scan.due.push(place),
            Found::Abandoned => scan.abandoned.push(place),
            Found::ToBeOffered => scan.offers.push(place),
        }
    }

    fn fill(&mut self, family: u8) -> &mut Fill {
        if family == AF_INET6 {
            &mut self.seen.v6
        } else {
            &mut self.seen.v4
        }
    }

    fn mark(
        &mut self,
        maps: &mut Maps,
        programs: &Programs,
        places: &[Place],
        op: ExpireOp,
        report: &mut ExpireReport,
    ) {
        for chunk in places.chunks(REGION_ITEMS as usize) {
            for (place, result) in expire(maps, programs, chunk, op) {
                match result {
                    BatchResult::Marked => {
                        self.marked.push(place);
                        report.expired += 1;
                    }
                    BatchResult::Kept | BatchResult::Postponed => {
                        self.fill(place.family).live += 1;
                    }
                    BatchResult::Untouched
                    | BatchResult::Created
                    | BatchResult::Updated
                    | BatchResult::Swept
                    | BatchResult::Missed
                    | BatchResult::TableFull
                    | BatchResult::ReplyCollision
                    | BatchResult::Guarded
                    | BatchResult::Late
                    | BatchResult::NoShare
                    | BatchResult::Replaced
                    | BatchResult::Offered
                    | BatchResult::RingFull => {}
                }
            }
        }
    }

    fn end_of_scan(&mut self, report: &mut ExpireReport) {
        self.next = 0;
        if matches!(self.offering, Offering::All { .. }) {
            self.offering = Offering::Marked;
        }
        report.live = Some(std::mem::take(&mut self.seen));
        if self.marked.is_empty() {
            report.round_done = true;
        } else {
            self.grace = Some(Grace::begin());
        }
    }

    fn free(
        &mut self,
        maps: &mut Maps,
        programs: &Programs,
        budget: u32,
        report: &mut ExpireReport,
    ) {
        let keep = self.marked.len().saturating_sub(budget as usize);
        let batch = self.marked.split_off(keep);
        for chunk in batch.chunks(REGION_ITEMS as usize) {
            let results = expire(maps, programs, chunk, ExpireOp::Sweep);
            let swept = results
                .iter()
                .filter(|(_, result)| *result == BatchResult::Swept);
            report.swept += swept.count() as u32;
        }
        if self.marked.is_empty() {
            self.grace = None;
            report.round_done = true;
        }
    }
}

fn found<A: Address>(
    table: &Mapped<Conn<A>>,
    index: u32,
    word: ConnWord,
    servers: &Mapped<ServerRecord>,
    rules: &Rules,
) -> Found {
    if word.is_free() {
        return Found::Nothing;
    }
    if word.is(ConnWord::DEAD) {
        return Found::Dead;
    }
    if may_be_freed(load(table.word(index, DEADLINE)), rules.now_ns) {
        return Found::Due;
    }
    let whole = rules.expire_nodest_conn || rules.offers;
    if !whole || !word.is_usable(word.generation()) {
        return Found::Alive;
    }
    let conn = table.read(index);
    if rules.expire_nodest_conn && word.controls() == 0 && is_abandoned(&conn, servers) {
        return Found::Abandoned;
    }
    if rules.offers && is_to_be_offered(table, &conn, word, rules) {
        return Found::ToBeOffered;
    }
    Found::Alive
}

/// Whether the server of an entry was removed, or its place belongs to another one by now
/// (`ip_vs_conn.c: ip_vs_expire_nodest_conn_flush`). One without a server has not lost it.
fn is_abandoned<A: Address>(conn: &Conn<A>, servers: &Mapped<ServerRecord>) -> bool {
    if conn.server == NO_SERVER || conn.server >= servers.len() {
        return false;
    }
    let server = servers.read(conn.server);
    server.generation != conn.server_generation || server.flags & ServerRecord::AVAILABLE == 0
}

/// Nobody hears of what cannot be found any more.
fn is_to_be_offered<A: Address>(
    table: &Mapped<Conn<A>>,
    conn: &Conn<A>,
    word: ConnWord,
    rules: &Rules,
) -> bool {
    let template = conn.key.is_template();
    // Whoever takes over on purpose hears of those in every state.
    let heard = rules.tells_all || is_heard(conn.key.protocol, template, word.state());
    let unsaid = rules.version0 && A::FAMILY == AF_INET6;
    if !heard || unsaid || word.is(ConnWord::DETACHED) {
        return false;
    }
    if rules.persist_mode && is_under_template(table, conn) {
        return false;
    }
    let copied = Copied {
        endtime: conn.sync_endtime,
        from_peer: u32::from(conn.conn_flags) & ConnFlags::SYNC != 0,
        local: word.is(ConnWord::LOCAL),
        timeout_secs: conn.timeout_secs,
        deadline_ns: conn.deadline_ns,
    };
    // What the peer has told of since our last packet is the peer's to tell.
    let last_packet_ns =
        (conn.deadline_ns).saturating_sub(u64::from(conn.timeout_secs) * NS_PER_SEC);
    let again = copied.endtime != 0
        && copied.local
        && (rules.again_since_ns).is_some_and(|since_ns| last_packet_ns >= since_ns);
    let is_news = copied.endtime == 0 || word.state() != word.old_state();
    let untold = rules.tells_all && is_news;
    let due = word.is(ConnWord::DIRTY) || untold || is_overdue(&copied, rules.now_ns);
    again || due && last_packet_ns >= rules.stood_still_ns
}

/// Whether a template is up a connection's chain of controllers.
fn is_under_template<A: Address>(table: &Mapped<Conn<A>>, conn: &Conn<A>) -> bool {
    let mut controller = conn.controller;
    for _ in 0..CONTROLLERS_MAX {
        if controller >= table.len() {
            return false;
        }
        let found = table.read(controller);
        if found.key.is_template() {
            return true;
        }
        controller = found.controller;
    }
    false
}

/// Runs the *expire* program over at most one region of places.
pub(crate) fn expire(
    maps: &mut Maps,
    programs: &Programs,
    places: &[Place],
    op: ExpireOp,
) -> Vec<(Place, BatchResult)> {
    for (item, place) in (0..).zip(places) {
        let value = BatchItem {
            family: place.family,
            index: place.index,
            generation: place.generation,
            op: op as u8,
            ..BatchItem::default()
        };
        maps.batch.write(REGION * REGION_ITEMS + item, value);
    }
    programs.expire(REGION, places.len() as u32);
    let result = |item: u32| {
        let number = maps.batch.read(REGION * REGION_ITEMS + item).result;
        BatchResult::from_number(number).unwrap_or(BatchResult::Untouched)
    };
    (0..)
        .zip(places)
        .map(|(item, place)| (*place, result(item)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NS_PER_SEC;

    #[test]
    fn what_was_to_be_offered_before_a_standstill_is_left_to_the_peer_from_there_on() {
        for (asked, pause, expected) in [
            (0, SECOND, Offering::AllNext { since_ns: 0 }),
            (
                0,
                3 * SECOND,
                Offering::AllNext {
                    since_ns: 10 * SECOND,
                },
            ),
            (
                11 * SECOND,
                3 * SECOND,
                Offering::AllNext {
                    since_ns: 11 * SECOND,
                },
            ),
        ] {
            let mut sweep = Sweep::default();
            sweep.note_time(10 * SECOND);
            sweep.offer_again(asked);
            sweep.note_time(10 * SECOND + pause);
            assert_eq!(sweep.offering, expected, "asked {asked}, pause {pause}");
            let stood_still = pause > STANDSTILL_NS;
            assert_eq!(sweep.stood_still_ns != 0, stood_still);
        }
    }

    #[test]
    fn what_is_asked_for_after_a_standstill_is_carried_out() {
        let mut sweep = Sweep::default();
        sweep.note_time(10 * SECOND);
        sweep.note_time(20 * SECOND);
        sweep.offer_again(0);
        sweep.note_time(21 * SECOND);
        assert_eq!(sweep.offering, Offering::AllNext { since_ns: 0 });
    }
}
