//! Any advertisement in a capture, as far as it can be read.
//!
//! A router refuses what it cannot use; whoever looks at a capture wants to see it all the same.
//! So every field is read that is there, of version 2 as of version 3, and the verdict says what is
//! wrong with the packet alone: what depends on a router's configuration is not judged.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use super::checksum::{ChecksumForm, form_v2, form_v3};
use super::ipv4::Header;
use super::v3::{ADDRESS_LEN, lengths_fit};
use super::{GROUP, HEADER_LEN, PROTOCOL, Refusal, TTL, TYPE_ADVERTISEMENT};

/// The IP protocol of an authentication header (RFC 2402), which version 2 may have.
const PROTOCOL_AH: u8 = 51;
/// Its length with the sum of 96 bits that VRRP uses (RFC 2338 §5.3.6.3). Unit: bytes.
const AH_LEN: usize = 24;
/// The twelve bits of the interval of version 3.
const INTERVAL_MASK: u16 = 0x0fff;
const CENTIS_PER_SECOND: u16 = 100;

/// What a capture shows of one advertisement. A field is `None` when the packet ends before it or
/// its version does not have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    pub version: Option<u8>,
    pub vrid: Option<u8>,
    pub priority: Option<u8>,
    /// The whole addresses that are there, at most as many as the packet counts.
    pub addrs: Vec<Ipv4Addr>,
    /// Unit: centiseconds; the seconds of version 2 are converted.
    pub advert_int_cs: Option<u16>,
    /// 0 none, 1 simple text, 2 authentication header. Version 2 only.
    pub auth_type: Option<u8>,
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
}

/// Reads an IPv4 packet; `None` when it is not one or does not carry VRRP.
///
/// Bytes behind the length in the IP header are padding of the link.
pub fn inspect(ip_packet: &[u8]) -> Option<Inspection> {
    let ip = Header::parse(ip_packet).ok()?;
    let packet = ip_packet.get(..ip.total_len).unwrap_or(ip_packet);
    let is_whole = packet.len() == ip.total_len;
    let payload = packet.get(ip.header_len..).unwrap_or_default();
    let (message, has_ah) = match ip.protocol {
        PROTOCOL => (payload, false),
        PROTOCOL_AH if payload.first() == Some(&PROTOCOL) => {
            (payload.get(AH_LEN..).unwrap_or_default(), true)
        }
        _ => return None,
    };
    let mut found = Inspection {
        src: ip.source,
        dst: ip.destination,
        ttl: ip.ttl,
        version: None,
        vrid: None,
        priority: None,
        addrs: Vec::new(),
        advert_int_cs: None,
        auth_type: None,
        checksum_form: None,
        verdict: Ok(()),
    };
    if ip.is_fragment {
        found.verdict = Err(Refusal::IpHeader);
        return Some(found);
    }
    let verdict = found.read(message, has_ah);
    found.verdict = if is_whole {
        verdict
    } else {
        Err(Refusal::Truncated)
    };
    Some(found)
}

impl Inspection {
    /// Fills in the fields of a message and judges it.
    fn read(&mut self, message: &[u8], has_ah: bool) -> Result<(), Refusal> {
        let Some((&[version_and_type, vrid, priority, count, b4, b5, _, _], rest)) =
            message.split_first_chunk::<HEADER_LEN>()
        else {
            return Err(Refusal::Short);
        };
        let version = version_and_type >> 4;
        self.version = Some(version);
        self.vrid = Some(vrid);
        self.priority = Some(priority);
        match version {
            2 => {
                self.auth_type = Some(b4);
                self.advert_int_cs = Some(u16::from(b5).saturating_mul(CENTIS_PER_SECOND));
                self.checksum_form = form_v2(message);
            }
            3 => {
                self.advert_int_cs = Some(u16::from_be_bytes([b4, b5]) & INTERVAL_MASK);
                self.checksum_form = form_v3(message, self.src, self.dst);
            }
            _ => {}
        }
        let (addresses, _) = rest.as_chunks::<ADDRESS_LEN>();
        let addresses = addresses.iter().take(usize::from(count));
        self.addrs = addresses.copied().map(Ipv4Addr::from).collect();
        if has_ah != (self.auth_type == Some(2)) {
            return Err(Refusal::AuthHeader);
        }
        if !lengths_fit(version, count, rest.len()) {
            return Err(Refusal::Length);
        }
        if self.dst == GROUP && self.ttl != TTL {
            return Err(Refusal::Ttl);
        }
        if self.advert_int_cs.is_none() {
            return Err(Refusal::Version);
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
