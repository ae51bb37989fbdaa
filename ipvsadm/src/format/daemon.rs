//! The lines of `-L --daemon` and `-L --timeout`.

use ipvs_model::timeouts::Timeouts;

use super::address;
use crate::args::SyncDaemon;

/// The line of one sync daemon; what the director does not report is left out.
pub fn line(daemon: &SyncDaemon) -> String {
    let mut line = format!(
        "{} sync daemon (mcast={}, syncid={}",
        daemon.role.name(),
        daemon.interface,
        daemon.sync_id
    );
    let optional = [
        ("maxlen", daemon.maxlen_bytes.map(|bytes| bytes.to_string())),
        ("group", daemon.group.map(address)),
        ("port", daemon.port.map(|port| port.to_string())),
        ("ttl", daemon.ttl.map(|ttl| ttl.to_string())),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            line += &format!(", {name}={value}");
        }
    }
    line + ")\n"
}

/// The line of `-L --timeout`.
pub fn timeouts(timeouts: &Timeouts) -> String {
    let Timeouts {
        tcp_secs,
        tcp_fin_secs,
        udp_secs,
    } = timeouts;
    format!("Timeout (tcp tcpfin udp): {tcp_secs} {tcp_fin_secs} {udp_secs}\n")
}
