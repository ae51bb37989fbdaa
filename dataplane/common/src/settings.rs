//! What user space tells the programs, one record in a mapped array.

use crate::service::StatsRecord;

/// A lease that never lapses.
pub const LEASE_FOREVER: u64 = u64::MAX;

/// The one element of `SETTINGS`. User space stores single fields; a program reads what it needs.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// CLOCK_BOOTTIME nanoseconds after which this node must not direct; [`LEASE_FOREVER`].
    pub lease_deadline_ns: u64,
    pub lease_epoch: u64,
    /// `rules::directing::Function` by role and configuration; the lease comes on top.
    pub function: u32,
    /// Places in `CONNS4` less one; the size is a power of two.
    pub conns4_mask: u32,
    /// Timeouts in seconds by TCP state number.
    pub tcp_timeout_secs: [u32; 16],
    pub udp_timeout_secs: u32,
    /// Kernel name `expire_nodest_conn`.
    pub expire_nodest_conn: u32,
    /// Kernel name `conn_reuse_mode`.
    pub conn_reuse_mode: u32,
    /// Kernel name `sloppy_tcp`.
    pub sloppy_tcp: u32,
    /// The second TCP table is in force (kernel name `secure_tcp`).
    pub secure_tcp: u32,
    /// A connection that saw a packet here within this many seconds is not replaced by a
    /// synchronised entry while this node directs.
    pub apply_guard_secs: u32,
    /// The master daemon runs: connections are offered ([`crate::offer`]) by
    /// [`crate::rules::sync`], whose tunables follow.
    pub sync_master: u32,
    /// Also what the packet counter of a synchronised connection starts with.
    pub sync_threshold: u32,
    pub sync_period: u32,
    /// Kernel name `sync_refresh_period`, in milliseconds.
    pub sync_refresh_ms: u32,
    pub sync_retries: u32,
    pub sync_persist_mode: u32,
    /// Kernel name `sloppy_sctp`.
    pub sloppy_sctp: u32,
    /// Kernel name `expire_quiescent_template`.
    pub expire_quiescent_template: u32,
    /// Kernel name `cache_bypass`.
    pub cache_bypass: u32,
    /// Kernel name `lblcr_expiration`, in seconds.
    pub lblcr_expiration_secs: u32,
    /// Kernel name `lblc_expiration`, in seconds; user space alone reads it.
    pub lblc_expiration_secs: u32,
    /// Places in `CONNS6` less one; the size is a power of two.
    pub conns6_mask: u32,
    /// Timeouts in seconds by SCTP state number.
    pub sctp_timeout_secs: [u32; 16],
    /// Services by firewall mark, TCP services on port 21, and services on port zero: without any
    /// a packet of no connection is spared the lookup.
    pub fwmark_services: u32,
    pub ftp_services: u32,
    pub port_zero_services: u32,
    /// The first port that anybody may have (kernel name `ip_unprivileged_port_start`).
    pub unprivileged_port: u32,
    /// Which marking rules are in force, see [`crate::service::mark_rules`].
    pub mark_rules: u64,
    /// The director's statistics at the last zeroing.
    pub zero: StatsRecord,
    /// Connections that synchronisation may still make in each table; *apply* takes one off for each
    /// it makes, user space renews them about once a second.
    pub sync_room4: u64,
    pub sync_room6: u64,
    /// Kernel name `sync_version`: 0 or 1.
    pub sync_version: u32,
    /// A connection without a port of its client has come by synchronisation.
    pub sync_no_cport: u32,
    /// CLOCK_MONOTONIC nanoseconds at which a sync daemon was at work last; for user space alone.
    pub sync_alive_ns: u64,
    /// Virtual addresses that take service traffic alone ([`crate::service::vip::NOT_ACCEPTED`]):
    /// without any nothing is looked up for it. Since version 5 of the layout, zero before.
    pub not_accepted: u32,
    /// A role is being handed over: the peer is to know of every connection, from its first packet on
    /// ([`crate::rules::sync::is_news`]). Since version 6 of the layout, zero before.
    pub sync_tell_all: u32,
    /// CLOCK_MONOTONIC_COARSE nanoseconds until which a packet that belongs to a connection which is
    /// not known here is dropped instead of passed: the node that had the role before may be telling of
    /// it. Since version 6 of the layout, zero before.
    pub unknown_held_ns: u64,
    pub reserved: [u64; 2],
}

/// Token bucket of the ICMP errors the programs send.
///
/// DIFFERS: the host's own limits (`icmp_msgs_per_sec`, `icmp_ratelimit`) cannot be seen from a
/// program, so these errors have a budget of their own. The bucket: milliseconds of the last refill in the upper
/// half, tokens in the lower.
pub mod icmp_bucket {
    /// Errors that may be sent at once (kernel name `icmp_msgs_burst`).
    pub const BURST: u32 = 50;
    /// Errors a second (kernel name `icmp_msgs_per_sec`).
    pub const PER_SEC: u32 = 1000;

    /// The bucket after one error at `now_ms`, or `None` when it is empty.
    pub const fn take(bucket: u64, now_ms: u32) -> Option<u64> {
        let (then, tokens) = ((bucket >> 32) as u32, bucket as u32);
        let elapsed_ms = now_ms.wrapping_sub(then);
        let refill = if elapsed_ms >= 1000 {
            BURST
        } else {
            elapsed_ms * PER_SEC / 1000
        };
        let filled = if tokens + refill > BURST {
            BURST
        } else {
            tokens + refill
        };
        if filled == 0 {
            return None;
        }
        Some((now_ms as u64) << 32 | (filled - 1) as u64)
    }
}

const _: () = assert!(size_of::<Settings>() == 352);

#[cfg(test)]
mod tests {
    use super::icmp_bucket::*;

    #[test]
    fn the_bucket_gives_a_burst_and_then_its_rate() {
        let mut bucket = 0;
        let mut sent = 0;
        while let Some(next) = take(bucket, 5000) {
            bucket = next;
            sent += 1;
        }
        assert_eq!(sent, BURST);
        assert!(take(bucket, 5001).is_some());
    }
}
