//! The keys of `[[vrrp]]` beyond what any pair has.

use super::*;

/// A section of version 3 with one IPv4 address, whose lines begin at line 7.
fn with(lines: &str) -> String {
    format!(
        "[director]\ninterfaces = [\"eth0\", \"eth1\"]\n[[vrrp]]\ninterface = \"eth0\"\nvrid = 7\n\
         vips = [\"192.0.2.100\"]\n{lines}\n"
    )
}

/// The same with IPv6.
fn with_v6(lines: &str) -> String {
    with(lines).replace("192.0.2.100", "fe80::100\", \"2001:db8::100")
}

fn one(text: &str) -> VrrpConfig {
    let error = |error: ConfigError| panic!("{text}\n{error}");
    let config = parse(text).unwrap_or_else(error);
    config.vrrp.into_iter().next().unwrap()
}

#[test]
fn times_and_switches_are_taken() {
    let vrrp = one(&with(
        "preempt_delay_ms = 2500\ndown_timer_adverts = 5\nlower_prio_no_advert = true\n\
         higher_prio_send_advert = true\nskip_check_adv_addr = true\nchecksum = \"rfc9568\"\n\
         source = \"192.0.2.11\"\ndont_track_primary = true",
    ));
    assert_eq!(vrrp.preempt_delay, Duration::from_millis(2500));
    assert_eq!(vrrp.down_timer_adverts, 5);
    assert!(vrrp.lower_prio_no_advert && vrrp.higher_prio_send_advert && vrrp.skip_check_adv_addr);
    assert_eq!(vrrp.checksum, ChecksumForm::Rfc9568);
    assert_eq!(vrrp.source, Some([192, 0, 2, 11].into()));
    assert!(!vrrp.track.own_interface);
}

#[test]
fn announcements_follow_keepalived_where_nothing_is_said() {
    let garp = one(&with("garp_repeat = 3\ngarp_delay_ms = 2000")).garp;
    assert_eq!((garp.repeat, garp.lower_prio_repeat), (3, 3));
    let two = Duration::from_secs(2);
    assert_eq!((garp.delay, garp.lower_prio_delay), (two, two));
    let garp = one(&with(
        "garp_refresh_ms = 3000\ngarp_refresh_repeat = 2\ngarp_lower_prio_repeat = 0\n\
         garp_lower_prio_delay_ms = 0",
    ))
    .garp;
    assert_eq!(garp.refresh, Duration::from_secs(3));
    assert_eq!((garp.refresh_repeat, garp.lower_prio_repeat), (2, 0));
    assert_eq!(garp.lower_prio_delay, Duration::ZERO);
    // Strict mode leaves an advert of a lower priority alone.
    let strict = one(&with("priority = 255\nstrict = true"));
    assert_eq!(strict.garp.lower_prio_repeat, 0);
    assert!(strict.accept && strict.lower_prio_no_advert);
}

#[test]
fn peers_have_ranges_of_ttl_as_keepalived_writes_them() {
    let vrrp = one(&with(
        "peers = [\"192.0.2.2\", \"192.0.2.3 min_ttl 250 max_ttl 254\"]\nunicast_ttl = 64",
    ));
    let peers: Vec<_> = vrrp.peers.iter().collect();
    assert_eq!(peers.len(), 2);
    assert_eq!((peers[0].min_ttl, peers[0].max_ttl), (0, 255));
    assert_eq!((peers[1].min_ttl, peers[1].max_ttl), (250, 254));
    assert_eq!(vrrp.unicast_ttl, 64);
}

#[test]
fn ipv6_instances_have_ipv6_addresses() {
    let vrrp = one(&with_v6(""));
    assert!(vrrp.is_ipv6());
    assert_eq!(vrrp.vips.len(), 2);
    // The same number in the other family is another router.
    let both = with("")
        + "[[vrrp]]\ninterface = \"eth0\"\nvrid = 7\nname = \"six\"\nvips = [\"fe80::100\"]\n";
    assert_eq!(parse(&both).unwrap().vrrp.len(), 2);
    let mixed = with("").replace("\"192.0.2.100\"", "\"192.0.2.100\",\n\"fe80::100\"");
    refused(&mixed, 7, "adverts name addresses of one family");
}

#[test]
fn bad_keys_are_refused_where_they_stand() {
    let cases: &[(&str, &str)] = &[
        ("source = \"lb1\"", "source \"lb1\" is not an address"),
        (
            "source = \"224.0.0.18\"",
            "is not an address this host can have",
        ),
        ("source = \"fe80::1\"", "is of another family than vips"),
        (
            "vmac = \"eth1\"",
            "vmac eth1 is an interface that is there already",
        ),
        ("source = \"192.0.2.100\"", "is a virtual address"),
        ("peers = [\"lb2\"]", "peer \"lb2\": not an address"),
        (
            "peers = [\"192.0.2.2 ttl 3\"]",
            "not ADDRESS [min_ttl N] [max_ttl N]",
        ),
        ("peers = [\"192.0.2.2 min_ttl 256\"]", "N up to 255"),
        ("peers = [\"192.0.2.2 min_ttl\"]", "N up to 255"),
        ("unicast_ttl = 0", "unicast_ttl 0 is not between 1 and 255"),
        (
            "unicast_ttl = 256",
            "unicast_ttl 256 is not between 1 and 255",
        ),
        (
            "auth = \"md5\"",
            "unknown variant `md5`, expected one of `none`, `pass`, `ah`",
        ),
        (
            "checksum = \"old\"",
            "unknown variant `old`, expected one of `rfc5798`, `rfc9568`, `old-unicast`",
        ),
        (
            "garp_refresh_repeat = 0",
            "garp_refresh_repeat 0 is not between 1 and 100",
        ),
        (
            "garp_lower_prio_repeat = 101",
            "garp_lower_prio_repeat 101 is not between 0 and 100",
        ),
        (
            "garp_interval_ms = 1001",
            "garp_interval_ms 1001 is not between 0 and 1000",
        ),
        (
            "gna_interval_ms = 1001",
            "gna_interval_ms 1001 is not between 0 and 1000",
        ),
        (
            "garp_refresh_ms = 86400001",
            "garp_refresh_ms 86400001 is not between 0 and 86400000",
        ),
        ("preempt = 1", "invalid type"),
        (
            "vmac = 5",
            "vmac is true, false or the name of the interface to make",
        ),
        ("vmac = \"a/b\"", "vmac \"a/b\" is not an interface name"),
        (
            "vmac_mac = \"02:00:00:00:00:01\"",
            "vmac_mac without vmac says nothing",
        ),
        (
            "vmac_xmit_base = true",
            "vmac_xmit_base without vmac says nothing",
        ),
    ];
    for (line, reason) in cases {
        refused(&with(line), 7, reason);
    }
    refused(
        &with_v6("source = \"2001:db8::11\""),
        7,
        "is not link-local, as adverts to the IPv6 group have it",
    );
    for mac in [
        "1:2",
        "02:00:00:00:00:1g",
        "01:00:00:00:00:01",
        "00:00:00:00:00:00",
        "002:0:0:0:0:1",
    ] {
        let text = with(&format!("vmac = true\nvmac_mac = \"{mac}\""));
        refused(&text, 8, &format!("vmac_mac {mac:?} is not"));
    }
}

#[test]
fn a_virtual_mac_has_an_interface_of_its_own() {
    let vmac = |text: &str| one(text).vmac.unwrap();
    let four = vmac(&with("vmac = true"));
    assert_eq!(
        (four.name.as_str(), four.mac.0),
        ("vrrp.7", [0, 0, 0x5e, 0, 1, 7])
    );
    let six = vmac(&with_v6("vmac = true"));
    assert_eq!(
        (six.name.as_str(), six.mac.0),
        ("vrrp6.7", [0, 0, 0x5e, 0, 2, 7])
    );
    let named = vmac(&with(
        "vmac = \"vip0\"\nvmac_mac = \"2:0:0:0:a\"\nvmac_xmit_base = true",
    ));
    assert_eq!(
        (named.name.as_str(), named.mac.0),
        ("vip0", [2, 0, 0, 0, 10, 7])
    );
    assert!(named.xmit_base);
    let peers = "vmac = true\npeers = [\"192.0.2.2\"]";
    assert!(
        vmac(&with(peers)).xmit_base,
        "peers send to the interface below"
    );
    let text = with(&format!("{peers}\nvmac_xmit_base = false"));
    refused(&text, 9, "with peers vmac_xmit_base is true");
    assert_eq!(one(&with("vmac = false")).vmac, None);
    // Addresses are there unless they say otherwise.
    let vrrp = one(&with(
        "vmac = true\nvips_excluded = [\"192.0.2.9 dev eth1\"]",
    ));
    assert_eq!(vrrp.interfaces(), ["eth0", "vrrp.7", "eth1"]);
    let second = "[[vrrp]]\ninterface = \"eth1\"\nvrid = 7\nname = \"b\"\nvips = [\"10.0.0.9\"]\nvmac = true\n";
    refused(
        &(with("vmac = true") + second),
        13,
        "two instances have the vmac vrrp.7",
    );
}

#[test]
fn what_strict_mode_does_not_have_is_refused() {
    let cases: &[(&str, &str)] = &[
        (
            "garp_lower_prio_repeat = 1",
            "strict mode has no garp_lower_prio_repeat",
        ),
        (
            "lower_prio_no_advert = false",
            "strict mode has lower_prio_no_advert",
        ),
        ("accept = true", "only the owner of the addresses accepts"),
    ];
    for (line, reason) in cases {
        refused(&with(&format!("strict = true\n{line}")), 8, reason);
    }
    let text = with("strict = true\nvmac = true\nvmac_xmit_base = true");
    refused(&text, 9, "strict mode has no vmac_xmit_base");
}

#[test]
fn more_instances_than_anybody_has_are_refused() {
    let more: String = (1..65)
        .map(|nth| {
            format!("[[vrrp]]\ninterface = \"eth0\"\nvrid = {nth}\nvips = [\"10.0.0.{nth}\"]\n")
        })
        .collect();
    let text = "[director]\ninterfaces = [\"eth0\"]\n".to_owned() + &more;
    assert_eq!(parse(&text).unwrap().vrrp.len(), 64);
    let text = text + "[[vrrp]]\ninterface = \"eth0\"\nvrid = 65\nvips = [\"10.0.0.65\"]\n";
    refused(&text, 5, "65 [[vrrp]] sections are more than 64");
}

#[test]
fn what_the_protocol_does_not_have_is_refused_at_its_key() {
    let cases: &[(&str, &str)] = &[
        ("version = 1", "version 1 is not between 2 and 3"),
        (
            "advert_ms = 15",
            "advert_ms 15 is not a multiple of 10 between 10 and 40950",
        ),
        (
            "advert_ms = 40960",
            "advert_ms 40960 is not a multiple of 10",
        ),
        ("preempt_delay_ms = 1000010", "is longer than 1000 s"),
        (
            "preempt_delay_ms = 500\npreempt = false",
            "preempt_delay without preempt says nothing",
        ),
        (
            "preempt_delay_ms = 500\npriority = 255",
            "preempts without preempt_delay",
        ),
        (
            "down_timer_adverts = 0",
            "down_timer_adverts 0 is not between 1 and 100",
        ),
        (
            "down_timer_adverts = 101",
            "down_timer_adverts 101 is not between 1 and 100",
        ),
        (
            "auth = \"ah\"\nauth_pass = \"x\"",
            "authentication exists in version 2 only",
        ),
        (
            "auth = \"pass\"\nauth_pass = \"x\"\nversion = 3",
            "authentication exists in version 2 only",
        ),
        (
            "advert_ms = 1500\nversion = 2",
            "advert_ms 1500 is not a multiple of 1000 between 1000 and 255000",
        ),
        (
            "advert_ms = 256000\nversion = 2",
            "advert_ms 256000 is not a multiple of 1000",
        ),
        (
            "checksum = \"rfc9568\"\nversion = 2",
            "can be chosen in version 3 over IPv4 only",
        ),
        (
            "checksum = \"old-unicast\"",
            "the old form of the checksum is for unicast peers only",
        ),
        (
            "peers = [\"fe80::2\"]",
            "unicast peer fe80::2 is not of the router's address family",
        ),
        (
            "peers = [\"192.0.2.2\", \"192.0.2.2\"]",
            "unicast peer 192.0.2.2 is given twice",
        ),
        (
            "peers = [\"192.0.2.100\"]",
            "unicast peer 192.0.2.100 is a virtual address",
        ),
        (
            "peers = [\"224.0.0.18\"]",
            "224.0.0.18 cannot be a unicast peer",
        ),
        (
            "peers = [\"192.0.2.2 min_ttl 9 max_ttl 8\"]",
            "min_ttl 9 of unicast peer 192.0.2.2 is above max_ttl 8",
        ),
        (
            "unicast_ttl = 64",
            "unicast_ttl and check_unicast_src are for unicast peers only",
        ),
        ("check_unicast_src = true", "are for unicast peers only"),
        (
            "peers = [\"192.0.2.2\"]\nstrict = true",
            "strict mode has no unicast peers",
        ),
        (
            "preempt_delay_ms = 500\nstrict = true",
            "strict mode has no preempt_delay",
        ),
        (
            "higher_prio_send_advert = true\nstrict = true",
            "strict mode has no higher_prio_send_advert",
        ),
        (
            "down_timer_adverts = 4\nstrict = true",
            "in strict mode down_timer_adverts is 3",
        ),
        (
            "auth = \"pass\"\nauth_pass = \"x\"\nversion = 2\nstrict = true",
            "strict mode has no authentication",
        ),
    ];
    for (lines, reason) in cases {
        refused(&with(lines), 7, reason);
    }
    for (lines, line, reason) in [
        (
            "auth = \"pass\"\nauth_pass = \"x\"\nversion = 2",
            7,
            "authentication exists for IPv4 only",
        ),
        (
            "checksum = \"rfc9568\"",
            7,
            "can be chosen in version 3 over IPv4 only",
        ),
        (
            "strict = true\nversion = 2",
            6,
            "strict mode has no version 2 over IPv6",
        ),
    ] {
        refused(&with_v6(lines), line, reason);
    }
    let global = with("strict = true").replace("192.0.2.100", "2001:db8::100");
    refused(
        &global,
        6,
        "the first virtual address has to be link-local, 2001:db8::100 is not",
    );
}

#[test]
fn version_2_goes_with_either_family() {
    let four = one(&with("version = 2\nadvert_ms = 2000"))
        .router()
        .unwrap();
    assert_eq!(four.version().number(), 2);
    let six = one(&with_v6("version = 2")).router().unwrap();
    assert_eq!((six.version().number(), six.addresses().len()), (2, 2));
}

#[test]
fn everything_reaches_the_election() {
    let router = one(&with(
        "peers = [\"192.0.2.2 min_ttl 254\"]\nunicast_ttl = 254\nchecksum = \"old-unicast\"\n\
         preempt_delay_ms = 2500\ndown_timer_adverts = 5\nadvert_ms = 20\npriority = 150\n\
         lower_prio_no_advert = true\nhigher_prio_send_advert = true\nskip_check_adv_addr = true",
    ))
    .router()
    .unwrap();
    assert!(router.is_unicast() && router.check_unicast_src());
    assert_eq!(
        (router.unicast_ttl(), router.down_timer_adverts()),
        (254, 5)
    );
    assert_eq!(router.checksum(), ChecksumForm::OldUnicast);
    assert_eq!(router.preempt_delay(), Duration::from_millis(2500));
    assert_eq!((router.interval().centis(), router.priority().0), (2, 150));
    assert!(router.lower_prio_no_advert() && router.higher_prio_send_advert());
    assert!(router.skip_check_adv_addr() && router.preempt() && !router.strict());
    let simple = one(&with("version = 2\nauth = \"pass\"\nauth_pass = \"1111\""));
    let password = Authentication::Simple(*b"1111\0\0\0\0");
    assert_eq!(*simple.router().unwrap().authentication(), password);
    let strict = one(&with("strict = true")).router().unwrap();
    assert!(strict.strict() && strict.lower_prio_no_advert());
    let patient = one(&with("preempt = false")).router().unwrap();
    assert!(!patient.preempt());
}

#[test]
fn a_first_ipv6_address_that_is_not_link_local_is_remarked_upon() {
    assert_eq!(parse(&with_v6("")).unwrap().remarks(), [""; 0]);
    let text = with("").replace("192.0.2.100", "2001:db8::100");
    let remarks = parse(&text).unwrap().remarks();
    assert!(
        remarks[0].starts_with("vrrp-7: the first IPv6 address, 2001:db8::100, is not link-local"),
        "{remarks:?}"
    );
}

#[test]
fn the_lease_ends_before_a_peer_that_waits_for_fewer_adverts_takes_over() {
    let lease = |lines: &str| parse(&with(lines)).unwrap().lease.unwrap();
    assert_eq!(lease("down_timer_adverts = 2"), Duration::from_secs(1));
    assert_eq!(lease("down_timer_adverts = 1"), Duration::from_millis(250));
    assert_eq!(lease("down_timer_adverts = 100"), Duration::from_secs(2));
}

#[test]
fn a_lease_that_outlasts_the_take_over_is_remarked_upon() {
    let remarks = |lease: &str, lines: &str| {
        let text = with(lines).replace("[[vrrp]]", &format!("{lease}\n[[vrrp]]"));
        parse(&text).unwrap().remarks()
    };
    let longer = "the lease of 10000 ms is longer than the 300 ms after which a peer may take over: \
                  after a crash of this daemon both direct for the rest of it";
    assert_eq!(remarks("lease_ms = 10000", "advert_ms = 100"), [longer]);
    assert_eq!(remarks("lease_ms = 300", "advert_ms = 100"), [""; 0]);
    assert_eq!(remarks("", "advert_ms = 100"), [""; 0]);
    assert_eq!(remarks("", "advert_ms = 90"), [""; 0]);
    // The default is no shorter than 250 ms.
    let short = remarks("", "advert_ms = 80");
    assert!(short[0].starts_with("the lease of 250 ms"), "{short:?}");
    let never = remarks("lease_ms = 0", "");
    assert!(
        never[0].starts_with("lease_ms = 0: after a crash"),
        "{never:?}"
    );
}

#[test]
fn peers_that_are_not_checked_are_remarked_upon() {
    let remarks = |lines: &str| parse(&with(lines)).unwrap().remarks();
    let open = remarks("peers = [\"192.0.2.2\"]");
    assert!(
        open[0].starts_with("vrrp-7: whoever can send packets to this host"),
        "{open:?}"
    );
    assert_eq!(
        remarks("peers = [\"192.0.2.2\"]\ncheck_unicast_src = true"),
        [""; 0]
    );
    assert_eq!(remarks("peers = [\"192.0.2.2 min_ttl 255\"]"), [""; 0]);
    assert_eq!(remarks(""), [""; 0]);
}
