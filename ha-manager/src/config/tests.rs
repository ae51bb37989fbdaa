use std::collections::BTreeMap;

use ::vrrp::{Authentication, ChecksumForm};
use ipvs_model::protocol::Protocol;
use serde::de::{Deserializer, Visitor, value::Error as ValueError};

use super::*;

mod auth;
mod groups;
mod marks;
mod pair;
mod tunables;
mod vrrp;

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
        vrrp: Vec::new(),
        vrrp_groups: Vec::new(),
        track_scripts: Vec::new(),
        track_processes: Vec::new(),
        track_files: Vec::new(),
        notify: NotifyConfig::default(),
        vrrp_thread: VrrpThreadConfig::default(),
        metrics: Some("127.0.0.1:9140".parse().unwrap()),
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
    let vips = vec![
        vip("192.0.2.100", 32, "eth0"),
        vip("10.0.0.254", 24, "eth1"),
    ];
    let expected = VrrpConfig::plain("vrrp-51", 51, vips);
    assert_eq!(config.vrrp, std::slice::from_ref(&expected));
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
    let others = "[[vrrp_group]]\nname = \"site\"\nmembers = [\"vrrp-51\"]\n\
                  [[track_script]]\nname = \"uplink\"\n\
                  script = [\"/usr/local/libexec/check-uplink\", \"192.0.2.1\"]\n\
                  [[track_process]]\nname = \"proxy\"\nprocess = \"haproxy\"\n\
                  [[track_file]]\nname = \"drain\"\nfile = \"/run/tandem/drain\"\n";
    let pair = pair + EXCLUDED + others + mark;
    assert_eq!(example, parse(&pair).unwrap());

    let shown: BTreeMap<String, toml::Value> = toml::from_str(EXAMPLE).unwrap();
    let mut sections = fields_of::<RawConfig>();
    sections.sort_unstable();
    assert_eq!(shown.keys().collect::<Vec<_>>(), sections);
    // Keys whose default depends on something else, or that have none, stand in comments.
    for (name, mut known, in_comments) in [
        ("director", fields_of::<RawDirector>(), &[][..]),
        ("sysctl", sysctl::SUPPORTED.to_vec(), &[]),
        ("sync", fields_of::<RawSync>(), &["maxlen", "peers"]),
        (
            "vrrp",
            fields_of::<RawVrrp>(),
            &["source", "auth_pass", "vmac_mac"],
        ),
        ("vrrp_group", fields_of::<RawGroup>(), &[]),
        ("track_script", fields_of::<RawTrackScript>(), &["user"]),
        ("track_process", fields_of::<RawTrackProcess>(), &[]),
        ("track_file", fields_of::<RawTrackFile>(), &[]),
        ("notify", fields_of::<RawNotify>(), &["fifo", "user"]),
        ("mark", fields_of::<RawMark>(), &[]),
    ] {
        let section = &shown[name];
        let mut shown = keys_of(section.get(0).unwrap_or(section));
        for key in in_comments {
            assert!(EXAMPLE.contains(&format!("\n# {key} = ")), "{key}");
            shown.push(key);
        }
        shown.sort_unstable();
        known.sort_unstable();
        assert_eq!(shown, known, "{name}");
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
