//! One run of the testbed: its directory, its processes, and the reaping of runs that died.
//!
//! `/run/tandem-testbed/<id>/` holds `owner` (process id and start time of the program that cleans
//! up), `processes/` (one file for each started process), and one directory for each director. A
//! run whose owner is dead is removed by the next command. Process ids are used again, so each is
//! stored with the start time that the kernel shows for it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where runs live, unless [`RUNS_VARIABLE`] names another directory.
const RUNS: &str = "/run/tandem-testbed";
pub(crate) const RUNS_VARIABLE: &str = "TANDEM_TESTBED_RUNS";
/// Holds the directories of runs that were kept to be looked at.
const KEPT: &str = "kept";
/// Kept runs beyond this number are removed, oldest first.
const KEPT_MAX: usize = 10;
/// A directory without an owner is being made by someone; after this time it is left over.
const UNOWNED_GRACE: Duration = Duration::from_secs(60);

/// A process, certain even when its number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub(crate) start_ticks: u64,
}

impl ProcessId {
    fn parse(text: &str) -> Option<ProcessId> {
        let (pid, start) = text.trim().split_once(' ')?;
        Some(ProcessId {
            pid: pid.parse().ok()?,
            start_ticks: start.parse().ok()?,
        })
    }

    fn render(self) -> String {
        format!("{} {}\n", self.pid, self.start_ticks)
    }

    /// # Errors
    /// No such process.
    pub(crate) fn of(pid: i32) -> Result<ProcessId> {
        let start_ticks = start_ticks(pid).with_context(|| format!("no process {pid}"))?;
        Ok(ProcessId { pid, start_ticks })
    }

    pub(crate) fn is_alive(self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

/// A run in progress; dropping it removes its directory.
#[derive(Debug)]
pub(crate) struct Run {
    id: String,
    dir: PathBuf,
    keep: bool,
}

impl Run {
    /// Starts a new run, owned by this process.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(crate) fn begin() -> Result<Run> {
        let runs = runs_dir();
        fs::create_dir_all(&runs).with_context(|| runs.display().to_string())?;
        let id = random_id()?;
        let fresh = runs.join(format!(".new-{id}"));
        fs::create_dir_all(fresh.join("processes"))?;
        let owner = ProcessId::of(std::process::id().cast_signed())?;
        fs::write(fresh.join("owner"), owner.render())?;
        let dir = runs.join(&id);
        // Appears with its owner or not at all.
        fs::rename(&fresh, &dir)?;
        Ok(Run {
            id,
            dir,
            keep: false,
        })
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes a process, so that it is ended when this one cannot do it.
    ///
    /// # Errors
    /// The note cannot be written.
    pub(crate) fn record(&self, pid: u32) -> Result<()> {
        let process = ProcessId::of(pid.cast_signed())?;
        fs::write(
            self.dir.join("processes").join(pid.to_string()),
            process.render(),
        )?;
        Ok(())
    }

    /// The directory will be kept; gives the place where it can be found afterwards.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.keep = true;
        runs_dir().join(KEPT).join(&self.id)
    }

    fn move_to_kept(&self) -> Result<()> {
        let kept = runs_dir().join(KEPT);
        fs::create_dir_all(&kept)?;
        fs::rename(&self.dir, kept.join(&self.id))?;
        let mut old: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&kept)?.flatten() {
            old.push((entry.metadata()?.modified()?, entry.path()));
        }
        old.sort();
        for (_, path) in old.iter().rev().skip(KEPT_MAX) {
            remove_tree(path)?;
        }
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let done = if self.keep {
            self.move_to_kept()
        } else {
            remove_tree(&self.dir)
        };
        if let Err(error) = done {
            crate::complain(&format!("{}: {error:#}", self.dir.display()));
        }
    }
}

/// Directory of all runs.
pub(crate) fn runs_dir() -> PathBuf {
    std::env::var_os(RUNS_VARIABLE).map_or_else(|| RUNS.into(), PathBuf::from)
}

/// Directories of runs whose owner lives.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn living(runs: &Path) -> Result<Vec<(PathBuf, ProcessId)>> {
    let mut found = Vec::new();
    for dir in run_dirs(runs)? {
        let owner = read_owner(&dir);
        if let Some(owner) = owner.filter(|owner| owner.is_alive()) {
            found.push((dir, owner));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// Removes what dead runs left: their processes, then their directories.
///
/// # Errors
/// A directory cannot be read or removed.
pub(crate) fn reap(runs: &Path) -> Result<usize> {
    let mut reaped = 0;
    for dir in run_dirs(runs)? {
        let age = fs::metadata(&dir).and_then(|data| data.modified()).ok();
        let age = age
            .and_then(|modified| modified.elapsed().ok())
            .unwrap_or_default();
        if fate(read_owner(&dir), age, start_ticks) == Fate::Keep {
            continue;
        }
        for process in recorded(&dir) {
            if process.is_alive() {
                kill_process(process)?;
            }
        }
        remove_tree(&dir)?;
        reaped += 1;
    }
    Ok(reaped)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    Reap,
}

/// What becomes of a run directory; `start_of` tells when a process started, if it exists.
fn fate(owner: Option<ProcessId>, age: Duration, start_of: impl Fn(i32) -> Option<u64>) -> Fate {
    let alive = match owner {
        Some(owner) => start_of(owner.pid) == Some(owner.start_ticks),
        None => age < UNOWNED_GRACE,
    };
    if alive { Fate::Keep } else { Fate::Reap }
}

fn run_dirs(runs: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| runs.display().to_string()),
    };
    let dirs = entries.flatten().filter(|entry| entry.file_name() != KEPT);
    Ok(dirs
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect())
}

fn read_owner(dir: &Path) -> Option<ProcessId> {
    ProcessId::parse(&fs::read_to_string(dir.join("owner")).ok()?)
}

fn recorded(dir: &Path) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir(dir.join("processes")) else {
        return Vec::new();
    };
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts.filter_map(|text| ProcessId::parse(&text)).collect()
}

fn kill_process(process: ProcessId) -> Result<()> {
    match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => bail!("process {}: {error}", process.pid),
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => Ok(()),
        // Another command reaped it at the same time.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", dir.display())),
    }
}

/// When a process started, if it exists and has not ended.
fn start_ticks(pid: i32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The start time in the text of `/proc/PID/stat`; a zombie counts as ended.
fn parse_stat(stat: &str) -> Option<u64> {
    // The name stands in brackets and may itself hold brackets and blanks.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn random_id() -> Result<String> {
    let mut bytes = [0u8; 3];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: ProcessId = ProcessId {
        pid: 77,
        start_ticks: 1000,
    };

    #[test]
    fn a_run_is_kept_while_its_owner_lives() {
        assert_eq!(fate(Some(OWNER), Duration::MAX, |_| Some(1000)), Fate::Keep);
    }

    #[test]
    fn a_run_whose_owner_ended_is_reaped() {
        assert_eq!(fate(Some(OWNER), Duration::ZERO, |_| None), Fate::Reap);
    }

    #[test]
    fn a_number_used_again_by_another_process_does_not_save_a_run() {
        assert_eq!(
            fate(Some(OWNER), Duration::ZERO, |_| Some(2000)),
            Fate::Reap
        );
    }

    #[test]
    fn a_directory_without_owner_gets_a_grace_period() {
        assert_eq!(fate(None, Duration::ZERO, |_| None), Fate::Keep);
        assert_eq!(fate(None, UNOWNED_GRACE, |_| None), Fate::Reap);
    }

    #[test]
    fn the_start_time_is_found_behind_an_awkward_name() {
        let fields = "1 77 77 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 8675309 4096 1";
        let stat = format!("77 (a) b (c) S {fields}");
        assert_eq!(parse_stat(&stat), Some(8_675_309));
        assert_eq!(parse_stat(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_stat("77 (cut"), None);
    }

    #[test]
    fn an_owner_file_round_trips_and_nonsense_is_no_owner() {
        assert_eq!(ProcessId::parse(&OWNER.render()), Some(OWNER));
        assert_eq!(ProcessId::parse("77"), None);
        assert_eq!(ProcessId::parse("x y"), None);
    }

    #[test]
    fn this_process_is_alive() {
        assert!(
            ProcessId::of(std::process::id().cast_signed())
                .unwrap()
                .is_alive()
        );
    }
}
