//! What a backup has to make of a datagram, written from the tables of the protocol's description
//! and not from our codec: two readings of the same rules have to agree.

use std::collections::BTreeMap;

/// Entries and messages by what becomes of them; the names are those of the daemon's counters.
pub(crate) type Expected = BTreeMap<&'static str, u64>;

const IN_OUT_SEQ: u32 = 0x0600;
const NO_CPORT: u32 = 0x0800;
const TEMPLATE: u32 = 0x1000;
const ONE_PACKET: u32 = 0x2000;

/// Why a walk over the entries of a message goes no further than an entry, or passes it by.
enum Fault {
    Stop(&'static str),
    Skip(&'static str),
}
use Fault::{Skip, Stop};

/// What the backup was started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backup {
    pub(crate) sync_id: u8,
    /// Longer datagrams are cut. Unit: bytes.
    pub(crate) maxlen: usize,
    pub(crate) engine: &'static [u8],
}

impl Backup {
    /// Counts what becomes of a datagram.
    pub(crate) fn expect(&self, datagram: &[u8], sum: &mut Expected) {
        let mut count = |name| *sum.entry(name).or_default() += 1;
        let message = &datagram[..datagram.len().min(self.maxlen)];
        if message.len() < 4 {
            return count("refused_message_short");
        }
        if message.len() != usize::from(u16_at(message, 2)) {
            return count("refused_message_size");
        }
        if self.sync_id != 0 && message[1] != self.sync_id {
            return count("refused_message_sync_id");
        }
        count("messages");
        if message.len() >= 8 && message[0] == 0 {
            if message[5] == 1 && u16_at(message, 6) == 0 {
                self.walk_v1(message, &mut count);
            } else {
                // Version 0 without entries to a kernel.
                count("foreign_messages");
            }
        } else {
            walk_v0(message, &mut count);
        }
    }

    fn walk_v1(&self, message: &[u8], count: &mut impl FnMut(&'static str)) {
        let mut at = 8;
        for _ in 0..message[4] {
            let rest = message.get(at..).unwrap_or_default();
            match self.entry_v1(rest) {
                Ok(()) => count("entries"),
                Err(Skip(reason)) => count(reason),
                Err(Stop(reason)) => return count(reason),
            }
            let len = usize::from(u16_at(rest, 2) & 0x0fff);
            at += len.next_multiple_of(4);
        }
    }

    fn entry_v1(&self, rest: &[u8]) -> Result<(), Fault> {
        if rest.len() < 36 {
            return Err(Stop("refused_entry_no_room"));
        }
        let len = usize::from(u16_at(rest, 2) & 0x0fff);
        if len > rest.len() {
            return Err(Stop("refused_entry_past_end"));
        }
        if rest[2] >> 4 != 0 {
            return Err(Stop("refused_entry_version"));
        }
        let fixed = match rest[0] {
            0 => 36,
            kind if kind & 1 == 1 => 72,
            _ => return Err(Stop("refused_entry_type")),
        };
        if len < fixed {
            return Err(Stop("refused_entry_short"));
        }
        let (data, name) = options(&rest[fixed..len])?;
        let flags = u32_at(rest, 4);
        flags_and_state(rest[1], flags, u16_at(rest, 8))?;
        match (data, name) {
            (true, None) => Err(Skip("refused_pe_name_missing")),
            // Names are compared as strings of C.
            (true, Some(name)) if name.split(|it| *it == 0).next() != Some(self.engine) => {
                Err(Skip("refused_pe_engine"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether there are engine data, and the engine's name.
fn options(mut rest: &[u8]) -> Result<(bool, Option<&[u8]>), Fault> {
    let (mut seq, mut data, mut name) = (false, false, None);
    while !rest.is_empty() {
        if rest.len() < 2 {
            return Err(Stop("refused_option_stray_byte"));
        }
        let (kind, len) = (rest[0], usize::from(rest[1]));
        if len == 0 || len > rest.len() - 2 {
            return Err(Stop("refused_option_length"));
        }
        let content = &rest[2..2 + len];
        match kind & !0x40 {
            1 if len != 24 || seq => return Err(Stop("refused_option_seq")),
            1 => seq = true,
            2 if data => return Err(Stop("refused_option_pe_data")),
            2 => data = true,
            3 if len > 16 || name.is_some() => return Err(Stop("refused_option_pe_name")),
            3 => name = Some(content),
            _ if kind & 0x40 == 0 => return Err(Skip("refused_option_unknown")),
            _ => {}
        }
        rest = &rest[2 + len..];
    }
    Ok((data, name))
}

fn walk_v0(message: &[u8], count: &mut impl FnMut(&'static str)) {
    let mut rest = &message[4..];
    for _ in 0..message[0] {
        if rest.len() < 24 {
            return count("refused_entry_no_room");
        }
        let flags = u32::from(u16_at(rest, 20));
        let len = if flags & IN_OUT_SEQ == 0 { 24 } else { 48 };
        if rest.len() < len {
            return count("refused_entry_no_seq_block");
        }
        match flags_and_state(rest[1], flags, u16_at(rest, 22)) {
            Ok(()) => count("entries"),
            Err(Skip(reason) | Stop(reason)) => count(reason),
        }
        rest = &rest[len..];
    }
}

fn flags_and_state(protocol: u8, flags: u32, state: u16) -> Result<(), Fault> {
    let both = NO_CPORT | TEMPLATE;
    if flags & both == both || flags & ONE_PACKET != 0 {
        return Err(Skip("refused_flags"));
    }
    if flags & TEMPLATE != 0 {
        return match state {
            0 | 1 => Ok(()),
            _ => Err(Skip("refused_template_state")),
        };
    }
    let states = match protocol {
        6 => 11,
        132 => 14,
        17 | 50 | 51 => 1,
        _ => return Err(Skip("refused_protocol")),
    };
    if state < states {
        Ok(())
    } else {
        Err(Skip("refused_state"))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) << 16 | u32::from(u16_at(bytes, at + 2))
}

/// The cases of the protocol's description, each with the entries accepted and the first reason.
const CASES: &str = include_str!("../../../syncproto/tests/vectors/receiver.hex");

#[test]
fn the_table_makes_of_every_described_case_what_is_described() {
    let mut cases = 0;
    for line in CASES.lines().filter(|line| line.contains('|')) {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, sync_id, accepted, reason, message] = columns[..] else {
            panic!("{line}");
        };
        // The line that says what the columns are.
        let Ok(sync_id) = sync_id.parse() else {
            continue;
        };
        let bytes: Vec<u8> = (0..message.len() / 2)
            .map(|at| u8::from_str_radix(&message[2 * at..2 * at + 2], 16).unwrap())
            .collect();
        let backup = Backup {
            sync_id,
            maxlen: 1472,
            engine: b"sip",
        };
        let mut found = Expected::new();
        backup.expect(&bytes, &mut found);
        let entries = found.get("entries").copied().unwrap_or_default();
        assert_eq!(entries.to_string(), accepted, "{name}");
        let reasons: Vec<&str> = found
            .keys()
            .filter_map(|name| name.strip_prefix("refused_"))
            .collect();
        let wanted: Vec<&str> = if reason == "-" { vec![] } else { vec![reason] };
        assert_eq!(reasons, wanted, "{name}");
        cases += 1;
    }
    assert!(cases > 40, "{cases}");
}
