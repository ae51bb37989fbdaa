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
    use super::*;

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
}
