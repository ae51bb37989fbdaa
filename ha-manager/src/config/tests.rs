use std::collections::BTreeMap;

use serde::de::{Deserializer, Visitor, value::Error as ValueError};

use super::*;

const EXAMPLE: &str = include_str!("../../director.example.toml");

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
            services: 4096,
            servers: 16_384,
        },
        log: LogFormat::Text,
        log_level: LogLevel::Info,
    };
    assert_eq!(config, expected);
}

#[test]
fn the_example_shows_every_key_with_its_default() {
    let example = parse(EXAMPLE).unwrap();
    let minimal = parse("[director]\nname = \"director-a\"\ninterfaces = [\"eth0\"]\n").unwrap();
    assert_eq!(example, minimal);

    let shown: BTreeMap<String, toml::Table> = toml::from_str(EXAMPLE).unwrap();
    assert_eq!(shown.keys().collect::<Vec<_>>(), fields_of::<RawConfig>());
    let mut keys: Vec<&str> = fields_of::<RawDirector>();
    keys.sort_unstable();
    let mut shown: Vec<&str> = shown["director"].keys().map(String::as_str).collect();
    shown.sort_unstable();
    assert_eq!(shown, keys);
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
            "connections = 1000",
            "connections 1000 is not a power of two between 256 and 16777216",
        ),
        ("connections = 128", "connections 128"),
        ("connections = 33554432", "connections 33554432"),
        ("connections = 0", "connections 0"),
        ("connections = 4294967296", "invalid value"),
        ("services = 0", "services 0 is not between 1 and 65536"),
        ("services = 65537", "services 65537"),
        ("servers = 0", "servers 0 is not between 1 and 1048576"),
        ("servers = 1048577", "servers 1048577"),
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
