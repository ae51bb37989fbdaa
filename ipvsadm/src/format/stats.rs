//! Counters and the columns of `--stats`.

use ipvs_model::stats::Stats;

/// A counter in nine characters, abbreviated with a unit, or in full.
///
/// The units divide by powers of ten and truncate.
pub fn counter(value: u64, exact: bool) -> String {
    const STEPS: &[(u64, u64, char)] = &[
        (1_000_000_000, 1_000, 'K'),
        (100_000_000_000, 1_000_000, 'M'),
        (100_000_000_000_000, 1_000_000_000, 'G'),
        (u64::MAX, 1_000_000_000_000, 'T'),
    ];
    if value < 100_000_000 {
        return format!("{value:>9}");
    }
    if exact {
        return format!(" {value}");
    }
    let step = STEPS
        .iter()
        .find(|(below, ..)| value < *below)
        .or(STEPS.last());
    step.map_or_else(String::new, |(_, unit, letter)| {
        format!("{:>8}{letter}", value / unit)
    })
}

/// First title line of `--stats`.
pub fn title() -> String {
    super::rate::title_of(["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"])
}

/// The five columns of a service or server.
pub fn columns(stats: &Stats, exact: bool) -> String {
    [
        stats.conns,
        stats.in_pkts,
        stats.out_pkts,
        stats.in_bytes,
        stats.out_bytes,
    ]
    .map(|value| counter(value, exact))
    .concat()
}

#[cfg(test)]
mod tests {
    use super::counter;

    #[test]
    fn counters_change_their_unit_at_these_values() {
        for (value, short, full) in [
            (0, "        0", "        0"),
            (99_999_999, " 99999999", " 99999999"),
            (100_000_000, "  100000K", " 100000000"),
            (999_999_999, "  999999K", " 999999999"),
            (1_000_000_000, "    1000M", " 1000000000"),
            (99_999_999_999, "   99999M", " 99999999999"),
            (100_000_000_000, "     100G", " 100000000000"),
            (99_999_999_999_999, "   99999G", " 99999999999999"),
            (100_000_000_000_000, "     100T", " 100000000000000"),
            (u64::MAX, "18446744T", " 18446744073709551615"),
        ] {
            assert_eq!(counter(value, false), short, "{value}");
            assert_eq!(counter(value, true), full, "{value}");
        }
    }
}
