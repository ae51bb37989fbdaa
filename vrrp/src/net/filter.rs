//! Which packets the kernel puts into which queue: classic socket filters (linux/bpf_common.h).

use std::net::IpAddr;

use socket2::SockFilter;

use crate::config::{Config, Family};
use crate::wire::{HEADER_LEN, TYPE_ADVERTISEMENT};

/// Which of the two sockets of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// What looks like an advertisement of this virtual router.
    Election,
    /// Everything else of the protocol.
    Other,
}

const LOAD_LENGTH: u16 = 0x80;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Offsets from here on count from the IP header (SKF_NET_OFF), which is not among the bytes of an
/// IPv6 socket.
const NETWORK: u32 = 0xfff0_0000;

const NOTHING: u32 = 0;
const WHOLE_PACKET: u32 = u32::MAX;

const IPV4_HEADER_LEN: u32 = 20;
/// Length of an authentication header with twelve bytes of check value (RFC 2402).
const AUTHENTICATION_HEADER_LEN: u32 = 24;
/// Version 4 and a header without options.
const IPV4_PLAIN: u32 = 0x45;
const TTL: u32 = 255;

/// Lets nothing in.
pub(super) fn closed() -> [SockFilter; 1] {
    [give(NOTHING)]
}

/// Divides the packets of the protocol between the two sockets.
///
/// The election's has those with the version, type and VRID of this router, sent to `destination`;
/// those to the group also have the TTL they must have. The other one has the rest, but for packets
/// of the VRIDs in `neighbours`: other routers of this node that listen to the same protocol on the
/// same interface, and count what is wrong with those themselves.
pub(super) fn filter(
    config: &Config,
    destination: IpAddr,
    neighbours: &[u8],
    queue: Queue,
) -> Vec<SockFilter> {
    let (matching, rest) = match queue {
        Queue::Election => (WHOLE_PACKET, NOTHING),
        Queue::Other => (NOTHING, WHOLE_PACKET),
    };
    let message = message_offset(config);
    let shortest = message.saturating_add(u32::try_from(HEADER_LEN).unwrap_or(u32::MAX));
    let checks = checks(config, destination, message);
    // A load behind the end of a packet ends the program as if it had returned zero, and the packet
    // would reach neither socket: hence the length first.
    let mut program = vec![
        load(LOAD_LENGTH, 0),
        SockFilter::new(JUMP_IF_GREATER_OR_EQUAL, 1, 0, shortest),
        give(rest),
    ];
    let count = checks.len();
    for (done, (what, value)) in checks.into_iter().enumerate() {
        // Over two instructions for each check that follows, and the return of those that fit.
        let left = count.saturating_sub(done).saturating_sub(1);
        let missed = u8::try_from(left.saturating_mul(2).saturating_add(1)).unwrap_or(u8::MAX);
        program.push(what);
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, missed, value));
    }
    program.push(give(matching));
    if queue == Queue::Other && !neighbours.is_empty() {
        program.push(load(LOAD_BYTE, message.saturating_add(1)));
        for vrid in neighbours {
            program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(*vrid)));
            program.push(give(NOTHING));
        }
    }
    program.push(give(rest));
    program
}

/// Where the message begins among the bytes of a socket: those of IPv4 begin with the IP header.
fn message_offset(config: &Config) -> u32 {
    match (config.family(), config.authentication().is_header()) {
        (Family::V6, _) => 0,
        (Family::V4, false) => IPV4_HEADER_LEN,
        (Family::V4, true) => IPV4_HEADER_LEN.saturating_add(AUTHENTICATION_HEADER_LEN),
    }
}

/// What has to be loaded, and the value that it has in an advertisement of this router.
fn checks(config: &Config, destination: IpAddr, message: u32) -> Vec<(SockFilter, u32)> {
    let mut checks = Vec::new();
    let (ttl, to) = match destination {
        IpAddr::V4(addr) => {
            checks.push((load(LOAD_BYTE, 0), IPV4_PLAIN));
            let to = vec![(load(LOAD_WORD, 16), addr.to_bits())];
            (load(LOAD_BYTE, 8), to)
        }
        IpAddr::V6(addr) => {
            let octets = addr.octets();
            let (words, _) = octets.as_chunks::<4>();
            let to = (24..).step_by(4).zip(words);
            let to = to.map(|(offset, word)| {
                let word = u32::from_be_bytes(*word);
                (load(LOAD_WORD, NETWORK | offset), word)
            });
            (load(LOAD_BYTE, NETWORK | 7), to.collect())
        }
    };
    if !config.is_unicast() {
        checks.push((ttl, TTL));
    }
    checks.extend(to);
    let first = config.version().number() << 4 | TYPE_ADVERTISEMENT;
    checks.push((load(LOAD_BYTE, message), u32::from(first)));
    let vrid = load(LOAD_BYTE, message.saturating_add(1));
    checks.push((vrid, u32::from(config.vrid())));
    checks
}

fn load(code: u16, offset: u32) -> SockFilter {
    SockFilter::new(code, 0, 0, offset)
}

fn give(bytes: u32) -> SockFilter {
    SockFilter::new(RETURN, 0, 0, bytes)
}
