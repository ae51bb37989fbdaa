//! Tells other programs what became of this node: scripts and a FIFO, as keepalived does.
//!
//! The script for a state runs first, with no arguments but its own, and then that for all states,
//! which gets `INSTANCE|GROUP`, name, `MASTER|BACKUP|FAULT|STOP` and priority (0 for a group) behind
//! its own. The FIFO gets one line of the same words, and besides `MASTER_RX_LOWER_PRI`, and if
//! wanted `MASTER_PRIORITY` and `BACKUP_PRIORITY`.
//!
//! Nothing here is ever waited for: lines are written or dropped, scripts have a queue for each
//! instance and group, a time limit, and a process that runs them ([`crate::script_runner`]).
//! DIFFERS: keepalived starts the scripts of two quick changes side by side; here they follow each
//! other, also one whose time is over and which is being killed. That for a master of lower priority
//! it starts at each advertisement; here once a second at most, as anybody on the LAN can send those,
//! and a line of them is written once in half an interval.

mod fifo;
mod queue;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::config::{Config, NotifyConfig, NotifyScripts};
use crate::problems::Problems;
use crate::script_runner::Runner;
use fifo::Fifo;
use queue::{Command, Job, Limit, Queue};

/// As keepalived: the scripts of a stop have this long, all together.
const STOP_MAX: Duration = Duration::from_secs(1);
/// The script for masters of lower priority runs once in this time.
const LOWER_RUNS: Duration = Duration::from_secs(1);
/// No state, but something that happens to a master.
const RX_LOWER_PRIO: &str = "MASTER_RX_LOWER_PRI";
/// What keys of problems begin with.
const PROBLEMS: &str = "notify ";

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("[notify] fifo {}: {source}", path.display())]
    Fifo { path: PathBuf, source: io::Error },
    #[error("notify scripts of {0} have no runner")]
    NoRunner(String),
}

/// What an instance or a group has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyState {
    Master,
    Backup,
    Fault,
    Stop,
}

impl NotifyState {
    const fn word(self) -> &'static str {
        match self {
            NotifyState::Master => "MASTER",
            NotifyState::Backup => "BACKUP",
            NotifyState::Fault => "FAULT",
            NotifyState::Stop => "STOP",
        }
    }
}

/// The scripts of an instance or a group.
#[derive(Debug, Default)]
struct Scripts {
    master: Option<Command>,
    backup: Option<Command>,
    fault: Option<Command>,
    stop: Option<Command>,
    any: Option<Command>,
}

impl Scripts {
    /// The specific one first.
    fn of(&self, state: NotifyState) -> Vec<Command> {
        let specific = match state {
            NotifyState::Master => &self.master,
            NotifyState::Backup => &self.backup,
            NotifyState::Fault => &self.fault,
            NotifyState::Stop => &self.stop,
        };
        [specific, &self.any]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// An instance or a group.
#[derive(Debug)]
struct Party {
    kind: &'static str,
    name: String,
    scripts: Scripts,
    /// The last one told.
    priority: AtomicU8,
    queue: Option<Arc<Queue>>,
    lower: Lower,
}

/// How an instance tells of a master of lower priority. Whoever is on the LAN can say to be one all the
/// time, so nothing of this is in the way of what becomes of the instance.
#[derive(Debug)]
struct Lower {
    /// Its script, and a queue of its own.
    script: Option<(Command, Arc<Queue>)>,
    line: Seldom,
    run: Seldom,
}

/// Something that is done no more often than so.
#[derive(Debug)]
struct Seldom {
    pause: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    const fn new(pause: Duration) -> Seldom {
        Seldom {
            pause,
            last: Mutex::new(None),
        }
    }

    /// Whether it may be done now, which it then is.
    fn is_time(&self) -> bool {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now < last + self.pause) {
            return false;
        }
        *last = Some(now);
        true
    }
}

impl Party {
    fn queues(&self) -> impl Iterator<Item = &Queue> {
        let lower = self.lower.script.as_ref().map(|(_, queue)| queue);
        self.queue.iter().chain(lower).map(Arc::as_ref)
    }
}

fn args_of(party: &Party, word: &str, priority: u8) -> Vec<String> {
    let priority = priority.to_string();
    [party.kind, &party.name, word, &priority]
        .map(str::to_owned)
        .to_vec()
}

/// Tells.
#[derive(Debug)]
pub struct Notifier {
    instances: Vec<Party>,
    groups: Vec<Party>,
    fifo: Option<Fifo>,
    config: NotifyConfig,
    /// One for each queue.
    workers: Vec<JoinHandle<()>>,
}

impl Drop for Notifier {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.abort();
        }
    }
}

impl Notifier {
    /// Opens the FIFO and starts what waits for changes.
    ///
    /// # Errors
    /// See [`NotifyError`].
    pub fn start(config: &Config, runner: Option<Runner>) -> Result<Notifier, NotifyError> {
        let fifo = config.notify.fifo.as_ref().map(|path| {
            Fifo::open(path).map_err(|source| NotifyError::Fifo {
                path: path.clone(),
                source,
            })
        });
        let mut notifier = Notifier {
            instances: Vec::new(),
            groups: Vec::new(),
            fifo: fifo.transpose()?,
            config: config.notify.clone(),
            workers: Vec::new(),
        };
        for vrrp in &config.vrrp {
            let mut party = notifier.party(
                "INSTANCE",
                &vrrp.name,
                &vrrp.notify,
                vrrp.advert,
                runner.as_ref(),
            )?;
            *party.priority.get_mut() = vrrp.priority;
            notifier.instances.push(party);
        }
        for group in &config.vrrp_groups {
            let (name, notify) = (&group.name, &group.notify);
            // A group hears nobody.
            let party = notifier.party("GROUP", name, notify, Duration::ZERO, runner.as_ref())?;
            notifier.groups.push(party);
        }
        Ok(notifier)
    }

    fn party(
        &mut self,
        kind: &'static str,
        name: &str,
        scripts: &NotifyScripts,
        advert: Duration,
        runner: Option<&Runner>,
    ) -> Result<Party, NotifyError> {
        let mut party = Party {
            kind,
            name: name.to_owned(),
            scripts: Scripts::default(),
            priority: AtomicU8::new(0),
            queue: None,
            lower: Lower {
                script: None,
                line: Seldom::new(advert / 2),
                run: Seldom::new(LOWER_RUNS),
            },
        };
        if scripts.all().next().is_none() {
            return Ok(party);
        }
        let no_runner = || NotifyError::NoRunner(name.to_owned());
        let runner = runner.ok_or_else(no_runner)?;
        let user = self.config.user.as_deref();
        let find = |argv: &Option<Vec<String>>, takes_args| match argv {
            Some(argv) => Ok(Some(Command {
                number: runner.find(argv, user).ok_or_else(no_runner)?,
                program: argv.first().cloned().unwrap_or_default(),
                takes_args,
            })),
            None => Ok(None),
        };
        let command = |argv| find(argv, false);
        party.scripts = Scripts {
            master: command(&scripts.master)?,
            backup: command(&scripts.backup)?,
            fault: command(&scripts.fault)?,
            stop: command(&scripts.stop)?,
            any: find(&scripts.any, true)?,
        };
        let lower = command(&scripts.master_rx_lower_pri)?;
        party.queue = Some(self.queue(kind, name, runner));
        if let Some(command) = lower {
            let queue = self.queue(kind, name, runner);
            party.lower.script = Some((command, queue));
        }
        Ok(party)
    }

    /// A queue with somebody who works on it.
    fn queue(&mut self, kind: &str, name: &str, runner: &Runner) -> Arc<Queue> {
        let queue = Arc::new(Queue::new(format!("{kind} {name}")));
        let (theirs, runner) = (Arc::clone(&queue), runner.clone());
        let work = async move { theirs.work(runner).await };
        self.workers.push(tokio::spawn(work));
        queue
    }

    /// An instance has another state now. Unit of priority: 1 to 255, as it is advertised.
    pub fn instance(&self, index: usize, state: NotifyState, priority: u8) {
        if let Some(party) = self.instances.get(index) {
            party.priority.store(priority, Ordering::Relaxed);
            self.tell(party, state, Limit::Each(self.config.timeout));
        }
    }

    /// A group has another state now.
    pub fn group(&self, index: usize, state: NotifyState) {
        if let Some(party) = self.groups.get(index) {
            self.tell(party, state, Limit::Each(self.config.timeout));
        }
    }

    /// A master has heard one of lower priority.
    pub fn rx_lower_prio(&self, index: usize, priority: u8) {
        let Some(party) = self.instances.get(index) else {
            return;
        };
        if party.lower.line.is_time() {
            self.line(party, RX_LOWER_PRIO, priority);
        }
        if let Some((command, queue)) = &party.lower.script
            && queue.is_empty()
            && party.lower.run.is_time()
        {
            queue.push(Job {
                commands: vec![command.clone()],
                args: args_of(party, RX_LOWER_PRIO, priority),
                limit: Limit::Each(self.config.timeout),
            });
        }
    }

    /// The effective priority has changed, in this state.
    pub fn priority_changed(&self, index: usize, state: NotifyState, priority: u8) {
        let Some(party) = self.instances.get(index) else {
            return;
        };
        party.priority.store(priority, Ordering::Relaxed);
        let word = match state {
            NotifyState::Master => "MASTER_PRIORITY",
            NotifyState::Backup => "BACKUP_PRIORITY",
            NotifyState::Fault | NotifyState::Stop => return,
        };
        if self.config.priority_changes {
            self.line(party, word, priority);
        }
    }

    fn tell(&self, party: &Party, state: NotifyState, limit: Limit) {
        let priority = party.priority.load(Ordering::Relaxed);
        self.line(party, state.word(), priority);
        let Some(queue) = &party.queue else {
            return;
        };
        let commands = party.scripts.of(state);
        let job = Job {
            args: args_of(party, state.word(), priority),
            limit,
            commands,
        };
        match limit {
            Limit::Until(_) => queue.push_last(job),
            Limit::Each(_) if job.commands.is_empty() => {}
            Limit::Each(_) => queue.push(job),
        }
    }

    fn line(&self, party: &Party, word: &str, priority: u8) {
        if let Some(fifo) = &self.fifo {
            let Party { kind, name, .. } = party;
            fifo.write(&format!("{kind} \"{name}\" {word} {priority}\n"));
        }
    }

    /// Keeps the director's problems as [`Notifier::problems`] has them.
    pub(crate) fn report(&self, problems: &mut Problems) {
        problems.set_all(PROBLEMS, self.problems(), std::time::Instant::now());
    }

    /// What does not work, by a key of its own.
    pub fn problems(&self) -> BTreeMap<String, String> {
        let parties = self.instances.iter().chain(&self.groups);
        let queues = parties.flat_map(Party::queues);
        let texts = queues.flat_map(Queue::problems);
        let texts = texts.chain(self.fifo.as_ref().and_then(Fifo::problem));
        texts
            .enumerate()
            .map(|(place, text)| (format!("{PROBLEMS}{place}"), text))
            .collect()
    }

    /// Lines that found no room in the FIFO.
    pub fn lines_dropped(&self) -> u64 {
        self.fifo.as_ref().map_or(0, Fifo::dropped)
    }

    /// Tells everybody that this node stops, and waits until they know, for at most [`STOP_MAX`].
    /// Changes that still wait are left out.
    pub async fn stop(mut self) {
        let latest = Instant::now() + STOP_MAX;
        for party in self.instances.iter().chain(&self.groups) {
            self.tell(party, NotifyState::Stop, Limit::Until(latest));
            if let Some((_, queue)) = &party.lower.script {
                // It ends with nothing to run.
                queue.push_last(Job {
                    commands: Vec::new(),
                    args: Vec::new(),
                    limit: Limit::Until(latest),
                });
            }
        }
        let workers = join_all(self.workers.iter_mut());
        if timeout_at(latest, workers).await.is_err() {
            warn!("notify scripts of the stop did not end in time");
        }
    }
}
