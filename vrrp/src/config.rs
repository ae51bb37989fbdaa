//! What a virtual router is told, validated once.
//!
//! [`Parameters`] are what somebody typed; [`Config::new`] judges them, and a [`Config`] cannot be
//! wrong. The names are keepalived's where it has one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::wire::checksum::ChecksumForm;

mod check;
mod error;
mod parameters;

pub use error::ConfigError;
pub use parameters::{Authentication, PASSWORD_LEN, Parameters, Peer};

/// Addresses an advertisement can name: its count is one byte (RFC 5798 §5.2.5).
pub const ADDRESSES_MAX: usize = 255;
/// Routers an advertisement is sent to one by one. Our own bound: none is stated anywhere.
pub const PEERS_MAX: usize = 255;
/// The longest `preempt_delay`, as in keepalived.
pub const PREEMPT_DELAY_MAX: Duration = Duration::from_secs(1000);
/// The most `down_timer_adverts`, as in keepalived.
pub const DOWN_TIMER_ADVERTS_MAX: u8 = 100;
/// Intervals without an advertisement before a master counts as gone (RFC 5798 §6.1).
pub const DOWN_TIMER_ADVERTS: u8 = 3;

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 3768, with the authentication of RFC 2338.
    V2,
    /// RFC 5798 and RFC 9568.
    V3,
}

impl Version {
    /// As it stands in an advertisement.
    pub const fn number(self) -> u8 {
        match self {
            Version::V2 => 2,
            Version::V3 => 3,
        }
    }
}

/// The kind of addresses a virtual router has. With the VRID it is the router's identity on a LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// The group advertisements go to (RFC 5798 §5.1.1.2 and §5.1.2.2).
    pub const fn group(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18)),
            Family::V6 => IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12)),
        }
    }

    /// Length of an address in an advertisement. Unit: bytes.
    pub const fn address_len(self) -> usize {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
}

/// How much a router wants to be master, as it stands in an advertisement.
///
/// 0 in an advertisement says that the master gives up; 1 to 254 are backups, 255 is the owner of
/// the addresses (RFC 5798 §5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// The master gives up now.
    pub const RESIGNED: Priority = Priority(0);
    /// What a router has that is not told otherwise.
    pub const DEFAULT: Priority = Priority(100);
    /// The addresses belong to the router's own interface.
    pub const OWNER: Priority = Priority(255);
}

/// Time between two advertisements of a master.
///
/// Unit: centiseconds. Version 3 has twelve bits for it, 1 to 4095 (RFC 5798 §5.2.7); version 2 one
/// byte of whole seconds, 100 to 25500 here (RFC 3768 §5.3.7). [`Interval::fits`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(u16);

impl Interval {
    /// One second.
    pub const DEFAULT: Interval = Interval(100);
    /// The largest that version 3 can carry.
    pub const MAX_V3: Interval = Interval(0x0fff);
    /// The largest that version 2 can carry.
    pub const MAX_V2: Interval = Interval(25_500);

    /// An interval of so many centiseconds; `None` if neither version can carry it.
    pub const fn from_centis(centis: u16) -> Option<Interval> {
        let interval = Interval(centis);
        if interval.fits(Version::V3) || interval.fits(Version::V2) {
            Some(interval)
        } else {
            None
        }
    }

    /// An interval of so many seconds; `None` for zero.
    pub const fn from_secs(secs: u8) -> Option<Interval> {
        match secs {
            0 => None,
            1.. => Some(Interval(secs as u16 * 100)),
        }
    }

    /// Whether advertisements of this version can carry it.
    pub const fn fits(self, version: Version) -> bool {
        match version {
            Version::V2 => self.0 != 0 && self.0 <= Self::MAX_V2.0 && self.0.is_multiple_of(100),
            Version::V3 => self.0 != 0 && self.0 <= Self::MAX_V3.0,
        }
    }

    /// Unit: centiseconds.
    pub const fn centis(self) -> u16 {
        self.0
    }

    /// The same as a length of time.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 10)
    }
}

/// A virtual router that can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    version: Version,
    family: Family,
    vrid: u8,
    priority: Priority,
    preempt: bool,
    preempt_delay: Duration,
    interval: Interval,
    addresses: Vec<IpAddr>,
    authentication: Authentication,
    down_timer_adverts: u8,
    lower_prio_no_advert: bool,
    higher_prio_send_advert: bool,
    skip_check_adv_addr: bool,
    checksum: ChecksumForm,
    peers: Vec<Peer>,
    check_unicast_src: bool,
    unicast_ttl: u8,
    strict: bool,
}

impl Config {
    /// Judges a description.
    ///
    /// # Errors
    /// [`ConfigError`] names the first thing that is wrong.
    pub fn new(parameters: Parameters) -> Result<Config, ConfigError> {
        let checked = check::check(&parameters)?;
        let check_unicast_src =
            parameters.check_unicast_src || parameters.peers.iter().any(Peer::has_ttl_range);
        Ok(Config {
            version: checked.version,
            family: checked.family,
            vrid: parameters.vrid,
            priority: Priority(parameters.priority),
            preempt: parameters.preempt,
            preempt_delay: parameters.preempt_delay,
            interval: checked.interval,
            addresses: parameters.addresses,
            authentication: parameters.authentication,
            down_timer_adverts: parameters.down_timer_adverts,
            // Strict mode is the standard, which leaves such advertisements unanswered.
            lower_prio_no_advert: parameters.lower_prio_no_advert || parameters.strict,
            higher_prio_send_advert: parameters.higher_prio_send_advert,
            skip_check_adv_addr: parameters.skip_check_adv_addr,
            checksum: parameters.checksum,
            peers: parameters.peers,
            check_unicast_src,
            unicast_ttl: parameters.unicast_ttl,
            strict: parameters.strict,
        })
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn family(&self) -> Family {
        self.family
    }

    pub fn vrid(&self) -> u8 {
        self.vrid
    }

    /// The configured priority, from which tracking counts.
    pub fn priority(&self) -> Priority {
        self.priority
    }

    pub fn preempt(&self) -> bool {
        self.preempt
    }

    pub fn preempt_delay(&self) -> Duration {
        self.preempt_delay
    }

    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// The virtual addresses as advertised, all of [`Config::family`].
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub fn authentication(&self) -> &Authentication {
        &self.authentication
    }

    pub fn down_timer_adverts(&self) -> u8 {
        self.down_timer_adverts
    }

    /// Always so in strict mode.
    pub fn lower_prio_no_advert(&self) -> bool {
        self.lower_prio_no_advert
    }

    pub fn higher_prio_send_advert(&self) -> bool {
        self.higher_prio_send_advert
    }

    pub fn skip_check_adv_addr(&self) -> bool {
        self.skip_check_adv_addr
    }

    /// The form of the checksum of what is sent in version 3 over IPv4.
    pub fn checksum(&self) -> ChecksumForm {
        self.checksum
    }

    /// The routers advertisements go to one by one; empty with multicast.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    pub fn is_unicast(&self) -> bool {
        !self.peers.is_empty()
    }

    pub fn check_unicast_src(&self) -> bool {
        self.check_unicast_src
    }

    /// Time to live of what is sent to peers; with multicast it is 255.
    pub fn unicast_ttl(&self) -> u8 {
        self.unicast_ttl
    }

    pub fn strict(&self) -> bool {
        self.strict
    }

    /// The IP protocol of the advertisements: 112, or 51 with an authentication header.
    pub fn protocol(&self) -> u8 {
        if self.authentication.is_header() {
            crate::wire::PROTOCOL_AH
        } else {
            crate::wire::PROTOCOL
        }
    }
}

#[cfg(test)]
mod tests;
