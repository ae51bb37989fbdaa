//! The section `[sysctl]`.

use super::*;

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
            "est_cpulist = \"0-4095\"",
            "est_cpulist \"0-4095\" is not supported",
        ),
        (
            "lblc_expiration = 8589935",
            "lblc_expiration 8589935 is not between -8589934 and 8589934",
        ),
        (
            "lblcr_expiration = -8589935",
            "lblcr_expiration -8589935 is not",
        ),
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
            "is not between -8589934 and 8589934",
        ),
        ("sync_retries = 4", "sync_retries 4 is not between 0 and 3"),
        (
            "sync_qlen_max = -1",
            "sync_qlen_max -1 is not between 0 and 18446744073709551615",
        ),
        (
            "sync_sock_size = 2147483648",
            "sync_sock_size 2147483648 is not between",
        ),
        ("sync_ports = 3", "sync_ports 3 is not a power of two"),
        ("sync_ports = 0", "sync_ports 0 is not a power of two"),
        ("sync_version = 2", "sync_version 2 is not between 0 and 1"),
    ];
    for (line, reason) in cases {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[sysctl]\n{line}\n");
        refused(&text, 4, reason);
    }
}

#[test]
fn tunables_take_the_words_of_the_kernel() {
    let with = |lines: &str| {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[sysctl]\n{lines}\n");
        parse(&text).unwrap().sysctl
    };
    let shown = |lines: &str, name: &str| {
        let all = with(lines).list();
        all.into_iter().find(|(known, _)| known == name).unwrap().1
    };
    let sync = with("sync_threshold = \" 7\\t0 \"").sync();
    assert_eq!((sync.threshold, sync.period), (7, 0));
    let sync = with("sync_threshold = 9").sync();
    assert_eq!((sync.threshold, sync.period), (9, 50));
    // As in the kernel, any other number than 0 is on.
    assert!(with("\"net.ipv4.vs.backup_only\" = -1").backup_only());
    assert_eq!(shown("secure_tcp = \"3\"", "secure_tcp"), "3");
    assert_eq!(shown("conn_reuse_mode = -1", "conn_reuse_mode"), "-1");
    assert_eq!(shown("conn_reuse_mode = 0x10", "conn_reuse_mode"), "16");
    assert_eq!(shown("lblcr_expiration = 0", "lblcr_expiration"), "0");
    assert!(!with("run_estimation = 0").run_estimation());
    for name in [
        "cache_bypass",
        "expire_nodest_conn",
        "expire_quiescent_template",
        "sloppy_sctp",
        "sloppy_tcp",
    ] {
        assert_eq!(shown(&format!("{name} = 1"), name), "1");
    }
    let sync = with("sync_retries = 3\nsync_persist_mode = 1\nsync_sock_size = 9000").sync();
    assert_eq!(
        (sync.retries, sync.persist_mode, sync.sock_size),
        (3, true, 9000)
    );
    let sync = with("sync_ports = 4\nsync_version = 0\nsync_qlen_max = \"7250\"").sync();
    assert_eq!((sync.ports, sync.qlen_max), (4, 7250));
    assert_eq!(sync.version, syncproto::wire::Version::V0);
}

#[test]
fn a_default_may_be_spelled_out() {
    for (name, default) in Sysctl::default().list() {
        let text = format!("[director]\ninterfaces = [\"eth0\"]\n[sysctl]\n{name} = {default:?}\n");
        assert_eq!(parse(&text).unwrap().sysctl, Sysctl::default(), "{name}");
    }
}
