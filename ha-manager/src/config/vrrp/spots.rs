//! Where the keys of a `[[vrrp]]` stand, and which one to blame.

use ::vrrp::ConfigError;
use toml::Spanned;

use super::RawVrrp;
use crate::config::Offence;

/// The key to blame.
pub(super) fn key_of(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::Version(_) => "version",
        ConfigError::Vrid(_) => "vrid",
        ConfigError::Priority(_) | ConfigError::OwnerWithoutPreempt => "priority",
        ConfigError::AdvertInterval(_) | ConfigError::AdvertSeconds(_) => "advert_ms",
        ConfigError::NoAddress
        | ConfigError::TooManyAddresses(_)
        | ConfigError::AddressFamily(_)
        | ConfigError::AddressTwice(_)
        | ConfigError::AddressKind(_)
        | ConfigError::StrictVersion2Ipv6
        | ConfigError::StrictLinkLocal(_) => "vips",
        ConfigError::PreemptDelay(_)
        | ConfigError::PreemptDelayWithoutPreempt
        | ConfigError::PreemptDelayOfOwner
        | ConfigError::StrictPreemptDelay => "preempt_delay_ms",
        ConfigError::DownTimerAdverts(_) | ConfigError::StrictDownTimerAdverts => {
            "down_timer_adverts"
        }
        ConfigError::AuthenticationVersion
        | ConfigError::AuthenticationFamily
        | ConfigError::PasswordEmpty
        | ConfigError::StrictAuthentication => "auth",
        ConfigError::ChecksumChoice | ConfigError::ChecksumWithoutPeers => "checksum",
        ConfigError::TooManyPeers(_)
        | ConfigError::PeerFamily(_)
        | ConfigError::PeerTwice(_)
        | ConfigError::PeerKind(_)
        | ConfigError::PeerIsVirtual(_)
        | ConfigError::PeerTtl { .. }
        | ConfigError::StrictPeers => "peers",
        ConfigError::UnicastTtl(_) | ConfigError::UnicastWithoutPeers => "unicast_ttl",
        ConfigError::StrictHigherPrioSendAdvert => "higher_prio_send_advert",
    }
}

/// Where the keys of a section stand, for what is judged once all of them are known.
pub(super) struct Spots {
    vrid: Spanned<()>,
    others: Vec<(&'static str, Spanned<()>)>,
}

impl Spots {
    pub(super) fn of(raw: &RawVrrp) -> Spots {
        fn at<T>(value: &Spanned<T>) -> Spanned<()> {
            Spanned::new(value.span(), ())
        }
        let mut others = vec![("vips", at(&raw.vips))];
        let mut add = |key, spot: Option<Spanned<()>>| others.extend(spot.map(|spot| (key, spot)));
        add("name", raw.name.as_ref().map(at));
        add("priority", raw.priority.as_ref().map(at));
        add("version", raw.version.as_ref().map(at));
        add("preempt", raw.preempt.as_ref().map(at));
        add("preempt_delay_ms", raw.preempt_delay_ms.as_ref().map(at));
        add("advert_ms", raw.advert_ms.as_ref().map(at));
        add("peers", raw.peers.as_ref().map(at));
        add("unicast_ttl", raw.unicast_ttl.as_ref().map(at));
        add("check_unicast_src", raw.check_unicast_src.as_ref().map(at));
        add("auth", raw.auth.as_ref().map(at));
        add(
            "down_timer_adverts",
            raw.down_timer_adverts.as_ref().map(at),
        );
        let answer = raw.higher_prio_send_advert.as_ref();
        add("higher_prio_send_advert", answer.map(at));
        add("checksum", raw.checksum.as_ref().map(at));
        add("vmac", raw.vmac.as_ref().map(at));
        add("vmac_xmit_base", raw.vmac_xmit_base.as_ref().map(at));
        Spots {
            vrid: at(&raw.vrid),
            others,
        }
    }

    /// A key that is not there has its default, and the section's number is blamed.
    pub(super) fn offence(&self, key: &str, reason: String) -> Offence {
        let other = match key {
            "unicast_ttl" => "check_unicast_src",
            key => key,
        };
        let find = |key| self.others.iter().find(|(name, _)| *name == key);
        let spot = find(key).or_else(|| find(other));
        Offence::new(spot.map_or(&self.vrid, |(_, spot)| spot), reason)
    }
}
