use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn good() -> Parameters {
    Parameters {
        vrid: 51,
        addresses: vec![ip("192.0.2.100")],
        ..Parameters::default()
    }
}

/// IPv6, with a link-local first address as the standard wants it.
fn good_v6() -> Parameters {
    Parameters {
        addresses: vec![ip("fe80::100"), ip("2001:db8:1::100")],
        ..good()
    }
}

fn refused_from(mut parameters: Parameters, change: impl FnOnce(&mut Parameters)) -> ConfigError {
    change(&mut parameters);
    Config::new(parameters).unwrap_err()
}

fn refused(change: impl FnOnce(&mut Parameters)) -> ConfigError {
    refused_from(good(), change)
}

fn accepted(change: impl FnOnce(&mut Parameters)) -> Config {
    let mut parameters = good();
    change(&mut parameters);
    Config::new(parameters).unwrap()
}

fn password() -> [u8; PASSWORD_LEN] {
    Authentication::password("1111")
}

#[test]
fn defaults_are_those_of_the_standard() {
    let config = Config::new(good()).unwrap();
    assert_eq!(
        (config.version(), config.family()),
        (Version::V3, Family::V4)
    );
    assert_eq!(config.priority(), Priority(100));
    assert_eq!(config.interval(), Interval::DEFAULT);
    assert!(config.preempt() && config.preempt_delay().is_zero());
    assert!(!config.lower_prio_no_advert() && !config.higher_prio_send_advert());
    assert!(!config.skip_check_adv_addr() && !config.check_unicast_src());
    assert_eq!(config.down_timer_adverts(), 3);
    assert_eq!(config.checksum(), ChecksumForm::Rfc5798);
    assert!(!config.is_unicast() && config.authentication().is_none());
    assert_eq!((config.unicast_ttl(), config.protocol()), (255, 112));
}

#[test]
fn every_mistake_has_its_name() {
    let [a, b] = [1, 2].map(|last| IpAddr::from([192, 0, 2, last]));
    for wrong in [0, 1, 4, 255] {
        assert_eq!(refused(|p| p.version = wrong), ConfigError::Version(wrong));
    }
    assert_eq!(refused(|p| p.vrid = 0), ConfigError::Vrid(0));
    assert_eq!(refused(|p| p.priority = 0), ConfigError::Priority(0));
    assert_eq!(refused(|p| p.addresses.clear()), ConfigError::NoAddress);
    let many = (0..=255).map(|last| IpAddr::from([192, 0, 2, last]));
    let error = refused(|p| p.addresses = many.collect());
    assert_eq!(error, ConfigError::TooManyAddresses(256));
    let error = refused(|p| p.addresses = vec![a, b, a]);
    assert_eq!(error, ConfigError::AddressTwice(a));
    for wrong in ["0.0.0.0", "224.0.0.18", "255.255.255.255", "127.0.0.1"] {
        let error = refused(|p| p.addresses = vec![a, ip(wrong)]);
        assert_eq!(error, ConfigError::AddressKind(ip(wrong)));
    }
    for wrong in ["::", "ff02::12", "::1"] {
        let error = refused(|p| p.addresses = vec![ip(wrong)]);
        assert_eq!(error, ConfigError::AddressKind(ip(wrong)));
    }
    for wrong in [0, 101, 255] {
        let error = refused(|p| p.down_timer_adverts = wrong);
        assert_eq!(error, ConfigError::DownTimerAdverts(wrong));
    }
}

#[test]
fn a_router_has_one_family() {
    let [v4, v6] = [ip("192.0.2.1"), ip("2001:db8::1")];
    let error = refused(|p| p.addresses = vec![v4, v6]);
    assert_eq!(error, ConfigError::AddressFamily(v6));
    let error = refused(|p| p.family = Some(Family::V6));
    assert_eq!(error, ConfigError::AddressFamily(ip("192.0.2.100")));
    let config = Config::new(good_v6()).unwrap();
    assert_eq!(config.family(), Family::V6);
    let error = refused(|p| p.peers = vec![Peer::new(v6)]);
    assert_eq!(error, ConfigError::PeerFamily(v6));
}

#[test]
fn intervals_are_what_the_version_can_carry() {
    for (advert_ms, centis) in [(10, 1), (100, 10), (1000, 100), (40_950, 4095)] {
        let interval = accepted(|p| p.advert_ms = advert_ms).interval();
        assert_eq!(interval.centis(), centis);
        assert_eq!(interval.duration().as_millis(), u128::from(advert_ms));
    }
    for wrong in [0, 1, 9, 15, 40_951, 40_960, 655_360, 655_370, u32::MAX] {
        let error = refused(|p| p.advert_ms = wrong);
        assert_eq!(error, ConfigError::AdvertInterval(wrong));
    }
    for (advert_ms, centis) in [(1000, 100), (2000, 200), (41_000, 4100), (255_000, 25_500)] {
        let interval = accepted(|p| (p.version, p.advert_ms) = (2, advert_ms)).interval();
        assert_eq!(interval.centis(), centis);
        assert_eq!(interval, Interval::from_secs((centis / 100) as u8).unwrap());
    }
    for wrong in [0, 10, 100, 1500, 256_000, 655_360_000, u32::MAX] {
        let error = refused(|p| (p.version, p.advert_ms) = (2, wrong));
        assert_eq!(error, ConfigError::AdvertSeconds(wrong));
    }
    assert_eq!(Interval::from_centis(4096), None);
    assert_eq!(Interval::from_secs(0), None);
}

#[test]
fn preemption_contradicts_nothing() {
    let second = Duration::from_secs(1);
    let error = refused(|p| (p.priority, p.preempt) = (255, false));
    assert_eq!(error, ConfigError::OwnerWithoutPreempt);
    let error = refused(|p| p.preempt_delay = PREEMPT_DELAY_MAX + second);
    assert_eq!(error, ConfigError::PreemptDelay(PREEMPT_DELAY_MAX + second));
    let error = refused(|p| (p.preempt_delay, p.preempt) = (second, false));
    assert_eq!(error, ConfigError::PreemptDelayWithoutPreempt);
    let error = refused(|p| (p.preempt_delay, p.priority) = (second, 255));
    assert_eq!(error, ConfigError::PreemptDelayOfOwner);
    let config = accepted(|p| p.preempt_delay = PREEMPT_DELAY_MAX);
    assert_eq!(config.preempt_delay(), PREEMPT_DELAY_MAX);
}

#[test]
fn authentication_is_for_version_2_over_ipv4() {
    for authentication in [
        Authentication::Simple(password()),
        Authentication::Header(password()),
    ] {
        let error = refused(|p| p.authentication = authentication);
        assert_eq!(error, ConfigError::AuthenticationVersion);
        let error = refused_from(good_v6(), |p| {
            (p.version, p.authentication) = (2, authentication);
        });
        assert_eq!(error, ConfigError::AuthenticationFamily);
        let config = accepted(|p| (p.version, p.authentication) = (2, authentication));
        let protocol = if authentication.is_header() { 51 } else { 112 };
        assert_eq!(config.protocol(), protocol);
    }
    let empty = Authentication::Simple(Authentication::password(""));
    let error = refused(|p| (p.version, p.authentication) = (2, empty));
    assert_eq!(error, ConfigError::PasswordEmpty);
}

#[test]
fn passwords_are_cut_to_eight_bytes_and_never_shown() {
    assert_eq!(Authentication::password("123456789"), *b"12345678");
    assert_eq!(Authentication::password("1111"), *b"1111\0\0\0\0");
    let config = accepted(|p| {
        (p.version, p.authentication) = (2, Authentication::Simple(*b"secret12"));
    });
    let shown = format!("{config:?}");
    assert!(shown.contains("Simple(..)"), "{shown}");
    assert!(
        !shown.contains("secret12") && !shown.contains("115, 101"),
        "{shown}"
    );
}

#[test]
fn the_form_of_the_checksum_can_be_chosen_where_there_is_a_choice() {
    let [rfc9568, old] = [ChecksumForm::Rfc9568, ChecksumForm::OldUnicast];
    assert_eq!(accepted(|p| p.checksum = rfc9568).checksum(), rfc9568);
    let error = refused(|p| p.checksum = old);
    assert_eq!(error, ConfigError::ChecksumWithoutPeers);
    let peers = vec![Peer::new(ip("192.0.2.2"))];
    let config = accepted(|p| (p.checksum, p.peers) = (old, peers));
    assert_eq!(config.checksum(), old);
    for form in [rfc9568, old, ChecksumForm::Rfc3768, ChecksumForm::Ipv6] {
        let error = refused(|p| (p.version, p.checksum) = (2, form));
        assert_eq!(error, ConfigError::ChecksumChoice);
        let error = refused_from(good_v6(), |p| p.checksum = form);
        assert_eq!(error, ConfigError::ChecksumChoice);
    }
}

#[test]
fn peers_are_other_hosts() {
    let peer = ip("192.0.2.2");
    let refused_peers = |peers: Vec<Peer>| refused(|p| p.peers = peers);
    let error = refused_peers(vec![Peer::new(peer), Peer::new(peer)]);
    assert_eq!(error, ConfigError::PeerTwice(peer));
    for wrong in ["0.0.0.0", "224.0.0.18", "127.0.0.1"] {
        let error = refused_peers(vec![Peer::new(ip(wrong))]);
        assert_eq!(error, ConfigError::PeerKind(ip(wrong)));
    }
    let vip = ip("192.0.2.100");
    let error = refused_peers(vec![Peer::new(vip)]);
    assert_eq!(error, ConfigError::PeerIsVirtual(vip));
    let many = (0..=255).map(|last| Peer::new(IpAddr::from([198, 51, 100, last])));
    assert_eq!(
        refused_peers(many.collect()),
        ConfigError::TooManyPeers(256)
    );
    let backwards = Peer {
        min_ttl: 255,
        max_ttl: 254,
        ..Peer::new(peer)
    };
    let (min, max) = (255, 254);
    let address = peer;
    assert_eq!(
        refused_peers(vec![backwards]),
        ConfigError::PeerTtl { address, min, max }
    );
    let error = refused(|p| (p.peers, p.unicast_ttl) = (vec![Peer::new(peer)], 0));
    assert_eq!(error, ConfigError::UnicastTtl(0));
    assert_eq!(
        refused(|p| p.unicast_ttl = 64),
        ConfigError::UnicastWithoutPeers
    );
    assert_eq!(
        refused(|p| p.check_unicast_src = true),
        ConfigError::UnicastWithoutPeers
    );
}

#[test]
fn a_range_of_times_to_live_has_the_source_checked() {
    let peer = Peer::new(ip("192.0.2.2"));
    assert!(!accepted(|p| p.peers = vec![peer]).check_unicast_src());
    let near = Peer {
        min_ttl: 254,
        ..peer
    };
    assert!(accepted(|p| p.peers = vec![near]).check_unicast_src());
}

#[test]
fn strict_mode_has_only_what_the_standards_have() {
    let strict = |change: &dyn Fn(&mut Parameters)| {
        refused(|p| {
            p.strict = true;
            change(p);
        })
    };
    let peers = || vec![Peer::new(ip("192.0.2.2"))];
    assert_eq!(strict(&|p| p.peers = peers()), ConfigError::StrictPeers);
    let error = strict(&|p| {
        (p.version, p.authentication) = (2, Authentication::Simple(password()));
    });
    assert_eq!(error, ConfigError::StrictAuthentication);
    let error = strict(&|p| p.preempt_delay = Duration::from_secs(1));
    assert_eq!(error, ConfigError::StrictPreemptDelay);
    let error = strict(&|p| p.higher_prio_send_advert = true);
    assert_eq!(error, ConfigError::StrictHigherPrioSendAdvert);
    let error = strict(&|p| p.down_timer_adverts = 2);
    assert_eq!(error, ConfigError::StrictDownTimerAdverts);
    let error = refused_from(good_v6(), |p| (p.strict, p.version) = (true, 2));
    assert_eq!(error, ConfigError::StrictVersion2Ipv6);
    let error = refused_from(good_v6(), |p| {
        p.strict = true;
        p.addresses.reverse();
    });
    assert_eq!(error, ConfigError::StrictLinkLocal(ip("2001:db8:1::100")));
    assert!(accepted(|p| p.strict = true).lower_prio_no_advert());
}
