//! The checks of what is received, in the order of [`Refusal`], which is keepalived's.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::IpAddr;

use super::{Accepted, AdvertCodec, Datagram};
use crate::config::{Authentication, Config, Family, Interval, Priority, Version};
use crate::fsm::Heard;
use crate::wire::advert::{lengths_fit, names_all};
use crate::wire::ah::{AuthHeader, Covered, same_password};
use crate::wire::checksum::{ChecksumForm, form, form_old_unicast};
use crate::wire::{
    HEADER_LEN, PROTOCOL, PROTOCOL_AH, Refusal, TTL, TYPE_ADVERTISEMENT, ipv4, v2, v3,
};

pub(super) fn decode(
    codec: &mut AdvertCodec,
    datagram: &Datagram<'_>,
    primary: IpAddr,
    running: bool,
) -> Result<Accepted, Refusal> {
    let packet = Packet::read(datagram, &codec.config)?;
    if packet.vrid != codec.config.vrid() {
        return Err(Refusal::UnknownVrid);
    }
    if !running {
        // What somebody records now shall be old when this router takes part again.
        let has_shape = packet.auth_header.is_some() && packet.check_shape(&codec.config).is_ok();
        let _ = has_shape.then(|| authenticate(codec, &packet, primary));
        return Err(Refusal::NotRunning);
    }
    packet.check_shape(&codec.config)?;
    if codec.config.version() == Version::V2 {
        authenticate(codec, &packet, primary)?;
        if v2::centis(packet.differing[1]) != codec.config.interval().centis() {
            return Err(Refusal::Interval);
        }
    }
    if packet.kind != TYPE_ADVERTISEMENT {
        return Err(Refusal::Type);
    }
    let skips_addresses =
        codec.config.skip_check_adv_addr() && codec.last_sender == Some(packet.source);
    if !skips_addresses && usize::from(packet.count) != codec.config.addresses().len() {
        return Err(Refusal::AddressCount);
    }
    if packet.total_len != packet.received_len {
        return Err(Refusal::TotalLength);
    }
    let form = packet.check_checksum(&codec.config)?;
    if !is_for(&codec.config, packet.destination, primary) {
        return Err(Refusal::Destination);
    }
    if !skips_addresses {
        if !names_all(packet.addresses, codec.config.addresses()) {
            return Err(Refusal::AddressList);
        }
        check_peer(&codec.config, packet.source, packet.ttl)?;
    }
    let interval = packet.interval().ok_or(Refusal::IntervalZero)?;
    codec.last_sender = Some(packet.source);
    let is_old = form == ChecksumForm::OldUnicast && form != codec.config.checksum();
    let old_form_seen_first_time = is_old && !codec.old_form_seen;
    codec.old_form_seen |= is_old;
    Ok(Accepted {
        heard: Heard {
            source: packet.source,
            priority: Priority(packet.priority),
            interval,
        },
        form,
        old_form_seen_first_time,
    })
}

/// Whether the sender belongs here, and behind an authentication header whether this is news.
///
/// DIFFERS: keepalived compares with what it has sent as well, so that two masters of equal numbers
/// whose beats coincide never hear each other. An echo of its own is known all the same.
fn authenticate(
    codec: &mut AdvertCodec,
    packet: &Packet<'_>,
    primary: IpAddr,
) -> Result<(), Refusal> {
    let known = if packet.source == primary {
        codec.sequence
    } else {
        codec.heard_sequence
    };
    if let Some(sequence) = packet.check_authentication(&codec.config, known)? {
        // It is the sender's, whatever else may be wrong with it.
        codec.sequence = codec.sequence.max(sequence);
        codec.heard_sequence = sequence;
    }
    Ok(())
}

/// A packet taken apart, nothing of it judged but that it can be taken apart.
struct Packet<'a> {
    source: IpAddr,
    destination: IpAddr,
    /// Time to live, or hop limit.
    ttl: u8,
    /// By the IP header. Unit: bytes.
    total_len: usize,
    received_len: usize,
    ip_header: &'a [u8],
    /// What follows the IP header.
    payload: &'a [u8],
    /// Everything.
    whole: &'a [u8],
    auth_header: Option<AuthHeader>,
    /// From the version on.
    message: &'a [u8],
    version: u8,
    kind: u8,
    vrid: u8,
    priority: u8,
    count: u8,
    /// Bytes 4 and 5, which the versions differ in.
    differing: [u8; 2],
    /// What follows the eight bytes: addresses, and in version 2 authentication data.
    addresses: &'a [u8],
}

impl<'a> Packet<'a> {
    fn read(datagram: &Datagram<'a>, config: &Config) -> Result<Packet<'a>, Refusal> {
        let whole = datagram.bytes;
        if datagram.received_len > whole.len() {
            return Err(Refusal::Truncated);
        }
        let (header_len, total_len, ttl, protocol, addresses): (_, _, _, _, [IpAddr; 2]) =
            match datagram.v6 {
                Some(info) if config.family() == Family::V6 => {
                    let addresses = [info.source.into(), info.destination.into()];
                    (0, whole.len(), info.hop_limit, PROTOCOL, addresses)
                }
                None if config.family() == Family::V4 => {
                    let ip = ipv4::Header::parse(whole)?;
                    if ip.is_fragment {
                        return Err(Refusal::IpHeader);
                    }
                    let addresses = [ip.source.into(), ip.destination.into()];
                    (ip.header_len, ip.total_len, ip.ttl, ip.protocol, addresses)
                }
                Some(_) | None => return Err(Refusal::IpHeader),
            };
        let [source, destination] = addresses;
        let (ip_header, payload) = whole.split_at_checked(header_len).ok_or(Refusal::Short)?;
        let (auth_header, message) = match protocol {
            PROTOCOL => (None, payload),
            PROTOCOL_AH => {
                let (header, message) = AuthHeader::parse(payload).ok_or(Refusal::Short)?;
                (Some(header), message)
            }
            _ => return Err(Refusal::IpHeader),
        };
        let Some((&[version_and_type, vrid, priority, count, b4, b5, _, _], addresses)) =
            message.split_first_chunk::<HEADER_LEN>()
        else {
            return Err(Refusal::Short);
        };
        // Over IPv4 this is looked at much later.
        if config.family() == Family::V6 && destination.is_multicast() == config.is_unicast() {
            return Err(Refusal::Cast);
        }
        Ok(Packet {
            source,
            destination,
            ttl,
            total_len,
            received_len: datagram.received_len,
            ip_header,
            payload,
            whole,
            auth_header,
            message,
            version: version_and_type >> 4,
            kind: version_and_type & 0x0f,
            vrid,
            priority,
            count,
            differing: [b4, b5],
            addresses,
        })
    }

    /// Authentication header or none, length, time to live, version.
    fn check_shape(&self, config: &Config) -> Result<(), Refusal> {
        let has_header = self.auth_header.is_some();
        let is_usual = self.auth_header.is_none_or(|header| header.is_usual);
        if has_header != config.authentication().is_header() || !is_usual {
            return Err(Refusal::AuthHeader);
        }
        let family = config.family();
        if !lengths_fit(self.version, family, self.count, self.addresses.len()) {
            return Err(Refusal::Length);
        }
        if !config.is_unicast() && self.ttl != TTL {
            return Err(Refusal::Ttl);
        }
        if self.version != config.version().number() {
            return Err(Refusal::Version);
        }
        Ok(())
    }

    /// The authentication of version 2; gives the sequence number if there is one.
    fn check_authentication(
        &self,
        config: &Config,
        last_sequence: u32,
    ) -> Result<Option<u32>, Refusal> {
        let authentication = config.authentication();
        let [kind, _] = self.differing;
        if kind != authentication.number() {
            return Err(Refusal::AuthType);
        }
        match authentication {
            Authentication::None => Ok(None),
            Authentication::Simple(password) => {
                let datagram = self.whole.get(..self.total_len).unwrap_or_default();
                let is_right = datagram
                    .last_chunk()
                    .is_some_and(|found| same_password(found, password));
                is_right.then_some(None).ok_or(Refusal::AuthPassword)
            }
            Authentication::Header(key) => {
                let header = self.auth_header.ok_or(Refusal::AuthHeader)?;
                let covered = Covered {
                    ip_header: self.ip_header,
                    payload: self.payload,
                    covers_ttl: !config.is_unicast(),
                };
                if !covered.is(key, &header.sum) {
                    return Err(Refusal::AuthDigest);
                }
                if IpAddr::V4(header.sender) != self.source {
                    return Err(Refusal::AuthSender);
                }
                if header.sequence <= last_sequence {
                    return Err(Refusal::AuthReplay);
                }
                Ok(Some(header.sequence))
            }
        }
    }

    fn check_checksum(&self, config: &Config) -> Result<ChecksumForm, Refusal> {
        let form = match (config.checksum(), self.source) {
            // Who is told that all peers are old takes nothing else.
            (ChecksumForm::OldUnicast, IpAddr::V4(source)) => {
                form_old_unicast(self.message, source)
            }
            _ => form(self.version, self.message, self.source, self.destination),
        };
        form.ok_or(Refusal::Checksum)
    }

    fn interval(&self) -> Option<Interval> {
        match self.version {
            2 => Interval::from_secs(self.differing[1]),
            _ => Interval::from_centis(v3::centis(self.differing)),
        }
    }
}

/// Whether a packet to this address is for this router.
fn is_for(config: &Config, destination: IpAddr, primary: IpAddr) -> bool {
    if config.is_unicast() {
        destination == primary
    } else {
        destination == config.family().group()
    }
}

fn check_peer(config: &Config, source: IpAddr, ttl: u8) -> Result<(), Refusal> {
    if !config.check_unicast_src() {
        return Ok(());
    }
    let mut peers = config.peers().iter();
    let peer = peers.find(|peer| peer.address == source);
    let peer = peer.ok_or(Refusal::PeerUnknown)?;
    if !(peer.min_ttl..=peer.max_ttl).contains(&ttl) {
        return Err(Refusal::PeerTtl);
    }
    Ok(())
}
