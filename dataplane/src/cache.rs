//! The cache of lblc and lblcr: programs fill it, user space cleans it
//! (`ip_vs_lblc.c: ip_vs_lblc_check_expire, ip_vs_lblc_full_check`).
//!
//! DIFFERS: under pressure a check begins at the start of the table and not where the last one
//! stopped; what it left was in use.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::rules::schedule::locality::{Checks, Cleaning};
use dataplane_common::service::{CacheKey, ServiceRecord};
use ipvs_model::scheduler::Scheduler;

use crate::mapped::load;
use crate::maps::Maps;
use crate::timer_ns;

/// A service's place and generation.
type Who = (u32, u32);

/// What the checks have to remember between them.
#[derive(Debug)]
pub(crate) struct Caches {
    checks: BTreeMap<Who, Checks>,
    /// There may be entries of services that are gone. So it is at first: a daemon before this one
    /// may have left some.
    has_orphans: bool,
}

impl Default for Caches {
    fn default() -> Caches {
        Caches {
            checks: BTreeMap::new(),
            has_orphans: true,
        }
    }
}

/// What is due for one service.
#[derive(Clone, Copy, Debug)]
struct Due {
    cleaning: Cleaning,
    expiration_secs: u32,
    /// Entries that may still be removed.
    left: u64,
    removed: u64,
}

impl Caches {
    /// A service that has gone may have left entries.
    pub(crate) fn expect_orphans(&mut self) {
        self.has_orphans = true;
    }

    /// One check of every cache.
    pub(crate) fn clean(&mut self, maps: &mut Maps) {
        let mut due = self.due(maps);
        let idle = |due: &Due| due.cleaning == Cleaning::Nothing;
        if !self.has_orphans && due.values().all(idle) {
            return;
        }
        self.has_orphans = false;
        let now_ns = timer_ns();
        for key in keys(maps) {
            let Some(due) = due.get_mut(&(key.service, key.service_generation)) else {
                // Of a service that is gone, or has another scheduler by now.
                let _ = maps.cache.remove(&key);
                continue;
            };
            if idle(due) || due.left == 0 {
                continue;
            }
            let takes = maps.cache.get(&key, 0).is_ok_and(|record| {
                due.cleaning
                    .takes(record.last_use_ns, now_ns, due.expiration_secs)
            });
            if takes && maps.cache.remove(&key).is_ok() {
                due.left -= 1;
                due.removed += 1;
            }
        }
        for ((id, _), due) in due {
            cached(maps, id).fetch_sub(due.removed, SeqCst);
        }
    }

    /// What each service with a cache is due.
    fn due(&mut self, maps: &Maps) -> BTreeMap<Who, Due> {
        let settings = maps.settings.read(0);
        let mut all = BTreeMap::new();
        for id in 0..maps.services.len() {
            let record = maps.services.read(id);
            let expiration_secs = match Scheduler::from_number(record.scheduler) {
                _ if record.flags & ServiceRecord::LIVE == 0 => continue,
                Some(Scheduler::Lblc) => settings.lblc_expiration_secs,
                Some(Scheduler::Lblcr) => settings.lblcr_expiration_secs,
                Some(_) | None => continue,
            };
            let who = (id, record.generation);
            let cleaning = self.checks.entry(who).or_default().next(record.cached);
            let left = match cleaning {
                Cleaning::Nothing => 0,
                Cleaning::Full => u64::MAX,
                Cleaning::Pressure { goal } => goal,
            };
            all.insert(
                who,
                Due {
                    cleaning,
                    expiration_secs,
                    left,
                    removed: 0,
                },
            );
        }
        self.checks.retain(|who, _| all.contains_key(who));
        all
    }
}

/// Removes everything that is remembered for a service. No program run may be adding to it.
pub(crate) fn forget(maps: &mut Maps, id: u32) {
    if load(cached(maps, id)) == 0 {
        return;
    }
    let generation = maps.services.read(id).generation;
    let mut removed = 0;
    for key in keys(maps) {
        let own = key.service == id && key.service_generation == generation;
        if own && maps.cache.remove(&key).is_ok() {
            removed += 1;
        }
    }
    cached(maps, id).fetch_sub(removed, SeqCst);
}

/// Every key. Programs add while this walks, so it stops at the size of the map.
fn keys(maps: &Maps) -> Vec<CacheKey> {
    maps.cache
        .keys()
        .take(maps.cache_entries)
        .flatten()
        .collect()
}

fn cached(maps: &Maps, id: u32) -> &std::sync::atomic::AtomicU64 {
    let at = core::mem::offset_of!(ServiceRecord, cached);
    maps.services.word(id, at)
}
