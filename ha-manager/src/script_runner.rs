//! Runs scripts without the director's privileges and without holding it up: a process of its own.
//!
//! ```text
//!  tracking --+                                  +-> script-exec -> script (its own session, user)
//!             +-> Runner ==socket pair==> script-runner -> ...
//!  notify ----+   (task)
//! ```
//!
//! The process is directord again, started before capabilities go and only if the configuration has
//! scripts. It is told once what may be run and as whom, and keeps CAP_SETUID, CAP_SETGID and
//! CAP_KILL; only where a script is wanted as root its bounding set stays, so that this script has
//! what root has. Afterwards the director can only name a command by its number: taking the director
//! over does not give a way to run anything else.
//!
//! A script is run without a shell, in `/`, with an environment of `PATH`, `HOME` and `USER`, with
//! nothing open but `/dev/null`, with its user's groups and never longer than its timeout. As another
//! user than root it can gain nothing from set-user-id programs (DIFFERS: keepalived lets `sudo`
//! work; here `user = "root"` is said where it is meant). What is run as root must not be writable
//! by others, as with keepalived's `enable_script_security`.
//!
//! A run is answered when its time is over, whether or not the script can be ended then. A runner that
//! stands still itself is bounded from here: after [`link::ANSWER_MAX`] more its runs are
//! [`Outcome::Silent`], and no script is run until it answers again. When the runner dies it is not
//! started again, since nothing that may do so is left: runs are then [`Outcome::Lost`]. Both are
//! problems that the director names, and so is a script that cannot be killed.

mod commands;
mod descendants;
mod frame;
mod launch;
mod link;
mod running;
mod security;
mod serve;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::privileges;
use frame::{FrameError, FromRunner, ToRunner, encode, put, take};
use link::{Health, Link, Request};

pub use commands::Wanted;
pub use frame::Outcome;

/// Different commands of one configuration.
const COMMANDS_MAX: usize = 4096;
/// Scripts that run at a time.
const RUNS_MAX: usize = 128;
/// Runs that wait for their turn; more are refused.
const WAITING_MAX: usize = 256;
/// No script runs longer.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// What a script finds programs by.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The process is there within this time, or something is wrong.
const START_MAX: Duration = Duration::from_secs(5);

/// Why scripts cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    #[error("scripts: there is no user {0}")]
    NoUser(String),
    #[error("scripts: user {user}: {source}")]
    LookUp { user: String, source: Errno },
    #[error("scripts: user {0} is in too many groups")]
    TooManyGroups(String),
    #[error("scripts: more than {COMMANDS_MAX} different ones")]
    TooMany,
    #[error("scripts need {0}; run as root, or take them out of the configuration")]
    Missing(String),
    #[error("scripts: their runner does not start: {0}")]
    Start(io::Error),
}

/// What is wrong with running scripts at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The script runner has ended.
    Gone,
    /// It does not answer.
    Silent,
    /// So many runs were killed and are still there, the oldest of them of this program.
    Stuck { runs: u32, program: String },
}

/// Becomes the script runner, or the last step before a script, if this process was started as one.
pub fn intercept() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let name = args.next()?;
    if name == serve::NAME {
        Some(serve::main())
    } else if name == launch::NAME {
        Some(launch::main(args))
    } else {
        None
    }
}

/// What the daemon knows of its script runner. Clones share the process, which ends with the last.
#[derive(Clone, Debug)]
pub struct Runner {
    commands: Arc<Vec<Wanted>>,
    requests: mpsc::Sender<Request>,
    health: Arc<Health>,
}

impl Runner {
    /// The runner of a configuration; `None` for one without scripts.
    ///
    /// To be called before capabilities are given up, in the runtime's main thread: the process ends
    /// with the thread that started it.
    ///
    /// # Errors
    /// See [`RunnerError`].
    pub fn for_config(config: &Config) -> Result<Option<Runner>, RunnerError> {
        Runner::with_program(Path::new("/proc/self/exe"), config)
    }

    /// As [`Runner::for_config`], by a directord at `program`.
    ///
    /// # Errors
    /// See [`RunnerError`].
    pub fn with_program(program: &Path, config: &Config) -> Result<Option<Runner>, RunnerError> {
        let commands = commands::of(config);
        let has_any = !commands.is_empty();
        has_any
            .then(|| Runner::start(program, commands))
            .transpose()
    }

    /// A runner of these commands.
    ///
    /// # Errors
    /// See [`RunnerError`].
    pub fn start(program: &Path, wanted: Vec<Wanted>) -> Result<Runner, RunnerError> {
        if wanted.len() > COMMANDS_MAX {
            return Err(RunnerError::TooMany);
        }
        if let Some(missing) = privileges::missing_for_runner() {
            return Err(RunnerError::Missing(missing));
        }
        let mut frames = Vec::new();
        for wanted in &wanted {
            frames.push(ToRunner::Add(commands::resolve(wanted)?));
        }
        frames.push(ToRunner::Begin);
        let (socket, child) = start_process(program, &frames).map_err(RunnerError::Start)?;
        let socket = serve::watched(socket).map_err(RunnerError::Start)?;
        let (requests, received) = mpsc::channel(WAITING_MAX);
        let health = Arc::new(Health::default());
        let link = Link::new(socket, Arc::clone(&health));
        tokio::spawn(link.serve(received, child));
        let commands = Arc::new(wanted);
        Ok(Runner {
            commands,
            requests,
            health,
        })
    }

    /// The number of a command.
    pub fn find(&self, argv: &[String], user: Option<&str>) -> Option<u32> {
        let same = |wanted: &Wanted| wanted.argv == argv && wanted.user.as_deref() == user;
        let place = self.commands.iter().position(same)?;
        u32::try_from(place).ok()
    }

    /// What is wrong with running scripts at all.
    pub fn problems(&self) -> Vec<Trouble> {
        let mut found = Vec::new();
        if self.health.is_gone() {
            found.push(Trouble::Gone);
        } else if self.health.is_silent() {
            found.push(Trouble::Silent);
        }
        if let Some(stuck) = self.health.stuck() {
            let place = usize::try_from(stuck.command).unwrap_or(usize::MAX);
            let program = self.commands.get(place).and_then(|one| one.argv.first());
            found.push(Trouble::Stuck {
                runs: stuck.runs,
                program: program.cloned().unwrap_or_default(),
            });
        }
        found
    }

    /// Whether the process has ended by itself.
    pub fn is_gone(&self) -> bool {
        self.health.is_gone()
    }

    /// Runs a command with further arguments, for at most `timeout`; the outcome comes at most
    /// [`link::ANSWER_MAX`] later, counted from when there is a place to run it. A caller that stops
    /// waiting does not end the script, though one that has no place yet is not run then.
    pub async fn run(&self, command: u32, args: Vec<String>, timeout: Duration) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        let request = Request {
            command,
            args,
            timeout,
            reply,
        };
        match self.requests.try_send(request) {
            Ok(()) => outcome.await.unwrap_or(Outcome::Lost),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Outcome::Refused("too many scripts wait for their turn".to_owned())
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Outcome::Lost,
        }
    }
}

/// Starts the process and tells it what it may run. Waits for it, for at most [`START_MAX`].
fn start_process(program: &Path, frames: &[ToRunner]) -> io::Result<(OwnedFd, Child)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    let mut child = Command::new(program)
        .arg0("directord")
        .arg(serve::NAME)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()?;
    match introduce(&ours, frames) {
        Ok(()) => Ok((ours, child)),
        Err(error) => {
            drop(ours);
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

fn introduce(socket: &OwnedFd, frames: &[ToRunner]) -> io::Result<()> {
    let latest = Instant::now() + START_MAX;
    for frame in frames {
        let frame = encode(frame).map_err(io::Error::other)?;
        until(socket, PollFlags::POLLOUT, latest, || put(socket, &frame))?;
    }
    match until(socket, PollFlags::POLLIN, latest, || take(socket))? {
        FromRunner::Ready => Ok(()),
        FromRunner::Ended { .. } | FromRunner::Stuck(_) => {
            Err(io::Error::other("it does not say that it is ready"))
        }
    }
}

/// Tries again whenever the socket is ready.
fn until<T>(
    socket: &OwnedFd,
    what: PollFlags,
    latest: Instant,
    mut attempt: impl FnMut() -> Result<T, FrameError>,
) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.would_block() => {}
            done => return done.map_err(io::Error::other),
        }
        let left = latest.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(socket.as_fd(), what)], left)?;
    }
}
