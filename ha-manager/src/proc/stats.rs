//! Text of `ip_vs_stats` and `ip_vs_stats_percpu` (`ip_vs_ctl.c: ip_vs_stats_show`,
//! `ip_vs_stats_percpu_show`). Every number is hexadecimal.

use std::fmt::{self, Write};

use ipvs_model::stats::{Rates, Stats};

/// The director's totals since the last zeroing, and its rates.
pub fn ip_vs_stats(totals: Stats, rates: Rates) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_stats(&mut text, totals, rates);
    text
}

/// The raw counts of each processor, which zeroing leaves alone, then what `ip_vs_stats` has.
pub fn ip_vs_stats_percpu(processors: &[Stats], totals: Stats, rates: Rates) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_stats_percpu(&mut text, processors, totals, rates);
    text
}

fn write_stats(to: &mut String, totals: Stats, rates: Rates) -> fmt::Result {
    to.push_str("   Total Incoming Outgoing         Incoming         Outgoing\n");
    to.push_str("   Conns  Packets  Packets            Bytes            Bytes\n");
    writeln!(to, "{}\n", row(counts(totals)))?;
    to.push_str(" Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n");
    writeln!(to, "{}", row(per_second(rates)))
}

fn write_stats_percpu(
    to: &mut String,
    processors: &[Stats],
    totals: Stats,
    rates: Rates,
) -> fmt::Result {
    to.push_str("       Total Incoming Outgoing         Incoming         Outgoing\n");
    to.push_str("CPU    Conns  Packets  Packets            Bytes            Bytes\n");
    for (number, stats) in processors.iter().enumerate() {
        writeln!(to, "{number:3X} {}", row(counts(*stats)))?;
    }
    writeln!(to, "  ~ {}\n", row(counts(totals)))?;
    to.push_str("     Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s\n");
    writeln!(to, "    {}", row(per_second(rates)))
}

fn row([conns, in_pkts, out_pkts, in_bytes, out_bytes]: [u64; 5]) -> String {
    format!("{conns:8X} {in_pkts:8X} {out_pkts:8X} {in_bytes:16X} {out_bytes:16X}")
}

const fn counts(stats: Stats) -> [u64; 5] {
    [
        stats.conns,
        stats.in_pkts,
        stats.out_pkts,
        stats.in_bytes,
        stats.out_bytes,
    ]
}

const fn per_second(rates: Rates) -> [u64; 5] {
    [
        rates.cps,
        rates.pps_in,
        rates.pps_out,
        rates.bps_in,
        rates.bps_out,
    ]
}
