//! Configurations that are refused: FILE:LINE: reason, before anything is touched.

use std::os::unix::process::CommandExt;

use crate::host::{Host, NOBODY, ended};

#[test]
fn every_mistake_is_refused_with_file_and_line() {
    let host = Host::new();
    // What is wrong stands in the last line, the eleventh.
    for (text, reason) in [
        (
            "colour = 1",
            "unknown field `colour`, expected one of `name`, `interfaces`, `pin_dir`, `attach`, \
             `lease_ms`, `control`, `connections_v4`, `connections_v6`, `services`, `servers`, \
             `hash_tables`, `cache_entries`, `log`, `log_level`, `vrrp_rt_priority`, \
             `vrrp_startup_delay_ms`, `metrics`",
        ),
        (
            "lease_ms = 99",
            "lease_ms 99 is neither 0 nor between 100 and 600000",
        ),
        (
            "lease_ms = \"long\"",
            "invalid type: string \"long\", expected u64",
        ),
        (
            "attach = \"xdp\"",
            "unknown variant `xdp`, expected one of `auto`, `tcx`, `clsact`",
        ),
        ("servers = 4", "duplicate key"),
        (
            "hash_tables = 0",
            "hash_tables 0 is not between 1 and 65536",
        ),
        (
            "log_level = ",
            "string values must be quoted, expected literal string",
        ),
    ] {
        let config = host.config(text);
        let line = format!("directord: {}:11: {reason}", config.display());
        host.run(&config).failed(2, &line);
        host.is_untouched();
    }
}

#[test]
fn impossible_combinations_are_refused() {
    let host = Host::new();
    for (text, reason) in [
        (
            "interfaces = []",
            "interfaces is empty, at least one is needed",
        ),
        (
            "interfaces = [\"lan0\", \"lan0\"]",
            "interface lan0 is listed twice",
        ),
        ("interfaces = [\"a/b\"]", "\"a/b\" is not an interface name"),
    ] {
        let config = host.config(text);
        let line = format!("directord: {}:10: {reason}", config.display());
        host.run(&config).failed(2, &line);
        host.is_untouched();
    }
}

#[test]
fn bad_marking_rules_and_tunables_are_refused() {
    let host = Host::new();
    // What is wrong stands in the thirteenth line.
    for (text, reason) in [
        (
            "[[mark]]\nmark = 7\ndestination = \"192.0.2.1/24\"",
            "destination \"192.0.2.1/24\" has bits set beyond its length of 24",
        ),
        (
            "[[mark]]\nfamily = \"ipv6\"\nmark = 0",
            "mark 0 is not between 1 and 4294967295",
        ),
        (
            "[sysctl]\ncache_bypass = 1\ndrop_packet = 3",
            "drop_packet 3 is not supported by this director yet, it has only the default 0: the \
             defence against floods",
        ),
    ] {
        let config = host.config(text);
        let line = format!("directord: {}:13: {reason}", config.display());
        host.run(&config).failed(2, &line);
        host.is_untouched();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let host = Host::new();
    let missing = host.dir.join("missing.toml");
    let line = format!(
        "directord: {}: No such file or directory (os error 2)",
        missing.display()
    );
    host.run(&missing).failed(2, &line);
    let binary = host.file("binary.toml", b"[director]\nname = \"\xff\"\n");
    let line = format!("directord: {}:2: not UTF-8 text", binary.display());
    host.run(&binary).failed(2, &line);
    let broken = host.file("broken.toml", b"[director\n");
    let line = format!(
        "directord: {}:1: unclosed table, expected `]`",
        broken.display()
    );
    host.run(&broken).failed(2, &line);
    host.is_untouched();
}

#[test]
fn check_judges_and_touches_nothing() {
    let host = Host::new();
    let good = host.config("");
    let good = good.to_str().unwrap();
    let check = ["run", "--check", "--config", good];
    assert_eq!(
        host.directord(&check).succeeded(),
        format!("{good}: valid\n")
    );
    // Everybody may ask.
    let asked = ended(
        host.command("directord")
            .args(check)
            .uid(NOBODY)
            .gid(NOBODY),
    );
    assert_eq!(asked.succeeded(), format!("{good}: valid\n"));
    let bad = host.config("lease_ms = 5");
    let bad = bad.to_str().unwrap();
    let line = format!("directord: {bad}:11: lease_ms 5 is neither 0 nor between 100 and 600000");
    host.directord(&["run", "--check", "--config", bad])
        .failed(2, &line);
    host.is_untouched();
}

#[test]
fn check_remarks_upon_what_is_doubtful_as_a_start_does() {
    let host = Host::new();
    let config = host.config(
        "[[vrrp]]\ninterface = \"lan0\"\nvrid = 51\nvips = [\"192.0.2.100\"]\n\
         peers = [\"192.0.2.2\"]\n[[track_file]]\nname = \"drain\"\nfile = \"/run/drain\"",
    );
    let file = config.to_str().unwrap();
    let checked = host.directord(&["run", "--check", "--config", file]);
    assert_eq!(checked.status, Some(0));
    assert_eq!(checked.out, format!("{file}: valid\n"));
    let expected = [
        format!(
            "directord: {file}: vrrp-51: whoever can send packets to this host can take the role away; \
             check_unicast_src = true hears the peers alone"
        ),
        format!("directord: {file}: [[track_file]] drain: nothing depends on it"),
    ];
    assert_eq!(checked.err.lines().collect::<Vec<_>>(), expected);
    host.is_untouched();
}
