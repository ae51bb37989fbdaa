//! Sync daemons, by role and port.

use super::seconds;
use crate::metrics::text::{Family, Kind, Text};
use crate::status::SyncStatus;

/// Counters of all ports: those with a name of their own, then losses by reason, then the rest.
const SYNC_NAMED: [(&str, &str, &str); 4] = [
    (
        "messages",
        "tandem_sync_messages_total",
        "Messages sent or received.",
    ),
    (
        "entries",
        "tandem_sync_entries_total",
        "Connections in them.",
    ),
    ("bytes", "tandem_sync_bytes_total", "Bytes of them."),
    (
        "offered",
        "tandem_sync_offered_total",
        "Connections offered to be sent.",
    ),
];
const SYNC_LOST: [&str; 2] = ["drop_", "refused_"];

pub(super) fn sync(text: &mut Text, daemons: &[SyncStatus]) {
    let mut family = text.family(
        Kind::Gauge,
        "tandem_sync_info",
        "Always 1 while a sync daemon runs.",
    );
    for daemon in daemons {
        let labels = [
            ("interface", daemon.interface.as_str()),
            ("role", daemon.role.name()),
            ("syncid", &daemon.sync_id.to_string()),
        ];
        family.sample(&labels, 1);
    }
    for (counter, name, help) in SYNC_NAMED {
        let mut family = text.family(Kind::Counter, name, help);
        sync_counters(daemons, |role, port, name, count| {
            if name == counter {
                family.sample(&[("port", port), ("role", role)], count);
            }
        });
    }
    let lost = |name: &str| {
        let mut prefixes = SYNC_LOST.iter();
        prefixes.find_map(|prefix| name.strip_prefix(prefix).map(|_| ()))
    };
    let mut family = text.family(
        Kind::Counter,
        "tandem_sync_drops_total",
        "What did not get on, by reason.",
    );
    sync_counters(daemons, |role, port, name, count| {
        if lost(name).is_some() {
            let reason = name.strip_prefix("drop_").unwrap_or(name);
            family.sample(&[("port", port), ("reason", reason), ("role", role)], count);
        }
    });
    let mut family = text.family(
        Kind::Counter,
        "tandem_sync_events_total",
        "What else a sync daemon counts.",
    );
    sync_counters(daemons, |role, port, name, count| {
        let has_name = SYNC_NAMED.iter().any(|(counter, ..)| *counter == name);
        if !has_name && lost(name).is_none() {
            family.sample(&[("event", name), ("port", port), ("role", role)], count);
        }
    });
    sync_pace(text, daemons);
}

fn sync_counters(daemons: &[SyncStatus], mut take: impl FnMut(&str, &str, &str, u64)) {
    for daemon in daemons {
        for port in &daemon.ports {
            let number = port.port.to_string();
            for (name, count) in &port.counters {
                take(daemon.role.name(), &number, name, *count);
            }
        }
    }
}

fn sync_pace(text: &mut Text, daemons: &[SyncStatus]) {
    let ports = || {
        let daemons = daemons.iter();
        daemons.flat_map(|daemon| daemon.ports.iter().map(move |port| (daemon.role, port)))
    };
    let put = |family: &mut Family<'_>, role: &str, port: u16, value: f64| {
        family.sample(&[("port", &port.to_string()), ("role", role)], value);
    };
    let mut family = text.family(
        Kind::Gauge,
        "tandem_sync_queue_messages",
        "Messages that wait for the socket.",
    );
    for (role, port) in ports() {
        put(&mut family, role.name(), port.port, seconds(port.queued, 1));
    }
    let mut family = text.family(
        Kind::Gauge,
        "tandem_sync_lag_seconds",
        "From the offer of the newest entry sent to the socket.",
    );
    for (role, port) in ports() {
        if let Some(lag_us) = port.lag_us {
            let lag = seconds(lag_us, 1_000_000);
            put(&mut family, role.name(), port.port, lag);
        }
    }
    let mut family = text.family(
        Kind::Gauge,
        "tandem_sync_idle_seconds",
        "Since the newest message.",
    );
    for (role, port) in ports() {
        if let Some(idle_ms) = port.idle_ms {
            put(&mut family, role.name(), port.port, seconds(idle_ms, 1000));
        }
    }
}
