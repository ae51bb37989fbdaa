//! The sections `[[vrrp]]`: the virtual routers whose masters are active.
//!
//! The keys have keepalived's names where it has them; lengths of time are in milliseconds. What the
//! protocol says about them is judged by [`::vrrp::Config::new`], and reported at the key.

mod auth;
mod garp;
mod peers;
mod raw;
mod spots;
mod vips;
mod vmac;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ::vrrp::announce::Settings;
use ::vrrp::{Authentication, ChecksumForm, ConfigError, Peer};

use super::Offence;
use super::group::Member;
use super::notify::NotifyScripts;
use super::track::{Track, Tracked};

use spots::Spots;

pub(super) use raw::RawVrrp;
pub use vips::Vip;
pub use vmac::VmacConfig;

/// Our own bound; each is elected with timers and sockets of its own.
const INSTANCES_MAX: usize = 64;
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
    /// Of the protocol: 2, or 3, the default.
    pub version: u8,
    /// Whether this node takes over from a master of lower priority. Default true.
    pub preempt: bool,
    /// How long such a master is left alone first. Up to 1000 s, default 0.
    pub preempt_delay: Duration,
    /// 10 ms to 40.95 s in steps of 10 ms, default 1 s; in version 2 up to 255 s in whole seconds.
    pub advert: Duration,
    /// Of one family, at least one; adverts name them.
    pub vips: Vec<Vip>,
    /// Of either family; they move with the others, and adverts do not name them.
    pub vips_excluded: Vec<Vip>,
    /// Where adverts come from; by default the address of the interface.
    pub source: Option<IpAddr>,
    /// Routers that are sent to one by one in place of the group.
    pub peers: Vec<Peer>,
    /// Of adverts to peers. Default 255.
    pub unicast_ttl: u8,
    /// Whether only peers are heard. Default false, true where a peer has a range of TTLs.
    pub check_unicast_src: bool,
    /// In version 2.
    pub authentication: Authentication,
    /// Intervals without an advert until a master is given up. 1 to 100, default 3.
    pub down_timer_adverts: u8,
    /// Leaves adverts of a lower priority unanswered. Default false, in strict mode true.
    pub lower_prio_no_advert: bool,
    /// Sends one advert more before giving way to a higher priority. Default true, in strict mode
    /// false.
    ///
    /// DIFFERS: keepalived's default is false. Where the better master speaks first after a split, it
    /// would not hear that there was another, and would not announce the addresses again.
    pub higher_prio_send_advert: bool,
    /// Compares the addresses of a sender's first advert only. Default false.
    pub skip_check_adv_addr: bool,
    /// Nothing that the standard does not have. Default false.
    pub strict: bool,
    /// Whether this host takes packets to the addresses that no service does. Default true; in
    /// strict mode only the owner's.
    pub accept: bool,
    /// What is sent in version 3 over IPv4.
    pub checksum: ChecksumForm,
    /// When and how often the addresses are announced.
    pub garp: Settings,
    /// The macvlan with the virtual MAC address, if there is to be one.
    pub vmac: Option<VmacConfig>,
    pub track: Track,
    pub notify: NotifyScripts,
}

impl VrrpConfig {
    /// One with every default, on the interface of its first address; for tests.
    #[cfg(test)]
    pub(crate) fn plain(name: &str, vrid: u8, vips: Vec<Vip>) -> VrrpConfig {
        let interface = vips.first().map(|vip| vip.interface.clone());
        VrrpConfig {
            name: name.to_owned(),
            interface: interface.unwrap_or_default(),
            vrid,
            priority: 100,
            version: 3,
            preempt: true,
            preempt_delay: Duration::ZERO,
            advert: Duration::from_secs(1),
            vips,
            vips_excluded: Vec::new(),
            source: None,
            peers: Vec::new(),
            unicast_ttl: 255,
            check_unicast_src: false,
            authentication: Authentication::None,
            down_timer_adverts: 3,
            lower_prio_no_advert: false,
            higher_prio_send_advert: true,
            skip_check_adv_addr: false,
            strict: false,
            accept: true,
            checksum: ChecksumForm::Rfc5798,
            garp: Settings::default(),
            vmac: None,
            track: Track {
                own_interface: true,
                ..Track::default()
            },
            notify: NotifyScripts::default(),
        }
    }

    /// Twice the advert interval, at least 250 ms: from about 84 ms on it ends before a peer, that
    /// has heard the last advert, takes over (three intervals and its skew later). One interval less
    /// for each that `down_timer_adverts` is below three.
    pub fn default_lease(&self) -> Duration {
        let intervals = self.down_timer_adverts.saturating_sub(1).min(2);
        (u32::from(intervals) * self.advert).max(DEFAULT_LEASE_MIN)
    }

    /// The least time after this node's last advert until a peer, of whatever priority, takes over.
    pub(super) fn taken_over_after(&self) -> Duration {
        u32::from(self.down_timer_adverts) * self.advert
    }

    /// What an operator should know of, though it is not refused.
    pub(super) fn remarks(&self) -> Vec<String> {
        let name = &self.name;
        let mut remarks = Vec::new();
        if let Some(IpAddr::V6(address)) = self.vips.first().map(|vip| vip.address)
            && !address.is_unicast_link_local()
        {
            remarks.push(format!(
                "{name}: the first IPv6 address, {address}, is not link-local, as other routers may \
                 require (RFC 5798, section 5.2.9)"
            ));
        }
        let has_ranges = |peer: &Peer| (peer.min_ttl, peer.max_ttl) != (0, u8::MAX);
        if !self.peers.is_empty() && !self.check_unicast_src && !self.peers.iter().any(has_ranges) {
            remarks.push(format!(
                "{name}: whoever can send packets to this host can take the role away; \
                 check_unicast_src = true hears the peers alone"
            ));
        }
        remarks
    }

    /// The same for the election.
    ///
    /// # Errors
    /// What the election judges more strictly than this file does.
    pub fn router(&self) -> Result<::vrrp::Config, ConfigError> {
        ::vrrp::Config::new(::vrrp::Parameters {
            version: self.version,
            family: None,
            vrid: self.vrid,
            priority: self.priority,
            preempt: self.preempt,
            preempt_delay: self.preempt_delay,
            advert_ms: u32::try_from(self.advert.as_millis()).unwrap_or(u32::MAX),
            addresses: self.vips.iter().map(|vip| vip.address).collect(),
            authentication: self.authentication,
            down_timer_adverts: self.down_timer_adverts,
            lower_prio_no_advert: self.lower_prio_no_advert,
            higher_prio_send_advert: self.higher_prio_send_advert,
            skip_check_adv_addr: self.skip_check_adv_addr,
            checksum: self.checksum,
            peers: self.peers.clone(),
            check_unicast_src: self.check_unicast_src,
            unicast_ttl: self.unicast_ttl,
            strict: self.strict,
        })
    }

    /// The device advertisements leave by: the macvlan, unless they are to have the address of the
    /// interface.
    pub fn sends_on(&self) -> &str {
        let vmac = self.vmac.as_ref().filter(|vmac| !vmac.xmit_base);
        vmac.map_or(&self.interface, |vmac| &vmac.name)
    }

    /// The family of its adverts.
    pub fn is_ipv6(&self) -> bool {
        self.vips.first().is_some_and(|vip| vip.address.is_ipv6())
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

    /// Refuses what two virtual routers cannot share.
    fn beside(&self, other: &VrrpConfig, places: &Spots) -> Result<(), Offence> {
        let (id, interface) = (self.vrid, &self.interface);
        if (id, interface) == (other.vrid, &other.interface) && self.is_ipv6() == other.is_ipv6() {
            let reason = format!("vrid {id} is there twice on {interface}");
            return Err(places.offence("vrid", reason));
        }
        if self.name == other.name {
            let reason = format!("two instances have the name {:?}", self.name);
            return Err(places.offence("name", reason));
        }
        if let (Some(ours), Some(theirs)) = (&self.vmac, &other.vmac)
            && ours.name == theirs.name
        {
            let reason = format!("two instances have the vmac {}; name one", ours.name);
            return Err(places.offence("vmac", reason));
        }
        let theirs: BTreeSet<IpAddr> = other.all_vips().map(|vip| vip.address).collect();
        match self.all_vips().find(|vip| theirs.contains(&vip.address)) {
            Some(Vip { address, .. }) => {
                let reason = format!("vip {address} is one of {} too", other.name);
                Err(places.offence("vips", reason))
            }
            None => Ok(()),
        }
    }
}

/// What all sections are judged beside.
pub(super) struct Surroundings<'a> {
    /// The interfaces of `[director]`.
    pub(super) listed: &'a [String],
    pub(super) tracked: &'a Tracked,
    /// Others may read the file.
    pub(super) is_public: bool,
}

/// Judges all sections, each alone and beside those before it.
pub(super) fn resolve_all(
    sections: Vec<RawVrrp>,
    around: &Surroundings<'_>,
) -> Result<(Vec<VrrpConfig>, Vec<Member>), Offence> {
    let count = sections.len();
    let mut seen: Vec<VrrpConfig> = Vec::new();
    let mut members = Vec::new();
    for section in sections {
        let spots = Spots::of(&section);
        if count > INSTANCES_MAX {
            let reason = format!("{count} [[vrrp]] sections are more than {INSTANCES_MAX}");
            return Err(spots.offence("vrid", reason));
        }
        let (instance, member) = section.resolve(around, &spots)?;
        for other in &seen {
            instance.beside(other, &spots)?;
        }
        seen.push(instance);
        members.push(member);
    }
    Ok((seen, members))
}
