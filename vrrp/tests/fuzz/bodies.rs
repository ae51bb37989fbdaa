//! What the fuzz targets do with their bytes: `fuzz/` makes up new ones, `tests/corpus.rs` replays
//! those that were kept.
//!
//! The first byte of an input says which router hears it, see [`Setup`]; the rest is what arrives:
//! over IPv4 a packet from its IP header on, over IPv6 a message. A checksum is rarely right by
//! chance, so most set-ups put the right one in, and the lengths too.
#![allow(dead_code, reason = "each target has one of the bodies")]
#![allow(clippy::unwrap_used, reason = "a target ends there")]

mod naive;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vrrp::wire::ah::{self, Covered};
use vrrp::wire::{DATAGRAM_MAX, Refusal, inspect};
use vrrp::{
    AdvertCodec, Authentication, ChecksumForm, Config, Datagram, Family, Interval, Parameters,
    Peer, Priority, V6Info,
};

pub(crate) type Body = fn(&[u8]);

/// Name and body of each target.
pub(crate) const TARGETS: [(&str, Body); 5] = [
    ("auth_header", auth_header),
    ("inspect", inspected),
    ("receive_v2", receive_v2),
    ("receive_v3", receive_v3),
    ("round_trip", round_trip),
];

pub(crate) const KEY: [u8; 8] = *b"secret12";
pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Version 2 without authentication and with a password.
pub(crate) fn receive_v2(input: &[u8]) {
    receive(input, 2);
}

/// Version 3 over IPv4 and IPv6.
pub(crate) fn receive_v3(input: &[u8]) {
    receive(input, 3);
}

/// Version 2 with an authentication header, made right where the set-up says so.
pub(crate) fn auth_header(input: &[u8]) {
    let Some((setup, mut bytes)) = Setup::read(input, 2) else {
        return;
    };
    let setup = Setup {
        family: Family::V4,
        authentication: Authentication::Header(KEY),
        ..setup
    };
    setup.mend(&mut bytes);
    setup.judge_as_the_naive_does(&bytes);
}

fn receive(input: &[u8], version: u8) {
    let Some((setup, mut bytes)) = Setup::read(input, version) else {
        return;
    };
    setup.mend(&mut bytes);
    setup.judge_as_the_naive_does(&bytes);
}

/// Which router hears.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) version: u8,
    pub(crate) family: Family,
    pub(crate) is_unicast: bool,
    pub(crate) authentication: Authentication,
    /// Peers have to have a time to live of 200 at least.
    pub(crate) checks_peers: bool,
    pub(crate) expects_old: bool,
    pub(crate) vips: usize,
    is_mended: bool,
}

impl Setup {
    /// The set-up, and what arrives.
    fn read(input: &[u8], version: u8) -> Option<(Setup, Vec<u8>)> {
        let (&first, rest) = input.split_first()?;
        let bit = |number: u8| first >> number & 1 == 1;
        let family = if bit(0) { Family::V6 } else { Family::V4 };
        let (is_unicast, is_v4) = (bit(1), family == Family::V4);
        let has_password = version == 2 && is_v4 && bit(2);
        let setup = Setup {
            version,
            family,
            is_unicast,
            authentication: if has_password {
                Authentication::Simple(KEY)
            } else {
                Authentication::None
            },
            checks_peers: is_unicast && bit(3),
            expects_old: version == 3 && is_v4 && is_unicast && bit(4),
            vips: if bit(5) { 2 } else { 1 },
            is_mended: bit(6) || bit(7),
        };
        let len = rest.len().min(DATAGRAM_MAX);
        Some((setup, rest[..len].to_vec()))
    }

    fn config(&self) -> Config {
        let vips = (0..self.vips).map(|last| self.vip(last)).collect();
        let peer = Peer {
            min_ttl: if self.checks_peers { 200 } else { 0 },
            ..Peer::new(self.peer())
        };
        let parameters = Parameters {
            version: self.version,
            vrid: 51,
            addresses: vips,
            authentication: self.authentication,
            checksum: if self.expects_old {
                ChecksumForm::OldUnicast
            } else {
                ChecksumForm::Rfc5798
            },
            peers: self.is_unicast.then_some(peer).into_iter().collect(),
            ..Parameters::default()
        };
        Config::new(parameters).unwrap()
    }

    pub(crate) fn vip(&self, last: usize) -> IpAddr {
        let last = 100 + last as u8;
        match self.family {
            Family::V4 => [192, 0, 2, last].into(),
            Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last.into()).into(),
        }
    }

    pub(crate) fn own(&self) -> IpAddr {
        match self.family {
            Family::V4 => OWN.into(),
            Family::V6 => OWN_V6.into(),
        }
    }

    pub(crate) fn peer(&self) -> IpAddr {
        match self.family {
            Family::V4 => PEER.into(),
            Family::V6 => PEER_V6.into(),
        }
    }

    /// Where what arrives was sent to, over IPv6, which a message itself does not say.
    pub(crate) fn v6_info(&self) -> Option<V6Info> {
        let IpAddr::V6(group) = Family::V6.group() else {
            return None;
        };
        (self.family == Family::V6).then_some(V6Info {
            source: PEER_V6,
            destination: if self.is_unicast { OWN_V6 } else { group },
            hop_limit: 255,
        })
    }

    /// Makes lengths, checksum and the sum of an authentication header right.
    fn mend(&self, bytes: &mut [u8]) {
        if !self.is_mended {
            return;
        }
        let mut begin = 0;
        if self.family == Family::V4 {
            let Some(&first) = bytes.first().filter(|_| bytes.len() >= 20) else {
                return;
            };
            begin = usize::from(first & 0x0f) * 4;
            let len = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes[2..4].copy_from_slice(&len);
        }
        let has_header = self.family == Family::V4 && bytes[9] == 51;
        let message_at = begin + if has_header { ah::LEN } else { 0 };
        if let Some(message) = bytes.get_mut(message_at..)
            && message.len() >= 8
        {
            message[6..8].fill(0);
            let sum = naive::checksum(self, bytes, message_at);
            bytes[message_at + 6..message_at + 8].copy_from_slice(&sum.to_be_bytes());
        }
        if let Some((ip_header, payload)) = bytes.split_at_checked(begin)
            && has_header
        {
            let covered = Covered {
                ip_header,
                payload,
                covers_ttl: !self.is_unicast,
            };
            if let Some(sum) = covered.sum(&KEY) {
                bytes[begin + 12..begin + ah::LEN].copy_from_slice(&sum);
            }
        }
    }

    fn datagram<'a>(&self, bytes: &'a [u8]) -> Datagram<'a> {
        match self.v6_info() {
            Some(info) => Datagram::v6(bytes, info),
            None => Datagram::v4(bytes),
        }
    }

    fn judge_as_the_naive_does(&self, bytes: &[u8]) {
        let mut codec = AdvertCodec::new(&self.config());
        let datagram = self.datagram(bytes);
        let found = codec.decode(&datagram, self.own(), true);
        let expected = naive::judge(self, bytes);
        let heard = found.map(|accepted| {
            let heard = accepted.heard;
            (heard.source, heard.priority.0, heard.interval.centis())
        });
        assert_eq!(heard, expected, "{self:?}");
        let again = codec.decode(&datagram, self.own(), true).map(drop);
        // Who has proven itself has used up its number, whatever else may be wrong.
        let is_proven = found.is_ok() || found.is_err_and(|r| r > Refusal::AuthReplay);
        if self.authentication.is_header() && is_proven {
            assert_eq!(again, Err(Refusal::AuthReplay));
        } else {
            assert_eq!(again, found.map(drop));
        }
        let resting = codec.decode(&datagram, self.own(), false);
        assert!(resting.is_err());
    }
}

/// What an inspection finds nothing wrong with, a router with the same configuration accepts.
pub(crate) fn inspected(input: &[u8]) {
    let input = &input[..input.len().min(2 * DATAGRAM_MAX)];
    let Some(found) = inspect(input) else {
        return;
    };
    assert!(found.addrs.len() <= 255);
    let (Ok(()), Some(version), Some(vrid), Some(centis)) = (
        found.verdict,
        found.version,
        found.vrid,
        found.advert_int_cs,
    ) else {
        return;
    };
    let is_unicast = !found.dst.is_multicast();
    let parameters = Parameters {
        version,
        vrid,
        advert_ms: u32::from(centis) * 10,
        addresses: found.addrs.clone(),
        peers: is_unicast
            .then_some(Peer::new(found.src))
            .into_iter()
            .collect(),
        ..Parameters::default()
    };
    let Ok(config) = Config::new(parameters) else {
        return;
    };
    if found.auth_type.is_some_and(|kind| kind != 0) {
        return;
    }
    let datagram = match (found.src, found.dst) {
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let hop_limit = found.ttl;
            let info = V6Info {
                source,
                destination,
                hop_limit,
            };
            let len = usize::from(u16::from_be_bytes([input[4], input[5]]));
            Datagram::v6(&input[40..40 + len], info)
        }
        _ => {
            let len = usize::from(u16::from_be_bytes([input[2], input[3]]));
            Datagram::v4(&input[..len])
        }
    };
    let result = AdvertCodec::new(&config).decode(&datagram, found.dst, true);
    // An inspection knows of no group but the usual one.
    let is_elsewhere = !is_unicast && found.dst != config.family().group();
    match result {
        Ok(accepted) => {
            assert_eq!(Some(accepted.form), found.checksum_form);
            assert_eq!(Some(accepted.heard.priority.0), found.priority);
            assert_eq!(accepted.heard.interval.centis(), centis);
        }
        Err(Refusal::Destination | Refusal::Ttl) if is_elsewhere => {}
        Err(refusal) => panic!("{refusal}: {found:?}"),
    }
}

/// What one router sends the other accepts, unchanged, and an inspection finds nothing wrong.
pub(crate) fn round_trip(input: &[u8]) {
    let Some((&[first, vrid, priority, sent_priority, i1, i2], rest)) = input.split_first_chunk()
    else {
        return;
    };
    let Some((setup, _)) = Setup::read(&[first & 0b0001_1111], 2 + (first >> 7)) else {
        return;
    };
    let with_header = first & 0b0010_0000 != 0 && setup.version == 2 && setup.family == Family::V4;
    let mut addresses: Vec<IpAddr> = match setup.family {
        Family::V4 => rest
            .as_chunks::<4>()
            .0
            .iter()
            .map(|a| (*a).into())
            .collect(),
        Family::V6 => rest
            .as_chunks::<16>()
            .0
            .iter()
            .map(|a| (*a).into())
            .collect(),
    };
    addresses.truncate(300);
    let config = |peer: IpAddr| {
        Config::new(Parameters {
            version: setup.version,
            vrid,
            priority,
            advert_ms: u32::from(u16::from_be_bytes([i1, i2])) * 10,
            addresses: addresses.clone(),
            authentication: if with_header {
                Authentication::Header(KEY)
            } else {
                setup.authentication
            },
            checksum: match (setup.expects_old, first & 0b0100_0000 != 0) {
                (true, _) => ChecksumForm::OldUnicast,
                (false, true) if setup.version == 3 => ChecksumForm::Rfc9568,
                (false, _) => ChecksumForm::Rfc5798,
            },
            peers: setup
                .is_unicast
                .then_some(Peer::new(peer))
                .into_iter()
                .collect(),
            ..Parameters::default()
        })
    };
    // Each is the other's peer.
    let (Ok(sends), Ok(hears)) = (config(setup.own()), config(setup.peer())) else {
        return;
    };
    let (mut sender, mut receiver) = (AdvertCodec::new(&sends), AdvertCodec::new(&hears));
    for _ in 0..2 {
        let sent = sender.encode(Priority(sent_priority), setup.peer());
        assert_eq!(sent.len(), 1);
        assert!(sent[0].bytes.len() <= DATAGRAM_MAX);
        let accepted = receiver.decode(&setup.datagram(&sent[0].bytes), setup.own(), true);
        let accepted = accepted.unwrap();
        assert_eq!(accepted.heard.source, setup.peer());
        assert_eq!(accepted.heard.priority, Priority(sent_priority));
        assert_eq!(accepted.heard.interval, sends.interval());
        if setup.family == Family::V4 {
            let found = inspect(&sent[0].bytes).unwrap();
            assert_eq!(found.verdict, Ok(()));
            assert_eq!(found.addrs, addresses);
            let interval = found.advert_int_cs.and_then(Interval::from_centis);
            assert_eq!(interval, Some(sends.interval()));
        }
    }
}
