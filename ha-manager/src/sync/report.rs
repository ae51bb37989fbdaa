//! What the daemons tell of themselves.

use std::net::IpAddr;

use ipvs_model::sync::{SyncRole, SyncSpec};
use syncproto::wire::Version;

/// Counters or gauges by name, in a fixed order.
pub type Named = Vec<(&'static str, u64)>;

/// One daemon, for `directord status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemonStatus {
    pub role: SyncRole,
    pub spec: SyncSpec,
    /// In place of the group.
    pub peers: Vec<IpAddr>,
    /// What a master sends; a backup takes both.
    pub version: Option<Version>,
    /// Of all ports together: messages, entries, bytes, then drops by reason.
    pub counters: Named,
    /// Each thread's, in the order of ports.
    pub ports: Vec<SyncPortStatus>,
    /// What is wrong with it at this moment, for an operator.
    pub problem: Option<String>,
    /// What was not as it should be when it started.
    pub warning: Option<String>,
}

/// One thread of a daemon, and its port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncPortStatus {
    pub port: u16,
    /// As those of the daemon; the names that begin with `drop_` or `refused_`, and errors, are what
    /// did not get on.
    pub counters: Named,
    /// Messages of a master that wait for the socket.
    pub queued: u64,
    /// Of a master's newest message: from the offer of its newest entry to the socket, and never less
    /// than the age of the message. To about a tick. Unit: microseconds.
    pub lag_us: Option<u64>,
    /// Since the newest message was sent or received. Unit: milliseconds.
    pub idle_ms: Option<u64>,
}

impl SyncPortStatus {
    /// What did not get on here, by reason; zeroes left out.
    pub fn losses(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let is_loss = |name: &str| {
            name.starts_with("drop_")
                || name.starts_with("refused_")
                || matches!(name, "truncated" | "socket_errors" | "peer_refused")
        };
        let found = self.counters.iter().copied();
        found.filter(move |(name, count)| *count > 0 && is_loss(name))
    }
}

/// Adds counters of one port to those of all; both have the same names in the same order.
pub(super) fn add_up(ports: &[SyncPortStatus]) -> Named {
    let mut sum: Named = Vec::new();
    for port in ports {
        if sum.is_empty() {
            sum.clone_from(&port.counters);
            continue;
        }
        for ((_, sum), (_, count)) in sum.iter_mut().zip(&port.counters) {
            *sum = sum.wrapping_add(*count);
        }
    }
    sum
}
