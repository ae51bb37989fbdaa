//! What makes a pair: `[[vrrp]]` and `[sync]`.

use std::net::IpAddr;

use syncproto::wire::SeqOrder;

use super::*;

#[test]
fn excluded_addresses_are_of_either_family_and_no_part_of_adverts() {
    let excluded = EXCLUDED.replace(']', ", \"192.0.2.9\"]");
    let config = parse(&(PAIR.to_owned() + &excluded)).unwrap();
    let vrrp = config.vrrp.first().unwrap();
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
            "advert_ms 0 is not a multiple of 10 between 10 and 40950",
        ),
        (
            "vrid = 1\npriority = 0\nvips = [\"192.0.2.1\"]",
            6,
            "priority 0 is not between 1 and 255",
        ),
        (
            "vrid = 1\npriority = 255\npreempt = false\nvips = [\"192.0.2.1\"]",
            6,
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
            "vrid = 1\nversion = 4\nvips = [\"192.0.2.1\"]",
            6,
            "version 4 is not between 2 and 3",
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
    let first = vrrp(&format!("vrid = 7\n{vips}"));
    for (second, line, reason) in [
        (
            "vrid = 7\nvips = [\"192.0.2.9\"]\nname = \"b\"",
            9,
            "vrid 7 is there twice on eth0",
        ),
        (
            "vrid = 8\nvips = [\"192.0.2.100/24\"]",
            10,
            "vip 192.0.2.100 is one of vrrp-7 too",
        ),
        (
            "vrid = 8\nvips = [\"192.0.2.9\"]\nvips_excluded = [\"192.0.2.100\"]",
            10,
            "vip 192.0.2.100 is one of vrrp-7 too",
        ),
        (
            "vrid = 8\nvips = [\"192.0.2.9\"]\nname = \"vrrp-7\"",
            11,
            "two instances have the name \"vrrp-7\"",
        ),
    ] {
        let second = format!("[[vrrp]]\ninterface = \"eth0\"\n{second}\n");
        refused(&(first.clone() + &second), line, reason);
    }
}

#[test]
fn several_instances_share_a_director() {
    let more = "[[vrrp]]\ninterface = \"eth1\"\nvrid = 51\nvips = [\"10.0.0.9\"]\nname = \"b\"\nadvert_ms = 200\n";
    let config = parse(&(PAIR.to_owned() + more)).unwrap();
    let names: Vec<&str> = config.vrrp.iter().map(|vrrp| vrrp.name.as_str()).collect();
    assert_eq!(names, ["vrrp-51", "b"]);
    // The first gives the sync id, the fastest the lease.
    assert_eq!(config.sync.unwrap().spec.sync_id, 51);
    assert_eq!(config.lease, Some(Duration::from_millis(400)));
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
            "interface = \"eth2\"\ngroup = \"2001:db8::1\"",
            5,
            "group 2001:db8::1 is not a multicast address",
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
        (
            "interface = \"eth2\"\ntable_share = 9",
            5,
            "table_share 9 is not between 10 and 100",
        ),
        (
            "interface = \"eth2\"\nv0_byte_order = \"middle\"",
            5,
            "unknown variant `middle`, expected one of `host`, `little`, `big`",
        ),
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
fn bad_peers_are_refused_where_they_stand() {
    let sync = |peers: &str| PAIR.replace("[sync]\n", &format!("[sync]\npeers = {peers}\n"));
    let many: Vec<String> = (1..18).map(|last| format!("\"192.0.2.{last}\"")).collect();
    let many = format!("[{}]", many.join(", "));
    let odd = "is not an address another host can have";
    let cases: &[(&str, String)] = &[
        ("[]", "0 peers are not between 1 and 16".to_owned()),
        (&many, "17 peers are not between 1 and 16".to_owned()),
        ("[\"lb2\"]", "peer lb2: not an address".to_owned()),
        (
            "[\"224.0.0.81\"]",
            "peer 224.0.0.81 is a multicast address: that is a group".to_owned(),
        ),
        ("[\"ff02::81\"]", "peer ff02::81 is a multicast".to_owned()),
        ("[\"0.0.0.0\"]", format!("peer 0.0.0.0 {odd}")),
        (
            "[\"255.255.255.255\"]",
            format!("peer 255.255.255.255 {odd}"),
        ),
        ("[\"127.0.0.1\"]", format!("peer 127.0.0.1 {odd}")),
        ("[\"::1\"]", format!("peer ::1 {odd}")),
        (
            "[\"10.3.0.2\", \"fd00::2\"]",
            "peer fd00::2 is of another family than the first".to_owned(),
        ),
        (
            "[\"10.3.0.2\", \"10.3.0.2\"]",
            "peer 10.3.0.2 is there twice".to_owned(),
        ),
        (
            "[\"10.0.0.254\"]",
            "peer 10.0.0.254 is a virtual address, and this node's own while it is active"
                .to_owned(),
        ),
        (
            "[\"10.3.0.2\"]\ngroup = \"224.0.0.81\"",
            "group and peers: messages go to one or the other".to_owned(),
        ),
    ];
    for (peers, reason) in cases {
        let line = if peers.contains("group") { 5 } else { 4 };
        refused(&sync(peers), line, reason);
    }
}

#[test]
fn messages_travel_to_a_group_of_either_family_or_to_peers() {
    let sync = |line: &str| {
        let text = PAIR.replace("[sync]\n", &format!("[sync]\n{line}\n"));
        parse(&text).unwrap().sync.unwrap()
    };
    let group = sync("group = \"ff02::81\"");
    assert_eq!(group.spec.group, Some("ff02::81".parse().unwrap()));
    assert!(group.is_ipv6() && group.peers.is_empty());
    let peers = sync("peers = [\"10.3.0.2\", \"10.3.0.3\"]");
    let expected = ["10.3.0.2", "10.3.0.3"].map(|text| text.parse::<IpAddr>().unwrap());
    assert_eq!(peers.peers, expected);
    assert_eq!((peers.spec.group, peers.is_ipv6()), (None, false));
    assert!(sync("peers = [\"fd00::2\"]").is_ipv6());
}

#[test]
fn the_byte_order_of_version_0_and_the_share_of_the_table_have_defaults() {
    let sync = |line: &str| {
        let text = PAIR.replace("[sync]\n", &format!("[sync]\n{line}\n"));
        let sync = parse(&text).unwrap().sync.unwrap();
        (sync.seq_order, sync.table_share)
    };
    assert_eq!(sync(""), (SeqOrder::HOST, 90));
    assert_eq!(sync("v0_byte_order = \"host\""), (SeqOrder::HOST, 90));
    assert_eq!(sync("v0_byte_order = \"little\"").0, SeqOrder::Little);
    assert_eq!(sync("v0_byte_order = \"big\"").0, SeqOrder::Big);
    assert_eq!(sync("table_share = 100").1, 100);
}
