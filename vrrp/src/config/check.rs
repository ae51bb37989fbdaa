//! The rules a description has to keep, in the order they are looked at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{
    ADDRESSES_MAX, Authentication, ConfigError, DOWN_TIMER_ADVERTS, DOWN_TIMER_ADVERTS_MAX, Family,
    Interval, PASSWORD_LEN, PEERS_MAX, PREEMPT_DELAY_MAX, Parameters, Priority, Version,
};
use crate::wire::checksum::ChecksumForm;

/// What checking finds out by the way.
pub(super) struct Checked {
    pub(super) version: Version,
    pub(super) family: Family,
    pub(super) interval: Interval,
}

pub(super) fn check(parameters: &Parameters) -> Result<Checked, ConfigError> {
    let version = match parameters.version {
        2 => Version::V2,
        3 => Version::V3,
        other => return Err(ConfigError::Version(other)),
    };
    if parameters.vrid == 0 {
        return Err(ConfigError::Vrid(parameters.vrid));
    }
    if Priority(parameters.priority) == Priority::RESIGNED {
        return Err(ConfigError::Priority(parameters.priority));
    }
    let interval = interval(parameters.advert_ms, version)?;
    preemption(parameters)?;
    if !(1..=DOWN_TIMER_ADVERTS_MAX).contains(&parameters.down_timer_adverts) {
        return Err(ConfigError::DownTimerAdverts(parameters.down_timer_adverts));
    }
    let family = addresses(parameters)?;
    authentication(&parameters.authentication, version, family)?;
    peers(parameters, family)?;
    checksum(parameters, version, family)?;
    if parameters.strict {
        strict(parameters, version, family)?;
    }
    Ok(Checked {
        version,
        family,
        interval,
    })
}

fn interval(advert_ms: u32, version: Version) -> Result<Interval, ConfigError> {
    let centis = advert_ms
        .is_multiple_of(10)
        .then(|| u16::try_from(advert_ms / 10).ok())
        .flatten();
    centis
        .and_then(Interval::from_centis)
        .filter(|interval| interval.fits(version))
        .ok_or(match version {
            Version::V2 => ConfigError::AdvertSeconds(advert_ms),
            Version::V3 => ConfigError::AdvertInterval(advert_ms),
        })
}

fn preemption(parameters: &Parameters) -> Result<(), ConfigError> {
    let is_owner = Priority(parameters.priority) == Priority::OWNER;
    if is_owner && !parameters.preempt {
        return Err(ConfigError::OwnerWithoutPreempt);
    }
    let delay = parameters.preempt_delay;
    if delay.is_zero() {
        return Ok(());
    }
    if delay > PREEMPT_DELAY_MAX {
        return Err(ConfigError::PreemptDelay(delay));
    }
    if !parameters.preempt {
        return Err(ConfigError::PreemptDelayWithoutPreempt);
    }
    if is_owner {
        return Err(ConfigError::PreemptDelayOfOwner);
    }
    Ok(())
}

fn addresses(parameters: &Parameters) -> Result<Family, ConfigError> {
    let addresses = &parameters.addresses;
    let Some(first) = addresses.first() else {
        return Err(ConfigError::NoAddress);
    };
    if addresses.len() > ADDRESSES_MAX {
        return Err(ConfigError::TooManyAddresses(addresses.len()));
    }
    let family = parameters.family.unwrap_or(Family::of(*first));
    let mut seen = BTreeSet::new();
    for &address in addresses {
        if Family::of(address) != family {
            return Err(ConfigError::AddressFamily(address));
        }
        if !can_be_a_host(address) {
            return Err(ConfigError::AddressKind(address));
        }
        if !seen.insert(address) {
            return Err(ConfigError::AddressTwice(address));
        }
    }
    Ok(family)
}

fn can_be_a_host(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let is_special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !is_broadcast && !is_special
}

fn authentication(
    authentication: &Authentication,
    version: Version,
    family: Family,
) -> Result<(), ConfigError> {
    let password = match authentication {
        Authentication::None => return Ok(()),
        Authentication::Simple(password) | Authentication::Header(password) => password,
    };
    if version != Version::V2 {
        return Err(ConfigError::AuthenticationVersion);
    }
    if family != Family::V4 {
        return Err(ConfigError::AuthenticationFamily);
    }
    if *password == [0; PASSWORD_LEN] {
        return Err(ConfigError::PasswordEmpty);
    }
    Ok(())
}

fn peers(parameters: &Parameters, family: Family) -> Result<(), ConfigError> {
    let ttl = parameters.unicast_ttl;
    if ttl == 0 {
        return Err(ConfigError::UnicastTtl(ttl));
    }
    let peers = &parameters.peers;
    if peers.is_empty() {
        let is_set = ttl != u8::MAX || parameters.check_unicast_src;
        return if is_set {
            Err(ConfigError::UnicastWithoutPeers)
        } else {
            Ok(())
        };
    }
    if peers.len() > PEERS_MAX {
        return Err(ConfigError::TooManyPeers(peers.len()));
    }
    let mut seen = BTreeSet::new();
    for peer in peers {
        let address = peer.address;
        if Family::of(address) != family {
            return Err(ConfigError::PeerFamily(address));
        }
        if !can_be_a_host(address) {
            return Err(ConfigError::PeerKind(address));
        }
        if parameters.addresses.contains(&address) {
            return Err(ConfigError::PeerIsVirtual(address));
        }
        if !seen.insert(address) {
            return Err(ConfigError::PeerTwice(address));
        }
        let (min, max) = (peer.min_ttl, peer.max_ttl);
        if min > max {
            return Err(ConfigError::PeerTtl { address, min, max });
        }
    }
    Ok(())
}

fn checksum(parameters: &Parameters, version: Version, family: Family) -> Result<(), ConfigError> {
    match parameters.checksum {
        ChecksumForm::Rfc5798 => Ok(()),
        ChecksumForm::Rfc9568 | ChecksumForm::OldUnicast
            if (version, family) != (Version::V3, Family::V4) =>
        {
            Err(ConfigError::ChecksumChoice)
        }
        ChecksumForm::OldUnicast if parameters.peers.is_empty() => {
            Err(ConfigError::ChecksumWithoutPeers)
        }
        ChecksumForm::Rfc9568 | ChecksumForm::OldUnicast => Ok(()),
        // What a version and family have without a choice.
        ChecksumForm::Rfc3768 | ChecksumForm::Ipv6 => Err(ConfigError::ChecksumChoice),
    }
}

/// What keepalived's `vrrp_strict` refuses, or switches off without being asked.
fn strict(parameters: &Parameters, version: Version, family: Family) -> Result<(), ConfigError> {
    if !parameters.peers.is_empty() {
        return Err(ConfigError::StrictPeers);
    }
    if (version, family) == (Version::V2, Family::V6) {
        return Err(ConfigError::StrictVersion2Ipv6);
    }
    if let Some(&first @ IpAddr::V6(address)) = parameters.addresses.first()
        && !address.is_unicast_link_local()
    {
        return Err(ConfigError::StrictLinkLocal(first));
    }
    if !parameters.authentication.is_none() {
        return Err(ConfigError::StrictAuthentication);
    }
    if !parameters.preempt_delay.is_zero() {
        return Err(ConfigError::StrictPreemptDelay);
    }
    if parameters.higher_prio_send_advert {
        return Err(ConfigError::StrictHigherPrioSendAdvert);
    }
    if parameters.down_timer_adverts != DOWN_TIMER_ADVERTS {
        return Err(ConfigError::StrictDownTimerAdverts);
    }
    Ok(())
}
