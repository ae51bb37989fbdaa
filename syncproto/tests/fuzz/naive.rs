//! A second reading of messages, by offsets and from the rules alone: slow, and in no hurry to be
//! fast. What it accepts and what it refuses for which reason, the codec must too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use syncproto::wire::{SeqOrder, WalkConfig};

/// What an accepted entry says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) protocol: u8,
    /// Client, virtual service, real server.
    pub(crate) ends: [SocketAddr; 3],
    pub(crate) flags: u32,
    pub(crate) state: u8,
    pub(crate) fwmark: u32,
    pub(crate) timeout_secs: u32,
    /// The six words of the sequence block.
    pub(crate) seq: Option<[u32; 6]>,
    /// Engine name and data.
    pub(crate) pe: Option<(Vec<u8>, Vec<u8>)>,
}

/// What comes of an entry: what it says, or the name of a refusal and whether the walk goes on.
type Outcome = Result<Said, (&'static str, bool)>;

/// What comes of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Name of the refusal of the whole message.
    pub(crate) refused: Option<&'static str>,
    pub(crate) entries: Vec<Result<Said, &'static str>>,
}

pub(crate) fn read(message: &[u8], config: &WalkConfig) -> Reading {
    let refused = |name| Reading {
        refused: Some(name),
        ..Reading::default()
    };
    if message.len() < 4 {
        return refused("message_short");
    }
    if usize::from(be16(message, 2)) != message.len() {
        return refused("message_size");
    }
    if config.sync_id != 0 && config.sync_id != message[1] {
        return refused("message_sync_id");
    }
    let is_v1 = message.len() >= 8 && message[5] == 1 && message[0] == 0 && message[6..8] == [0, 0];
    let (count, mut at) = if is_v1 {
        (message[4], 8)
    } else {
        (message[0], 4)
    };
    let mut reading = Reading::default();
    for _ in 0..count {
        let (outcome, next) = if is_v1 {
            entry_v1(message, at, config)
        } else {
            entry_v0(message, at, config)
        };
        match outcome {
            Ok(said) => reading.entries.push(Ok(said)),
            Err((name, goes_on)) => {
                reading.entries.push(Err(name));
                if !goes_on {
                    break;
                }
            }
        }
        at = next;
    }
    reading
}

fn entry_v0(message: &[u8], at: usize, config: &WalkConfig) -> (Outcome, usize) {
    let left = message.len().saturating_sub(at);
    if left < 24 {
        return (Err(("entry_no_room", false)), at);
    }
    let flags = u32::from(be16(message, at + 20));
    let with_seq = flags & 0x0600 != 0;
    if with_seq && left < 48 {
        return (Err(("entry_no_seq_block", false)), at);
    }
    let address = |offset| IpAddr::V4(Ipv4Addr::from(be32(message, at + offset)));
    let end = |ip, port| SocketAddr::new(address(ip), be16(message, at + port));
    let seq = with_seq.then(|| {
        let word = |index: usize| {
            let begin = at + 24 + 4 * index;
            let bytes = message[begin..begin + 4].try_into().unwrap();
            match config.seq_order {
                SeqOrder::Big => u32::from_be_bytes(bytes),
                SeqOrder::Little => u32::from_le_bytes(bytes),
            }
        };
        [0, 1, 2, 3, 4, 5].map(word)
    });
    let said = Said {
        protocol: message[at + 1],
        ends: [end(8, 2), end(12, 4), end(16, 6)],
        flags,
        state: 0,
        fwmark: 0,
        timeout_secs: 0,
        seq,
        pe: None,
    };
    let next = at + if with_seq { 48 } else { 24 };
    (judge(said, be16(message, at + 22)), next)
}

fn entry_v1(message: &[u8], at: usize, config: &WalkConfig) -> (Outcome, usize) {
    let stop = |name| (Err((name, false)), at);
    if at + 36 > message.len() {
        return stop("entry_no_room");
    }
    let ver_size = be16(message, at + 2);
    let length = usize::from(ver_size & 0x0fff);
    if at + length > message.len() {
        return stop("entry_past_end");
    }
    if ver_size >> 12 != 0 {
        return stop("entry_version");
    }
    let kind = message[at];
    if kind & 1 == 0 && kind != 0 {
        return stop("entry_type");
    }
    let ipv6 = kind & 1 == 1;
    let (fixed, width) = if ipv6 { (72, 16) } else { (36, 4) };
    if length < fixed {
        return stop("entry_short");
    }
    let mut said = Said {
        protocol: message[at + 1],
        ends: [0, 1, 2].map(|index| {
            let begin = at + 24 + width * index;
            let bytes = &message[begin..begin + width];
            let ip = if ipv6 {
                IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap()))
            } else {
                IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap()))
            };
            SocketAddr::new(ip, be16(message, at + 10 + 2 * index))
        }),
        flags: be32(message, at + 4),
        state: 0,
        fwmark: be32(message, at + 16),
        timeout_secs: be32(message, at + 20),
        seq: None,
        pe: None,
    };
    let state = be16(message, at + 8);
    let next = at + length.div_ceil(4) * 4;
    let (mut data, mut name): (Option<&[u8]>, Option<&[u8]>) = (None, None);
    let mut option = at + fixed;
    let end = at + length;
    while option < end {
        if end - option < 2 {
            return stop("option_stray_byte");
        }
        let size = usize::from(message[option + 1]);
        if size == 0 || option + 2 + size > end {
            return stop("option_length");
        }
        let value = &message[option + 2..option + 2 + size];
        let kind = message[option];
        match kind & 0xbf {
            1 if size != 24 || said.seq.is_some() => return stop("option_seq"),
            1 => said.seq = Some([0, 1, 2, 3, 4, 5].map(|index| be32(value, 4 * index))),
            2 if data.is_some() => return stop("option_pe_data"),
            2 => data = Some(value),
            3 if size > 16 || name.is_some() => return stop("option_pe_name"),
            3 => name = Some(value),
            _ if kind & 0x40 == 0 => return (Err(("option_unknown", true)), next),
            _ => {}
        }
        option += 2 + size;
    }
    let judged = judge(said, state).and_then(|mut said| {
        if let Some(data) = data {
            let name = name.ok_or(("pe_name_missing", true))?;
            // As a C string.
            let end = name
                .iter()
                .position(|byte| *byte == 0)
                .unwrap_or(name.len());
            let name = name[..end].to_vec();
            let known = |engine: &&str| engine.as_bytes() == name;
            if !config.engines.iter().any(known) {
                return Err(("pe_engine", true));
            }
            said.pe = Some((name, data.to_vec()));
        }
        if ipv6 && !config.ipv6 {
            return Err(("ipv6", true));
        }
        Ok(said)
    });
    (judged, next)
}

/// Flags, protocol and state.
fn judge(mut said: Said, state: u16) -> Outcome {
    if said.flags & 0x2000 != 0 || said.flags & 0x1800 == 0x1800 {
        return Err(("flags", true));
    }
    if said.flags & 0x1000 != 0 {
        if state > 1 {
            return Err(("template_state", true));
        }
    } else {
        let states = match said.protocol {
            6 => 11,
            132 => 14,
            17 | 50 | 51 => 1,
            _ => return Err(("protocol", true)),
        };
        if state >= states {
            return Err(("state", true));
        }
    }
    said.state = state as u8;
    Ok(said)
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}
