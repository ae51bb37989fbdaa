//! What a virtual router is told, validated once.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Addresses an advertisement can name: its count is one byte (RFC 5798 §5.2.5).
pub const ADDRESSES_MAX: usize = 255;

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
/// Unit: centiseconds, 1 to 4095, the range of the twelve bits it has on the wire
/// (RFC 5798 §5.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(u16);

impl Interval {
    /// One second.
    pub const DEFAULT: Interval = Interval(100);
    /// The largest the wire can carry, in centiseconds.
    const MAX_CENTIS: u16 = 0x0fff;

    /// An interval of so many centiseconds; `None` outside 1 to 4095.
    pub const fn from_centis(centis: u16) -> Option<Interval> {
        match centis {
            0 => None,
            1..=Self::MAX_CENTIS => Some(Interval(centis)),
            _ => None,
        }
    }

    /// Unit: centiseconds.
    pub const fn centis(self) -> u16 {
        self.0
    }

    /// The same as a length of time.
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0 as u64 * 10)
    }
}

/// A virtual router as somebody typed it; [`Config::new`] judges it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Version of the protocol. Only 3.
    pub version: u8,
    /// Number of the virtual router on its LAN, 1 to 255.
    pub vrid: u8,
    /// 1 to 255, default 100; 255 says that the addresses are the interface's own.
    pub priority: u8,
    /// Whether to take over from a master of lower priority. Default true.
    pub preempt: bool,
    /// Time between two advertisements. Unit: milliseconds, 10 to 40950 in steps of 10; default
    /// 1000.
    ///
    /// A backup takes over after three to four of them. Backups learn the interval of the master;
    /// one configured with a much shorter interval than the running master's is master for a
    /// moment when it starts, since it has not yet heard the other.
    pub advert_ms: u32,
    /// The virtual addresses in the order they are advertised in; other routers must have the same.
    pub addresses: Vec<Ipv4Addr>,
    /// Leaves an advertisement of a lower priority unanswered while master, as RFC 5798 does; kept
    /// from keepalived. Default false: the answer ends the other's mastership sooner.
    pub lower_prio_no_advert: bool,
    /// Sends a last advertisement before yielding to a better master, so that the LAN's switches
    /// and the other hear of the conflict; kept from keepalived. Default false.
    pub higher_prio_send_advert: bool,
}

impl Default for Parameters {
    fn default() -> Parameters {
        Parameters {
            version: 3,
            vrid: 0,
            priority: Priority::DEFAULT.0,
            preempt: true,
            advert_ms: 1000,
            addresses: Vec::new(),
            lower_prio_no_advert: false,
            higher_prio_send_advert: false,
        }
    }
}

/// A virtual router that can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    vrid: u8,
    priority: Priority,
    preempt: bool,
    interval: Interval,
    addresses: Vec<Ipv4Addr>,
    lower_prio_no_advert: bool,
    higher_prio_send_advert: bool,
}

/// Why a virtual router cannot run as described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("version {0} is not supported, only 3 is")]
    Version(u8),
    #[error("vrid {0} is not between 1 and 255")]
    Vrid(u8),
    #[error("priority {0} is not between 1 and 255")]
    Priority(u8),
    #[error("advert_ms {0} is not a multiple of 10 between 10 and 40950")]
    AdvertInterval(u32),
    #[error("no virtual address is given, at least one is needed")]
    NoAddress,
    #[error("{0} virtual addresses are given, an advertisement can name 255")]
    TooManyAddresses(usize),
    #[error("virtual address {0} is given twice")]
    AddressTwice(Ipv4Addr),
    #[error("{0} cannot be a virtual address")]
    AddressKind(Ipv4Addr),
    #[error("priority 255, the owner of the addresses, always preempts")]
    OwnerWithoutPreempt,
}

impl Config {
    /// Judges a description.
    ///
    /// # Errors
    /// [`ConfigError`] names the first thing that is wrong.
    pub fn new(parameters: Parameters) -> Result<Config, ConfigError> {
        if parameters.version != 3 {
            return Err(ConfigError::Version(parameters.version));
        }
        if parameters.vrid == 0 {
            return Err(ConfigError::Vrid(parameters.vrid));
        }
        let priority = Priority(parameters.priority);
        if priority == Priority::RESIGNED {
            return Err(ConfigError::Priority(parameters.priority));
        }
        let interval = interval(parameters.advert_ms)?;
        if priority == Priority::OWNER && !parameters.preempt {
            return Err(ConfigError::OwnerWithoutPreempt);
        }
        check_addresses(&parameters.addresses)?;
        Ok(Config {
            vrid: parameters.vrid,
            priority,
            preempt: parameters.preempt,
            interval,
            addresses: parameters.addresses,
            lower_prio_no_advert: parameters.lower_prio_no_advert,
            higher_prio_send_advert: parameters.higher_prio_send_advert,
        })
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

    pub fn interval(&self) -> Interval {
        self.interval
    }

    /// The virtual addresses as advertised.
    pub fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    pub fn lower_prio_no_advert(&self) -> bool {
        self.lower_prio_no_advert
    }

    pub fn higher_prio_send_advert(&self) -> bool {
        self.higher_prio_send_advert
    }
}

fn interval(advert_ms: u32) -> Result<Interval, ConfigError> {
    let centis = advert_ms
        .is_multiple_of(10)
        .then(|| u16::try_from(advert_ms / 10).ok())
        .flatten();
    centis
        .and_then(Interval::from_centis)
        .ok_or(ConfigError::AdvertInterval(advert_ms))
}

fn check_addresses(addresses: &[Ipv4Addr]) -> Result<(), ConfigError> {
    if addresses.is_empty() {
        return Err(ConfigError::NoAddress);
    }
    if addresses.len() > ADDRESSES_MAX {
        return Err(ConfigError::TooManyAddresses(addresses.len()));
    }
    let mut seen = BTreeSet::new();
    for &addr in addresses {
        if addr.is_unspecified() || addr.is_multicast() || addr.is_broadcast() || addr.is_loopback()
        {
            return Err(ConfigError::AddressKind(addr));
        }
        if !seen.insert(addr) {
            return Err(ConfigError::AddressTwice(addr));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Parameters {
        Parameters {
            vrid: 51,
            addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
            ..Parameters::default()
        }
    }

    fn refused(change: impl FnOnce(&mut Parameters)) -> ConfigError {
        let mut parameters = good();
        change(&mut parameters);
        Config::new(parameters).unwrap_err()
    }

    #[test]
    fn defaults_are_those_of_the_standard() {
        let config = Config::new(good()).unwrap();
        assert_eq!(config.priority(), Priority(100));
        assert_eq!(config.interval(), Interval(100));
        assert!(config.preempt());
        assert!(!config.lower_prio_no_advert() && !config.higher_prio_send_advert());
    }

    #[test]
    fn every_mistake_has_its_name() {
        let [a, b] = [1, 2].map(|last| Ipv4Addr::new(192, 0, 2, last));
        assert_eq!(refused(|p| p.version = 2), ConfigError::Version(2));
        assert_eq!(refused(|p| p.vrid = 0), ConfigError::Vrid(0));
        assert_eq!(refused(|p| p.priority = 0), ConfigError::Priority(0));
        for wrong in [0, 1, 9, 15, 40_951, 40_960, 655_360, 655_370, u32::MAX] {
            let error = refused(|p| p.advert_ms = wrong);
            assert_eq!(error, ConfigError::AdvertInterval(wrong));
        }
        assert_eq!(refused(|p| p.addresses.clear()), ConfigError::NoAddress);
        let many = (0..=255).map(|last| Ipv4Addr::new(192, 0, 2, last));
        let error = refused(|p| p.addresses = many.collect());
        assert_eq!(error, ConfigError::TooManyAddresses(256));
        let error = refused(|p| p.addresses = vec![a, b, a]);
        assert_eq!(error, ConfigError::AddressTwice(a));
        for wrong in ["0.0.0.0", "224.0.0.18", "255.255.255.255", "127.0.0.1"] {
            let wrong = wrong.parse().unwrap();
            let error = refused(|p| p.addresses = vec![a, wrong]);
            assert_eq!(error, ConfigError::AddressKind(wrong));
        }
        let error = refused(|p| (p.priority, p.preempt) = (255, false));
        assert_eq!(error, ConfigError::OwnerWithoutPreempt);
    }

    #[test]
    fn the_whole_range_of_intervals_is_accepted() {
        for (advert_ms, centis) in [(10, 1), (100, 10), (1000, 100), (40_950, 4095)] {
            let parameters = Parameters {
                advert_ms,
                ..good()
            };
            let interval = Config::new(parameters).unwrap().interval();
            assert_eq!(interval.centis(), centis);
            assert_eq!(interval.duration().as_millis(), u128::from(advert_ms));
        }
    }
}
