//! The table of a report about a pair.

use std::fmt::Write as _;

use crate::report::{Report, number};
use crate::verdict::METHODS;

/// Rows of the table: what, figure, whether it is one of each method.
const ROWS: &[(&str, &str, bool)] = &[
    ("TCP flows at the fault", "flows", true),
    ("  kept, every byte right", "kept", true),
    ("  wrong bytes", "wrong_bytes", true),
    ("busy flows", "busy", true),
    (
        "  data in flight both ways at the fault",
        "inflight_both",
        true,
    ),
    ("  moved 1 MB each way after it", "moved_1mb", true),
    ("idle flows", "idle", true),
    (
        "  without a packet before the fault, ms",
        "idle_quiet_ms",
        true,
    ),
    ("  used after it", "idle_used", true),
    ("TCP flows the director had been told of", "covered", true),
    ("  of them broken", "covered_broken", true),
    ("UDP flows", "udp", true),
    ("  kept, same server", "udp_kept", true),
    (
        "new connections at the fault and until takeover",
        "new_tried",
        true,
    ),
    ("  failed", "new_failed", true),
    ("new connections after the takeover", "later_tried", true),
    ("  failed", "later_failed", true),
    ("slowest new connection, ms", "new_slowest_ms", true),
    ("blackout of busy flows, p50, ms", "blackout_p50_ms", true),
    ("  p99, ms", "blackout_p99_ms", true),
    ("  max, ms", "blackout_max_ms", true),
    (
        "blackout of UDP flows, p50, ms",
        "udp_blackout_p50_ms",
        true,
    ),
    ("  max, ms", "udp_blackout_max_ms", true),
    (
        "data in flight counted before the fault, ms",
        "inflight_age_ms",
        false,
    ),
    (
        "fault to takeover, by the survivor's status, ms",
        "takeover_ms",
        false,
    ),
    (
        "fault to first gratuitous ARP, outside, ms",
        "garp_ms",
        false,
    ),
    ("  inside, ms", "garp_inside_ms", false),
    (
        "sync entries offered before the fault",
        "sync.offered",
        false,
    ),
    ("  sent", "sync.sent", false),
    ("  received", "sync.received", false),
    ("  refused", "sync.refused", false),
    (
        "packets for the old node after its lease",
        "old.offered",
        false,
    ),
    ("  sent on by it", "old.sent", false),
];

/// The figures of one phase, those of each method beside each other; rows without a figure are left out.
pub(crate) fn table(what: &str, prefix: &str, report: &Report) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\n{what:<50} {:>10} {:>10}", "NAT", "direct");
    for (title, figure, by_method) in ROWS.iter().copied() {
        let shown = |name: String| report.found(&format!("{prefix}{name}")).map(number);
        let cells = if by_method {
            METHODS
                .map(|method| shown(format!("{}.{figure}", method.name())))
                .to_vec()
        } else {
            vec![shown(figure.to_owned())]
        };
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "{title:<50}");
        for cell in cells {
            let _ = write!(text, " {:>10}", cell.unwrap_or_else(|| "-".to_owned()));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_row_shows_both_methods_and_a_row_without_figures_is_left_out() {
        let scenario = Scenario::load("failover").unwrap();
        let mut report = Report::begin(&scenario);
        report.begin_part(Some("kill-node"));
        report.figure("nat.flows", 220.0);
        report.figure("garp_ms", 321.5);
        let text = table("kill-node of director1", "", &report);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[1][..3], ["kill-node", "of", "director1"]);
        assert_eq!(lines[2][5..], ["220", "-"]);
        assert_eq!(lines[3].last(), Some(&"321.50"));
    }
}
