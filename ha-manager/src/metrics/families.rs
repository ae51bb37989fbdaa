//! Every metric there is: name, kind, meaning, and where its figure comes from.
//!
//! Labels stand in the order of the alphabet, as client libraries write them.

mod elections;
mod ipvs;
mod node;
mod sync;

use super::Snapshot;
use super::text::{Kind, Text};
use crate::status::Mode;

use elections::{elections, split_brain, watched};
use ipvs::ipvs;
use node::{director, packets, tables};
use sync::sync;

/// What the server of metrics counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) ok: u64,
    pub(super) not_found: u64,
    pub(super) not_allowed: u64,
    /// No snapshot came in time.
    pub(super) unavailable: u64,
    /// No request, or an answer that was not taken, in time.
    pub(super) late: u64,
    /// No request of HTTP, or one that is too long, or the other end went away.
    pub(super) broken: u64,
    /// Gave way to a newer connection.
    pub(super) evicted: u64,
}

/// Name, meaning, and how to get it.
type Figure<T, N> = (&'static str, &'static str, fn(&T) -> N);

/// The whole page.
pub(super) fn text(snapshot: &Snapshot, served: Served) -> String {
    let mut text = Text::default();
    let status = &snapshot.status;
    ipvs(&mut text, &snapshot.totals, &snapshot.backends);
    director(&mut text, status);
    gauge(
        &mut text,
        "tandem_backends_left_out",
        "Backends beyond the number that is told of one by one.",
        snapshot.left_out,
    );
    tables(&mut text, status);
    packets(&mut text, status);
    if !status.vrrp.is_empty() {
        elections(&mut text, &status.vrrp);
        split_brain(&mut text, status);
    }
    watched(&mut text, status);
    if status.mode == Mode::Vrrp {
        counter(
            &mut text,
            "tandem_notify_lines_lost_total",
            "Lines that found no room in the FIFO of notifications.",
            status.notify_lines_lost,
        );
        counter(
            &mut text,
            "tandem_claims_lost_total",
            "Claims of virtual addresses by others that found no room before they were read.",
            status.claims_lost,
        );
    }
    if !status.sync.is_empty() {
        sync(&mut text, &status.sync);
    }
    server(&mut text, served);
    text.into_string()
}

fn gauge(text: &mut Text, name: &'static str, help: &str, value: impl std::fmt::Display) {
    text.family(Kind::Gauge, name, help).sample(&[], value);
}

fn counter(text: &mut Text, name: &'static str, help: &str, value: u64) {
    text.family(Kind::Counter, name, help).sample(&[], value);
}

fn server(text: &mut Text, served: Served) {
    let mut family = text.family(
        Kind::Counter,
        "tandem_metrics_requests_total",
        "Requests to this page's server, by what became of them.",
    );
    for (outcome, count) in [
        ("broken", served.broken),
        ("evicted", served.evicted),
        ("late", served.late),
        ("not_allowed", served.not_allowed),
        ("not_found", served.not_found),
        ("ok", served.ok),
        ("unavailable", served.unavailable),
    ] {
        family.sample(&[("outcome", outcome)], count);
    }
}

/// A count of parts as seconds, of which one has `parts`. Exact to a microsecond for centuries.
#[expect(
    clippy::cast_precision_loss,
    reason = "the format's numbers are floating point"
)]
fn seconds(count: u64, parts: u32) -> f64 {
    count as f64 / f64::from(parts)
}
