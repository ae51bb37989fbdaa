//! The receiving half of a sync daemon: messages in, connections out.

use crate::conn::SyncConn;
use crate::refusal::{Refusal, RefusalCounts};
use crate::wire::{Entry, Message, WalkConfig, walk};

/// What a receiver has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceiverCounters {
    /// Messages whose header was accepted.
    pub messages: u64,
    /// Entries accepted.
    pub entries: u64,
    /// Bytes of the messages whose header was accepted.
    pub bytes: u64,
    /// Messages, entries and rests of messages refused.
    pub refused: RefusalCounts,
    /// Messages of no version we know, without effect.
    pub foreign_messages: u64,
    /// Bytes after the last entry, without effect.
    pub trailing_bytes: u64,
    /// Options we do not know and may ignore.
    pub ignored_options: u64,
}

impl ReceiverCounters {
    /// Every counter by name, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let named = [
            ("messages", self.messages),
            ("entries", self.entries),
            ("bytes", self.bytes),
            ("foreign_messages", self.foreign_messages),
            ("trailing_bytes", self.trailing_bytes),
            ("ignored_options", self.ignored_options),
        ];
        let refused = |refusal: &Refusal| (refusal.counter(), self.refused.of(*refusal));
        named.into_iter().chain(Refusal::ALL.iter().map(refused))
    }
}

/// Hands the connections of accepted entries on, and counts the rest by reason.
#[derive(Debug)]
pub struct Receiver {
    config: WalkConfig,
    counters: ReceiverCounters,
}

impl Receiver {
    pub fn new(config: WalkConfig) -> Self {
        Receiver {
            config,
            counters: ReceiverCounters::default(),
        }
    }

    /// Takes a datagram. `accept` gets what it says about connections, in order.
    pub fn receive(&mut self, datagram: &[u8], mut accept: impl FnMut(SyncConn)) {
        let counters = &mut self.counters;
        let message = match walk(datagram, &self.config) {
            Ok(message) => message,
            Err(refusal) => return counters.refused.add(refusal),
        };
        counters.messages += 1;
        counters.bytes += datagram.len() as u64;
        let mut walk = match message {
            Message::Entries(walk) => walk,
            Message::Foreign(_) => {
                counters.foreign_messages += 1;
                return;
            }
        };
        let mut entry = Entry::BLANK;
        while let Some(read) = walk.next_into(&mut entry) {
            let conn = read.and_then(|()| {
                counters.ignored_options += u64::from(entry.ignored.count_left());
                entry.conn()
            });
            match conn {
                Ok(conn) => {
                    counters.entries += 1;
                    accept(conn);
                }
                Err(refusal) => counters.refused.add(refusal),
            }
        }
        counters.trailing_bytes += walk.trailing().map_or(0, |bytes| bytes.len() as u64);
    }

    pub const fn counters(&self) -> &ReceiverCounters {
        &self.counters
    }
}
