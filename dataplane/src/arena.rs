//! Blocks of the map `LISTS`.

use std::collections::BTreeMap;

/// First-fit allocation of runs of words, with a waiting room for blocks that programs may still
/// read. Word 0 is never given out.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Start and length of free runs.
    free: BTreeMap<u32, u32>,
    /// Start and length of blocks in use.
    used: BTreeMap<u32, u32>,
    /// Blocks to be freed after a grace period.
    retired: Vec<u32>,
}

impl Arena {
    pub(crate) fn new(words: u32) -> Arena {
        let free = BTreeMap::from([(1, words.saturating_sub(1))]);
        Arena {
            free,
            used: BTreeMap::new(),
            retired: Vec::new(),
        }
    }

    /// Takes a block that is already in use; ignored when it is not free.
    pub(crate) fn occupy(&mut self, start: u32, len: u32) {
        let run = self
            .free
            .range(..=start)
            .next_back()
            .map(|(at, run)| (*at, *run));
        let Some((at, run)) = run.filter(|(at, run)| start + len <= at + run) else {
            return;
        };
        self.free.remove(&at);
        if start > at {
            self.free.insert(at, start - at);
        }
        if at + run > start + len {
            self.free.insert(start + len, at + run - start - len);
        }
        self.used.insert(start, len);
    }

    pub(crate) fn allocate(&mut self, len: u32) -> Option<u32> {
        let (start, run) = self
            .free
            .iter()
            .find(|(_, run)| **run >= len)
            .map(|(start, run)| (*start, *run))?;
        self.free.remove(&start);
        if run > len {
            self.free.insert(start + len, run - len);
        }
        self.used.insert(start, len);
        Some(start)
    }

    /// Gives a block back once a grace period has passed.
    pub(crate) fn retire(&mut self, start: u32) {
        if self.used.contains_key(&start) {
            self.retired.push(start);
        }
    }

    /// Frees what was retired; the caller has waited for a grace period.
    pub(crate) fn reuse_retired(&mut self) {
        for start in std::mem::take(&mut self.retired) {
            let Some(mut len) = self.used.remove(&start) else {
                continue;
            };
            let mut start = start;
            if let Some(run) = self.free.remove(&(start + len)) {
                len += run;
            }
            let before = self
                .free
                .range(..start)
                .next_back()
                .map(|(at, run)| (*at, *run));
            if let Some((at, run)) = before.filter(|(at, run)| at + run == start) {
                self.free.remove(&at);
                start = at;
                len += run;
            }
            self.free.insert(start, len);
        }
    }
}

#[cfg(test)]
mod tests {
    use dataplane_common::service::list;

    use super::*;
    use crate::TableSizes;
    use crate::maps::list_words;

    #[test]
    fn blocks_do_not_overlap_and_all_words_come_back() {
        let mut arena = Arena::new(64);
        let blocks: Vec<u32> = (0..21).map(|_| arena.allocate(3).unwrap()).collect();
        assert_eq!(arena.allocate(1), None);
        let mut seen = [false; 64];
        for start in &blocks {
            for word in *start..start + 3 {
                assert!(word > 0 && !seen[word as usize]);
                seen[word as usize] = true;
            }
        }
        blocks.iter().for_each(|start| arena.retire(*start));
        assert_eq!(
            arena.allocate(1),
            None,
            "retired blocks wait for a grace period"
        );
        arena.reuse_retired();
        assert_eq!(arena.allocate(63), Some(1));
    }

    #[test]
    fn an_adopted_block_is_not_given_out_again() {
        let mut arena = Arena::new(64);
        arena.occupy(10, 5);
        let mut words = 0;
        while let Some(start) = arena.allocate(1) {
            assert!(!(10..15).contains(&start));
            words += 1;
        }
        assert_eq!(words, 63 - 5);
    }

    /// One edit: the new list beside the one in force, which is freed after a grace period.
    fn edit(arena: &mut Arena, old: &mut u32, servers: u32) {
        let words = list::HEAD + servers;
        let new = arena.allocate(words).or_else(|| {
            arena.reuse_retired();
            arena.allocate(words)
        });
        let new = new.unwrap_or_else(|| panic!("no room for a list of {servers} servers"));
        arena.retire(*old);
        *old = new;
    }

    #[test]
    fn one_service_can_have_every_server_and_each_of_its_lists_can_be_edited() {
        for (services, servers) in [
            (1, 512),
            (16, 512),
            (16, 4096),
            (16, 16_384),
            (4096, 16_384),
        ] {
            let sizes = TableSizes {
                connections_v4: 256,
                connections_v6: 256,
                services,
                servers,
                hash_tables: 0,
                cache_entries: 1,
            };
            let mut arena = Arena::new(list_words(&sizes));
            let mut block = arena.allocate(list::HEAD).expect("an empty arena");
            for count in 1..=servers {
                edit(&mut arena, &mut block, count);
                // A weight edit: the same length once more.
                edit(&mut arena, &mut block, count);
            }
            for count in (0..servers).rev() {
                edit(&mut arena, &mut block, count);
            }
        }
    }

    #[test]
    fn servers_spread_over_all_services_leave_room_for_edits() {
        let sizes = TableSizes {
            connections_v4: 256,
            connections_v6: 256,
            services: 64,
            servers: 4096,
            hash_tables: 0,
            cache_entries: 1,
        };
        let mut arena = Arena::new(list_words(&sizes));
        let mut lists: Vec<(u32, u32)> = (0..64)
            .map(|_| (arena.allocate(list::HEAD).expect("an empty arena"), 0))
            .collect();
        for added in 0..sizes.servers as usize {
            let (block, count) = &mut lists[added * 7 % 64];
            *count += 1;
            edit(&mut arena, block, *count);
        }
        for (block, count) in &mut lists {
            edit(&mut arena, block, *count);
        }
    }
}
