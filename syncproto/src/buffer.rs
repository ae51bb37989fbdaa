//! A message in the making.

use std::time::Instant;

use crate::conn::SyncConn;
use crate::limits::{ENTRIES_MAX, MASTER_PAYLOADS_IPV4, v0, v1};
use crate::wire::{SeqOrder, Version, entry_len, set_header, write_entry, write_header};

/// What all messages of a sender have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub version: Version,
    pub sync_id: u8,
    /// Byte order of version 0's sequence block.
    pub seq_order: SeqOrder,
    /// Longest message. Unit: bytes; what UDP over IPv4 can carry is the upper bound. An entry
    /// that is longer alone has a message to itself. Kernel name: `sync_maxlen`.
    pub maxlen: usize,
}

/// What became of an entry given to a [`SyncBuffer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packed {
    Stored,
    /// There is no room, or 255 entries are in it; nothing was stored.
    Full,
    /// The version cannot carry it: version 0 has no IPv6.
    NotCarried,
}

/// Entries packed into one message, ready to be sent at any time.
#[derive(Clone, Debug)]
pub struct SyncBuffer {
    layout: Layout,
    /// Header and entries; empty when there are none.
    bytes: Vec<u8>,
    count: u8,
    begun: Option<Instant>,
}

impl SyncBuffer {
    pub fn new(layout: Layout) -> Self {
        SyncBuffer {
            layout,
            bytes: Vec::new(),
            count: 0,
            begun: None,
        }
    }

    /// Appends a connection, behind padding where version 1 wants it.
    pub fn push(&mut self, conn: &SyncConn, now: Instant) -> Packed {
        let Some(entry_len) = entry_len(self.layout.version, conn) else {
            return Packed::NotCarried;
        };
        if self.count == 0 {
            self.begin(now);
        } else {
            let begin = self.next_begin();
            if usize::from(self.count) >= ENTRIES_MAX || begin + entry_len > self.maxlen() {
                return Packed::Full;
            }
            self.bytes.resize(begin, 0);
        }
        write_entry(&self.layout, conn, entry_len, &mut self.bytes);
        self.count += 1;
        // Within UDP's payload, so within 16 bits.
        set_header(
            self.layout.version,
            self.bytes.len() as u16,
            self.count,
            &mut self.bytes,
        );
        Packed::Stored
    }

    /// Whether not even the smallest entry finds room any more.
    pub fn is_full(&self) -> bool {
        let smallest = match self.layout.version {
            Version::V0 => v0::ENTRY_LEN,
            Version::V1 => v1::ENTRY_IPV4_LEN,
        };
        self.count != 0
            && (usize::from(self.count) >= ENTRIES_MAX
                || self.next_begin() + smallest > self.maxlen())
    }

    /// Version of the message.
    pub const fn version(&self) -> Version {
        self.layout.version
    }

    /// The message; empty without entries.
    pub fn message(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of entries, at most 255.
    pub const fn count(&self) -> u8 {
        self.count
    }

    /// When the first entry came.
    pub const fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// Forgets the entries and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.begun = None;
    }

    /// Forgets the entries and begins anew, perhaps with another layout.
    pub fn reset(&mut self, layout: Layout) {
        self.clear();
        self.layout = layout;
    }

    fn begin(&mut self, now: Instant) {
        self.bytes.clear();
        write_header(self.layout.version, self.layout.sync_id, &mut self.bytes);
        self.begun = Some(now);
    }

    /// Where the next entry begins.
    fn next_begin(&self) -> usize {
        match self.layout.version {
            Version::V0 => self.bytes.len(),
            Version::V1 => self.bytes.len().next_multiple_of(v1::ALIGNMENT),
        }
    }

    fn maxlen(&self) -> usize {
        self.layout.maxlen.min(*MASTER_PAYLOADS_IPV4.end())
    }
}
