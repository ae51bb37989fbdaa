//! The virtual addresses of an instance.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use toml::Spanned;

use crate::config::{Offence, is_interface_name};

/// Addresses of one virtual router, excluded ones included; the advertisement counts its own in eight
/// bits (RFC 5798 §5.2.5).
const VIPS_MAX: usize = 255;

/// A list of addresses as typed.
pub(super) type RawVips = Spanned<Vec<Spanned<String>>>;

/// A virtual address and where it is when this node is active.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vip {
    pub address: IpAddr,
    /// 1 to 32, or to 128.
    pub prefix_len: u8,
    pub interface: String,
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

impl Vip {
    /// The address, when it is IPv4.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

/// Where addresses may be.
#[derive(Clone, Copy)]
pub(super) struct Places<'a> {
    /// The interface of an address that names none.
    pub(super) default: &'a str,
    /// Those of `[director]`. No program is attached to another, so a virtual address there would
    /// be answered for without a lease.
    pub(super) listed: &'a [String],
    /// The instance's own, to which programs are attached when it is made.
    pub(super) vmac: Option<&'a str>,
}

/// The addresses of adverts, which have one family, and the excluded ones, of either.
pub(super) fn resolve(
    list: RawVips,
    excluded: Option<RawVips>,
    places: Places<'_>,
) -> Result<(Vec<Vip>, Vec<Vip>), Offence> {
    if list.get_ref().is_empty() {
        let reason = "vips is empty, at least one is needed".to_owned();
        return Err(Offence::new(&list, reason));
    }
    let more = excluded.as_ref().map_or(0, |list| list.get_ref().len());
    let count = list.get_ref().len() + more;
    if count > VIPS_MAX {
        let reason = format!("{count} vips are more than {VIPS_MAX}");
        return Err(Offence::new(&list, reason));
    }
    let mut seen = BTreeSet::new();
    let excluded = excluded.map(Spanned::into_inner).unwrap_or_default();
    let mut family = None;
    let vips = resolve_list(list.into_inner(), places, &mut seen, |vip| {
        let is_ipv6 = vip.address.is_ipv6();
        if *family.get_or_insert(is_ipv6) == is_ipv6 {
            return Ok(());
        }
        Err("adverts name addresses of one family: the other belongs in vips_excluded".to_owned())
    })?;
    let excluded = resolve_list(excluded, places, &mut seen, |_| Ok(()))?;
    Ok((vips, excluded))
}

fn resolve_list(
    texts: Vec<Spanned<String>>,
    places: Places<'_>,
    seen: &mut BTreeSet<IpAddr>,
    mut judge: impl FnMut(&Vip) -> Result<(), String>,
) -> Result<Vec<Vip>, Offence> {
    let mut vips = Vec::new();
    for text in texts {
        let refused =
            |reason: String| Offence::new(&text, format!("vip {:?}: {reason}", text.get_ref()));
        let vip = parse_vip(text.get_ref(), places.default).map_err(refused)?;
        judge(&vip).map_err(refused)?;
        let is_vmac = places.vmac == Some(&vip.interface);
        if !is_vmac && !places.listed.contains(&vip.interface) {
            let reason = format!(
                "interface {} is not among the interfaces of [director]",
                vip.interface
            );
            return Err(refused(reason));
        }
        if !seen.insert(vip.address) {
            let reason = format!("vip {} is there twice", vip.address);
            return Err(Offence::new(&text, reason));
        }
        vips.push(vip);
    }
    Ok(vips)
}

/// `ADDRESS[/LENGTH] [dev INTERFACE]`, as keepalived writes it.
fn parse_vip(text: &str, interface: &str) -> Result<Vip, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (address, interface) = match words[..] {
        [address] => (address, interface),
        [address, "dev", interface] => (address, interface),
        [_, "dev"] => return Err("dev without an interface".to_owned()),
        [_, word, ..] if word != "dev" => {
            return Err(format!("{word:?} is not supported by this director yet"));
        }
        _ => return Err("not ADDRESS[/LENGTH] [dev INTERFACE]".to_owned()),
    };
    if !is_interface_name(interface) {
        return Err(format!("{interface:?} is not an interface name"));
    }
    let (address, length) = match address.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (address, None),
    };
    let address: IpAddr = address.parse().map_err(|_| "not an address".to_owned())?;
    let (whole, is_mapped) = match address {
        IpAddr::V4(_) => (32, false),
        IpAddr::V6(address) => (128, address.to_ipv4_mapped().is_some()),
    };
    let prefix_len = match length {
        Some(length) => length.parse().ok(),
        None => Some(whole),
    };
    let prefix_len = prefix_len
        .filter(|length| (1..=whole).contains(length))
        .ok_or_else(|| format!("the prefix length is not between 1 and {whole}"))?;
    if address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || address == IpAddr::V4(Ipv4Addr::BROADCAST)
        || is_mapped
    {
        return Err("not an address a host can have on a LAN".to_owned());
    }
    Ok(Vip {
        address,
        prefix_len,
        interface: interface.to_owned(),
    })
}
