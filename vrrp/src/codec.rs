//! What a virtual router sends and accepts, without sockets.

use std::net::{IpAddr, Ipv6Addr};

use crate::config::{Authentication, Config, Family, PASSWORD_LEN, Priority, Version};
use crate::fsm::Heard;
use crate::wire::ah::{AuthHeader, Covered, SUM_LEN};
use crate::wire::checksum::ChecksumForm;
use crate::wire::ipv4::{self, Identification, Route};
use crate::wire::{Advert, Refusal, TTL, v2, v3};

mod receive;

/// From here on sequence numbers stand still until the router becomes master again, which begins
/// them anew (keepalived). At one advertisement a second this takes 136 years.
const SEQUENCE_LAST: u32 = 0xffff_fffd;

/// One datagram to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub destination: IpAddr,
    /// IPv4: the whole packet, from its IP header on. IPv6: the message, to be sent with hop limit
    /// 255, or [`Config::unicast_ttl`] to peers.
    pub bytes: Vec<u8>,
}

/// One datagram as received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// IPv4: from the IP header on. IPv6: the message.
    pub bytes: &'a [u8],
    /// Its whole length, of which `bytes` is as much as fitted into the buffer. Unit: bytes.
    pub received_len: usize,
    /// What a raw socket of IPv6 tells besides the message; `None` for IPv4.
    pub v6: Option<V6Info>,
}

impl<'a> Datagram<'a> {
    /// A whole packet of IPv4.
    pub fn v4(bytes: &'a [u8]) -> Datagram<'a> {
        Datagram {
            bytes,
            received_len: bytes.len(),
            v6: None,
        }
    }

    /// A whole message of IPv6.
    pub fn v6(bytes: &'a [u8], info: V6Info) -> Datagram<'a> {
        Datagram {
            v6: Some(info),
            ..Datagram::v4(bytes)
        }
    }
}

/// The fields of an IPv6 header that a message is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6Info {
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    pub hop_limit: u8,
}

/// An advertisement that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    pub heard: Heard,
    pub form: ChecksumForm,
    /// The first one with the old form of the checksum since the router was made: worth a line in
    /// the log.
    pub old_form_seen_first_time: bool,
}

/// The advertisements of one virtual router: written for it, and checked as it has to.
///
/// It holds what counts up from one advertisement to the next:
///
/// | what | rule |
/// | --- | --- |
/// | identification, IPv4 | from 1, one step for each advertisement, the same to all peers, not 0 |
/// | sequence, authentication header | one counter: sent is the next, accepted is any higher one |
/// | last sender | with `skip_check_adv_addr` its addresses are not compared again |
///
/// The checks and their order are those of [`Refusal`].
#[derive(Clone, Debug)]
pub struct AdvertCodec {
    config: Config,
    identification: Identification,
    /// The last number sent or accepted.
    sequence: u32,
    /// The last number accepted.
    heard_sequence: u32,
    last_sender: Option<IpAddr>,
    old_form_seen: bool,
}

impl AdvertCodec {
    pub fn new(config: &Config) -> AdvertCodec {
        AdvertCodec {
            config: config.clone(),
            identification: Identification::FIRST,
            sequence: 0,
            heard_sequence: 0,
            last_sender: None,
            old_form_seen: false,
        }
    }

    /// One advertisement: one datagram to the group, or one to each peer in their order.
    ///
    /// Empty if `source` is not of the router's address family: it has no address to send from.
    pub fn encode(&mut self, priority: Priority, source: IpAddr) -> Vec<Outgoing> {
        if Family::of(source) != self.config.family() {
            return Vec::new();
        }
        let identification = self.identification;
        self.identification = identification.next();
        if self.config.authentication().is_header() {
            self.sequence = self.sequence.saturating_add(1).min(SEQUENCE_LAST);
        }
        let group = [self.config.family().group()];
        let peers = self.config.peers().iter().map(|peer| peer.address);
        let destinations: Vec<_> = if self.config.is_unicast() {
            peers.collect()
        } else {
            group.to_vec()
        };
        let datagram = |destination| {
            let bytes = match (source, destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => self.packet(
                    priority,
                    &Route {
                        source,
                        destination,
                        ttl: self.ttl(),
                        identification,
                    },
                ),
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    self.message_v6(priority, source, destination)
                }
                // Peers and the group are of the family.
                (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
            };
            Some(Outgoing { destination, bytes })
        };
        destinations.into_iter().filter_map(datagram).collect()
    }

    /// The router has become master: the next advertisement is compared whole, and sequence numbers
    /// that have come to their end begin anew.
    pub fn became_master(&mut self) {
        self.last_sender = None;
        if self.sequence >= SEQUENCE_LAST {
            self.sequence = 0;
        }
    }

    /// A master has heard a router of lower priority: its own next number is beyond the other's, so
    /// that this one and all others accept it.
    pub fn heard_lower(&mut self, _heard: &Heard) {
        let beyond = self.heard_sequence.saturating_add(1);
        self.sequence = self.sequence.max(beyond.min(SEQUENCE_LAST));
    }

    fn ttl(&self) -> u8 {
        if self.config.is_unicast() {
            self.config.unicast_ttl()
        } else {
            TTL
        }
    }

    fn advert(&self, priority: Priority) -> Advert<'_> {
        Advert {
            vrid: self.config.vrid(),
            priority,
            interval: self.config.interval(),
            addresses: self.config.addresses(),
        }
    }

    fn packet(&self, priority: Priority, route: &Route) -> Vec<u8> {
        let advert = self.advert(priority);
        let authentication = self.config.authentication();
        let message = match self.config.version() {
            Version::V2 => v2::message(&advert, authentication),
            Version::V3 => {
                let form = self.config.checksum();
                v3::message(&advert, form, route.source, route.destination)
            }
        };
        let payload = match authentication {
            Authentication::None | Authentication::Simple(_) => message,
            Authentication::Header(key) => self.authenticated(key, route, &message),
        };
        let header = ipv4::header(route, self.config.protocol(), payload.len());
        [header.as_slice(), &payload].concat()
    }

    /// A message behind its authentication header.
    fn authenticated(&self, key: &[u8; PASSWORD_LEN], route: &Route, message: &[u8]) -> Vec<u8> {
        let mut header = AuthHeader {
            is_usual: true,
            sender: route.source,
            sequence: self.sequence,
            sum: [0; SUM_LEN],
        };
        let payload = [header.to_bytes().as_slice(), message].concat();
        let ip_header = ipv4::header(route, self.config.protocol(), payload.len());
        let covered = Covered {
            ip_header: &ip_header,
            payload: &payload,
            covers_ttl: !self.config.is_unicast(),
        };
        // Both parts are there whole.
        header.sum = covered.sum(key).unwrap_or_default();
        [header.to_bytes().as_slice(), message].concat()
    }

    fn message_v6(&self, priority: Priority, source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
        let advert = self.advert(priority);
        match self.config.version() {
            Version::V2 => v2::message_v6(&advert, source, destination),
            Version::V3 => v3::message_v6(&advert, source, destination),
        }
    }

    /// Checks one datagram. `primary` is the address this router sends from; `running` is whether it
    /// takes part at the moment, as backup or master.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies.
    pub fn decode(
        &mut self,
        datagram: &Datagram<'_>,
        primary: IpAddr,
        running: bool,
    ) -> Result<Accepted, Refusal> {
        receive::decode(self, datagram, primary, running)
    }
}

#[cfg(test)]
mod tests;
