//! What the director costs a packet, measured by `BPF_PROG_TEST_RUN`, what a new connection costs with
//! each scheduler, and what a full table costs.
//!
//! Each figure of a known connection is the best of several rounds of 250 runs a call (a packet loses
//! one of its TTL in each run). Masqueraded packets go back and forth between two connections, so every
//! run finds its connection and rewrites. A new connection is one run of one packet; the mean of many
//! clients is shown. `TANDEM_YARDSTICK` names a command that is run between the rounds, so that another
//! program is measured at the same time; its output is printed as it is.
//! `TANDEM_BENCH_CONNS` fills both tables first and measures the full ones, `TANDEM_BENCH_TABLE` is the
//! size of each, `TANDEM_BENCH_ONLY` is `known`, `new`, `synced` or `full`. `TANDEM_BENCH_SYNCED` is the
//! number of entries that another director tells of.

#![allow(clippy::print_stdout, reason = "the figures are the program's output")]
#![allow(unreachable_pub, reason = "modules of one program")]

#[path = "program_cost/full.rs"]
mod full;
#[path = "program_cost/known.rs"]
mod known;
#[path = "../tests/lab/mod.rs"]
mod lab;
#[path = "program_cost/new.rs"]
mod new;
#[path = "program_cost/synced.rs"]
mod synced;

use dataplane::{DataPlane, TableSizes};
use lab::Lab;
use lab::packets::text_in_ipv6;

fn main() {
    let places: u32 = number("TANDEM_BENCH_TABLE").unwrap_or(1 << 20);
    let only = std::env::var("TANDEM_BENCH_ONLY").unwrap_or_default();
    let lab = Lab::new();
    let mut options = lab.options(&["lo"]);
    options.sizes = TableSizes {
        connections_v4: places,
        connections_v6: places,
        servers: 8192,
        cache_entries: 1 << 16,
        ..options.sizes
    };
    let mut plane = DataPlane::open(&options).expect("the data plane opens");
    plane.set_sync_share(100);
    println!(
        "tables: {places} connections of each family, maps {:.1} MiB",
        plane.memory_bytes() as f64 / 1048576.0,
    );
    if only.is_empty() || only == "known" {
        known::measure_all(&mut plane);
    }
    if only.is_empty() || only == "new" {
        new::measure_all(&mut plane);
    }
    if only.is_empty() || only == "synced" {
        synced::measure_all(&mut plane, number("TANDEM_BENCH_SYNCED").unwrap_or(200_000));
    }
    if let Some(count) = number("TANDEM_BENCH_CONNS") {
        full::measure_all(&lab, &mut plane, count);
    }
    let counters = plane.counters().into_iter();
    let moved: Vec<_> = counters.filter(|(_, count)| *count > 0).collect();
    println!("counters: {moved:?}");
}

fn number(name: &str) -> Option<u32> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

/// An endpoint, written as IPv4, in the family asked for.
fn family(text: &str, ipv6: bool) -> String {
    if ipv6 {
        text_in_ipv6(text)
    } else {
        text.to_owned()
    }
}
