//! Notices tables that are full: what was refused for want of room becomes a problem of the status, and
//! a line of the log that names the table and what to raise.

use std::time::{Duration, Instant};

use dataplane::common::verdict::{Event, Verdict};
use dataplane::{ConnectionCount, DataPlane, Fill, TableSizes};

use crate::problems::Problems;

/// A table counts as full for so long after the last refusal.
const HOLD: Duration = Duration::from_secs(60);

/// What had been refused when the tables were last looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Refused {
    /// New connections, for which there was no place (`drop_table_full`).
    connections: u64,
    /// Destinations that lblc or lblcr could not remember (`cache_full`).
    cached: u64,
}

/// Watches the counters of refusals.
#[derive(Debug)]
pub(super) struct FullTables {
    known: Refused,
}

impl FullTables {
    /// What was refused before this daemon started is not its concern.
    pub(super) fn new(plane: &DataPlane) -> FullTables {
        FullTables {
            known: refused(plane),
        }
    }

    /// To be called every second; `found` is what the last round of the expiry walk found.
    pub(super) fn look(
        &mut self,
        plane: &DataPlane,
        found: ConnectionCount,
        problems: &mut Problems,
        now: Instant,
    ) {
        let refused = refused(plane);
        for (key, text) in complaints(self.known, refused, found, plane.sizes()) {
            problems.seen(key, text, HOLD, now);
        }
        self.known = refused;
    }
}

fn refused(plane: &DataPlane) -> Refused {
    let mut refused = Refused::default();
    for (name, count) in plane.counters() {
        if name == Verdict::TableFull.name() {
            refused.connections = count;
        } else if name == Event::CacheFull.name() {
            refused.cached = count;
        }
    }
    refused
}

/// A key and a line for each table that refused something since `before`.
fn complaints(
    before: Refused,
    now: Refused,
    found: ConnectionCount,
    sizes: TableSizes,
) -> Vec<(&'static str, String)> {
    let mut complaints = Vec::new();
    let dropped = now.connections.saturating_sub(before.connections);
    if dropped > 0 {
        let tables = [
            (
                "table-v4",
                "IPv4",
                "connections_v4",
                found.v4,
                sizes.connections_v4,
            ),
            (
                "table-v6",
                "IPv6",
                "connections_v6",
                found.v6,
                sizes.connections_v6,
            ),
        ];
        // The counter does not say whose table it was. Searches fail from about nine tenths on; before
        // the walk has come round, the fuller one it is.
        let fullest = usize::from(share(found.v6) > share(found.v4));
        for (at, (key, family, name, fill, size)) in tables.into_iter().enumerate() {
            if at == fullest || share(fill) >= 900 {
                let taken = fill.taken;
                let text = format!(
                    "the table of {family} connections is full: {taken} of {size} places are \
                     taken, packets of new connections are dropped; raise {name} in [director]"
                );
                complaints.push((key, text));
            }
        }
    }
    if now.cached > before.cached {
        let size = sizes.cache_entries;
        let text = format!(
            "the cache of lblc and lblcr is full: it holds {size} destinations and others are not \
             remembered; raise cache_entries in [director]"
        );
        complaints.push(("table-cache", text));
    }
    complaints
}

/// Taken places in a thousand.
fn share(fill: Fill) -> u64 {
    u64::from(fill.taken) * 1000 / u64::from(fill.places.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: TableSizes = TableSizes {
        connections_v4: 1000,
        connections_v6: 500,
        services: 8,
        servers: 8,
        hash_tables: 1,
        cache_entries: 16,
    };

    #[test]
    fn nothing_refused_is_no_complaint_however_full_a_table_is() {
        let refused = Refused {
            connections: 7,
            cached: 7,
        };
        assert_eq!(complaints(refused, refused, found(1000, 500), SIZES), []);
    }

    #[test]
    fn a_refusal_names_the_table_its_size_and_the_key_to_raise() {
        for (taken_v4, taken_v6, keys) in [
            (990, 20, &["table-v4"][..]),
            (20, 480, &["table-v6"]),
            (950, 490, &["table-v4", "table-v6"]),
            (100, 0, &["table-v4"]),
        ] {
            let now = Refused {
                connections: 1,
                cached: 0,
            };
            let complaints = complaints(Refused::default(), now, found(taken_v4, taken_v6), SIZES);
            let seen: Vec<&str> = complaints.iter().map(|(key, _)| *key).collect();
            assert_eq!(seen, keys);
        }
        let now = Refused {
            connections: 1,
            cached: 1,
        };
        let texts: Vec<String> = complaints(Refused::default(), now, found(10, 499), SIZES)
            .into_iter()
            .map(|(_, text)| text)
            .collect();
        assert_eq!(
            texts,
            [
                "the table of IPv6 connections is full: 499 of 500 places are taken, packets of new \
                 connections are dropped; raise connections_v6 in [director]",
                "the cache of lblc and lblcr is full: it holds 16 destinations and others are not \
                 remembered; raise cache_entries in [director]",
            ]
        );
    }

    fn found(v4: u32, v6: u32) -> ConnectionCount {
        let fill = |taken, places| Fill {
            live: taken,
            taken,
            places,
        };
        ConnectionCount {
            v4: fill(v4, SIZES.connections_v4),
            v6: fill(v6, SIZES.connections_v6),
        }
    }
}
