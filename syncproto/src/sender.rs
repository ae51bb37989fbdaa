//! The sending half of a sync daemon: connections in, messages out.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::buffer::{Layout, Packed, SyncBuffer};
use crate::conn::SyncConn;
use crate::limits;
use crate::wire::{SeqOrder, Version};

/// Buffers kept for reuse. More than a burst needs, and at the default length about 100 kB.
const POOL_MAX: usize = 64;

/// What a sender needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderConfig {
    pub version: Version,
    pub sync_id: u8,
    /// Longest message, but for an entry that is longer alone. Unit: bytes. Default: 1472. Kernel
    /// name: `sync_maxlen`.
    pub maxlen: usize,
    /// Age at which a part-filled message is due. Default: 2 s, the kernel's.
    pub flush_age: Duration,
    /// Filled messages that may wait; what is filled beyond is dropped. Unit: messages. Default:
    /// 4096. Kernel name: `sync_qlen_max`.
    pub queue_max: usize,
    /// Byte order of version 0's sequence block. Default: this host's.
    pub seq_order: SeqOrder,
}

impl Default for SenderConfig {
    fn default() -> Self {
        SenderConfig {
            version: Version::V1,
            sync_id: 0,
            maxlen: limits::DEFAULT_PAYLOAD_IPV4,
            flush_age: limits::FLUSH_AGE,
            queue_max: 4096,
            seq_order: SeqOrder::HOST,
        }
    }
}

/// What a sender has done. Entries pushed are those sent, dropped, not carried and
/// [`Sender::pending_entries`] together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SenderCounters {
    /// Entries in the messages handed out.
    pub entries: u64,
    /// Messages handed out.
    pub messages: u64,
    /// Bytes of the messages handed out.
    pub bytes: u64,
    /// Entries of filled messages that found the queue full.
    pub drop_queue_full: u64,
    /// Entries thrown away by [`Sender::discard`].
    pub drop_discarded: u64,
    /// Entries the version cannot say: IPv6 in version 0.
    pub not_carried: u64,
}

/// Packs connections into messages and says when they are due.
///
/// ```text
///            room                           poll_transmit
///  push ---> buffer --- filled ---> queue --------------> message ---> recycle
///              |                      | full: dropped        ^
///              +--- flush_age old, or flush() ---------------+
/// ```
///
/// [`push`](Sender::push) gives input, [`poll_transmit`](Sender::poll_transmit) takes output until
/// it returns `None`, [`next_deadline`](Sender::next_deadline) says when to ask again. Times given
/// never go back. Buffers given back by [`recycle`](Sender::recycle) are used again, so that a
/// steady sender does not allocate.
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
    current: SyncBuffer,
    queue: VecDeque<SyncBuffer>,
    pool: Vec<SyncBuffer>,
    flush: bool,
    counters: SenderCounters,
}

impl Sender {
    pub fn new(config: SenderConfig) -> Self {
        Sender {
            current: SyncBuffer::new(layout(&config)),
            config,
            queue: VecDeque::new(),
            pool: Vec::new(),
            flush: false,
            counters: SenderCounters::default(),
        }
    }

    /// From now on messages are of this version. What has been packed in the other one is queued at
    /// once, and counted as dropped when the queue is full. Source: `ip_vs_sync.c: ip_vs_sync_conn`,
    /// `ip_vs_sync_conn_v0`, where the next entry finds the buffer of the other version.
    pub fn set_version(&mut self, version: Version) {
        if version == self.config.version {
            return;
        }
        self.config.version = version;
        if self.current.count() != 0 {
            self.enqueue();
        }
        // Nothing of it was begun, or what was has been dropped.
        self.current.reset(layout(&self.config));
    }

    /// How many filled messages may wait from now on. Those that wait already stay, as in the
    /// kernel; with 0 every filled message is dropped. Unit: messages. Kernel name: `sync_qlen_max`.
    pub fn set_queue_max(&mut self, queue_max: usize) {
        self.config.queue_max = queue_max;
    }

    /// Takes a connection in.
    pub fn push(&mut self, conn: &SyncConn, now: Instant) {
        let mut packed = self.current.push(conn, now);
        if packed == Packed::Full {
            self.enqueue();
            packed = self.current.push(conn, now);
        }
        if packed == Packed::NotCarried {
            self.counters.not_carried += 1;
        }
        // Nothing is gained by waiting for an entry that cannot fit.
        if self.current.is_full() {
            self.enqueue();
        }
    }

    /// The next message that is filled, or old enough.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<SyncBuffer> {
        let message = match self.queue.pop_front() {
            Some(message) => message,
            None => {
                let begun = self.current.begun()?;
                let age = now.saturating_duration_since(begun);
                if !self.flush && age < self.config.flush_age {
                    return None;
                }
                self.flush = false;
                self.take_current()
            }
        };
        self.counters.messages += 1;
        self.counters.entries += u64::from(message.count());
        self.counters.bytes += message.message().len() as u64;
        Some(message)
    }

    /// Gives back a message that was sent, or could not be.
    pub fn recycle(&mut self, message: SyncBuffer) {
        if self.pool.len() < POOL_MAX {
            self.pool.push(message);
        }
    }

    /// When [`poll_transmit`](Self::poll_transmit) has a message; in the past when it has one now.
    pub fn next_deadline(&self) -> Option<Instant> {
        if let Some(message) = self.queue.front() {
            return message.begun();
        }
        let begun = self.current.begun()?;
        if self.flush {
            return Some(begun);
        }
        begun.checked_add(self.config.flush_age)
    }

    /// Makes everything due, for a clean stop.
    pub fn flush(&mut self) {
        self.flush = self.current.count() != 0;
    }

    /// Throws away what has not been handed out, and counts it.
    ///
    /// DIFFERS: a kernel's master does this when it stops; here it is for one that found itself
    /// late or deposed.
    pub fn discard(&mut self) {
        self.counters.drop_discarded += self.pending_entries();
        while let Some(message) = self.queue.pop_front() {
            self.recycle(message);
        }
        self.current.clear();
        self.flush = false;
    }

    /// Entries not yet handed out.
    pub fn pending_entries(&self) -> u64 {
        let queued = self.queue.iter().map(|message| u64::from(message.count()));
        queued.sum::<u64>() + u64::from(self.current.count())
    }

    /// Filled messages that wait.
    pub fn queued_messages(&self) -> usize {
        self.queue.len()
    }

    pub const fn counters(&self) -> &SenderCounters {
        &self.counters
    }

    fn enqueue(&mut self) {
        if self.queue.len() >= self.config.queue_max {
            self.counters.drop_queue_full += u64::from(self.current.count());
            self.current.clear();
        } else {
            let message = self.take_current();
            self.queue.push_back(message);
        }
        self.flush = false;
    }

    fn take_current(&mut self) -> SyncBuffer {
        let layout = layout(&self.config);
        let next = match self.pool.pop() {
            Some(mut used) => {
                used.reset(layout);
                used
            }
            None => SyncBuffer::new(layout),
        };
        std::mem::replace(&mut self.current, next)
    }
}

fn layout(config: &SenderConfig) -> Layout {
    Layout {
        version: config.version,
        sync_id: config.sync_id,
        seq_order: config.seq_order,
        maxlen: config.maxlen,
    }
}

#[cfg(test)]
mod tests;
