//! Passwords of version 2: taken, kept out of sight, refused with the rule.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn with(lines: &str) -> String {
    format!(
        "[director]\ninterfaces = [\"eth0\"]\n[[vrrp]]\ninterface = \"eth0\"\nvrid = 7\n\
         vips = [\"192.0.2.100\"]\nversion = 2\n{lines}\n"
    )
}

#[test]
fn passwords_are_refused_with_the_rule_and_never_shown() {
    let cases: &[(&str, usize, &str)] = &[
        ("auth = \"pass\"", 8, "auth without auth_pass"),
        ("auth_pass = \"qWxY\"", 8, "auth_pass without auth"),
        ("auth = \"pass\"\nauth_pass = \"\"", 9, "auth_pass is empty"),
        (
            "auth = \"pass\"\nauth_pass = \"qWxY56789\"",
            9,
            "auth_pass of 9 bytes is longer than the 8 an advert has room for; keepalived cuts it",
        ),
        (
            "auth = \"ah\"\nauth_pass = \"qWxY\\u0000\"",
            9,
            "auth_pass contains a zero byte",
        ),
        (
            "auth = \"pass\"\nauth_pass = 77771111",
            9,
            "auth_pass is not a string: a password stands in quotes",
        ),
        (
            "auth = \"pass\"\nauth_pass = 7777.1111",
            9,
            "stands in quotes",
        ),
        ("auth = \"pass\"\nauth_pass = true", 9, "stands in quotes"),
        (
            "auth = \"pass\"\nauth_pass = [\"qWxY\"]",
            9,
            "a password in quotes",
        ),
    ];
    for (lines, line, reason) in cases {
        refused(&with(lines), *line, reason);
        let error = parse(&with(lines)).unwrap_err().to_string();
        assert!(
            !error.contains("qWxY") && !error.contains("7777"),
            "{error}"
        );
    }
}

#[test]
fn a_password_is_what_stands_on_the_wire() {
    for (auth, password) in [("pass", "1111"), ("ah", "secret12")] {
        let text = with(&format!("auth = \"{auth}\"\nauth_pass = \"{password}\""));
        let config = parse(&text).unwrap();
        let mut bytes = [0; 8];
        bytes[..password.len()].copy_from_slice(password.as_bytes());
        let expected = match auth {
            "pass" => Authentication::Simple(bytes),
            _ => Authentication::Header(bytes),
        };
        assert_eq!(config.vrrp[0].authentication, expected);
        let shown = format!("{config:?}");
        assert!(
            !shown.contains(password) && !shown.contains("49, 49"),
            "{shown}"
        );
    }
}

#[test]
fn a_password_in_a_file_that_everybody_may_read_is_refused() {
    let dir = std::env::temp_dir().join(format!("tandem-config-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let path = dir.join("director.toml");
    let load = |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        Config::load(&path).map_err(|error| error.to_string())
    };
    let text = with("auth = \"pass\"\nauth_pass = \"1111\"");
    let error = load(&text, 0o644).unwrap_err();
    assert!(
        error.ends_with(
            ":9: auth_pass in a file that everybody may read; take that away (chmod o-r)"
        ),
        "{error}"
    );
    assert!(load(&text, 0o640).is_ok());
    assert!(load(&text, 0o600).is_ok());
    assert!(load(&with("").replace("version = 2", ""), 0o644).is_ok());
    fs::remove_dir_all(&dir).unwrap();
}
