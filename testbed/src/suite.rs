//! Every test: lints, the workspace's tests, feature checks, drills, the proof that a drill can fail;
//! one line of totals at the end.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::drill;
use crate::netns::own_executable;
use crate::scenario::{Scenario, Set};
use crate::setup::{PREPARED, cargo, workspace};
use crate::verdict::OFF;

/// A test that cannot run where it is prints this and why, and passes.
const SKIP_MARK: &str = "skipped: ";
const SHORT_FAILOVER: &str = "failover-short";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Totals {
    const PASSED: Totals = Totals {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    const FAILED: Totals = Totals {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    const SKIPPED: Totals = Totals {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    fn add(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn line(self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Runs all steps; true when nothing failed.
///
/// # Errors
/// A step could not be started.
pub(crate) fn run(extra: bool) -> Result<bool> {
    let mut suite = Suite::default();
    suite.lints()?;
    suite.tests(extra)?;
    for package in ["syncproto", "vrrp"] {
        let args = ["check", "--release", "-p", package, "--no-default-features"];
        suite.command(
            &format!("{package} without its default features"),
            cargo(&args),
        )?;
    }
    for scenario in Scenario::shipped()? {
        if extra || scenario.set == Set::Short {
            suite.drill(&scenario)?;
        }
    }
    suite.drill_that_fails()?;
    suite.summary();
    crate::say(&suite.totals.line());
    Ok(suite.totals.failed == 0)
}

#[derive(Default)]
struct Suite {
    totals: Totals,
    lines: Vec<String>,
}

impl Suite {
    fn lints(&mut self) -> Result<()> {
        if has_component("fmt") {
            self.command("formatting", cargo(&["fmt", "--all", "--check"]))?;
            let inner = "dataplane/ebpf/Cargo.toml";
            if workspace().join(inner).exists() {
                let args = ["fmt", "--manifest-path", inner, "--", "--check"];
                self.command("formatting of the eBPF programs", cargo(&args))?;
            }
        } else {
            self.skip("formatting", "rustfmt is not installed");
        }
        if has_component("clippy") {
            let mut args = vec!["clippy", "--release", "--workspace", "--all-targets"];
            args.extend(["--", "-D", "warnings"]);
            self.command("lints", cargo(&args))?;
        } else {
            self.skip("lints", "clippy is not installed");
        }
        if has_component("deny") {
            self.command("dependencies", cargo(&["deny", "check"]))?;
        } else {
            self.skip("dependencies", "cargo-deny is not installed");
        }
        Ok(())
    }

    /// The tests of all crates. What they mark as ignored is the slow set.
    fn tests(&mut self, extra: bool) -> Result<()> {
        let base = ["test", "--release", "--workspace", "--no-fail-fast", "--"];
        self.tests_with("tests of all crates", &base, !extra)?;
        if extra {
            let args: Vec<&str> = base.into_iter().chain(["--ignored"]).collect();
            self.tests_with("slow tests of all crates", &args, false)?;
        }
        Ok(())
    }

    fn tests_with(&mut self, title: &str, args: &[&str], count_ignored: bool) -> Result<()> {
        let begun = begin(title);
        // Shows what passing tests print, which is how a skipped one is seen.
        let args: Vec<&str> = args.iter().copied().chain(["--show-output"]).collect();
        let (success, text) = capture(cargo(&args))?;
        let mut totals = count_tests(&text, count_ignored);
        if !success && totals.failed == 0 {
            // It did not even build.
            totals.failed = 1;
        }
        if success {
            let results = text
                .lines()
                .filter(|line| line.starts_with("test result: "));
            let results = results.filter(|line| !line.contains(" 0 passed; 0 failed; 0 ignored"));
            results.for_each(crate::say);
            let skipped = text.lines().filter(|line| line.starts_with(SKIP_MARK));
            skipped.for_each(crate::say);
        } else {
            crate::say(&without_successes(&text));
        }
        self.end(title, begun, totals);
        Ok(())
    }

    /// A step that passes when its command succeeds.
    fn command(&mut self, title: &str, command: Command) -> Result<()> {
        let begun = begin(title);
        let (success, text) = capture(command)?;
        if !success {
            crate::say(&text);
        }
        self.end(
            title,
            begun,
            if success {
                Totals::PASSED
            } else {
                Totals::FAILED
            },
        );
        Ok(())
    }

    fn drill(&mut self, scenario: &Scenario) -> Result<()> {
        let mut command = Command::new(own_executable()?);
        command.args(["drill", &scenario.name]).env(PREPARED, "1");
        let title = format!("drill {}: {}", scenario.name, scenario.title);
        if let Err(missing) = drill::require(scenario) {
            self.skip(&title, &missing.to_string());
            return Ok(());
        }
        self.command(&title, command)
    }

    /// A drill that cannot fail proves nothing: without synchronisation this one has to.
    fn drill_that_fails(&mut self) -> Result<()> {
        let title = format!("drill {SHORT_FAILOVER} without synchronisation fails and says why");
        let begun = begin(&title);
        let mut command = Command::new(own_executable()?);
        command.args(["drill", SHORT_FAILOVER, "--without-sync"]);
        command.args(["--fault", "kill-node"]).env(PREPARED, "1");
        let (success, text) = capture(command)?;
        let broken = text.lines().find_map(broken_flows);
        let proven = !success && matches!(broken, Some((broken @ 1.., all)) if broken == all);
        if !proven {
            crate::say(&text);
        }
        let totals = if proven {
            Totals::PASSED
        } else {
            Totals::FAILED
        };
        self.end(&title, begun, totals);
        Ok(())
    }

    fn skip(&mut self, title: &str, why: &str) {
        crate::say(&format!("--- {title}"));
        crate::say(&format!("{SKIP_MARK}{why}"));
        self.end(title, Instant::now(), Totals::SKIPPED);
    }

    fn end(&mut self, title: &str, begun: Instant, totals: Totals) {
        let result = match totals {
            Totals { failed: 1.., .. } => "FAIL",
            Totals {
                passed: 0,
                skipped: 1..,
                ..
            } => "skip",
            Totals { .. } => "pass",
        };
        let line = step_line(result, begun.elapsed(), title, totals);
        crate::say(&line);
        self.lines.push(line);
        self.totals.add(totals);
    }

    fn summary(&self) {
        crate::say("\nresult    seconds  step");
        for line in &self.lines {
            crate::say(line);
        }
    }
}

/// How many NAT flows broke, and of how many, in the last words of a drill.
fn broken_flows(line: &str) -> Option<(u64, u64)> {
    let (_, said) = line.split_once(OFF)?;
    let (counts, _) = said.split_once(" NAT flows broken")?;
    let (broken, all) = counts.trim().split_once(" of ")?;
    Some((broken.parse().ok()?, all.parse().ok()?))
}

fn begin(title: &str) -> Instant {
    crate::say(&format!("--- {title}"));
    Instant::now()
}

fn step_line(result: &str, took: Duration, title: &str, totals: Totals) -> String {
    let many = totals.passed + totals.failed + totals.skipped > 1;
    let detail = if many {
        format!(" ({})", totals.line())
    } else {
        String::new()
    };
    format!("{result}      {:9.1}  {title}{detail}", took.as_secs_f64())
}

/// Whether cargo has a subcommand.
fn has_component(name: &str) -> bool {
    let mut command = cargo(&[name, "--version"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command to its end with its standard output taken; progress on standard error shows.
fn capture(mut command: Command) -> Result<(bool, String)> {
    let shown = command.get_program().to_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {}", Path::new(&shown).display()))?;
    let mut bytes = Vec::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_end(&mut bytes)?;
    }
    let success = child.wait()?.success();
    Ok((success, String::from_utf8_lossy(&bytes).into_owned()))
}

/// The output of tests without what the passing ones printed.
fn without_successes(text: &str) -> String {
    let mut shown = String::new();
    let mut in_successes = false;
    for line in text.lines() {
        in_successes = match line {
            "successes:" => true,
            "failures:" => false,
            _ if line.starts_with("test result: ") => false,
            _ => in_successes,
        };
        if !in_successes {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    shown
}

/// Adds up cargo's `test result` lines. A passed test that says it was skipped counts as skipped.
fn count_tests(text: &str, count_ignored: bool) -> Totals {
    let mut totals = Totals::default();
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("test result: "))
    {
        let number = |what: &str| -> u64 {
            let part = line.split(['.', ';']).find(|part| part.ends_with(what));
            let word = part.and_then(|part| part.split_whitespace().next());
            word.and_then(|word| word.parse().ok()).unwrap_or_default()
        };
        totals.add(Totals {
            passed: number(" passed"),
            failed: number(" failed"),
            skipped: if count_ignored { number(" ignored") } else { 0 },
        });
    }
    let said = text
        .lines()
        .filter(|line| line.starts_with(SKIP_MARK))
        .count() as u64;
    let said = said.min(totals.passed);
    totals.passed -= said;
    totals.skipped += said;
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
skipped: not root
test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn results_are_added_up_and_ignored_tests_count_as_skipped() {
        let totals = count_tests(OUTPUT, true);
        assert_eq!(
            totals,
            Totals {
                passed: 6,
                failed: 2,
                skipped: 2
            }
        );
    }

    #[test]
    fn ignored_tests_that_run_in_another_step_are_not_counted_twice() {
        assert_eq!(count_tests(OUTPUT, false).skipped, 1);
    }

    #[test]
    fn what_passing_tests_print_is_left_out_when_others_fail() {
        let text = "test a ... ok\nsuccesses:\nnoise\nfailures:\nreason\ntest result: FAILED.\n";
        let shown = "test a ... ok\nfailures:\nreason\ntest result: FAILED.\n";
        assert_eq!(without_successes(text), shown);
    }

    #[test]
    fn the_number_of_broken_flows_is_found_in_the_last_words() {
        let line = format!("kill-node: {OFF} 43 of 44 NAT flows broken, 44 of 44 direct");
        assert_eq!(broken_flows(&line), Some((43, 44)));
        assert_eq!(broken_flows("passed: 3 of 3 bounds held"), None);
    }

    #[test]
    fn the_last_line_has_its_agreed_form() {
        let totals = Totals {
            passed: 12,
            failed: 0,
            skipped: 3,
        };
        assert_eq!(totals.line(), "12 passed, 0 failed, 3 skipped");
    }

    #[test]
    fn a_step_line_shows_totals_only_when_there_are_several() {
        let second = Duration::from_millis(1250);
        assert_eq!(
            step_line("pass", second, "x", Totals::PASSED),
            "pass            1.2  x"
        );
        let two = Totals {
            passed: 2,
            ..Totals::default()
        };
        assert!(step_line("pass", second, "x", two).ends_with("x (2 passed, 0 failed, 0 skipped)"));
    }
}
