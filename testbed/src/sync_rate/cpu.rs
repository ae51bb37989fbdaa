//! Processor time of a daemon's threads, and on which processors they run.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Processor time so far, by name of thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ThreadTimes(BTreeMap<String, Duration>);

impl ThreadTimes {
    /// Of all threads of a process, from `/proc/PID/task/TID/schedstat`.
    ///
    /// # Errors
    /// No such process.
    pub(crate) fn of(pid: u32) -> Result<ThreadTimes> {
        let mut times = ThreadTimes::default();
        for tid in threads(pid)? {
            let dir = format!("/proc/{pid}/task/{tid}");
            let read = |file: &str| fs::read_to_string(format!("{dir}/{file}"));
            // A thread may end meanwhile.
            let (Ok(name), Ok(stat)) = (read("comm"), read("schedstat")) else {
                continue;
            };
            let ns = stat.split(' ').next().and_then(|ns| ns.parse().ok());
            let time = times.0.entry(name.trim_end().to_owned()).or_default();
            *time += Duration::from_nanos(ns.unwrap_or(0));
        }
        Ok(times)
    }

    /// What was added after `earlier`.
    pub(crate) fn since(&self, earlier: &ThreadTimes) -> ThreadTimes {
        let added = self.0.iter().map(|(name, time)| {
            let before = earlier.0.get(name).copied().unwrap_or_default();
            (name.clone(), time.saturating_sub(before))
        });
        ThreadTimes(added.collect())
    }

    /// Of the threads whose names begin so.
    pub(crate) fn named(&self, prefix: &str) -> Duration {
        let named = self.0.iter().filter(|(name, _)| name.starts_with(prefix));
        named.map(|(_, time)| *time).sum()
    }

    pub(crate) fn total(&self) -> Duration {
        self.0.values().sum()
    }
}

/// Lets every thread of a process run on these processors alone; those it starts later follow.
///
/// # Errors
/// No such process or processor.
pub(crate) fn pin_process(pid: u32, processors: &[usize]) -> Result<()> {
    let set = set_of(processors)?;
    for tid in threads(pid)? {
        // A thread may end meanwhile.
        let _ = sched_setaffinity(Pid::from_raw(tid), &set);
    }
    Ok(())
}

/// The same for the calling thread.
///
/// # Errors
/// No such processor.
pub(crate) fn pin_thread(processors: &[usize]) -> Result<()> {
    sched_setaffinity(Pid::from_raw(0), &set_of(processors)?).context("processor")
}

fn set_of(processors: &[usize]) -> Result<CpuSet> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor)?;
    }
    Ok(set)
}

fn threads(pid: u32) -> Result<Vec<i32>> {
    let dir = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&dir).context(dir)?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_string_lossy().parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_summed_by_the_beginning_of_a_name() {
        let times = |of: &[(&str, u64)]| {
            let all = of
                .iter()
                .map(|(name, ms)| ((*name).to_owned(), Duration::from_millis(*ms)));
            ThreadTimes(all.collect())
        };
        let before = times(&[("sync-backup", 5), ("directord", 1)]);
        let after = times(&[("sync-backup", 9), ("sync-backup-1", 2), ("directord", 4)]);
        let added = after.since(&before);
        assert_eq!(added.named("sync-backup"), Duration::from_millis(6));
        assert_eq!(added.total(), Duration::from_millis(9));
    }
}
