//! The scenarios that come with the program.

/// By file name.
pub(super) const SHIPPED: [(&str, &str); 32] = [
    ("failover", include_str!("../../scenarios/failover.toml")),
    (
        "failover-short",
        include_str!("../../scenarios/failover-short.toml"),
    ),
    ("failover6", include_str!("../../scenarios/failover6.toml")),
    (
        "failover6-short",
        include_str!("../../scenarios/failover6-short.toml"),
    ),
    (
        "failover-slow",
        include_str!("../../scenarios/failover-slow.toml"),
    ),
    (
        "failover6-slow",
        include_str!("../../scenarios/failover6-slow.toml"),
    ),
    ("comeback", include_str!("../../scenarios/comeback.toml")),
    ("matrix", include_str!("../../scenarios/matrix.toml")),
    ("handover", include_str!("../../scenarios/handover.toml")),
    ("failback", include_str!("../../scenarios/failback.toml")),
    (
        "failback-preempt",
        include_str!("../../scenarios/failback-preempt.toml"),
    ),
    ("converge", include_str!("../../scenarios/converge.toml")),
    ("flood", include_str!("../../scenarios/flood.toml")),
    ("balance", include_str!("../../scenarios/balance.toml")),
    (
        "daemon-loss",
        include_str!("../../scenarios/daemon-loss.toml"),
    ),
    (
        "daemon-fenced",
        include_str!("../../scenarios/daemon-fenced.toml"),
    ),
    (
        "daemon-gone-10min",
        include_str!("../../scenarios/daemon-gone-10min.toml"),
    ),
    (
        "vrrp-faults",
        include_str!("../../scenarios/vrrp-faults.toml"),
    ),
    (
        "vrrp-steady",
        include_str!("../../scenarios/vrrp-steady.toml"),
    ),
    (
        "vrrp-restart",
        include_str!("../../scenarios/vrrp-restart.toml"),
    ),
    (
        "handover-planned",
        include_str!("../../scenarios/handover-planned.toml"),
    ),
    (
        "active-active",
        include_str!("../../scenarios/active-active.toml"),
    ),
    ("directing", include_str!("../../scenarios/directing.toml")),
    (
        "directing-alone",
        include_str!("../../scenarios/directing-alone.toml"),
    ),
    (
        "failover-times",
        include_str!("../../scenarios/failover-times.toml"),
    ),
    (
        "false-takeovers",
        include_str!("../../scenarios/false-takeovers.toml"),
    ),
    (
        "kernel-sync",
        include_str!("../../scenarios/kernel-sync.toml"),
    ),
    (
        "sync-freeze",
        include_str!("../../scenarios/sync-freeze.toml"),
    ),
    (
        "sync-split",
        include_str!("../../scenarios/sync-split.toml"),
    ),
    ("sync-both", include_str!("../../scenarios/sync-both.toml")),
    ("sync-rate", include_str!("../../scenarios/sync-rate.toml")),
    (
        "sync-persist-cost",
        include_str!("../../scenarios/sync-persist-cost.toml"),
    ),
];
