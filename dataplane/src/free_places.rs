//! Free places of a connection table, found in advance for connections that are applied.
//!
//! The programs draw places at random; to have many connections made, it is cheaper to tell them where
//! one is free. What is found lies side by side, so that memory is touched page by page. A place that
//! is taken meanwhile costs the program a look and nothing else.

use dataplane_common::Address;
use dataplane_common::entry::{Conn, ConnWord};

use crate::connections::WORD;
use crate::mapped::{Mapped, load};

/// Places looked at for each one that is wanted. In a table that is nearly full the rest are drawn at
/// random.
const LOOKS_EACH: usize = 4;

/// The places found in one table.
#[derive(Debug, Default)]
pub(crate) struct FreePlaces {
    found: Vec<u32>,
    /// Looked at next.
    next: u32,
}

impl FreePlaces {
    /// Looks for places until `wanted` are at hand, or enough have been looked at.
    pub(crate) fn refill<A: Address>(&mut self, table: &Mapped<Conn<A>>, wanted: usize) {
        let missing = wanted.saturating_sub(self.found.len());
        for _ in 0..missing.saturating_mul(LOOKS_EACH) {
            if self.found.len() >= wanted {
                return;
            }
            let at = self.next % table.len();
            self.next = at + 1;
            if ConnWord(load(table.word(at, WORD))).is_free() {
                self.found.push(at);
            }
        }
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.found.pop()
    }

    /// One that was not needed.
    pub(crate) fn give_back(&mut self, place: u32) {
        self.found.push(place);
    }
}
