//! The sections `[[mark]]`.

use super::*;

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
