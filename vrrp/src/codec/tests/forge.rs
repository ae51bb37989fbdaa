//! Kinds of routers, and packets of theirs that can be spoilt and made to fit again.

use std::net::IpAddr;

use crate::codec::{Accepted, AdvertCodec, Datagram, V6Info};
use crate::config::{Authentication, Config, Family, Parameters, Peer, Priority, Version};
use crate::wire::ah::{self, AuthHeader, Covered};
use crate::wire::checksum::{ChecksumForm, over_ipv4, over_ipv6};
use crate::wire::{PROTOCOL_AH, Refusal};

pub(super) const SOURCE: &str = "192.0.2.1";
pub(super) const PEER: &str = "192.0.2.2";
pub(super) const OTHER: &str = "192.0.2.3";
pub(super) const KEY: [u8; 8] = *b"secret12";

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What routers can differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    pub(super) version: Version,
    pub(super) family: Family,
    pub(super) is_unicast: bool,
    pub(super) authentication: Authentication,
}

impl Kind {
    pub(super) fn all() -> Vec<Kind> {
        let mut kinds = Vec::new();
        for is_unicast in [false, true] {
            let mut add = |version, family, authentication| {
                kinds.push(Kind {
                    version,
                    family,
                    is_unicast,
                    authentication,
                });
            };
            add(Version::V2, Family::V4, Authentication::None);
            add(Version::V2, Family::V4, Authentication::Simple(KEY));
            add(Version::V2, Family::V4, Authentication::Header(KEY));
            add(Version::V2, Family::V6, Authentication::None);
            add(Version::V3, Family::V4, Authentication::None);
            add(Version::V3, Family::V6, Authentication::None);
        }
        kinds
    }

    /// This router, the one that is heard, and another one.
    pub(super) fn hosts(&self) -> [IpAddr; 3] {
        match (self.family, self.is_unicast) {
            (Family::V4, _) => [SOURCE, PEER, OTHER].map(ip),
            (Family::V6, true) => ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(ip),
            (Family::V6, false) => ["fe80::1", "fe80::2", "fe80::3"].map(ip),
        }
    }

    pub(super) fn primary(&self) -> IpAddr {
        self.hosts()[0]
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.hosts()[1]
    }

    pub(super) fn form(&self) -> ChecksumForm {
        match (self.version, self.family) {
            (Version::V2, Family::V4) => ChecksumForm::Rfc3768,
            (Version::V3, Family::V4) => ChecksumForm::Rfc5798,
            (_, Family::V6) => ChecksumForm::Ipv6,
        }
    }

    /// Two addresses; peers have to have a time to live of 200 at least.
    pub(super) fn parameters(&self, peers: &[IpAddr]) -> Parameters {
        let addresses = match self.family {
            Family::V4 => ["192.0.2.100", "192.0.2.101"],
            Family::V6 => ["fe80::100", "2001:db8::100"],
        };
        let peers: &[IpAddr] = if self.is_unicast { peers } else { &[] };
        let peer = |address: &IpAddr| Peer {
            min_ttl: 200,
            ..Peer::new(*address)
        };
        Parameters {
            version: self.version.number(),
            vrid: 51,
            addresses: addresses.map(ip).to_vec(),
            authentication: self.authentication,
            peers: peers.iter().map(peer).collect(),
            ..Parameters::default()
        }
    }

    /// The router that hears.
    pub(super) fn receiver(&self) -> AdvertCodec {
        let [_, peer, other] = self.hosts();
        AdvertCodec::new(&Config::new(self.parameters(&[peer, other])).unwrap())
    }

    pub(super) fn sender(&self) -> AdvertCodec {
        let [source, _, other] = self.hosts();
        AdvertCodec::new(&Config::new(self.parameters(&[source, other])).unwrap())
    }

    /// The first advertisement of the other router, as it arrives here.
    pub(super) fn sample(&self) -> Sample {
        self.sample_of(&mut self.sender(), 150)
    }

    pub(super) fn sample_of(&self, sender: &mut AdvertCodec, priority: u8) -> Sample {
        let sent = sender.encode(Priority(priority), self.peer());
        let bytes = sent[0].bytes.clone();
        let v6 = match (self.peer(), sent[0].destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(V6Info {
                source,
                destination,
                hop_limit: 255,
            }),
            _ => None,
        };
        Sample {
            kind: *self,
            received_len: bytes.len(),
            bytes,
            v6,
            primary: self.primary(),
            running: true,
        }
    }
}

/// A datagram as received, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) kind: Kind,
    pub(super) bytes: Vec<u8>,
    pub(super) received_len: usize,
    pub(super) v6: Option<V6Info>,
    pub(super) primary: IpAddr,
    pub(super) running: bool,
}

impl Sample {
    pub(super) fn judged(&self, codec: &mut AdvertCodec) -> Result<Accepted, Refusal> {
        let datagram = Datagram {
            bytes: &self.bytes,
            received_len: self.received_len,
            v6: self.v6,
        };
        codec.decode(&datagram, self.primary, self.running)
    }

    fn ip_len(&self) -> usize {
        match self.kind.family {
            Family::V4 => usize::from(self.bytes[0] & 0x0f) * 4,
            Family::V6 => 0,
        }
    }

    fn has_ah(&self) -> bool {
        self.kind.family == Family::V4 && self.bytes[9] == PROTOCOL_AH
    }

    /// Where the message begins.
    pub(super) fn message_at(&self) -> usize {
        self.ip_len() + if self.has_ah() { ah::LEN } else { 0 }
    }

    /// Sets the source of the packet, and the sender of the authentication header with it.
    pub(super) fn set_source(&mut self, source: IpAddr) {
        match (source, &mut self.v6) {
            (IpAddr::V4(source), None) => {
                self.bytes[12..16].copy_from_slice(&source.octets());
                if self.has_ah() {
                    let at = self.ip_len() + 4;
                    self.bytes[at..at + 4].copy_from_slice(&source.octets());
                }
            }
            (IpAddr::V6(source), Some(info)) => info.source = source,
            _ => panic!("of another family"),
        }
    }

    pub(super) fn set_destination(&mut self, destination: IpAddr) {
        match (destination, &mut self.v6) {
            (IpAddr::V4(destination), None) => {
                self.bytes[16..20].copy_from_slice(&destination.octets());
            }
            (IpAddr::V6(destination), Some(info)) => info.destination = destination,
            _ => panic!("of another family"),
        }
    }

    pub(super) fn set_ttl(&mut self, ttl: u8) {
        match &mut self.v6 {
            None => self.bytes[8] = ttl,
            Some(info) => info.hop_limit = ttl,
        }
    }

    /// Makes all lengths, the checksum and the sum fit again.
    pub(super) fn seal(&mut self) {
        self.received_len = self.bytes.len();
        if self.kind.family == Family::V4 {
            let len = u16::try_from(self.bytes.len()).unwrap().to_be_bytes();
            self.bytes[2..4].copy_from_slice(&len);
        }
        self.seal_checksum();
        self.seal_sum();
    }

    pub(super) fn seal_checksum(&mut self) {
        let at = self.message_at();
        if self.bytes.len() < at + 8 {
            return;
        }
        self.bytes[at + 6..at + 8].fill(0);
        let message = &self.bytes[at..];
        let sum = match self.v6 {
            Some(info) => over_ipv6(message, info.source, info.destination),
            None if self.kind.family == Family::V6 => 0,
            None => {
                let address = |at: usize| {
                    let octets: [u8; 4] = self.bytes[at..at + 4].try_into().unwrap();
                    octets.into()
                };
                over_ipv4(self.kind.form(), message, address(12), address(16))
            }
        };
        self.bytes[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
    }

    pub(super) fn seal_sum(&mut self) {
        let Authentication::Header(key) = self.kind.authentication else {
            return;
        };
        let (ip_header, payload) = self.bytes.split_at(self.ip_len());
        if !self.has_ah() || AuthHeader::parse(payload).is_none() {
            return;
        }
        let covered = Covered {
            ip_header,
            payload,
            covers_ttl: !self.kind.is_unicast,
        };
        let sum = covered.sum(&key).unwrap();
        let end = self.ip_len() + ah::LEN;
        self.bytes[end - ah::SUM_LEN..end].copy_from_slice(&sum);
    }
}
