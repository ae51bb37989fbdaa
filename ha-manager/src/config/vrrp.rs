//! The sections `[[vrrp]]`: the virtual router that elects the active node.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::{Offence, is_interface_name, resolve_interface, resolve_name, resolve_number};

/// Unit: milliseconds. Version 3 has 12 bits of hundredths of a second (RFC 5798 §5.2.7).
const ADVERT_MS_MAX: u64 = 40_950;
const ADVERT_MS_STEP: u64 = 10;
const DEFAULT_ADVERT_MS: u64 = 1000;
const DEFAULT_PRIORITY: u64 = 100;
/// keepalived's `garp_master_repeat` and `garp_master_delay`.
const DEFAULT_GARP_REPEAT: u32 = 5;
const DEFAULT_GARP_DELAY_MS: u64 = 5000;
const GARP_REPEAT_MAX: u32 = 100;
const GARP_DELAY_MS_MAX: u64 = 600_000;
/// Addresses of one virtual router, excluded ones included; the advertisement counts its own in eight
/// bits (RFC 5798 §5.2.5).
const VIPS_MAX: usize = 255;
/// The default lease is never shorter: renewals come every third of it.
const DEFAULT_LEASE_MIN: Duration = Duration::from_millis(250);

/// A virtual router, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VrrpConfig {
    pub name: String,
    /// Advertisements go out here.
    pub interface: String,
    /// 1 to 255.
    pub vrid: u8,
    /// 1 to 255, default 100; 255 is the owner of the addresses.
    pub priority: u8,
    /// Whether this node takes over from a master of lower priority. Default true.
    pub preempt: bool,
    /// 10 ms to 40.95 s in steps of 10 ms, default 1 s.
    pub advert: Duration,
    /// IPv4, at least one; adverts name them.
    pub vips: Vec<Vip>,
    /// Of either family; they move with the others, and adverts do not name them.
    pub vips_excluded: Vec<Vip>,
    /// Rounds of gratuitous ARP and neighbour advertisements in a block. Default 5.
    pub garp_repeat: u32,
    /// A second block follows this long after the first. Default 5 s; zero has none.
    pub garp_delay: Duration,
}

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

impl VrrpConfig {
    /// Twice the advert interval, at least 250 ms: from about 84 ms on it ends before a peer, that
    /// has heard the last advert, takes over (three intervals and its skew later).
    pub fn default_lease(&self) -> Duration {
        (2 * self.advert).max(DEFAULT_LEASE_MIN)
    }

    /// The same for the election.
    ///
    /// # Errors
    /// What the election judges more strictly than this file does.
    pub fn router(&self) -> Result<vrrp::Config, vrrp::ConfigError> {
        vrrp::Config::new(vrrp::Parameters {
            vrid: self.vrid,
            priority: self.priority,
            preempt: self.preempt,
            advert_ms: u32::try_from(self.advert.as_millis()).unwrap_or(u32::MAX),
            addresses: self.vips.iter().filter_map(Vip::v4).collect(),
            ..vrrp::Parameters::default()
        })
    }

    /// All addresses that move together, those of the adverts first.
    pub fn all_vips(&self) -> impl Iterator<Item = &Vip> {
        self.vips.iter().chain(&self.vips_excluded)
    }

    /// Every interface this instance depends on, its own first.
    pub fn interfaces(&self) -> Vec<&str> {
        let mut names = vec![self.interface.as_str()];
        for vip in self.all_vips() {
            if !names.contains(&vip.interface.as_str()) {
                names.push(&vip.interface);
            }
        }
        names
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVrrp {
    name: Option<Spanned<String>>,
    interface: Spanned<String>,
    vrid: Spanned<u64>,
    priority: Option<Spanned<u64>>,
    preempt: Option<bool>,
    advert_ms: Option<Spanned<u64>>,
    vips: Spanned<Vec<Spanned<String>>>,
    vips_excluded: Option<Spanned<Vec<Spanned<String>>>>,
    garp_repeat: Option<Spanned<u32>>,
    garp_delay_ms: Option<Spanned<u64>>,
    version: Option<Spanned<u64>>,
}

/// Judges all sections, and takes the one there may be. `listed` are the interfaces of `[director]`.
pub(super) fn resolve_all(
    sections: Vec<RawVrrp>,
    listed: &[String],
) -> Result<Option<VrrpConfig>, Offence> {
    let mut seen: Vec<VrrpConfig> = Vec::new();
    for section in sections {
        let vrid = section.vrid.clone();
        let instance = section.resolve(listed)?;
        if let Some(first) = seen.first() {
            let (id, interface) = (instance.vrid, &instance.interface);
            let reason = if first.vrid == id && first.interface == *interface {
                format!("vrid {id} is there twice on {interface}")
            } else {
                "a second [[vrrp]] is not supported by this director yet; one instance may hold \
                 addresses of several interfaces"
                    .to_owned()
            };
            return Err(Offence::new(&vrid, reason));
        }
        seen.push(instance);
    }
    Ok(seen.pop())
}

impl RawVrrp {
    fn resolve(self, listed: &[String]) -> Result<VrrpConfig, Offence> {
        if let Some(version) = &self.version
            && *version.get_ref() != 3
        {
            let reason = match version.get_ref() {
                2 => "version 2 is not supported by this director yet".to_owned(),
                other => format!("version {other} is not 3"),
            };
            return Err(Offence::new(version, reason));
        }
        let place = self.vrid.clone();
        let vrid = resolve_number("vrid", Some(self.vrid), 1..=255, 0)?;
        let vrid = u8::try_from(vrid).unwrap_or(u8::MAX);
        let priority = resolve_number("priority", self.priority, 1..=255, DEFAULT_PRIORITY)?;
        let interface = resolve_interface(self.interface)?;
        let garp_delay_ms = resolve_number(
            "garp_delay_ms",
            self.garp_delay_ms,
            0..=GARP_DELAY_MS_MAX,
            DEFAULT_GARP_DELAY_MS,
        )?;
        let (vips, vips_excluded) =
            resolve_vips(self.vips, self.vips_excluded, &interface, listed)?;
        let instance = VrrpConfig {
            name: match self.name {
                Some(name) => resolve_name(name)?,
                None => format!("vrrp-{vrid}"),
            },
            vrid,
            priority: u8::try_from(priority).unwrap_or(u8::MAX),
            preempt: self.preempt.unwrap_or(true),
            advert: resolve_advert(self.advert_ms)?,
            vips,
            vips_excluded,
            garp_repeat: resolve_number(
                "garp_repeat",
                self.garp_repeat,
                1..=GARP_REPEAT_MAX,
                DEFAULT_GARP_REPEAT,
            )?,
            garp_delay: Duration::from_millis(garp_delay_ms),
            interface,
        };
        match instance.router() {
            Ok(_) => Ok(instance),
            Err(error) => Err(Offence::new(&place, error.to_string())),
        }
    }
}

fn resolve_advert(advert_ms: Option<Spanned<u64>>) -> Result<Duration, Offence> {
    let span = advert_ms.clone();
    let range = ADVERT_MS_STEP..=ADVERT_MS_MAX;
    let ms = resolve_number("advert_ms", advert_ms, range, DEFAULT_ADVERT_MS)?;
    match span {
        Some(value) if !ms.is_multiple_of(ADVERT_MS_STEP) => Err(Offence::new(
            &value,
            format!("advert_ms {ms} is not a multiple of {ADVERT_MS_STEP}"),
        )),
        Some(_) | None => Ok(Duration::from_millis(ms)),
    }
}

/// No program is attached to an interface that the director does not list, so a virtual address
/// there would be answered for without a lease.
fn resolve_vips(
    list: Spanned<Vec<Spanned<String>>>,
    excluded: Option<Spanned<Vec<Spanned<String>>>>,
    interface: &str,
    listed: &[String],
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
    let mut resolve =
        |texts, is_excluded| resolve_list(texts, is_excluded, (interface, listed), &mut seen);
    Ok((resolve(list.into_inner(), false)?, resolve(excluded, true)?))
}

fn resolve_list(
    texts: Vec<Spanned<String>>,
    is_excluded: bool,
    (interface, listed): (&str, &[String]),
    seen: &mut BTreeSet<IpAddr>,
) -> Result<Vec<Vip>, Offence> {
    let mut vips = Vec::new();
    for text in texts {
        let refused =
            |reason: String| Offence::new(&text, format!("vip {:?}: {reason}", text.get_ref()));
        let vip = parse_vip(text.get_ref(), interface).map_err(refused)?;
        if vip.address.is_ipv6() && !is_excluded {
            let reason = "adverts are IPv4: an IPv6 address belongs in vips_excluded".to_owned();
            return Err(refused(reason));
        }
        if !listed.contains(&vip.interface) {
            let reason = format!(
                "vip {:?}: interface {} is not among the interfaces of [director]",
                text.get_ref(),
                vip.interface
            );
            return Err(Offence::new(&text, reason));
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
