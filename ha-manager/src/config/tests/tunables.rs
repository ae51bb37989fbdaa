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
