//! IPVS: names and labels of node_exporter's `ipvs` collector, so that dashboards made for it work.

use ipvs_model::stats::Stats;

use super::{Figure, counter};
use crate::metrics::Backend;
use crate::metrics::text::{Kind, Text};

/// As node_exporter's `collector/ipvs_linux.go` has them, descriptions apart.
pub(super) fn ipvs(text: &mut Text, totals: &Stats, backends: &[Backend]) {
    let totals = [
        (
            "node_ipvs_connections_total",
            "Connections scheduled.",
            totals.conns,
        ),
        (
            "node_ipvs_incoming_packets_total",
            "Packets from clients.",
            totals.in_pkts,
        ),
        (
            "node_ipvs_outgoing_packets_total",
            "Packets from servers that passed through the director.",
            totals.out_pkts,
        ),
        (
            "node_ipvs_incoming_bytes_total",
            "Bytes from clients.",
            totals.in_bytes,
        ),
        (
            "node_ipvs_outgoing_bytes_total",
            "Bytes from servers that passed through the director.",
            totals.out_bytes,
        ),
    ];
    for (name, help, value) in totals {
        counter(text, name, help, value);
    }
    let figures: [Figure<Backend, u32>; 3] = [
        (
            "node_ipvs_backend_connections_active",
            "Active connections of a real server.",
            |backend| backend.active,
        ),
        (
            "node_ipvs_backend_connections_inactive",
            "Inactive connections of a real server.",
            |backend| backend.inactive,
        ),
        (
            "node_ipvs_backend_weight",
            "Weight of a real server.",
            |backend| backend.weight,
        ),
    ];
    for (name, help, figure) in figures {
        let mut family = text.family(Kind::Gauge, name, help);
        for backend in backends {
            let labels = [
                ("local_address", backend.local_address.as_str()),
                ("local_mark", &backend.local_mark),
                ("local_port", &backend.local_port.to_string()),
                ("proto", backend.proto),
                ("remote_address", &backend.remote_address),
                ("remote_port", &backend.remote_port.to_string()),
            ];
            family.sample(&labels, figure(backend));
        }
    }
}
