//! The node: role, lease, interfaces, tables, and what became of packets.

use super::{Figure, counter, gauge, seconds};
use crate::metrics::text::{Kind, Text};
use crate::status::{ConnectionTable, Directing, LinkState, Role, Status};

pub(super) fn director(text: &mut Text, status: &Status) {
    let labels = [
        ("director", status.name.as_str()),
        ("version", status.version),
    ];
    text.family(Kind::Gauge, "tandem_build_info", "Always 1.")
        .sample(&labels, 1);
    gauge(
        text,
        "tandem_uptime_seconds",
        "Since the daemon started.",
        status.uptime_secs,
    );
    let mut family = text.family(
        Kind::Gauge,
        "tandem_directing",
        "1 for what the programs do with service traffic.",
    );
    for (name, directing) in [
        ("lease-lapsed", Directing::LeaseLapsed),
        ("replies-only", Directing::RepliesOnly),
        ("yes", Directing::Yes),
    ] {
        let is_so = status.directing == directing;
        family.sample(&[("function", name)], u8::from(is_so));
    }
    if let Some(role) = status.role {
        let mut family = text.family(
            Kind::Gauge,
            "tandem_failover_state",
            "1 for what this node is.",
        );
        for (name, state) in [
            ("active", Role::Active),
            ("fault", Role::Fault),
            ("standby", Role::Standby),
        ] {
            family.sample(&[("state", name)], u8::from(role == state));
        }
    }
    lease(text, status);
    gauge(
        text,
        "tandem_problems",
        "What is wrong at the moment, as `directord status` lists it.",
        status.problems.len(),
    );
    counter(
        text,
        "tandem_log_lines_lost_total",
        "Log lines that nobody read in time.",
        status.log_lines_lost,
    );
    let mut family = text.family(
        Kind::Gauge,
        "tandem_interface_up",
        "Whether an interface of the director is up, with carrier.",
    );
    for interface in &status.interfaces {
        let is_up = interface.link == LinkState::Up;
        family.sample(&[("interface", &interface.name)], u8::from(is_up));
    }
    gauge(
        text,
        "tandem_routes",
        "Routes handed to the data plane.",
        status.network.routes,
    );
    gauge(
        text,
        "tandem_routes_current",
        "Whether the last hand-over of routes succeeded.",
        u8::from(status.network.current),
    );
}

fn lease(text: &mut Text, status: &Status) {
    let lease = &status.lease;
    gauge(
        text,
        "tandem_epoch",
        "Epoch of the lease; it grows with every promotion.",
        lease.epoch,
    );
    gauge(
        text,
        "tandem_lease_length_seconds",
        "Length of the lease; 0 never fences.",
        seconds(lease.length_ms, 1000),
    );
    if let Some(remaining_ms) = lease.remaining_ms {
        let sign = if remaining_ms < 0 { -1.0 } else { 1.0 };
        gauge(
            text,
            "tandem_lease_remaining_seconds",
            "Until the lease ends; negative when it has.",
            sign * seconds(remaining_ms.unsigned_abs(), 1000),
        );
    }
    counter(
        text,
        "tandem_lease_refused_total",
        "Renewals that were refused because of a higher epoch.",
        lease.refused,
    );
}

pub(super) fn tables(text: &mut Text, status: &Status) {
    let tables = &status.tables;
    let families = [
        ("connections_v4", tables.connections_v4),
        ("connections_v6", tables.connections_v6),
    ];
    let figures: [Figure<ConnectionTable, u32>; 3] = [
        (
            "tandem_table_entries",
            "Entries that are in force.",
            |table| table.live,
        ),
        (
            "tandem_table_places_taken",
            "Places that are not free: entries, and what is yet to be removed.",
            |table| table.taken,
        ),
        ("tandem_table_size", "Places of a table.", |table| {
            table.size
        }),
    ];
    for (name, help, figure) in figures {
        let mut family = text.family(Kind::Gauge, name, help);
        for (table, counted) in &families {
            family.sample(&[("table", table)], figure(counted));
        }
        let others = match name {
            "tandem_table_entries" => [Some(status.servers), Some(status.services)],
            "tandem_table_size" => [Some(tables.servers_size), Some(tables.services_size)],
            _ => [None, None],
        };
        for (table, count) in ["servers", "services"].into_iter().zip(others) {
            if let Some(count) = count {
                family.sample(&[("table", table)], count);
            }
        }
    }
    gauge(
        text,
        "tandem_table_memory_bytes",
        "Memory of all tables.",
        tables.memory_bytes,
    );
    counter(
        text,
        "tandem_expired_total",
        "Entries that the expiry walk removed.",
        tables.expired,
    );
    gauge(
        text,
        "tandem_servers_overloaded",
        "Servers at their upper threshold.",
        status.overloaded,
    );
    gauge(
        text,
        "tandem_mark_rules",
        "Rules of [[mark]] in force.",
        status.mark_rules,
    );
}

/// What became of packets. Counters of the programs begin with `drop_`, `forward_` or `pass_`; the
/// others count events.
pub(super) fn packets(text: &mut Text, status: &Status) {
    let of = |prefix: &'static str| {
        let counters = status.counters.iter();
        counters.filter_map(move |(name, count)| Some((name.strip_prefix(prefix)?, *count)))
    };
    let families = [
        (
            "tandem_drops_total",
            "Packets dropped, by reason.",
            "drop_",
            "reason",
        ),
        (
            "tandem_forwarded_packets_total",
            "Packets sent on, by method.",
            "forward_",
            "method",
        ),
        (
            "tandem_passed_packets_total",
            "Packets left to the stack, by reason.",
            "pass_",
            "reason",
        ),
    ];
    for (name, help, prefix, label) in families {
        let mut family = text.family(Kind::Counter, name, help);
        for (value, count) in of(prefix) {
            family.sample(&[(label, value)], count);
        }
    }
    let mut family = text.family(
        Kind::Counter,
        "tandem_dataplane_events_total",
        "What happened in the programs besides.",
    );
    for (name, count) in &status.counters {
        if !["drop_", "forward_", "pass_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            family.sample(&[("event", name)], *count);
        }
    }
}
