//! The scripts of one instance or group, run one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::script_runner::{Outcome, Runner};

/// Changes whose scripts wait. The oldest give way: what counts is how it ended.
const JOBS_MAX: usize = 256;
/// At a stop, a script that runs is waited for so long before the stop's own are started.
const STOP_PATIENCE: Duration = Duration::from_millis(250);

/// What is run at one change.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// In this order.
    pub(super) commands: Vec<Command>,
    /// What happened.
    pub(super) args: Vec<String>,
    pub(super) limit: Limit,
}

#[derive(Clone, Debug)]
pub(super) struct Command {
    /// The runner's.
    pub(super) number: u32,
    /// For people.
    pub(super) program: String,
    /// Whether it is told what happened.
    pub(super) takes_args: bool,
}

/// How long scripts may run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Each(Duration),
    /// All of them, and nothing comes after.
    Until(Instant),
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Job>,
    dropped: u64,
    stopping_since: Option<Instant>,
    /// Scripts whose last run did not go well, and how.
    failed: BTreeMap<String, String>,
}

/// Jobs in their order. The lock is held for moments, never over a wait.
#[derive(Debug)]
pub(super) struct Queue {
    /// For people.
    name: String,
    inner: Mutex<Inner>,
    more: Notify,
    stopping: Notify,
}

impl Queue {
    pub(super) fn new(name: String) -> Queue {
        Queue {
            name,
            inner: Mutex::default(),
            more: Notify::new(),
            stopping: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing waits here, though something may run.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    pub(super) fn push(&self, job: Job) {
        let mut inner = self.lock();
        if inner.stopping_since.is_some() {
            return;
        }
        if inner.jobs.len() == JOBS_MAX {
            inner.jobs.pop_front();
            inner.dropped += 1;
            if inner.dropped.is_power_of_two() {
                let (name, dropped) = (&self.name, inner.dropped);
                warn!(
                    name,
                    dropped, "notify scripts are too slow, changes were left out"
                );
            }
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.more.notify_one();
    }

    /// Leaves out what waits: this job is the last.
    pub(super) fn push_last(&self, job: Job) {
        let mut inner = self.lock();
        inner.dropped += u64::try_from(inner.jobs.len()).unwrap_or_default();
        inner.jobs.clear();
        inner.jobs.push_back(job);
        inner.stopping_since = Some(Instant::now());
        drop(inner);
        self.more.notify_one();
        self.stopping.notify_one();
    }

    /// What is wrong with the scripts.
    pub(super) fn problems(&self) -> Vec<String> {
        let inner = self.lock();
        let failed = inner.failed.values().cloned();
        let dropped = (inner.dropped > 0).then(|| {
            format!(
                "notify scripts of {} are too slow, {} changes were left out",
                self.name, inner.dropped
            )
        });
        failed.chain(dropped).collect()
    }

    /// Runs what comes, until the last job is done.
    pub(super) async fn work(&self, runner: Runner) {
        loop {
            let job = self.next().await;
            let is_last = matches!(job.limit, Limit::Until(_));
            for command in &job.commands {
                let timeout = match job.limit {
                    Limit::Each(timeout) => timeout,
                    Limit::Until(end) => end.saturating_duration_since(Instant::now()),
                };
                let args = match command.takes_args {
                    true => job.args.clone(),
                    false => Vec::new(),
                };
                let run = runner.run(command.number, args, timeout);
                tokio::select! {
                    outcome = run => self.note(command, &job, outcome),
                    () = self.patience(), if !is_last => break,
                }
            }
            if is_last {
                return;
            }
        }
    }

    async fn next(&self) -> Job {
        loop {
            let job = self.lock().jobs.pop_front();
            match job {
                Some(job) => return job,
                None => self.more.notified().await,
            }
        }
    }

    /// Ends when a stop has waited long enough for what runs.
    async fn patience(&self) {
        loop {
            let since = self.lock().stopping_since;
            match since {
                Some(since) => return sleep_until(since + STOP_PATIENCE).await,
                None => self.stopping.notified().await,
            }
        }
    }

    fn note(&self, command: &Command, job: &Job, outcome: Outcome) {
        let (name, program) = (&self.name, &command.program);
        let args = job.args.join(" ");
        match outcome {
            Outcome::Exited(0) => {
                debug!(name, program, args, "notified");
                self.lock().failed.remove(program);
                return;
            }
            // That of the runner is a problem of the whole daemon, named once.
            Outcome::Exited(_) | Outcome::Lost | Outcome::Silent => {
                self.lock().failed.remove(program);
            }
            Outcome::Signalled(_) | Outcome::TimedOut | Outcome::Refused(_) => {
                let text = format!("notify script {program} of {name}: {outcome}");
                self.lock().failed.insert(program.clone(), text);
            }
        }
        warn!(name, program, args, %outcome, "a notify script failed");
    }
}
