//! A split brain: another node serves what this one serves.
//!
//! For a moment that is what every heal looks like, when the lesser node is about to yield. It is
//! alarmed when it goes on, by whichever of three ways it is seen:
//!
//! | seen by | what |
//! | --- | --- |
//! | adverts | another master is heard all the time, and neither yields |
//! | sync | another sync master sends with the id of our pair while every virtual router is active here |
//! | arp | another host says that one of our addresses is its own, by ARP or neighbour advertisement |
//!
//! Two nodes that do not hear each other's adverts see it by the other two.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;

/// How a split brain is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SeenBy {
    Adverts,
    Arp,
    Sync,
}

impl SeenBy {
    pub const ALL: [SeenBy; 3] = [SeenBy::Adverts, SeenBy::Arp, SeenBy::Sync];

    pub const fn name(self) -> &'static str {
        match self {
            SeenBy::Adverts => "adverts",
            SeenBy::Arp => "arp",
            SeenBy::Sync => "sync",
        }
    }
}

/// A sighting, and what it is over by.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sighting {
    /// The other, as far as it is known.
    who: String,
    since: Instant,
    until: Instant,
}

/// What is seen at the moment: by which way, and of which router; `None` is all of them.
#[derive(Debug, Default)]
pub(super) struct Split {
    seen: BTreeMap<(SeenBy, Option<usize>), Sighting>,
    /// How often each way has begun to see one.
    totals: [u64; SeenBy::ALL.len()],
}

impl Split {
    /// It is seen now, and counts as healed when it is not again for `hold`.
    pub(super) fn see(
        &mut self,
        by: SeenBy,
        router: Option<usize>,
        who: String,
        hold: Duration,
        now: Instant,
    ) {
        if !self.is_seen(by, router)
            && let Some(total) = self.totals.get_mut(by as usize)
        {
            *total += 1;
        }
        let sighting = self.seen.entry((by, router)).or_insert(Sighting {
            who: String::new(),
            since: now,
            until: now,
        });
        sighting.who = who;
        sighting.until = now + hold;
    }

    pub(super) fn is_seen(&self, by: SeenBy, router: Option<usize>) -> bool {
        self.seen.contains_key(&(by, router))
    }

    /// How often a split brain was seen, by the way it was.
    pub(super) fn totals(&self) -> Vec<(&'static str, u64)> {
        let names = SeenBy::ALL.map(SeenBy::name);
        names.into_iter().zip(self.totals).collect()
    }

    /// Whether nobody sees one.
    pub(super) fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// What has healed since the last call.
    pub(super) fn healed(&mut self, now: Instant) -> Vec<(SeenBy, Option<usize>)> {
        let over = self
            .seen
            .extract_if(.., |_, sighting| sighting.until <= now)
            .map(|(key, _)| key);
        over.collect()
    }

    /// A router that is not active any more splits nothing.
    pub(super) fn forget(&mut self, router: usize) {
        self.seen
            .retain(|(_, of), _| of.is_some_and(|of| of != router));
    }

    /// Way, router, the other, and for how long, in a fixed order.
    pub(super) fn list(
        &self,
        now: Instant,
    ) -> impl Iterator<Item = (SeenBy, Option<usize>, &str, Duration)> {
        self.seen.iter().map(move |((by, router), sighting)| {
            let length = now.duration_since(sighting.since);
            (*by, *router, sighting.who.as_str(), length)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_lasts_as_long_as_it_is_seen_and_is_healed_once() {
        let (mut split, start) = (Split::default(), Instant::now());
        let hold = Duration::from_secs(10);
        for secs in [0, 5, 10] {
            let now = start + Duration::from_secs(secs);
            split.see(SeenBy::Adverts, Some(1), "b".to_owned(), hold, now);
            assert_eq!(split.healed(now), []);
        }
        let now = start + Duration::from_secs(15);
        let seen: Vec<_> = split.list(now).collect();
        assert_eq!(
            seen,
            [(SeenBy::Adverts, Some(1), "b", Duration::from_secs(15))]
        );
        let now = start + Duration::from_secs(20);
        assert_eq!(split.healed(now), [(SeenBy::Adverts, Some(1))]);
        assert_eq!(split.healed(now), []);
        assert_eq!(split.totals(), [("adverts", 1), ("arp", 0), ("sync", 0)]);
    }

    #[test]
    fn a_router_that_leaves_takes_what_concerned_it_or_all_with_it() {
        let (mut split, now) = (Split::default(), Instant::now());
        let hold = Duration::from_secs(10);
        for (by, router) in [
            (SeenBy::Arp, Some(0)),
            (SeenBy::Arp, Some(1)),
            (SeenBy::Sync, None),
        ] {
            split.see(by, router, String::new(), hold, now);
        }
        split.forget(0);
        assert!(split.is_seen(SeenBy::Arp, Some(1)));
        assert!(!split.is_seen(SeenBy::Arp, Some(0)) && !split.is_seen(SeenBy::Sync, None));
    }
}
