//! Metrics as Prometheus text, at `http://ADDRESS/metrics`.
//!
//! ```text
//!   scraper --GET--> server thread --Command::Metrics--> owner
//!                         ^                                |
//!                         +-------- Snapshot --------------+
//! ```
//!
//! The owner hands over a [`Snapshot`], which it makes as it does for `directord status`, at most
//! every [`server::FRESH`]; making text of it and everything HTTP is done in a thread without
//! capabilities. Whoever comes in between gets the text of before.
//!
//! All names are in [`families`]: those of IPVS as node_exporter's `ipvs` collector has them, ours
//! with `tandem_` in front. A counter counts from the start of the daemon or, for what the programs
//! count, from that of the tables.

mod families;
pub(crate) mod server;
mod text;

pub use server::MetricsError;

use dataplane::ServiceView;
use ipvs_model::service::ServiceKey;
use ipvs_model::stats::Stats;

use crate::status::Status;

/// Pairs of a service and a server that are told of one by one; the rest is counted.
const BACKENDS_MAX: usize = 1 << 16;

/// What is known at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub status: Status,
    /// Of all services together.
    pub totals: Stats,
    pub backends: Vec<Backend>,
    /// Backends that are not in the list.
    pub left_out: usize,
}

/// A service and one of its servers, as `/proc/net/ip_vs` tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// `TCP`, `UDP`, `SCTP` or `FWM`.
    pub proto: &'static str,
    /// Empty for a service by mark.
    pub local_address: String,
    /// 0 for a service by mark.
    pub local_port: u16,
    /// Eight hexadecimal digits; empty for a service with an address.
    pub local_mark: String,
    pub remote_address: String,
    pub remote_port: u16,
    pub active: u32,
    pub inactive: u32,
    pub weight: u32,
}

/// The servers of all services, up to a bound, and how many more there are.
pub(crate) fn backends(services: &[ServiceView]) -> (Vec<Backend>, usize) {
    let count: usize = services.iter().map(|service| service.servers.len()).sum();
    let all = services.iter().flat_map(backends_of);
    (
        all.take(BACKENDS_MAX).collect(),
        count.saturating_sub(BACKENDS_MAX),
    )
}

fn backends_of(view: &ServiceView) -> impl Iterator<Item = Backend> {
    let key = view.service.key;
    view.service
        .servers
        .iter()
        .zip(&view.servers)
        .map(move |(server, counted)| {
            let (proto, local_address, local_port, local_mark) = match key {
                ServiceKey::Address { protocol, addr } => (
                    protocol.name(),
                    addr.ip().to_string(),
                    addr.port(),
                    String::new(),
                ),
                ServiceKey::Fwmark { mark, .. } => ("FWM", String::new(), 0, format!("{mark:08X}")),
            };
            Backend {
                proto,
                local_address,
                local_port,
                local_mark,
                remote_address: server.key.ip().to_string(),
                remote_port: server.key.port(),
                active: counted.active,
                inactive: counted.inactive,
                weight: server.spec.weight,
            }
        })
}
