//! What a script has started, wherever it went: also what leads a session of its own and has another
//! parent by now.
//!
//! The runner is the subreaper of all of it, so everything is below the runner in the tree of
//! processes. Which run it is of says a resource limit that Linux has no use for (`RLIMIT_RSS`,
//! getrlimit(2)): every child inherits it, across setsid and exec, nobody without privileges raises it
//! again, and `/proc/PID/limits` shows it to everybody. A script that lowers it itself (`ulimit -m`)
//! is left with what signals to its group reach; so is everything on a kernel without
//! `/proc/PID/task/TID/children`.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{read_dir, read_to_string};
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Unit: bytes of `RLIMIT_RSS`. More than any host has and any administrator would write.
const MARK_BASE: u64 = 1 << 50;
/// Processes that are looked at in one walk.
const WALK_MAX: usize = 8192;
/// Walks of one kill: what starts processes faster is met again a grace later.
const ROUNDS_MAX: usize = 8;

/// The mark of a run.
pub(super) const fn mark_of(id: u64) -> u64 {
    MARK_BASE | (id % MARK_BASE)
}

/// To everything below this process with one of these marks.
pub(super) fn signal_marked(marks: &BTreeSet<u64>, signal: Signal) {
    for pid in marked(marks) {
        // It may have ended meanwhile.
        let _ = kill(pid, signal);
    }
}

/// As [`signal_marked`], until nothing new is found.
pub(super) fn kill_marked(marks: &BTreeSet<u64>) {
    let mut killed = BTreeSet::new();
    for _ in 0..ROUNDS_MAX {
        let mut is_over = true;
        for pid in marked(marks) {
            if killed.insert(pid) {
                is_over = false;
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        if is_over {
            return;
        }
    }
}

/// A walk through all of them takes some milliseconds, so there is one for all marks.
fn marked(marks: &BTreeSet<u64>) -> Vec<Pid> {
    let mut found = Vec::new();
    if marks.is_empty() {
        return found;
    }
    let mut all = VecDeque::from([std::process::id()]);
    for _ in 0..WALK_MAX {
        let Some(parent) = all.pop_front() else {
            break;
        };
        for pid in children(parent) {
            all.push_back(pid);
            if limit_of(pid).is_some_and(|limit| marks.contains(&limit))
                && let Ok(pid) = i32::try_from(pid)
            {
                found.push(Pid::from_raw(pid));
            }
        }
    }
    found
}

/// Of all its threads. None of a process that has ended meanwhile: they are the runner's then.
fn children(pid: u32) -> Vec<u32> {
    let tasks = read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().filter_map(Result::ok);
    let texts = tasks.filter_map(|task| read_to_string(task.path().join("children")).ok());
    let mut found = Vec::new();
    for text in texts {
        found.extend(
            text.split_whitespace()
                .filter_map(|word| word.parse::<u32>().ok()),
        );
    }
    found
}

/// Its hard `RLIMIT_RSS`.
fn limit_of(pid: u32) -> Option<u64> {
    let text = read_to_string(Path::new("/proc").join(pid.to_string()).join("limits")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max resident set"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use nix::sys::resource::{Resource, getrlimit};

    use super::*;

    #[test]
    fn a_child_is_found_by_its_mark_and_by_no_other() {
        let mark = mark_of(77);
        assert_ne!(mark, mark_of(78));
        let (_, most) = getrlimit(Resource::RLIMIT_RSS).unwrap();
        if most < mark {
            eprintln!("skipped: RLIMIT_RSS is limited here");
            return;
        }
        // In KiB for the shell, so of a run whose number is a multiple of 1024.
        let mark = mark_of(77 << 10);
        let script = format!("ulimit -m {}; sleep 1000 & echo; wait", mark >> 10);
        let mut shell = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0; 1];
        std::io::Read::read_exact(&mut shell.stdout.take().unwrap(), &mut told).unwrap();
        assert_eq!(limit_of(shell.id()), Some(mark));
        let marks = BTreeSet::from([mark]);
        assert_eq!(marked(&marks).len(), 2);
        assert_eq!(marked(&BTreeSet::from([mark_of(78 << 10)])), []);
        kill_marked(&marks);
        assert!(!shell.wait().unwrap().success());
    }
}
