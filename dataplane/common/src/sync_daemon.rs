//! Which sync daemons an operator has started: the record a restarted daemon resumes them from.

use crate::key::Be32;

/// One element of `SYNC_DAEMONS`: place 0 is the master, place 1 the backup. Programs do not read
/// it.
///
/// | offset | bytes | field |
/// | --- | --- | --- |
/// | 0 | 4 | flags: [`SyncDaemonRecord::RUNS`] |
/// | 4 | 2 | longest payload, 0 for the default |
/// | 6 | 2 | UDP port of the first thread, host byte order |
/// | 8 | 1 | sync id |
/// | 9 | 1 | TTL |
/// | 10 | 1 | family of the group: [`crate::key::Address::FAMILY`], 0 without a group |
/// | 16 | 16 | multicast group, IPv4 in the first word |
/// | 32 | 16 | interface name, zero-terminated |
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncDaemonRecord {
    pub flags: u32,
    pub maxlen: u16,
    pub port: u16,
    pub sync_id: u8,
    pub ttl: u8,
    pub family: u8,
    pub reserved: [u8; 5],
    pub group: [Be32; 4],
    pub interface: [u8; 16],
}

impl SyncDaemonRecord {
    /// The daemon was started and not stopped.
    pub const RUNS: u32 = 1;
}

const _: () = assert!(size_of::<SyncDaemonRecord>() == 48);
