//! A section as typed, and what it resolves to.

use std::ops::RangeInclusive;
use std::time::Duration;

use ::vrrp::ChecksumForm;
use serde::Deserialize;
use toml::Spanned;

use super::auth::{self, RawAuth, Secret};
use super::garp::RawGarp;
use super::spots::{Spots, key_of};
use super::vips::{self, Places, RawVips};
use super::vmac::{RawVmac, RawVmacKeys};
use super::{Surroundings, VmacConfig, VrrpConfig, peers};
use crate::config::group::Member;
use crate::config::notify::RawScripts;
use crate::config::track::{RawRefs, RawTrack};
use crate::config::words::RawCommand;
use crate::config::{Offence, resolve_interface, resolve_name, resolve_number};

const DEFAULT_ADVERT_MS: u64 = 1000;
const DEFAULT_PRIORITY: u64 = 100;
const OWNER: u8 = 255;
/// Unit: milliseconds. Far above every limit there is.
const LONG_MS: u64 = 86_400_000;

/// The keys of `[[vrrp]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawVrrp {
    pub(super) name: Option<Spanned<String>>,
    interface: Spanned<String>,
    pub(super) vrid: Spanned<u64>,
    pub(super) priority: Option<Spanned<u64>>,
    pub(super) version: Option<Spanned<u64>>,
    pub(super) preempt: Option<Spanned<bool>>,
    pub(super) preempt_delay_ms: Option<Spanned<u64>>,
    pub(super) advert_ms: Option<Spanned<u64>>,
    pub(super) vips: RawVips,
    vips_excluded: Option<RawVips>,
    source: Option<Spanned<String>>,
    pub(super) peers: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) unicast_ttl: Option<Spanned<u64>>,
    pub(super) check_unicast_src: Option<Spanned<bool>>,
    pub(super) auth: Option<Spanned<RawAuth>>,
    auth_pass: Option<Spanned<Secret>>,
    pub(super) down_timer_adverts: Option<Spanned<u64>>,
    lower_prio_no_advert: Option<Spanned<bool>>,
    pub(super) higher_prio_send_advert: Option<Spanned<bool>>,
    skip_check_adv_addr: Option<bool>,
    strict: Option<bool>,
    accept: Option<Spanned<bool>>,
    pub(super) checksum: Option<Spanned<RawChecksum>>,
    garp_repeat: Option<Spanned<u32>>,
    garp_delay_ms: Option<Spanned<u64>>,
    garp_refresh_ms: Option<Spanned<u64>>,
    garp_refresh_repeat: Option<Spanned<u32>>,
    garp_lower_prio_repeat: Option<Spanned<u32>>,
    garp_lower_prio_delay_ms: Option<Spanned<u64>>,
    garp_interval_ms: Option<Spanned<u64>>,
    gna_interval_ms: Option<Spanned<u64>>,
    pub(super) vmac: Option<Spanned<RawVmac>>,
    vmac_mac: Option<Spanned<String>>,
    pub(super) vmac_xmit_base: Option<Spanned<bool>>,
    dont_track_primary: Option<bool>,
    track_interfaces: RawRefs,
    track_scripts: RawRefs,
    track_processes: RawRefs,
    track_files: RawRefs,
    notify: RawCommand,
    notify_master: RawCommand,
    notify_backup: RawCommand,
    notify_fault: RawCommand,
    notify_stop: RawCommand,
    notify_master_rx_lower_pri: RawCommand,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum RawChecksum {
    Rfc5798,
    Rfc9568,
    OldUnicast,
}

impl RawVrrp {
    pub(super) fn resolve(
        self,
        around: &Surroundings<'_>,
        spots: &Spots,
    ) -> Result<(VrrpConfig, Member), Offence> {
        let vrid = small("vrid", Some(self.vrid.clone()), 1..=255, 0)?;
        let priority = small("priority", self.priority, 1..=255, DEFAULT_PRIORITY)?;
        let (strict, is_owner) = (self.strict.unwrap_or(false), priority == OWNER);
        let interface = resolve_interface(self.interface)?;
        let is_ipv6 = is_ipv6(&self.vips);
        let vmac = RawVmacKeys {
            vmac: self.vmac,
            mac: self.vmac_mac,
            xmit_base: self.vmac_xmit_base,
            has_peers: (self.peers.as_ref()).is_some_and(|peers| !peers.get_ref().is_empty()),
        };
        let vmac = vmac.resolve(vrid, is_ipv6)?;
        if let Some(VmacConfig { name, .. }) = &vmac
            && (*name == interface || around.listed.contains(name))
        {
            let reason = format!("vmac {name} is an interface that is there already");
            return Err(spots.offence("vmac", reason));
        }
        let vmac_name = vmac.as_ref().map(|vmac| vmac.name.as_str());
        let places = Places {
            default: vmac_name.unwrap_or(&interface),
            listed: around.listed,
            vmac: vmac_name,
        };
        let (vips, vips_excluded) = vips::resolve(self.vips, self.vips_excluded, places)?;
        let peers = peers::resolve_peers(self.peers.map(Spanned::into_inner))?;
        let authentication = auth::resolve(self.auth, self.auth_pass, around.is_public)?;
        let garp = RawGarp {
            repeat: self.garp_repeat,
            delay_ms: self.garp_delay_ms,
            refresh_ms: self.garp_refresh_ms,
            refresh_repeat: self.garp_refresh_repeat,
            lower_prio_repeat: self.garp_lower_prio_repeat,
            lower_prio_delay_ms: self.garp_lower_prio_delay_ms,
            interval_ms: self.garp_interval_ms,
            na_interval_ms: self.gna_interval_ms,
        };
        let track = RawTrack {
            interfaces: self.track_interfaces,
            scripts: self.track_scripts,
            processes: self.track_processes,
            files: self.track_files,
        };
        let member = Member {
            weighted: track.weighted().cloned(),
        };
        let tracks_own = !self.dont_track_primary.unwrap_or(false);
        let notify = RawScripts {
            master: self.notify_master,
            backup: self.notify_backup,
            fault: self.notify_fault,
            stop: self.notify_stop,
            any: self.notify,
            master_rx_lower_pri: self.notify_master_rx_lower_pri,
        };
        let delay_ms = resolve_number("preempt_delay_ms", self.preempt_delay_ms, 0..=LONG_MS, 0)?;
        let advert_ms = self
            .advert_ms
            .map_or(DEFAULT_ADVERT_MS, Spanned::into_inner);
        let instance = VrrpConfig {
            name: match self.name {
                Some(name) => resolve_name(name)?,
                None => format!("vrrp-{vrid}"),
            },
            vrid,
            priority,
            version: small("version", self.version, 2..=3, 3)?,
            preempt: self.preempt.is_none_or(Spanned::into_inner),
            preempt_delay: Duration::from_millis(delay_ms),
            advert: Duration::from_millis(advert_ms),
            source: peers::resolve_source(self.source, &vips, &peers, is_owner)?,
            vips,
            vips_excluded,
            peers,
            unicast_ttl: small("unicast_ttl", self.unicast_ttl, 1..=255, 255)?,
            check_unicast_src: is_on(self.check_unicast_src),
            authentication,
            down_timer_adverts: small("down_timer_adverts", self.down_timer_adverts, 1..=100, 3)?,
            lower_prio_no_advert: no_answer(self.lower_prio_no_advert, strict)?,
            higher_prio_send_advert: match self.higher_prio_send_advert {
                Some(value) => value.into_inner(),
                None => !strict,
            },
            skip_check_adv_addr: self.skip_check_adv_addr.unwrap_or(false),
            strict,
            accept: resolve_accept(self.accept, strict && !is_owner)?,
            checksum: match self.checksum.map(Spanned::into_inner) {
                None | Some(RawChecksum::Rfc5798) => ChecksumForm::Rfc5798,
                Some(RawChecksum::Rfc9568) => ChecksumForm::Rfc9568,
                Some(RawChecksum::OldUnicast) => ChecksumForm::OldUnicast,
            },
            garp: garp.resolve(strict)?,
            vmac,
            track: track.resolve(around.tracked, tracks_own.then_some(interface.as_str()))?,
            notify: notify.resolve()?,
            interface,
        };
        if let Some(vmac) = instance.vmac.as_ref().filter(|_| strict)
            && vmac.xmit_base
        {
            let reason = "strict mode has no vmac_xmit_base".to_owned();
            return Err(spots.offence("vmac_xmit_base", reason));
        }
        match instance.router() {
            Ok(_) => Ok((instance, member)),
            Err(error) => Err(spots.offence(key_of(&error), error.to_string())),
        }
    }
}

/// A number up to 255.
fn small(
    key: &str,
    value: Option<Spanned<u64>>,
    range: RangeInclusive<u64>,
    default: u64,
) -> Result<u8, Offence> {
    let number = resolve_number(key, value, range, default)?;
    Ok(u8::try_from(number).unwrap_or(u8::MAX))
}

fn is_on(value: Option<Spanned<bool>>) -> bool {
    value.is_some_and(Spanned::into_inner)
}

/// As the first address tells; nonsense is judged later.
fn is_ipv6(vips: &RawVips) -> bool {
    let first = vips.get_ref().first();
    first.is_some_and(|text| text.get_ref().contains(':'))
}

fn no_answer(value: Option<Spanned<bool>>, strict: bool) -> Result<bool, Offence> {
    match value {
        Some(value) if strict && !*value.get_ref() => {
            let reason = "strict mode has lower_prio_no_advert".to_owned();
            Err(Offence::new(&value, reason))
        }
        Some(value) => Ok(value.into_inner()),
        None => Ok(strict),
    }
}

fn resolve_accept(value: Option<Spanned<bool>>, not_ours: bool) -> Result<bool, Offence> {
    match value {
        Some(value) if not_ours && *value.get_ref() => {
            let reason = "in strict mode only the owner of the addresses accepts".to_owned();
            Err(Offence::new(&value, reason))
        }
        Some(value) => Ok(value.into_inner()),
        None => Ok(!not_ours),
    }
}
