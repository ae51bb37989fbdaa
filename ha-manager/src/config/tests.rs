use std::collections::BTreeMap;

use ipvs_model::protocol::Protocol;
use serde::de::{Deserializer, Visitor, value::Error as ValueError};

use super::*;

const EXAMPLE: &str = include_str!("../../director.example.toml");

/// Excluded addresses as the example has them.
const EXCLUDED: &str = "vips_excluded = [\"2001:db8::100\", \"fd00::fe/64 dev eth1\"]\n";
/// What a pair has to say at least.
const PAIR: &str = "[director]
interfaces = [\"eth0\", \"eth1\"]
[sync]
interface = \"eth2\"
[[vrrp]]
interface = \"eth0\"
vrid = 51
vips = [\"192.0.2.100\", \"10.0.0.254/24 dev eth1\"]
";

#[test]
fn a_minimal_file_gets_every_default() {
    let config = parse("[director]\ninterfaces = [\"eth0\"]\n").unwrap();
    let expected = Config {
        name: "host".to_owned(),
        interfaces: vec!["eth0".to_owned()],
        pin_dir: "/sys/fs/bpf/tandem".into(),
        attach: AttachMode::Auto,
        lease: None,
        control: "/run/tandem/control.sock".into(),
        sizes: TableSizes {
            connections_v4: 1 << 20,
            connections_v6: 1 << 20,
            services: 4096,
            servers: 16_384,
            hash_tables: 256,
            cache_entries: 65_536,
        },
        log: LogFormat::Text,
        log_level: LogLevel::Info,
        sysctl: Sysctl::default(),
        sync: None,
        vrrp: None,
        marks: Vec::new(),
    };
    assert_eq!(config, expected);
}

#[test]
fn a_pair_gets_every_default() {
    let config = parse(PAIR).unwrap();
    let vip = |address: &str, prefix_len, interface: &str| Vip {
        address: address.parse().unwrap(),
        prefix_len,
        interface: interface.to_owned(),
    };
    let expected = VrrpConfig {
        name: "vrrp-51".to_owned(),
        interface: "eth0".to_owned(),
        vrid: 51,
        priority: 100,
        preempt: true,
        advert: Duration::from_secs(1),
        vips: vec![
            vip("192.0.2.100", 32, "eth0"),
            vip("10.0.0.254", 24, "eth1"),
        ],
        vips_excluded: Vec::new(),
        garp_repeat: 5,
        garp_delay: Duration::from_secs(5),
    };
    assert_eq!(config.vrrp.as_ref().unwrap(), &expected);
    assert_eq!(expected.interfaces(), ["eth0", "eth1"]);
    let sync = config.sync.unwrap();
    assert_eq!(
        (sync.spec.sync_id, sync.spec.maxlen, sync.flush),
        (51, 0, Duration::from_millis(5))
    );
    assert_eq!(sync.spec.group, Some([224, 0, 0, 81].into()));
    assert_eq!((sync.spec.port, sync.spec.ttl), (8848, 1));
    assert_eq!(config.sysctl, Sysctl::default());
}

#[test]
fn the_lease_of_a_pair_ends_before_the_peer_takes_over() {
    let lease_ms = |advert_ms: u64, more: &str| {
        let text = PAIR.replace("vrid = 51", &format!("vrid = 51\nadvert_ms = {advert_ms}"));
        let text = text.replace("[director]", &format!("[director]\n{more}"));
        let lease = parse(&text).unwrap().lease;
        lease.map(|lease| u64::try_from(lease.as_millis()).unwrap())
    };
    assert_eq!(lease_ms(1000, ""), Some(2000));
    assert_eq!(lease_ms(10, ""), Some(250));
    assert_eq!(lease_ms(100, "lease_ms = 0"), None);
    assert_eq!(lease_ms(100, "lease_ms = 300"), Some(300));
    for advert_ms in (90..=40_950).step_by(10) {
        assert!(lease_ms(advert_ms, "") < Some(3 * advert_ms), "{advert_ms}");
    }
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = parse(EXAMPLE).unwrap();
    let pair = PAIR.replace("[director]", "[director]\nname = \"director-a\"");
    let mark = "[[mark]]\nmark = 7\nprotocol = \"tcp\"\nport = \"80-443\"\n\
                destination = \"192.0.2.0/24\"\nsource = \"0.0.0.0/0\"\n";
    let pair = pair + EXCLUDED + mark;
    assert_eq!(example, parse(&pair).unwrap());

    let shown: BTreeMap<String, toml::Value> = toml::from_str(EXAMPLE).unwrap();
    let mut sections = fields_of::<RawConfig>();
    sections.sort_unstable();
    assert_eq!(shown.keys().collect::<Vec<_>>(), sections);
    let (vrrp, mark) = (&shown["vrrp"][0], &shown["mark"][0]);
    // Its default depends on the interface, so it stands in a comment.
    let mut sync = keys_of(&shown["sync"]);
    assert!(EXAMPLE.contains("\n# maxlen = "));
    sync.push("maxlen");
    sync.sort_unstable();
    for (shown, mut known) in [
        (keys_of(&shown["director"]), fields_of::<RawDirector>()),
        (keys_of(&shown["sysctl"]), sysctl::SUPPORTED.to_vec()),
        (sync, fields_of::<RawSync>()),
        (keys_of(vrrp), fields_of::<RawVrrp>()),
        (keys_of(mark), fields_of::<RawMark>()),
    ] {
        known.sort_unstable();
        assert_eq!(shown, known);
    }
}

#[test]
fn every_refusal_names_file_line_and_reason() {
    let long_socket = format!("control = \"/{}\"", "s".repeat(104));
    let long_name = format!("name = \"{}\"", "n".repeat(65));
    // The line under test is the third of the file.
    let cases: &[(&str, &str)] = &[
        ("colour = 1", "unknown field `colour`"),
        ("name = 5", "invalid type"),
        ("name = \"\"", "name of 0 bytes"),
        (&long_name, "name of 65 bytes"),
        ("name = \"a\\u001b[2J\"", "control character"),
        ("pin_dir = \"bpf/x\"", "pin_dir is not an absolute path"),
        ("pin_dir = \"/\"", "pin_dir names no directory"),
        ("attach = \"xdp\"", "unknown variant `xdp`"),
        (
            "lease_ms = 99",
            "lease_ms 99 is neither 0 nor between 100 and 600000",
        ),
        ("lease_ms = 600001", "lease_ms 600001"),
        ("lease_ms = -1", "invalid value"),
        ("lease_ms = 1.5", "invalid type"),
        (
            "control = \"control.sock\"",
            "control is not an absolute path",
        ),
        ("control = \"/\"", "control names no file"),
        (&long_socket, "control of 105 bytes is longer than the 103"),
        (
            "connections_v4 = 1000",
            "connections_v4 1000 is not a power of two between 256 and 16777216",
        ),
        ("connections_v4 = 128", "connections_v4 128"),
        ("connections_v6 = 33554432", "connections_v6 33554432"),
        ("connections_v6 = 0", "connections_v6 0"),
        ("connections_v6 = 4294967296", "invalid value"),
        ("connections = 256", "unknown field `connections`"),
        ("services = 0", "services 0 is not between 1 and 65536"),
        ("services = 65537", "services 65537"),
        ("servers = 0", "servers 0 is not between 1 and 1048576"),
        ("servers = 1048577", "servers 1048577"),
        (
            "hash_tables = 0",
            "hash_tables 0 is not between 1 and 65536",
        ),
        (
            "cache_entries = 16777217",
            "cache_entries 16777217 is not between 1 and 16777216",
        ),
        ("log = \"xml\"", "unknown variant `xml`"),
        ("log_level = \"loud\"", "unknown variant `loud`"),
        ("interfaces = [\"eth1\"]", "duplicate key"),
        ("[services]", "unknown field `services`"),
        ("name = ", "string"),
    ];
    for (line, reason) in cases {
        refused(
            &format!("[director]\ninterfaces = [\"eth0\"]\n{line}\n"),
            3,
            reason,
        );
    }
}

#[test]
fn bad_interface_lists_are_refused_where_the_name_stands() {
    let cases: &[(&str, usize, &str)] = &[
        ("interfaces = []", 2, "interfaces is empty"),
        ("interfaces = \"eth0\"", 2, "invalid type"),
        (
            "interfaces = [\n\"eth0\",\n\"eth1\",\n\"eth0\"]",
            5,
            "interface eth0 is listed twice",
        ),
        (
            "interfaces = [\"eth0\",\n\"a/b\"]",
            3,
            "\"a/b\" is not an interface name",
        ),
        (
            "interfaces = [\"0123456789abcdef\"]",
            2,
            "is not an interface name",
        ),
        ("interfaces = [\"\"]", 2, "is not an interface name"),
        ("interfaces = [\"..\"]", 2, "is not an interface name"),
        ("interfaces = [\"e\\n\"]", 2, "is not an interface name"),
        ("name = \"a\"", 1, "missing field `interfaces`"),
    ];
    for (lines, line, reason) in cases {
        refused(&format!("[director]\n{lines}\n"), *line, reason);
    }
    let many: Vec<String> = (0..257).map(|n| format!("\"e{n}\"")).collect();
    let text = format!("[director]\ninterfaces = [{}]\n", many.join(","));
    refused(&text, 2, "257 interfaces are more than 256");
}

#[test]
fn tunables_of_the_kernel_are_told_from_mistakes() {
    let cases: &[(&str, &str)] = &[
        (
            "drop_entry = 1",
            "drop_entry 1 is not supported by this director yet, it has only the default 0: the \
             defence against floods",
        ),
        ("nat_icmp_send = 1", "nat_icmp_send 1 is not supported"),
        ("pmtu_disc = 0", "it has only the default 1: tunnels"),
        ("snat_reroute = 0", "it has only the default 1"),
        ("am_droprate = \"ten\"", "am_droprate \"ten\" is not"),
        (
            "est_cpulist = \"0-3\"",
            "est_cpulist \"0-3\" is not supported",
        ),
        (
            "lblc_expiration = 8589935",
            "lblc_expiration 8589935 is not between 0 and 8589934",
        ),
        ("lblcr_expiration = -1", "lblcr_expiration -1 is not"),
        (
            "sloppy_sctp = 2147483648",
            "is not between -2147483648 and 2147483647",
        ),
        ("run_estimation = \"off\"", "is not a number"),
        ("colour = 1", "unknown tunable \"colour\""),
        ("backup_only = \"on\"", "backup_only \"on\" is not a number"),
        ("backup_only = true", "a tunable is a number"),
        (
            "conn_reuse_mode = -2147483649",
            "conn_reuse_mode -2147483649 is not between",
        ),
        ("secure_tcp = 1", "is not supported by this director yet"),
        ("secure_tcp = 4", "secure_tcp 4 is not between 0 and 3"),
        ("sync_threshold = 3.5", "a tunable is a number"),
        (
            "sync_threshold = \"50 50\"",
            "needs a threshold below the period",
        ),
        (
            "sync_threshold = \"-1 50\"",
            "needs a threshold below the period",
        ),
        (
            "sync_threshold = \"1 2 3\"",
            "is not a threshold and a period",
        ),
        ("sync_threshold = \"\"", "is not a threshold and a period"),
        ("sync_threshold = 50", "needs a threshold below the period"),
        (
            "sync_refresh_period = 8589935",
            "is not between 0 and 8589934",
        ),
        ("sync_retries = 4", "sync_retries 4 is not between 0 and 3"),
        ("sync_qlen_max = 0", "is not between 1 and 4294967295"),
        ("sync_sock_size = -1", "is not between 0 and 2147483647"),
        ("sync_ports = 3", "sync_ports 3 is not a power of two"),
        (
            "sync_ports = 4",
            "sync_ports 4 is not supported by this director yet",
        ),
        (
            "sync_version = 0",
            "sync_version 0 is not supported by this director yet",
        ),
        ("sync_version = 2", "sync_version 2 is not between 0 and 1"),
    ];
    for (line, reason) in cases {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[sysctl]\n{line}\n");
        refused(&text, 4, reason);
    }
    for (name, default, _) in sysctl::NOT_YET {
        assert!(!sysctl::SUPPORTED.contains(&name), "{name}");
        if let Some(default) = default {
            let text =
                format!("[director]\ninterfaces = [\"eth0\"]\n[sysctl]\n{name} = {default}\n");
            assert_eq!(parse(&text).unwrap().sysctl, Sysctl::default(), "{name}");
        }
    }
}

#[test]
fn tunables_take_the_words_of_the_kernel() {
    let with = |lines: &str| {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[sysctl]\n{lines}\n");
        parse(&text).unwrap().sysctl
    };
    let sync = with("sync_threshold = \" 7\\t0 \"").sync;
    assert_eq!((sync.threshold, sync.period), (7, 0));
    let sync = with("sync_threshold = 9").sync;
    assert_eq!((sync.threshold, sync.period), (9, 50));
    // As in the kernel, any other number than 0 is on.
    assert!(with("\"net.ipv4.vs.backup_only\" = -1").backup_only);
    assert_eq!(with("secure_tcp = \"3\"").secure_tcp, 3);
    assert_eq!(with("conn_reuse_mode = 4").conn_reuse_mode, 4);
    assert_eq!(with("conn_reuse_mode = -1").conn_reuse_mode, u32::MAX);
    assert_eq!(with("lblcr_expiration = 0").lblcr_expiration_secs, 0);
    assert!(!with("run_estimation = 0").run_estimation);
    let on =
        with("cache_bypass = 1\nexpire_quiescent_template = 1\nsloppy_sctp = 1\nsloppy_tcp = 1");
    assert!(on.cache_bypass && on.expire_quiescent_template && on.sloppy_sctp && on.sloppy_tcp);
    let sync = with("sync_retries = 3\nsync_persist_mode = 1\nsync_sock_size = 9000").sync;
    assert_eq!(
        (sync.retries, sync.persist_mode, sync.sock_size),
        (3, true, 9000)
    );
}

#[test]
fn excluded_addresses_are_of_either_family_and_no_part_of_adverts() {
    let excluded = EXCLUDED.replace(']', ", \"192.0.2.9\"]");
    let config = parse(&(PAIR.to_owned() + &excluded)).unwrap();
    let vrrp = config.vrrp.unwrap();
    let of = |vips: &[Vip]| vips.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = ["2001:db8::100/128", "fd00::fe/64", "192.0.2.9/32"];
    assert_eq!(of(&vrrp.vips_excluded), expected);
    assert_eq!(vrrp.all_vips().count(), 5);
    assert_eq!(vrrp.router().unwrap().addresses().len(), 2);
}

#[test]
fn what_cannot_be_a_pair_is_refused_where_it_stands() {
    let vrrp = |lines: &str| {
        format!(
            "[director]\ninterfaces = [\"eth0\", \"eth1\"]\n[[vrrp]]\ninterface = \"eth0\"\n{lines}\n"
        )
    };
    let vips = "vips = [\"192.0.2.100\"]";
    let cases: &[(&str, usize, &str)] = &[
        (
            "vrid = 0\nvips = [\"192.0.2.1\"]",
            5,
            "vrid 0 is not between 1 and 255",
        ),
        (
            "vrid = 256\nvips = [\"192.0.2.1\"]",
            5,
            "vrid 256 is not between",
        ),
        ("vrid = 1", 3, "missing field `vips`"),
        ("vrid = 1\nvips = []", 6, "vips is empty"),
        (
            "vrid = 1\nvips = [\"192.0.2.1\",\n\"192.0.2.1/24\"]",
            7,
            "vip 192.0.2.1 is there twice",
        ),
        ("vrid = 1\nvips = [\"192.0.2.300\"]", 6, "not an address"),
        (
            "vrid = 1\nvips = [\"fd00::1\"]",
            6,
            "an IPv6 address belongs in vips_excluded",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1/33\"]",
            6,
            "prefix length is not between 1 and 32",
        ),
        ("vrid = 1\nvips = [\"192.0.2.1/0\"]", 6, "prefix length"),
        (
            "vrid = 1\nvips = [\"192.0.2.1\"]\nvips_excluded = [\"fd00::1/129\"]",
            7,
            "the prefix length is not between 1 and 128",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1\"]\nvips_excluded = [\"192.0.2.1\"]",
            7,
            "vip 192.0.2.1 is there twice",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1\"]\nvips_excluded = [\"ff02::1\"]",
            7,
            "not an address a host can have on a LAN",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1\"]\nvips_excluded = [\"fd00::1 dev eth7\"]",
            7,
            "interface eth7 is not among the interfaces of [director]",
        ),
        ("vrid = 1\nvips = [\"192.0.2.1/x\"]", 6, "prefix length"),
        (
            "vrid = 1\nvips = [\"224.0.0.1\"]",
            6,
            "not an address a host can have",
        ),
        (
            "vrid = 1\nvips = [\"127.0.0.1\"]",
            6,
            "not an address a host can have",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1 dev a/b\"]",
            6,
            "\"a/b\" is not an interface name",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1 dev\"]",
            6,
            "dev without an interface",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1 label eth0:1\"]",
            6,
            "\"label\" is not supported",
        ),
        (
            "vrid = 1\nvips = [\"192.0.2.1 dev eth0 x\"]",
            6,
            "not ADDRESS",
        ),
        ("vrid = 1\nvips = [\"\"]", 6, "not ADDRESS"),
        (
            "vrid = 1\nvips = [\"192.0.2.1\",\n\"192.0.2.2/24 dev eth2\"]",
            7,
            "vip \"192.0.2.2/24 dev eth2\": interface eth2 is not among the interfaces of [director]",
        ),
        (
            "vrid = 1\nadvert_ms = 15\nvips = [\"192.0.2.1\"]",
            6,
            "advert_ms 15 is not a multiple of 10",
        ),
        (
            "vrid = 1\nadvert_ms = 0\nvips = [\"192.0.2.1\"]",
            6,
            "advert_ms 0 is not between 10 and 40950",
        ),
        (
            "vrid = 1\npriority = 0\nvips = [\"192.0.2.1\"]",
            6,
            "priority 0 is not between 1 and 255",
        ),
        (
            "vrid = 1\npriority = 255\npreempt = false\nvips = [\"192.0.2.1\"]",
            5,
            "always preempts",
        ),
        (
            "vrid = 1\ngarp_repeat = 0\nvips = [\"192.0.2.1\"]",
            6,
            "garp_repeat 0 is not between 1 and 100",
        ),
        (
            "vrid = 1\ngarp_delay_ms = 600001\nvips = [\"192.0.2.1\"]",
            6,
            "garp_delay_ms 600001",
        ),
        (
            "vrid = 1\nversion = 2\nvips = [\"192.0.2.1\"]",
            6,
            "version 2 is not supported by this director yet",
        ),
        (
            "vrid = 1\nversion = 4\nvips = [\"192.0.2.1\"]",
            6,
            "version 4 is not 3",
        ),
        (
            "vrid = 1\ncolour = 1\nvips = [\"192.0.2.1\"]",
            6,
            "unknown field `colour`",
        ),
        (
            "vrid = 1\nname = \"\"\nvips = [\"192.0.2.1\"]",
            6,
            "name of 0 bytes",
        ),
    ];
    for (lines, line, reason) in cases {
        refused(&vrrp(lines), *line, reason);
    }
    for (vrid, interface, reason) in [
        (7, "eth0", "vrid 7 is there twice on eth0"),
        (
            7,
            "eth1",
            "a second [[vrrp]] is not supported by this director yet",
        ),
        (
            8,
            "eth0",
            "a second [[vrrp]] is not supported by this director yet",
        ),
    ] {
        let first = vrrp(&format!("vrid = 7\n{vips}"));
        let second = format!("[[vrrp]]\ninterface = \"{interface}\"\nvrid = {vrid}\n{vips}\n");
        refused(&(first + &second), 9, reason);
    }
}

#[test]
fn bad_sync_sections_are_refused_where_they_stand() {
    let cases: &[(&str, usize, &str)] = &[
        ("syncid = 1", 3, "missing field `interface`"),
        ("interface = \"a b\"", 4, "\"a b\" is not an interface name"),
        (
            "interface = \"eth2\"\nsyncid = 256",
            5,
            "syncid 256 is not between 0 and 255",
        ),
        (
            "interface = \"eth2\"\nmaxlen = 0",
            5,
            "maxlen 0 is not between 1 and 65507",
        ),
        ("interface = \"eth2\"\nmaxlen = 65508", 5, "maxlen 65508"),
        (
            "interface = \"eth2\"\ngroup = \"192.0.2.1\"",
            5,
            "is not a multicast address",
        ),
        (
            "interface = \"eth2\"\ngroup = \"ff02::1\"",
            5,
            "IPv6 groups are not supported",
        ),
        (
            "interface = \"eth2\"\ngroup = \"x\"",
            5,
            "is not an address",
        ),
        (
            "interface = \"eth2\"\nport = 0",
            5,
            "port 0 is not between 1 and 65535",
        ),
        (
            "interface = \"eth2\"\nttl = 0",
            5,
            "ttl 0 is not between 1 and 255",
        ),
        (
            "interface = \"eth2\"\nflush_ms = 0",
            5,
            "flush_ms 0 is not between 1 and 2000",
        ),
        ("interface = \"eth2\"\nflush_ms = 2001", 5, "flush_ms 2001"),
    ];
    for (lines, line, reason) in cases {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[sync]\n{lines}\n");
        refused(&text, *line, reason);
    }
    let text = "[director]\ninterfaces = [\"eth0\"]\n[sync]\ninterface = \"eth2\"\n";
    let sync = parse(text).unwrap().sync.unwrap();
    assert_eq!(sync.spec.sync_id, 0);
}

#[test]
fn marking_rules_keep_their_order_and_their_family_is_inferred() {
    let rule = |mark| MarkRule {
        ipv6: false,
        protocol: None,
        destination: None,
        source: None,
        ports: None,
        mark,
    };
    let prefix = |address: &str, length| Some((address.parse().unwrap(), length));
    let text = "[director]\ninterfaces = [\"eth0\"]\n\
                [[mark]]\nmark = 4294967295\ndestination = \"192.0.2.7\"\nport = 80\n\
                [[mark]]\nmark = 2\nfamily = \"ipv6\"\nprotocol = \"sctp\"\n\
                [[mark]]\nmark = 1\nsource = \"2001:db8::/32\"\nport = \"1-65535\"\n";
    let expected = [
        MarkRule {
            destination: prefix("192.0.2.7", 32),
            ports: Some((80, 80)),
            ..rule(u32::MAX)
        },
        MarkRule {
            ipv6: true,
            protocol: Some(Protocol::Sctp),
            ..rule(2)
        },
        MarkRule {
            ipv6: true,
            source: prefix("2001:db8::", 32),
            ports: Some((1, 65_535)),
            ..rule(1)
        },
    ];
    assert_eq!(parse(text).unwrap().marks, expected);
}

#[test]
fn bad_marking_rules_are_refused_where_they_stand() {
    let cases: &[(&str, usize, &str)] = &[
        ("family = \"ipv4\"", 3, "missing field `mark`"),
        (
            "mark = 1",
            3,
            "a [[mark]] needs a family, a destination or a source",
        ),
        (
            "mark = 0\nfamily = \"ipv4\"",
            4,
            "mark 0 is not between 1 and",
        ),
        ("mark = 4294967296", 4, "invalid value"),
        ("mark = 1\nfamily = \"inet\"", 5, "unknown variant `inet`"),
        ("mark = 1\nprotocol = \"icmp\"", 5, "unknown variant `icmp`"),
        ("mark = 1\ndport = 80", 5, "unknown field `dport`"),
        (
            "mark = 1\ndestination = \"host\"",
            5,
            "destination \"host\" is not ADDRESS[/LENGTH]",
        ),
        (
            "mark = 1\nsource = \"192.0.2.0/33\"",
            5,
            "has a length that is not between 0 and 32",
        ),
        ("mark = 1\nsource = \"192.0.2.0/\"", 5, "has a length that"),
        (
            "mark = 1\nsource = \"::/129\"",
            5,
            "has a length that is not between 0 and 128",
        ),
        (
            "mark = 1\nsource = \"192.0.2.1/24\"",
            5,
            "has bits set beyond its length of 24",
        ),
        ("mark = 1\nsource = \"::1/0\"", 5, "has bits set beyond"),
        (
            "mark = 1\nsource = \"::/0\"\ndestination = \"192.0.2.0/24\"",
            5,
            "source \"::/0\" is of another family than the rest of the rule",
        ),
        (
            "mark = 1\nfamily = \"ipv6\"\ndestination = \"192.0.2.0/24\"",
            6,
            "is of another family",
        ),
        (
            "mark = 1\nfamily = \"ipv4\"\nport = 0",
            6,
            "port 0 is not between 1 and 65535",
        ),
        (
            "mark = 1\nfamily = \"ipv4\"\nport = 65536",
            6,
            "port 65536 is not between 1 and 65535",
        ),
        (
            "mark = 1\nfamily = \"ipv4\"\nport = \"80-79\"",
            6,
            "port 80-79 has its ends the wrong way round",
        ),
        (
            "mark = 1\nfamily = \"ipv4\"\nport = \"http\"",
            6,
            "port is neither a number nor \"LOW-HIGH\"",
        ),
        ("mark = 1\nport = 1.5", 5, "a port is a number, or"),
    ];
    for (lines, line, reason) in cases {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[[mark]]\n{lines}\n");
        refused(&text, *line, reason);
    }
    let rule = "[[mark]]\nmark = 1\nfamily = \"ipv4\"\n";
    let text = format!("[director]\ninterfaces = [\"eth0\"]\n{}", rule.repeat(257));
    refused(&text, 3 + 256 * 3, "257 [[mark]] rules are more than 256");
}

#[test]
fn an_empty_file_is_refused() {
    refused("", 1, "missing field `director`");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/director.toml")).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/director.toml: "),
        "{error}"
    );
}

fn keys_of(table: &toml::Value) -> Vec<&str> {
    let mut keys: Vec<&str> = table
        .as_table()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    keys.sort_unstable();
    keys
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("d.toml"), "host")
}

fn refused(text: &str, line: usize, reason: &str) {
    let error = parse(text).expect_err(text).to_string();
    assert!(
        error.starts_with(&format!("d.toml:{line}: ")),
        "{text}\n{error}"
    );
    assert!(error.contains(reason), "{text}\n{error}");
    assert!(!error.contains('\n'), "{error}");
}

/// The keys serde accepts for a struct.
fn fields_of<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    let mut fields = Vec::new();
    assert!(T::deserialize(FieldProbe(&mut fields)).is_err());
    fields
}

/// A deserializer that notes the fields asked for and then fails.
struct FieldProbe<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for FieldProbe<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, ValueError> {
        Err(serde::de::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, ValueError> {
        self.0.extend_from_slice(fields);
        Err(serde::de::Error::custom("fields noted"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        option unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier
        ignored_any
    }
}
