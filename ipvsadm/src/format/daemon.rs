//! The lines of `-L --daemon` and `-L --timeout`.

use ipvs_model::sync::{SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;

use super::address;

/// The line of one sync daemon; what the director does not report is left out.
pub fn line(role: SyncRole, spec: &SyncSpec) -> String {
    let mut line = format!(
        "{} sync daemon (mcast={}, syncid={}",
        role.name(),
        spec.interface,
        spec.sync_id
    );
    let unless_zero = |value: u16| (value != 0).then(|| value.to_string());
    let optional = [
        ("maxlen", unless_zero(spec.maxlen)),
        ("group", spec.group.map(address)),
        ("port", unless_zero(spec.port)),
        ("ttl", unless_zero(spec.ttl.into())),
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
