//! `vmac`: the macvlan that carries the virtual MAC address.

use ::vrrp::wire::MacAddr;
use serde::Deserialize;
use toml::Spanned;

use crate::config::{Offence, is_interface_name};

/// The interface with the virtual MAC address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmacConfig {
    /// Default: `vrrp.VRID`, or `vrrp6.VRID` for IPv6.
    pub name: String,
    /// Default: 00:00:5e:00:01:VRID, for IPv6 00:00:5e:00:02:VRID (RFC 5798 §7.3).
    pub mac: MacAddr,
    /// Whether adverts come from the address of the interface below all the same; with peers they do, as
    /// in keepalived.
    pub xmit_base: bool,
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "vmac is true, false or the name of the interface to make"
)]
pub(super) enum RawVmac {
    Wanted(bool),
    Name(String),
}

/// The three keys as typed, and whether the router has peers.
#[derive(Debug)]
pub(super) struct RawVmacKeys {
    pub(super) vmac: Option<Spanned<RawVmac>>,
    pub(super) mac: Option<Spanned<String>>,
    pub(super) xmit_base: Option<Spanned<bool>>,
    pub(super) has_peers: bool,
}

impl RawVmacKeys {
    pub(super) fn resolve(self, vrid: u8, is_ipv6: bool) -> Result<Option<VmacConfig>, Offence> {
        let name = match self.vmac.as_ref().map(Spanned::get_ref) {
            None | Some(RawVmac::Wanted(false)) => return self.none(),
            Some(RawVmac::Wanted(true)) if is_ipv6 => format!("vrrp6.{vrid}"),
            Some(RawVmac::Wanted(true)) => format!("vrrp.{vrid}"),
            Some(RawVmac::Name(name)) => name.clone(),
        };
        if let Some(vmac) = self.vmac.filter(|_| !is_interface_name(&name)) {
            let reason = format!("vmac {name:?} is not an interface name");
            return Err(Offence::new(&vmac, reason));
        }
        let mac = match self.mac {
            Some(text) => parse_mac(&text, vrid)?,
            None => MacAddr([0, 0, 0x5e, 0, if is_ipv6 { 2 } else { 1 }, vrid]),
        };
        let xmit_base = match self.xmit_base {
            Some(base) if self.has_peers && !*base.get_ref() => {
                let reason = "adverts of peers come to the interface below: with peers \
                              vmac_xmit_base is true";
                return Err(Offence::new(&base, reason.to_owned()));
            }
            Some(base) => base.into_inner(),
            None => self.has_peers,
        };
        Ok(Some(VmacConfig {
            name,
            mac,
            xmit_base,
        }))
    }

    fn none(self) -> Result<Option<VmacConfig>, Offence> {
        if let Some(mac) = &self.mac {
            let reason = "vmac_mac without vmac says nothing".to_owned();
            return Err(Offence::new(mac, reason));
        }
        match &self.xmit_base {
            Some(base) if *base.get_ref() => {
                let reason = "vmac_xmit_base without vmac says nothing".to_owned();
                Err(Offence::new(base, reason))
            }
            Some(_) | None => Ok(None),
        }
    }
}

/// Six octets, or five, to which the VRID is added as keepalived does.
fn parse_mac(text: &Spanned<String>, vrid: u8) -> Result<MacAddr, Offence> {
    let refuse = |reason: &str| {
        let reason = format!("vmac_mac {:?} {reason}", text.get_ref());
        Err(Offence::new(text, reason))
    };
    let octet = |octet: &str| match octet.len() {
        1 | 2 => u8::from_str_radix(octet, 16).ok(),
        _ => None,
    };
    let octets: Option<Vec<u8>> = text.get_ref().split(':').map(octet).collect();
    let mac = match octets.as_deref() {
        Some(&[a, b, c, d, e]) => [a, b, c, d, e, vrid],
        Some(&[a, b, c, d, e, f]) => [a, b, c, d, e, f],
        Some(_) | None => return refuse("is not five or six octets"),
    };
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return refuse("is not an address an interface can have");
    }
    Ok(MacAddr(mac))
}
