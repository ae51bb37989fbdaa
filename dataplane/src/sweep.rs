//! The expiry walk: supplies the *expire* program with what is due, in bounded steps.
//!
//! A round looks at every place of the table once and has due entries marked, waits one grace
//! period, and has the marked ones freed. Entries that a daemon marked and never freed are met by
//! the next round.

use dataplane_common::FlowKey4;
use dataplane_common::batch::{BatchItem, BatchResult, ExpireOp, REGION_ITEMS};
use dataplane_common::entry::ConnWord;
use dataplane_common::rules::sync::{Copied, is_heard, is_overdue};
use dataplane_common::rules::transition::may_be_freed;

use ipvs_model::flags::ConnFlags;

use crate::maps::{Grace, Maps, load};
use crate::programs::Programs;
use crate::{ExpireReport, timer_ns};

/// Region of the batch array that the walk uses.
const REGION: u32 = 0;

/// One incarnation of a place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl Place {
    pub(crate) fn new(index: u32, generation: u32) -> Place {
        Place { index, generation }
    }
}

/// Where the walk is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    next: u32,
    /// Marked in this round, or found marked.
    marked: Vec<Place>,
    /// Found alive in this round.
    live: u32,
    /// After the scan: `marked` is freed when the grace period is over.
    grace: Option<Grace>,
    /// What this round offers to the backup, beside what is marked.
    offering: Offering,
}

/// Which connections a round offers that no mark asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Offering {
    #[default]
    Marked,
    /// From the next round on: every one that was ever offered here.
    AllNext,
    All,
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
        match &self.grace {
            None => self.scan(maps, programs, budget, &mut report),
            Some(grace) if grace.is_over() => self.free(maps, programs, budget, &mut report),
            Some(_) => {}
        }
        report
    }

    /// The next whole round offers every connection again that was ever offered here.
    pub(crate) fn offer_all_again(&mut self) {
        self.offering = Offering::AllNext;
    }

    fn scan(
        &mut self,
        maps: &mut Maps,
        programs: &Programs,
        budget: u32,
        report: &mut ExpireReport,
    ) {
        let size = maps.conns4.len();
        let end = size.min(self.next.saturating_add(budget));
        let now_ns = timer_ns();
        let mut due = Vec::new();
        let mut offers = Vec::new();
        if self.next == 0 && self.offering == Offering::AllNext {
            self.offering = Offering::All;
        }
        let offering = maps.settings.read(0).sync_master != 0;
        for index in self.next..end {
            let word = ConnWord(load(maps.conns4.word(index, 0)));
            if word.is_free() {
                continue;
            }
            if word.is(ConnWord::DEAD) {
                self.marked.push(Place::new(index, word.generation()));
            } else if may_be_freed(load(maps.conns4.word(index, 8)), now_ns) {
                due.push(Place::new(index, word.generation()));
            } else {
                self.live += 1;
                if offering && self.is_to_be_offered(maps, index, word, now_ns) {
                    offers.push(Place::new(index, word.generation()));
                }
            }
        }
        report.scanned = end - self.next;
        self.next = end;
        for chunk in due.chunks(REGION_ITEMS as usize) {
            for (place, result) in expire(maps, programs, chunk, ExpireOp::MarkIfDue) {
                if result == BatchResult::Marked {
                    self.marked.push(place);
                    report.expired += 1;
                }
            }
        }
        for chunk in offers.chunks(REGION_ITEMS as usize) {
            let results = expire(maps, programs, chunk, ExpireOp::Offer);
            let done = results
                .iter()
                .filter(|(_, result)| *result == BatchResult::Offered);
            report.offered += done.count() as u32;
        }
        if self.next == size {
            self.next = 0;
            if self.offering == Offering::All {
                self.offering = Offering::Marked;
            }
            report.live = Some(std::mem::take(&mut self.live));
            if self.marked.is_empty() {
                report.round_done = true;
            } else {
                self.grace = Some(Grace::begin());
            }
        }
    }

    fn is_to_be_offered(&self, maps: &Maps, index: u32, word: ConnWord, now_ns: u64) -> bool {
        let conn = maps.conns4.read(index);
        let template = conn.key.kind == FlowKey4::KIND_TEMPLATE;
        if !is_heard(conn.key.protocol, template, word.state()) {
            return false;
        }
        let copied = Copied {
            endtime: conn.sync_endtime,
            from_peer: u32::from(conn.conn_flags) & ConnFlags::SYNC != 0,
            local: word.is(ConnWord::LOCAL),
            timeout_secs: conn.timeout_secs,
            deadline_ns: conn.deadline_ns,
        };
        let all = self.offering == Offering::All && copied.endtime != 0;
        word.is(ConnWord::DIRTY) || all || is_overdue(&copied, now_ns)
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

/// Runs the *expire* program over at most one region of places.
pub(crate) fn expire(
    maps: &mut Maps,
    programs: &Programs,
    places: &[Place],
    op: ExpireOp,
) -> Vec<(Place, BatchResult)> {
    for (item, place) in (0..).zip(places) {
        let value = BatchItem {
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
