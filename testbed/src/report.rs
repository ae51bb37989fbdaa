//! What a drill found: events in order, figures, and each bound with pass or fail.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::scenario::{Bound, Scenario};

/// Named numbers. Ordered, so that a report is reproducible.
pub(crate) type Figures = BTreeMap<String, f64>;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    drill: String,
    title: String,
    seed: u64,
    kernel: String,
    commit: String,
    duration_s: f64,
    passed: bool,
    bounds: Vec<Judged>,
    figures: Figures,
    /// Tables and sentences about the figures.
    notes: Vec<String>,
    /// What is said last.
    conclusions: Vec<String>,
    events: Vec<Event>,
    /// Prefixes of figures, one for each time the steps were carried out.
    #[serde(skip)]
    parts: Vec<String>,
    #[serde(skip)]
    begun: Option<Instant>,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    /// Since the drill began. Unit: seconds.
    at_s: f64,
    what: String,
}

/// A bound with the figure that was found.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(crate) struct Judged {
    figure: String,
    found: Option<f64>,
    limits: String,
    held: bool,
    why: String,
}

impl Report {
    pub(crate) fn begin(scenario: &Scenario) -> Report {
        Report {
            drill: scenario.name.clone(),
            title: scenario.title.clone(),
            seed: scenario.seed,
            kernel: kernel_release(),
            commit: commit(&crate::setup::workspace()),
            duration_s: 0.0,
            passed: false,
            bounds: Vec::new(),
            figures: Figures::new(),
            notes: Vec::new(),
            conclusions: Vec::new(),
            parts: Vec::new(),
            events: Vec::new(),
            begun: Some(Instant::now()),
        }
    }

    /// Notes an event and gives its line, `SECONDS  WHAT`.
    pub(crate) fn event(&mut self, what: String) -> String {
        let at_s = self
            .begun
            .map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let line = format!("{at_s:7.3} s  {what}");
        self.events.push(Event { at_s, what });
        line
    }

    /// From here on the figures are those of one part of the drill.
    pub(crate) fn begin_part(&mut self, name: Option<&str>) {
        let prefix = name.map_or(String::new(), |name| format!("{name}."));
        self.parts.push(prefix);
    }

    /// Notes a figure of the present part.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64) {
        let prefix = self.parts.last().map_or("", String::as_str);
        self.figures
            .insert(format!("{prefix}{}", name.into()), value);
    }

    /// A figure of the present part, if there is one.
    pub(crate) fn found(&self, name: &str) -> Option<f64> {
        let prefix = self.parts.last().map_or("", String::as_str);
        self.figures.get(&format!("{prefix}{name}")).copied()
    }

    /// Adds text that is printed before the bounds.
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Adds a sentence that is printed after the bounds, with the name of the part.
    pub(crate) fn conclude(&mut self, text: &str) {
        let part = self.parts.last().map_or("", String::as_str);
        let part = part.trim_end_matches('.');
        let colon = if part.is_empty() { "" } else { ": " };
        self.conclusions.push(format!("{part}{colon}{text}"));
    }

    /// Whether every bound holds in the present part.
    pub(crate) fn holds(&self, bounds: &[Bound]) -> bool {
        let part = self.parts.last().map_or("", String::as_str);
        judge_part(part, bounds, &self.figures)
            .iter()
            .all(|judged| judged.held)
    }

    /// Judges every bound; true when all held.
    pub(crate) fn judge(&mut self, bounds: &[Bound]) -> bool {
        self.duration_s = self
            .begun
            .map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let judged = self
            .parts
            .iter()
            .flat_map(|part| judge_part(part, bounds, &self.figures));
        self.bounds = judged.collect();
        // Nothing carried out is nothing passed.
        self.passed = !self.parts.is_empty() && self.bounds.iter().all(|judged| judged.held);
        self.passed
    }

    /// One line for each bound: result, figure, value, limits, meaning.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        let head = format!("{}: {} (kernel {})", self.drill, self.title, self.kernel);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{head}");
        for note in &self.notes {
            let _ = writeln!(text, "{}\n", note.trim_end());
        }
        let width = self
            .bounds
            .iter()
            .map(|judged| judged.figure.len())
            .max()
            .unwrap_or(0);
        for judged in &self.bounds {
            let result = if judged.held { "pass" } else { "FAIL" };
            let found = judged.found.map_or_else(|| "missing".to_owned(), number);
            let _ = writeln!(
                text,
                "{result}  {:width$}  {found:>9}  {:<12} {}",
                judged.figure, judged.limits, judged.why
            );
        }
        let held = self.bounds.iter().filter(|judged| judged.held).count();
        let verdict = if self.passed { "passed" } else { "FAILED" };
        let total = self.bounds.len();
        let seconds = self.duration_s;
        let _ = writeln!(
            text,
            "{verdict}: {held} of {total} bounds held, {seconds:.1} s"
        );
        for conclusion in &self.conclusions {
            let _ = writeln!(text, "{conclusion}");
        }
        text
    }

    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        Ok(())
    }
}

/// The bounds of one part: those for every part, and those for its fault.
fn judge_part(part: &str, bounds: &[Bound], figures: &Figures) -> Vec<Judged> {
    let fault = part.trim_end_matches('.');
    let meant = bounds
        .iter()
        .filter(|bound| bound.only.is_none_or(|only| only.name() == fault));
    meant.map(|bound| judge(part, bound, figures)).collect()
}

fn judge(part: &str, bound: &Bound, figures: &Figures) -> Judged {
    let figure = format!("{part}{}", bound.figure);
    let found = figures.get(&figure).copied();
    let held = found.is_some_and(|value| {
        bound.min.is_none_or(|min| value >= min) && bound.max.is_none_or(|max| value <= max)
    });
    Judged {
        figure,
        found,
        limits: limits(bound.min, bound.max),
        held,
        why: bound.why.clone(),
    }
}

fn limits(min: Option<f64>, max: Option<f64>) -> String {
    match (min, max) {
        (Some(min), Some(max)) if min.to_bits() == max.to_bits() => format!("= {}", number(min)),
        (Some(min), Some(max)) => format!("{} .. {}", number(min), number(max)),
        (Some(min), None) => format!(">= {}", number(min)),
        (None, Some(max)) => format!("<= {}", number(max)),
        (None, None) => "none".to_owned(),
    }
}

/// Whole numbers as such, others with two digits.
pub(crate) fn number(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Spread of a load over servers: largest less smallest number of connections, each divided by the
/// weight of its server; a server that got none counts.
pub(crate) fn spread(shares: &BTreeMap<String, u64>, weights: &BTreeMap<String, u32>) -> f64 {
    let scaled = weights
        .iter()
        .filter(|(_, weight)| **weight > 0)
        .map(|(server, weight)| {
            let share = shares.get(server).copied().unwrap_or_default();
            // Far below 2^52 connections in any drill.
            #[expect(
                clippy::cast_precision_loss,
                reason = "exact for every number a drill reaches"
            )]
            let share = share as f64;
            share / f64::from(*weight)
        });
    let (low, high) = scaled.fold((f64::INFINITY, 0.0_f64), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    if low.is_finite() { high - low } else { 0.0 }
}

fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim_end().to_owned()
}

/// The checked-out commit, read from the repository's files.
fn commit(workspace: &Path) -> String {
    let git = workspace.join(".git");
    let head = fs::read_to_string(git.join("HEAD")).unwrap_or_default();
    let head = head.trim_end();
    let hash = match head.strip_prefix("ref: ") {
        None => Some(head.to_owned()),
        Some(name) => fs::read_to_string(git.join(name)).ok().or_else(|| {
            let packed = fs::read_to_string(git.join("packed-refs")).ok()?;
            let line = packed
                .lines()
                .find(|line| line.ends_with(&format!(" {name}")))?;
            line.split(' ').next().map(str::to_owned)
        }),
    };
    let hash = hash
        .map(|hash| hash.trim_end().to_owned())
        .filter(|hash| !hash.is_empty());
    hash.unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Fault;

    #[test]
    fn equal_shares_have_no_spread() {
        assert!(
            spread(
                &shares(&[("a", 30), ("b", 30)]),
                &weights(&[("a", 1), ("b", 1)])
            ) == 0.0
        );
    }

    #[test]
    fn weights_divide_the_shares() {
        let three_to_one = shares(&[("a", 60), ("b", 20)]);
        assert!(spread(&three_to_one, &weights(&[("a", 3), ("b", 1)])) == 0.0);
        assert!(spread(&three_to_one, &weights(&[("a", 1), ("b", 1)])) == 40.0);
    }

    #[test]
    fn a_server_that_got_nothing_counts() {
        assert!(spread(&shares(&[("a", 9)]), &weights(&[("a", 1), ("b", 1)])) == 9.0);
    }

    #[test]
    fn a_bound_on_a_missing_figure_fails() {
        let judged = judge("", &bound("nowhere", None, Some(0.0)), &Figures::new());
        assert!(!judged.held);
        assert_eq!(judged.found, None);
    }

    #[test]
    fn limits_are_inclusive() {
        let figures = Figures::from([("x".to_owned(), 2.0)]);
        assert!(judge("", &bound("x", Some(2.0), Some(2.0)), &figures).held);
        assert!(!judge("", &bound("x", Some(2.5), None), &figures).held);
        assert!(!judge("", &bound("x", None, Some(1.5)), &figures).held);
    }

    #[test]
    fn every_part_is_judged_by_its_own_figures_and_bounds() {
        let scenario = Scenario::load("balance").unwrap();
        let mut report = Report::begin(&scenario);
        assert!(!report.judge(&[]), "nothing was carried out");
        let only = Some(Fault::KillNode);
        let bounds = [
            bound("x", Some(1.0), None),
            Bound {
                only,
                ..bound("y", Some(1.0), None)
            },
        ];
        report.begin_part(Some("kill-node"));
        report.figure("x", 1.0);
        assert!(!report.holds(&bounds));
        report.figure("y", 1.0);
        assert!(report.holds(&bounds));
        report.begin_part(Some("kill-daemon"));
        assert!(!report.judge(&bounds));
        report.figure("x", 2.0);
        assert!(report.judge(&bounds));
        assert_eq!(report.bounds.len(), 3);
        assert_eq!(report.bounds[2].figure, "kill-daemon.x");
    }

    #[test]
    fn a_line_shows_result_figure_value_limits_and_meaning() {
        let scenario = Scenario::load("balance").unwrap();
        let mut report = Report::begin(&scenario);
        report.begin_part(None);
        report.figure("x", 1.25);
        assert!(!report.judge(&[
            bound("x", None, Some(1.0)),
            bound("x", Some(1.0), Some(2.0))
        ]));
        let text = report.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "FAIL  x       1.25  <= 1         why");
        assert_eq!(lines[2], "pass  x       1.25  1 .. 2       why");
        assert!(lines[3].starts_with("FAILED: 1 of 2 bounds held"));
    }

    fn bound(figure: &str, min: Option<f64>, max: Option<f64>) -> Bound {
        Bound {
            figure: figure.to_owned(),
            min,
            max,
            only: None,
            why: "why".to_owned(),
        }
    }

    fn shares(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
        of.iter()
            .map(|(name, share)| ((*name).to_owned(), *share))
            .collect()
    }

    fn weights(of: &[(&str, u32)]) -> BTreeMap<String, u32> {
        of.iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect()
    }
}
