//! What an election watches: interfaces, scripts, processes and files, and what that makes of a
//! virtual router.
//!
//! ```text
//!  script 1 --task, every interval--> Runner --> outcome --+
//!  script 2 --...                                          +--bounded channel--> Tracking
//!  /proc, files --thread ----------------------------------+     (its owner asks for a Standing)
//!  links ------------------------------ NetworkState -----------^
//! ```
//!
//! A Standing follows from what is known when it is asked for. An object without a first result says
//! nothing yet; if it is a condition (weight 0), the router is not ready.
//!
//! DIFFERS: a script that cannot be run at all (missing, not executable, refused as root, no runner or
//! one that does not answer) is bad, as one that fails, and a problem of its own in status and log.

mod files;
mod objects;
mod processes;
mod standing;
mod watch;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::{self, PipeWriter};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{Config, TrackInterface, TrackScript};
use crate::netlink::NetworkState;
use crate::problems::Problems;
use crate::script_runner::{Outcome, Runner};
use files::Found;
use objects::{File, Process, Script};
use standing::{Sum, Watched};

pub use objects::TrackStatus;
pub use standing::Standing;

/// Results that wait for their owner.
const READINGS_MAX: usize = 64;
/// A script that has no outcome this long after its time, since others take all places, is bad.
const TURN_MAX: Duration = Duration::from_secs(6);
/// What keys of problems begin with.
const PROBLEMS: &str = "tracking ";

/// Why nothing is tracked.
#[derive(Debug, thiserror::Error)]
pub enum TrackingError {
    #[error("track_script {0}: scripts have no runner")]
    NoRunner(String),
    #[error("tracking: {0}")]
    Watch(#[from] io::Error),
}

/// A result as it was found.
#[derive(Debug)]
enum Reading {
    Script {
        index: usize,
        outcome: Outcome,
    },
    /// Why `/proc` cannot be read, in place of a number.
    Process {
        index: usize,
        count: Result<u32, String>,
    },
    File {
        index: usize,
        found: Found,
    },
}

/// All that is tracked.
#[derive(Debug)]
pub struct Tracking {
    scripts: Vec<Script>,
    processes: Vec<Process>,
    files: Vec<File>,
    instances: Vec<Watched>,
    readings: mpsc::Receiver<Reading>,
    tasks: Vec<JoinHandle<()>>,
    runner: Option<Runner>,
    /// Closing it ends the thread.
    _stop: Option<PipeWriter>,
}

impl Drop for Tracking {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Tracking {
    /// Begins to watch.
    ///
    /// # Errors
    /// See [`TrackingError`].
    pub fn start(config: &Config, runner: Option<Runner>) -> Result<Tracking, TrackingError> {
        let (to, readings) = mpsc::channel(READINGS_MAX);
        let mut tasks = Vec::new();
        for (index, script) in config.track_scripts.iter().enumerate() {
            let no_runner = || TrackingError::NoRunner(script.name.clone());
            let runner = runner.clone().ok_or_else(no_runner)?;
            let command = runner.find(&script.argv, script.user.as_deref());
            let command = command.ok_or_else(no_runner)?;
            let run = run_script(index, script.clone(), runner, command, to.clone());
            tasks.push(tokio::spawn(run));
        }
        let (processes, files) = (config.track_processes.clone(), config.track_files.clone());
        let stop = watch::start(processes, files, to)?;
        let (scripts, processes, files) = objects::objects(config);
        Ok(Tracking {
            scripts,
            processes,
            files,
            instances: standing::watched(config),
            readings,
            tasks,
            runner,
            _stop: stop,
        })
    }

    /// Waits until a [`Standing`] may have changed. May be dropped at any time without loss.
    pub async fn changed(&mut self) {
        loop {
            match self.readings.recv().await {
                Some(reading) => {
                    if self.take(reading) {
                        return;
                    }
                }
                // Nothing is tracked that could change by itself.
                None => std::future::pending().await,
            }
        }
    }

    /// Tells whether that can make a difference.
    fn take(&mut self, reading: Reading) -> bool {
        match reading {
            Reading::Script { index, outcome } => {
                self.scripts.get_mut(index).is_some_and(|script| {
                    let is_good = outcome.is_good();
                    script.seen.take(outcome, !is_good);
                    script.vote.hear(is_good)
                })
            }
            Reading::Process { index, count } => {
                self.processes.get_mut(index).is_some_and(|process| {
                    let was_good = process.is_good();
                    process.seen.take(count, false);
                    let is_good = process.is_good();
                    process.seen.bad += u64::from(is_good == Some(false));
                    was_good != is_good
                })
            }
            Reading::File { index, found } => self.files.get_mut(index).is_some_and(|file| {
                let old = file.seen.last.as_ref().map(Found::value);
                let is_bad = matches!(found, Found::Unusable(_));
                let new = found.value();
                file.seen.take(found, is_bad);
                old != Some(new)
            }),
        }
    }

    /// What is to be made of an instance as things are.
    pub fn of(&self, instance: usize, network: &NetworkState) -> Standing {
        let mut sum = Sum::new();
        let Some(watched) = self.instances.get(instance) else {
            return sum.standing();
        };
        if let Some(name) = &watched.own_interface {
            sum.interface(name, 0, false, network);
        }
        for track in &watched.tracks {
            for TrackInterface {
                name,
                weight,
                reverse,
            } in &track.interfaces
            {
                sum.interface(name, *weight, *reverse, network);
            }
            for at in &track.scripts {
                if let Some(script) = self.scripts.get(at.index) {
                    sum.object(script.vote.standing(), *at, || script.says());
                }
            }
            for at in &track.processes {
                if let Some(process) = self.processes.get(at.index) {
                    sum.object(process.is_good(), *at, || process.says());
                }
            }
            for at in &track.files {
                if let Some(file) = self.files.get(at.index) {
                    sum.file(file, *at);
                }
            }
        }
        sum.standing()
    }

    /// Every object and its last result.
    pub fn status(&self) -> Vec<TrackStatus> {
        let scripts = self.scripts.iter().map(Script::status);
        let processes = self.processes.iter().map(Process::status);
        let files = self.files.iter().map(File::status);
        scripts.chain(processes).chain(files).collect()
    }

    /// Keeps the director's problems as [`Tracking::problems`] has them.
    pub(crate) fn report(&self, problems: &mut Problems) {
        problems.set_all(PROBLEMS, self.problems(), Instant::now());
    }

    /// What cannot be looked at, by name.
    pub fn problems(&self) -> BTreeMap<String, String> {
        let scripts = self.scripts.iter().filter_map(Script::problem);
        let processes = self.processes.iter().filter_map(Process::problem);
        let files = self.files.iter().filter_map(File::problem);
        let mut found: BTreeMap<String, String> = scripts
            .chain(processes)
            .chain(files)
            .map(|(name, text)| (format!("{PROBLEMS}{name}"), format!("{name} {text}")))
            .collect();
        for trouble in self.runner.iter().flat_map(Runner::problems) {
            let (key, text) = objects::trouble(&trouble);
            found.insert(format!("{PROBLEMS}{key}"), text);
        }
        found
    }
}

/// Runs a script every interval, from start to start.
async fn run_script(
    index: usize,
    script: TrackScript,
    runner: Runner,
    command: u32,
    to: mpsc::Sender<Reading>,
) {
    // As keepalived: without a limit of its own a run has to be over when the next is due.
    let timeout = match script.timeout {
        Duration::ZERO => script.interval,
        timeout => timeout,
    };
    let mut due = tokio::time::Instant::now();
    loop {
        tokio::time::sleep_until(due).await;
        due += script.interval;
        let outcome = runner.run(command, Vec::new(), timeout);
        let outcome = match tokio::time::timeout(timeout + TURN_MAX, outcome).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Refused("too many scripts run, it had no turn in time".to_owned()),
        };
        if to.send(Reading::Script { index, outcome }).await.is_err() {
            return;
        }
        due = due.max(tokio::time::Instant::now());
    }
}
