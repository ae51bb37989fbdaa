//! Figures and the table of all trials.

use std::fmt::Write as _;

use super::{Event, Row, Trial};
use crate::report::Report;
use crate::routers::{Kind, PRIORITIES};

/// Smallest, median and largest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    count: usize,
    min: f64,
    median: f64,
    max: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let (min, max) = (*values.first()?, *values.last()?);
        // Of an even number the middle between the two in the middle.
        let low = *values.get((count - 1) / 2)?;
        let high = *values.get(count / 2)?;
        Some(Spread {
            count,
            min,
            median: f64::midpoint(low, high),
            max,
        })
    }
}

fn spread(
    trials: &[Trial],
    event: Event,
    kind: Kind,
    of: impl Fn(&Trial) -> f64,
) -> Option<Spread> {
    let meant = trials.iter();
    let meant = meant.filter(|trial| trial.event == event && trial.kind == kind);
    Spread::of(meant.map(of).collect())
}

fn garp_ms(trial: &Trial) -> f64 {
    trial.garp.as_secs_f64() * 1000.0
}

/// `INTERVALms.EVENT.PROGRAM_median_ms` and the like, and `.above_ms`: our median less theirs.
pub(super) fn figures(row: &Row, events: &[Event], trials: &[Trial], report: &mut Report) {
    for event in events {
        let prefix = format!("{}ms.{}", row.advert_ms, event.name());
        let [ours, theirs] =
            [Kind::Ours, Kind::Keepalived].map(|kind| spread(trials, *event, kind, garp_ms));
        for (kind, found) in [(Kind::Ours, ours), (Kind::Keepalived, theirs)] {
            let Some(found) = found else { continue };
            let name = kind.name();
            #[expect(clippy::cast_precision_loss, reason = "some dozens")]
            let count = found.count as f64;
            report.figure(format!("{prefix}.{name}_trials"), count);
            report.figure(format!("{prefix}.{name}_min_ms"), found.min);
            report.figure(format!("{prefix}.{name}_median_ms"), found.median);
            report.figure(format!("{prefix}.{name}_max_ms"), found.max);
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            report.figure(format!("{prefix}.above_ms"), ours.median - theirs.median);
        }
    }
}

/// Everything, the two programs below each other.
pub(super) fn table(rows: &[(Row, Vec<Trial>)], events: &[Event]) -> String {
    let mut text = String::from(
        "\nevent to first gratuitous ARP of the backup on a third port, ms; both programs at the same phases\n\
         interval  event      program       n     min  median     max  theory          said  late  promotion\n",
    );
    for (row, trials) in rows {
        for event in events {
            for kind in [Kind::Ours, Kind::Keepalived] {
                let found = |of: &dyn Fn(&Trial) -> f64| spread(trials, *event, kind, of);
                let Some(garp) = found(&garp_ms) else {
                    continue;
                };
                let median = |spread: Option<Spread>| spread.map_or(0.0, |found| found.median);
                let late = median(found(&|trial| trial.late_ms));
                let promotion = median(found(&|trial| trial.promotion_ms));
                let said = trials
                    .iter()
                    .filter(|trial| trial.event == *event && trial.kind == kind)
                    .filter_map(|trial| trial.said_ms);
                let said = Spread::of(said.collect())
                    .map_or("-".to_owned(), |found| format!("{:.2}", found.median));
                let interval = format!("{} ms", row.advert_ms);
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "{interval:8}  {:<9}  {:<10}  {:>3}  {:6.1}  {:6.1}  {:6.1}  {:<14}  {said:>4}  {late:4.2}  {promotion:9.2}",
                    event.name(),
                    kind.name(),
                    garp.count,
                    garp.min,
                    garp.median,
                    garp.max,
                    theory(row.advert_ms, *event),
                );
            }
        }
    }
    text.push_str(
        "said: median from the event to the master's advert that it gives up\n\
         late: median from the end of the backup's timer, counted from the master's last advert on the wire, to its first advert\n\
         promotion: median from there to the gratuitous ARP\n",
    );
    text
}

/// When the backup's timer ends after the event, from the end of an interval to its beginning.
#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn theory(advert_ms: u64, event: Event) -> String {
    let interval = advert_ms as f64;
    let skew = interval * f64::from(256 - u16::from(PRIORITIES[1])) / 256.0;
    match event {
        Event::Stop => format!("{skew:.1}"),
        Event::Kill | Event::LinkDown => {
            format!("{:.1}..{:.1}", 2.0 * interval + skew, 3.0 * interval + skew)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_in_the_middle() {
        let spread = Spread::of(vec![4.0, 1.0, 2.0, 9.0]).unwrap();
        let expected = Spread {
            count: 4,
            min: 1.0,
            median: 3.0,
            max: 9.0,
        };
        assert_eq!(spread, expected);
        assert_eq!(Spread::of(vec![]), None);
        let odd = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert!((odd.median - 2.0).abs() < 1e-9);
    }

    #[test]
    fn theory_follows_from_interval_and_priority() {
        assert_eq!(theory(100, Event::Kill), "260.9..360.9");
        assert_eq!(theory(10, Event::Stop), "6.1");
    }
}
