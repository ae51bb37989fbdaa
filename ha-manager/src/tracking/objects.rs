//! Scripts, processes and files with their last results.

use serde::Serialize;

use super::files::Found;
use crate::config::{Config, TrackFile, TrackProcess, TrackScript};
use crate::script_runner::{Outcome, Trouble};
use vrrp::tracking::Vote;

/// What the names of scripts are told with.
pub(super) const SCRIPT: &str = "track_script ";

/// One object, for `directord status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrackStatus {
    /// `script`, `process` or `file`.
    pub kind: &'static str,
    pub name: String,
    /// `None` before the first result, and for a file, which has a value.
    pub good: Option<bool>,
    /// The last result in words.
    pub last: String,
    /// Results so far: runs of a script, changes of the others.
    pub runs: u64,
    /// How many of them were bad.
    pub bad: u64,
}

/// A result and how many there were.
#[derive(Debug)]
pub(super) struct Seen<T> {
    pub(super) last: Option<T>,
    pub(super) runs: u64,
    pub(super) bad: u64,
}

impl<T> Seen<T> {
    pub(super) const fn new() -> Seen<T> {
        Seen {
            last: None,
            runs: 0,
            bad: 0,
        }
    }

    pub(super) fn take(&mut self, result: T, is_bad: bool) {
        self.last = Some(result);
        self.runs += 1;
        self.bad += u64::from(is_bad);
    }
}

#[derive(Debug)]
pub(super) struct Script {
    pub(super) config: TrackScript,
    pub(super) vote: Vote,
    pub(super) seen: Seen<Outcome>,
}

#[derive(Debug)]
pub(super) struct Process {
    pub(super) config: TrackProcess,
    pub(super) seen: Seen<Result<u32, String>>,
}

#[derive(Debug)]
pub(super) struct File {
    pub(super) config: TrackFile,
    pub(super) seen: Seen<Found>,
}

/// All of a configuration, without results.
pub(super) fn objects(config: &Config) -> (Vec<Script>, Vec<Process>, Vec<File>) {
    let scripts = config.track_scripts.iter().map(|script| {
        let mut vote = Vote::new(script.rise, script.fall);
        if script.init_fail {
            vote.hear(false);
        }
        Script {
            config: script.clone(),
            vote,
            seen: Seen::new(),
        }
    });
    let processes = config.track_processes.iter().map(|process| Process {
        config: process.clone(),
        seen: Seen::new(),
    });
    let files = config.track_files.iter().map(|file| File {
        config: file.clone(),
        seen: Seen::new(),
    });
    (scripts.collect(), processes.collect(), files.collect())
}

/// What is wrong with scripts altogether, with a key.
pub(super) fn trouble(trouble: &Trouble) -> (&'static str, String) {
    match trouble {
        Trouble::Gone => (
            "runner",
            "the script runner has ended: no script can be run, and every tracked one counts as \
             bad; restart directord"
                .to_owned(),
        ),
        Trouble::Silent => (
            "runner",
            "the script runner does not answer: no script is run, and every tracked one counts as \
             bad; it may be stopped, or wait for a disk or a file server"
                .to_owned(),
        ),
        Trouble::Stuck { runs, program } => (
            "runs",
            format!(
                "{runs} runs of scripts were killed and do not end, the oldest of {program}: the \
                 kernel holds them, as for a disk or a file server that does not answer"
            ),
        ),
    }
}

impl Script {
    fn last(&self) -> String {
        let last = self.seen.last.as_ref();
        last.map_or_else(|| "has not run yet".to_owned(), Outcome::to_string)
    }

    pub(super) fn says(&self) -> String {
        format!("track_script {}: {}", self.config.name, self.last())
    }

    pub(super) fn problem(&self) -> Option<(String, String)> {
        let is_refused = self.seen.last.as_ref().is_some_and(Outcome::is_refused);
        let name = format!("{SCRIPT}{}", self.config.name);
        is_refused.then(|| (name, format!("cannot be run: {}", self.last())))
    }

    pub(super) fn status(&self) -> TrackStatus {
        TrackStatus {
            kind: "script",
            name: self.config.name.clone(),
            good: self.vote.standing(),
            last: self.last(),
            runs: self.seen.runs,
            bad: self.seen.bad,
        }
    }
}

impl Process {
    /// Nobody knows what runs where `/proc` cannot be read.
    pub(super) fn is_good(&self) -> Option<bool> {
        let count = self.seen.last.as_ref()?;
        Some(
            count
                .as_ref()
                .is_ok_and(|count| *count >= self.config.quorum),
        )
    }

    fn last(&self) -> String {
        match &self.seen.last {
            Some(Ok(count)) => format!("{count} of {}", self.config.quorum),
            Some(Err(error)) => error.clone(),
            None => "not counted yet".to_owned(),
        }
    }

    pub(super) fn says(&self) -> String {
        format!("track_process {}: {}", self.config.name, self.last())
    }

    pub(super) fn problem(&self) -> Option<(String, String)> {
        let failed = matches!(self.seen.last, Some(Err(_)));
        let name = format!("track_process {}", self.config.name);
        failed.then(|| (name, format!("cannot be counted: {}", self.last())))
    }

    pub(super) fn status(&self) -> TrackStatus {
        TrackStatus {
            kind: "process",
            name: self.config.name.clone(),
            good: self.is_good(),
            last: self.last(),
            runs: self.seen.runs,
            bad: self.seen.bad,
        }
    }
}

impl File {
    fn last(&self) -> String {
        match &self.seen.last {
            Some(Found::Number(value)) => format!("value {value}"),
            Some(Found::Empty) => "value 0, empty".to_owned(),
            Some(Found::Missing) => "value 0, missing".to_owned(),
            Some(Found::Unusable(why)) => format!("value 0, {why}"),
            None => "not read yet".to_owned(),
        }
    }

    pub(super) fn says(&self) -> String {
        format!("track_file {}: {}", self.config.name, self.last())
    }

    pub(super) fn problem(&self) -> Option<(String, String)> {
        match &self.seen.last {
            Some(Found::Unusable(why)) => Some((
                format!("track_file {}", self.config.name),
                format!("counts as 0: {}: {why}", self.config.path.display()),
            )),
            Some(Found::Number(_) | Found::Empty | Found::Missing) | None => None,
        }
    }

    pub(super) fn status(&self) -> TrackStatus {
        TrackStatus {
            kind: "file",
            name: self.config.name.clone(),
            good: None,
            last: self.last(),
            runs: self.seen.runs,
            bad: self.seen.bad,
        }
    }
}
