//! Hand-made datagrams, good and bad, sent to a backup: each leaves the tables that it left on the
//! kernel's backup. The cases are those of `syncproto/tests/golden/inject`.

#![allow(clippy::print_stdout, reason = "says what differs on purpose")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::director::Backup;
use crate::golden::{Recording, list, option, payload, recordings, text};
use crate::workers::on_each;

/// Steps whose tables are other ones here, and why: case, note of the step, reason.
const DIFFERENT: [(&str, &str, &str); 4] = [
    ("v1_timeouts", "timeout 8589934", LONG),
    ("v1_timeouts", "timeout 8589935", LONG),
    ("v1_timeouts", "timeout 2147483647", LONG),
    ("v1_timeouts", "timeout 4294967295", LONG),
];
const LONG: &str = "shown as it is; the kernel shows timers in milliseconds, modulo 2^32";

/// Directors that the cases are shared out to. They wait most of the time.
const DIRECTORS: usize = 6;
/// When the kernel's tables were read, after the datagram.
const READ_AFTER: Duration = Duration::from_millis(150);
/// How long reading the files of `/proc/net` took, and each run of `ipvsadm`: from the timers of the
/// recordings.
const FILES_TOOK: Duration = Duration::from_millis(25);
const PROGRAM_TOOK: Duration = Duration::from_millis(230);

#[test]
fn datagrams_leave_the_tables_that_the_kernels_backup_had() {
    let mut cases = recordings("inject");
    assert_eq!(cases.len(), 31);
    cases.sort_by_key(|case| std::cmp::Reverse(list(&case.json, "steps").len()));
    let datagrams = cases.iter().flat_map(|case| list(&case.json, "steps"));
    let datagrams = datagrams.filter(|step| step.get("hex").is_some()).count();
    println!(
        "{} cases, {datagrams} datagrams, {} of them with another effect on purpose",
        cases.len(),
        DIFFERENT.len()
    );
    let backup = || Backup::new("");
    let wrong = on_each(DIRECTORS, cases, backup, |backup, case| {
        let wrong = run(backup, &case);
        backup.empty();
        wrong
    });
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What differs after which step.
fn run(backup: &mut Backup, case: &Recording) -> Vec<String> {
    let mut sync_id = 0;
    for line in list(&case.json, "setup") {
        let line = line.as_str().unwrap();
        backup.command(line).unwrap();
        if let Some(id) = option(line, "--syncid") {
            sync_id = id.parse().unwrap();
        }
    }
    let group = Ipv4Addr::new(224, 0, 0, 81).into();
    let mut clock = Clock::new();
    let mut wrong = Vec::new();
    // A row stays in the table: it is told once.
    let mut told = BTreeSet::new();
    for (at, step) in list(&case.json, "steps").iter().enumerate() {
        if let Some(seconds) = step["sleep"].as_f64() {
            clock.pass(Duration::from_secs_f64(seconds));
        } else if let Some(commands) = step["command"].as_str() {
            assert_eq!(step["exit"], 0);
            for command in commands.split("; ") {
                backup.command(command).unwrap();
            }
        } else {
            backup.send(&payload(step), group, 8848);
            backup.settle(sync_id, group, 8848);
            clock.pass(READ_AFTER);
            let title = format!("{}, step {at} ({})", case.name, text(step, "note"));
            let mut found = backup.differences(step);
            found.retain(|one| told.insert((one.listing, one.row.clone())));
            let known = |(name, note, _): &&(&str, &str, &str)| {
                *name == case.name && *note == text(step, "note")
            };
            match DIFFERENT.iter().find(known) {
                Some((_, _, why)) if !found.is_empty() => println!("different: {title}: {why}"),
                Some(_) => wrong.push(format!("{title}: not different")),
                None => wrong.extend(found.iter().map(|what| format!("{title}: {what}"))),
            }
            clock.pass(reading_took(step));
        }
    }
    wrong
}

fn reading_took(step: &Value) -> Duration {
    let programs = ["ipvsadm_Ln", "ipvsadm_Lnc"];
    let run = programs.iter().filter(|name| !step[**name].is_null());
    FILES_TOOK + PROGRAM_TOOK * run.count() as u32
}

/// Time as it passed while the case was recorded: what is waited for are timers.
struct Clock {
    begun: Instant,
    passed: Duration,
}

impl Clock {
    fn new() -> Clock {
        Clock {
            begun: Instant::now(),
            passed: Duration::ZERO,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        thread::sleep(self.passed.saturating_sub(self.begun.elapsed()));
    }
}
