//! The checks written a second time, straight from the layout of a packet.

use std::net::IpAddr;

use vrrp::wire::ah::Covered;
use vrrp::wire::{GROUP, Refusal};
use vrrp::{Authentication, Family};

use super::{KEY, Setup};

/// Source, priority, and interval in centiseconds; or the first thing that is wrong.
pub(crate) type Judgement = Result<(IpAddr, u8, u16), Refusal>;

/// Ends with the refusal unless the condition holds.
macro_rules! need {
    ($condition:expr, $refusal:ident) => {
        if !$condition {
            return Err(Refusal::$refusal);
        }
    };
}

pub(crate) fn judge(setup: &Setup, bytes: &[u8]) -> Judgement {
    let is_v4 = setup.family == Family::V4;
    let (mut at, mut total, mut ttl) = (0, bytes.len(), 255);
    let (mut source, mut destination) = (setup.peer(), setup.own());
    let mut has_header = false;
    if is_v4 {
        need!(bytes.len() >= 20, Short);
        at = usize::from(bytes[0] % 16) * 4;
        total = usize::from(bytes[2]) * 256 + usize::from(bytes[3]);
        need!(bytes[0] / 16 == 4 && at >= 20 && total >= at, IpHeader);
        // More fragments, or an offset.
        need!(bytes[6] & 0x3f == 0 && bytes[7] == 0, IpHeader);
        need!(bytes.len() >= at, Short);
        need!(bytes[9] == 112 || bytes[9] == 51, IpHeader);
        has_header = bytes[9] == 51;
        ttl = bytes[8];
        source = octets(bytes, 12).into();
        destination = octets(bytes, 16).into();
    } else if !setup.is_unicast {
        destination = Family::V6.group();
    }
    let header_at = at;
    if has_header {
        at += 24;
    }
    need!(bytes.len() >= at + 8, Short);
    let m = &bytes[at..];
    need!(m[1] == 51, UnknownVrid);
    let wants_header = matches!(setup.authentication, Authentication::Header(_));
    need!(has_header == wants_header, AuthHeader);
    if has_header {
        need!(bytes[header_at..header_at + 2] == [112, 4], AuthHeader);
    }
    let (address_len, data_len) = match (is_v4, m[0] / 16) {
        (true, 2) => (4, 8),
        (true, _) => (4, 0),
        (false, _) => (16, 0),
    };
    need!(
        m.len() == 8 + usize::from(m[3]) * address_len + data_len,
        Length
    );
    need!(setup.is_unicast || ttl == 255, Ttl);
    need!(m[0] / 16 == setup.version, Version);
    if setup.version == 2 {
        need!(m[4] == setup.authentication.number(), AuthType);
        match setup.authentication {
            Authentication::None => {}
            Authentication::Simple(_) => {
                need!(total >= 8 && total <= bytes.len(), AuthPassword);
                need!(bytes[total - 8..total] == KEY, AuthPassword);
            }
            Authentication::Header(_) => {
                let covered = Covered {
                    ip_header: &bytes[..header_at],
                    payload: &bytes[header_at..],
                    covers_ttl: !setup.is_unicast,
                };
                let sum = covered.sum(&KEY).unwrap();
                need!(bytes[header_at + 12..at] == sum, AuthDigest);
                let sender = octets(bytes, header_at + 4);
                need!(IpAddr::from(sender) == source, AuthSender);
                // The first one that is heard.
                need!(octets(bytes, header_at + 8) != [0; 4], AuthReplay);
            }
        }
        need!(m[5] == 1, Interval);
    }
    need!(m[0] % 16 == 1, Type);
    need!(usize::from(m[3]) == setup.vips, AddressCount);
    need!(total == bytes.len(), TotalLength);
    need!(is_right(setup, bytes, at, source, destination), Checksum);
    let is_for_us = if setup.is_unicast {
        destination == setup.own()
    } else {
        destination == setup.family.group()
    };
    need!(is_for_us, Destination);
    for vip in 0..setup.vips {
        let vip = octets_of(setup.vip(vip));
        let mut addresses = m[8..].chunks_exact(address_len);
        need!(addresses.any(|address| address == vip), AddressList);
    }
    if setup.checks_peers {
        need!(source == setup.peer(), PeerUnknown);
        need!(ttl >= 200, PeerTtl);
    }
    let interval = if setup.version == 2 {
        100
    } else {
        u16::from(m[4] % 16) * 256 + u16::from(m[5])
    };
    need!(interval != 0, IntervalZero);
    Ok((source, m[2], interval))
}

/// Whether the checksum is one of those a router with this set-up takes.
fn is_right(setup: &Setup, bytes: &[u8], at: usize, source: IpAddr, destination: IpAddr) -> bool {
    let message = &bytes[at..];
    let with = |to: IpAddr| {
        let mut all = [octets_of(source), octets_of(to)].concat();
        all.extend((message.len() as u32).to_be_bytes());
        all.extend([0, 0, 0, 112]);
        all.extend(message);
        sum(&all) == 0xffff
    };
    let plain = sum(message) == 0xffff;
    let (usual, old) = (with(destination), with(GROUP.into()));
    match (setup.version, setup.family) {
        (2, Family::V4) => plain,
        (_, Family::V6) => usual,
        (_, Family::V4) if setup.expects_old => old,
        (_, Family::V4) => plain || usual || old,
    }
}

/// The checksum to put into a message whose own is zero: the usual one of its kind.
pub(crate) fn checksum(setup: &Setup, bytes: &[u8], at: usize) -> u16 {
    let message = &bytes[at..];
    let mut all = Vec::new();
    match (setup.version, setup.family) {
        (2, Family::V4) => {}
        (_, Family::V4) => {
            all.extend(&bytes[12..16]);
            all.extend(if setup.expects_old {
                GROUP.octets()
            } else {
                octets(bytes, 16)
            });
            all.extend([0, 112]);
            all.extend((message.len() as u16).to_be_bytes());
        }
        (_, Family::V6) => {
            let info = setup.v6_info().unwrap();
            all.extend(info.source.octets());
            all.extend(info.destination.octets());
            all.extend((message.len() as u32).to_be_bytes());
            all.extend([0, 0, 0, 112]);
        }
    }
    all.extend(message);
    !sum(&all)
}

fn octets(bytes: &[u8], at: usize) -> [u8; 4] {
    bytes[at..at + 4].try_into().unwrap()
}

fn octets_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The one's complement sum of sixteen-bit words.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) * 256 + pair.get(1).map_or(0, |&low| u32::from(low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
