//! What was reached of what is to be reached.
//!
//! The bounds of the scenario are further away: they find what has become worse on a machine with
//! other work.

use std::fmt::Write as _;

use crate::drill::Drill;

/// One figure of the drill.
struct Goal {
    figure: &'static str,
    what: &'static str,
    wanted: Wanted,
    /// Digits after the point.
    digits: usize,
}

#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    /// No goal: it explains others.
    Shown,
}
use Wanted::{AtLeast, AtMost, Shown};

const fn goal(figure: &'static str, what: &'static str, wanted: Wanted, digits: usize) -> Goal {
    Goal {
        figure,
        what,
        wanted,
        digits,
    }
}

/// Rates are entries in a second of a processor: all threads of the daemon that have to do with them.
const GOALS: [Goal; 21] = [
    goal("send.again.per_core", "encoded and sent", AtLeast(2e6), 0),
    goal(
        "receive.new.per_core",
        "new NAT connections applied",
        AtLeast(1.2e6),
        0,
    ),
    goal(
        "receive.few_known.per_core",
        "known ones of a table of 65,536, in order",
        AtLeast(3e6),
        0,
    ),
    goal(
        "receive.known.per_core",
        "known ones of a table of a million, in order",
        AtLeast(3e6),
        0,
    ),
    goal(
        "receive.shuffled.per_core",
        "the same in any order",
        AtLeast(3e6),
        0,
    ),
    goal(
        "receive.known.thread_per_core",
        "of these: receiving and decoding alone",
        Shown,
        0,
    ),
    goal(
        "receive.known.owner_per_core",
        "applying in order alone",
        Shown,
        0,
    ),
    goal(
        "receive.shuffled.owner_per_core",
        "applying in any order alone",
        Shown,
        0,
    ),
    goal(
        "reference.random_access_ns",
        "a read of memory that no cache holds, ns",
        Shown,
        0,
    ),
    goal(
        "loss.lost",
        "lost at 200,000 new ones a second",
        AtMost(0.0),
        0,
    ),
    goal(
        "loss_sized.lost",
        "the same with sync_sock_size",
        AtMost(0.0),
        0,
    ),
    goal(
        "lag.low.p50_ms",
        "packet to peer, 50 flows a second, p50, ms",
        AtMost(10.0),
        2,
    ),
    goal("lag.low.p99_ms", "p99, ms", AtMost(50.0), 2),
    goal(
        "lag.high.p50_ms",
        "20,000 flows a second, p50, ms",
        AtMost(10.0),
        2,
    ),
    goal("lag.high.p99_ms", "p99, ms", AtMost(50.0), 2),
    goal(
        "lag.full.p50_ms",
        "100,000 flows a second, p50, ms",
        Shown,
        2,
    ),
    goal("lag.full.p99_ms", "p99, ms", Shown, 2),
    goal(
        "beside.kept_share",
        "forwarding kept beside a flood of entries",
        AtLeast(0.9),
        3,
    ),
    goal(
        "share.of_table",
        "of a table filled by a flood of entries",
        AtMost(0.9),
        3,
    ),
    goal(
        "share.own_missing",
        "own new clients without a place then",
        AtMost(0.0),
        0,
    ),
    goal(
        "share.unaccounted",
        "entries of the flood not accounted for",
        AtMost(0.0),
        0,
    ),
];

impl Drill<'_> {
    /// A table of all of it.
    pub(super) fn note_goals(&mut self) {
        let mut text = format!(
            "{:46} {:>12} {:>14}\n",
            "figure (rates: in a second of a processor)", "reached", "wanted"
        );
        for goal in &GOALS {
            let found = self.report.found(goal.figure);
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", goal.line(found));
        }
        self.report.note(text);
    }
}

impl Goal {
    fn line(&self, found: Option<f64>) -> String {
        let digits = self.digits;
        let reached = found.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
        let found = found.unwrap_or(f64::NAN);
        let (wanted, verdict) = match self.wanted {
            AtLeast(least) => (
                format!(">= {least:.digits$}"),
                verdict(found >= least, found / least),
            ),
            AtMost(most) if most > 0.0 => (
                format!("<= {most:.digits$}"),
                verdict(found <= most, found / most),
            ),
            AtMost(_) => ("0".to_owned(), verdict(found == 0.0, f64::NAN)),
            Shown => (String::new(), String::new()),
        };
        let line = format!("{:46} {reached:>12} {wanted:>14}  {verdict}", self.what);
        line.trim_end().to_owned()
    }
}

fn verdict(is_reached: bool, share: f64) -> String {
    let word = if is_reached { "reached" } else { "NOT reached" };
    if share.is_finite() {
        format!("{word} ({:.0} %)", share * 100.0)
    } else {
        word.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_reached_of_what_was_wanted() {
        let end = |wanted, found| {
            let line = goal("", "", wanted, 1).line(found);
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            end(AtLeast(4.0), Some(3.0)),
            "3.0 >= 4.0 NOT reached (75 %)"
        );
        assert_eq!(end(AtMost(4.0), Some(3.0)), "3.0 <= 4.0 reached (75 %)");
        assert_eq!(end(AtMost(0.0), Some(0.0)), "0.0 0 reached");
        assert_eq!(end(AtMost(0.0), Some(2.0)), "2.0 0 NOT reached");
        assert_eq!(end(Shown, Some(2.0)), "2.0");
        assert_eq!(end(AtLeast(4.0), None), "- >= 4.0 NOT reached");
    }
}
