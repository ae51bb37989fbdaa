//! Any advertisement in a capture, as far as it can be read.
//!
//! A router refuses what it cannot use; whoever looks at a capture wants to see it all the same.
//! So every field is read that is there, of version 2 as of version 3, over IPv4 as over IPv6, and
//! the verdict says what is wrong with the packet alone: what depends on a router's configuration,
//! its passwords too, is not judged.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::{IpAddr, Ipv6Addr};

use super::advert::{addresses, lengths_fit};
use super::ah::AuthHeader;
use super::checksum::{ChecksumForm, form};
use super::{HEADER_LEN, PROTOCOL, PROTOCOL_AH, Refusal, TTL, TYPE_ADVERTISEMENT};
use super::{ipv4, ipv6, v2, v3};
use crate::config::Family;

/// The type of authentication that has a header of its own.
const AUTH_TYPE_HEADER: u8 = 2;

/// What a capture shows of one advertisement. A field is `None` when the packet ends before it or
/// its version does not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    pub version: Option<u8>,
    pub vrid: Option<u8>,
    pub priority: Option<u8>,
    /// The whole addresses that are there, at most as many as the packet counts.
    pub addrs: Vec<IpAddr>,
    /// Unit: centiseconds; the seconds of version 2 are converted.
    pub advert_int_cs: Option<u16>,
    /// 0 none, 1 simple text, 2 authentication header. Version 2 only.
    pub auth_type: Option<u8>,
    /// The authentication header before the message.
    pub auth_header: Option<AuthHeader>,
    /// The form of the checksum that fits.
    pub checksum_form: Option<ChecksumForm>,
    /// The first thing that is wrong.
    pub verdict: Result<(), Refusal>,
}

impl Inspection {
    pub fn checksum_ok(&self) -> bool {
        self.checksum_form.is_some()
    }

    /// `ok`, or the name of the refusal.
    pub fn verdict_name(&self) -> &'static str {
        match self.verdict {
            Ok(()) => "ok",
            Err(refusal) => refusal.name(),
        }
    }

    fn empty(src: IpAddr, dst: IpAddr, ttl: u8) -> Inspection {
        Inspection {
            src,
            dst,
            ttl,
            version: None,
            vrid: None,
            priority: None,
            addrs: Vec::new(),
            advert_int_cs: None,
            auth_type: None,
            auth_header: None,
            checksum_form: None,
            verdict: Ok(()),
        }
    }
}

/// Reads an IPv4 or IPv6 packet; `None` when it is neither or does not carry VRRP.
///
/// Bytes behind the length in the IP header are padding of the link. An IPv6 packet with extension
/// headers is not read here: no router sends one.
pub fn inspect(ip_packet: &[u8]) -> Option<Inspection> {
    if let Some((ip, rest)) = ipv6::Header::parse(ip_packet) {
        let message = rest.get(..ip.payload_len);
        let (bytes, is_whole) = (message.unwrap_or(rest), message.is_some());
        let found = inspect_v6(ip.source, ip.destination, ip.hop_limit, bytes, is_whole);
        return (ip.next_header == PROTOCOL).then_some(found);
    }
    let ip = ipv4::Header::parse(ip_packet).ok()?;
    let packet = ip_packet.get(..ip.total_len).unwrap_or(ip_packet);
    let is_whole = packet.len() == ip.total_len;
    let payload = packet.get(ip.header_len..).unwrap_or_default();
    if !carries_vrrp(ip.protocol, payload) {
        return None;
    }
    let mut found = Inspection::empty(ip.source.into(), ip.destination.into(), ip.ttl);
    if ip.is_fragment {
        found.verdict = Err(Refusal::IpHeader);
        return Some(found);
    }
    let has_ah = ip.protocol == PROTOCOL_AH;
    let message = if has_ah {
        let parsed = AuthHeader::parse(payload);
        found.auth_header = parsed.map(|(header, _)| header);
        parsed.map_or(&[] as &[u8], |(_, message)| message)
    } else {
        payload
    };
    let verdict = found.read(message, has_ah);
    found.verdict = if is_whole {
        verdict
    } else {
        Err(Refusal::Truncated)
    };
    Some(found)
}

fn carries_vrrp(protocol: u8, payload: &[u8]) -> bool {
    match protocol {
        PROTOCOL => true,
        PROTOCOL_AH => payload.first() == Some(&PROTOCOL),
        _ => false,
    }
}

/// Reads a message over IPv6, for whoever has read the headers before it. `is_whole` is whether the
/// capture has all of it.
pub fn inspect_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    message: &[u8],
    is_whole: bool,
) -> Inspection {
    let mut found = Inspection::empty(source.into(), destination.into(), hop_limit);
    let verdict = found.read(message, false);
    found.verdict = if is_whole {
        verdict
    } else {
        Err(Refusal::Truncated)
    };
    found
}

impl Inspection {
    /// Fills in the fields of a message and judges it.
    fn read(&mut self, message: &[u8], has_ah: bool) -> Result<(), Refusal> {
        let Some((&[version_and_type, vrid, priority, count, b4, b5, _, _], rest)) =
            message.split_first_chunk::<HEADER_LEN>()
        else {
            return Err(Refusal::Short);
        };
        let family = Family::of(self.src);
        let version = version_and_type >> 4;
        self.version = Some(version);
        self.vrid = Some(vrid);
        self.priority = Some(priority);
        match version {
            2 => {
                self.auth_type = Some(b4);
                self.advert_int_cs = Some(v2::centis(b5));
            }
            3 => self.advert_int_cs = Some(v3::centis([b4, b5])),
            _ => {}
        }
        self.checksum_form = form(version, message, self.src, self.dst);
        self.addrs = addresses(family, rest, count);
        if has_ah != (self.auth_type == Some(AUTH_TYPE_HEADER)) {
            return Err(Refusal::AuthHeader);
        }
        if !lengths_fit(version, family, count, rest.len()) {
            return Err(Refusal::Length);
        }
        if self.dst == family.group() && self.ttl != TTL {
            return Err(Refusal::Ttl);
        }
        if self.advert_int_cs.is_none() {
            return Err(Refusal::Version);
        }
        if self.auth_type.is_some_and(|kind| kind > AUTH_TYPE_HEADER) {
            return Err(Refusal::AuthType);
        }
        if let (Some(header), IpAddr::V4(source)) = (self.auth_header, self.src) {
            if !header.is_usual {
                return Err(Refusal::AuthHeader);
            }
            if header.sender != source {
                return Err(Refusal::AuthSender);
            }
        }
        if version_and_type & 0x0f != TYPE_ADVERTISEMENT {
            return Err(Refusal::Type);
        }
        if self.checksum_form.is_none() {
            return Err(Refusal::Checksum);
        }
        if self.advert_int_cs == Some(0) {
            return Err(Refusal::IntervalZero);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
