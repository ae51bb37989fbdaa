//! The script runner's own process: one thread, one loop.
//!
//! It learns what may be run before it begins, gives up what it does not need for that, and then
//! runs commands by their number until the director is gone. Each script leads a session of its own:
//!
//! | what happens | what the runner does |
//! | --- | --- |
//! | the script ends | tells the outcome; processes it left in the background go on |
//! | its time is over | tells it, SIGTERM to its whole group and to what has left that, after [`GRACE`] SIGKILL; as soon as the script itself has ended, SIGKILL to what is left |
//! | it is killed and does not end (a dead disk or file server) | SIGKILL again every [`GRACE`], and tells that such runs are there |
//! | the director is gone | the same for every script there is, then the runner ends, at last after [`END_PATIENCE`] |
//! | the runner itself is killed | the kernel kills the scripts (`PR_SET_PDEATHSIG`), though not what they have started |
//!
//! Signals from a terminal or a service manager change nothing: the director decides when it is over,
//! and may have something to run until then.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{dup2_stdin, setsid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

use super::frame::{
    EXTRA_ARGS_MAX, FRAME_MAX, FrameError, FromRunner, Outcome, ScriptCommand, Stuck, ToRunner,
    encode, now_ms, put, take,
};
#[cfg(doc)]
use super::running::GRACE;
use super::running::Running;
use super::{COMMANDS_MAX, RUNS_MAX, TIMEOUT_MAX, descendants, launch, security};
use crate::privileges;

/// The first argument that makes directord the runner.
pub(super) const NAME: &str = "script-runner";
/// Runs whose time is over and which have not ended; more are not started.
const LATE_MAX: usize = 128;
/// Those of one command with the same arguments. A script that ignores SIGTERM and is due every second
/// comes to three.
const LATE_OF_ONE_MAX: usize = 4;
/// Processes without a parent that are reaped at a time.
const ORPHANS_MAX: usize = 1024;
/// What late scripts have left outside their group is looked for this long after their end, once for
/// all that end meanwhile.
const SWEEP_DELAY: Duration = Duration::from_millis(50);
/// Scripts that the kernel holds are left behind after this time.
const END_PATIENCE: Duration = Duration::from_millis(2500);

/// Runs until the director is gone.
pub(super) fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed.
            let _ = writeln!(io::stderr(), "directord: {NAME}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    launch::close_descriptors();
    if getsockopt(&io::stdin(), sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(io::Error::other("is for directord's own use"));
    }
    setsid()?;
    // Otherwise that of the link it was started by.
    prctl::set_name(c"script-runner")?;
    // What a script leaves behind stays below this process, where it is found.
    prctl::set_child_subreaper(true)?;
    // Scripts inherit what has no close-on-exec flag, so the socket must not stay standard input.
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async { Server::new(socket)?.run().await })
}

struct Server {
    socket: AsyncFd<OwnedFd>,
    commands: Vec<ScriptCommand>,
    /// No command is added any more.
    begun: bool,
    /// At most [`RUNS_MAX`] in their time, and [`LATE_MAX`] after it.
    running: Vec<Running>,
    /// Marks of late runs that have ended, and when what they have left is killed.
    left: BTreeSet<u64>,
    sweep_at: Option<Instant>,
    /// As it was told.
    stuck: Stuck,
    /// At most one answer for each run, and what becomes of those that are stuck.
    answers: VecDeque<Vec<u8>>,
}

impl Server {
    fn new(socket: OwnedFd) -> io::Result<Server> {
        Ok(Server {
            socket: watched(socket)?,
            commands: Vec::new(),
            begun: false,
            running: Vec::new(),
            left: BTreeSet::new(),
            sweep_at: None,
            stuck: Stuck::default(),
            answers: VecDeque::new(),
        })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut ended = signal(SignalKind::child())?;
        let mut orphaned = signal(SignalKind::user_defined1())?;
        let _ignored = [
            signal(SignalKind::hangup())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        ];
        // The end of the socket says the same, unless somebody else has inherited it.
        prctl::set_pdeathsig(Signal::SIGUSR1)?;
        loop {
            let due = self.next_deadline();
            tokio::select! {
                frame = read(&self.socket) => match frame {
                    Ok(frame) => self.handle(frame)?,
                    Err(FrameError::Closed) => break,
                    Err(error) => return Err(io::Error::other(error)),
                },
                _ = ended.recv() => self.reap(),
                _ = orphaned.recv() => break,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.end_late();
                }
                sent = write(&self.socket, self.answers.front()) => {
                    if sent.is_err() {
                        break;
                    }
                    self.answers.pop_front();
                }
            }
        }
        self.end_all(&mut ended).await;
        Ok(())
    }

    fn handle(&mut self, frame: ToRunner) -> io::Result<()> {
        match (frame, self.begun) {
            (ToRunner::Add(command), false) if self.commands.len() < COMMANDS_MAX => {
                self.commands.push(command);
            }
            (ToRunner::Begin, false) => {
                self.begun = true;
                let for_root = self.commands.iter().any(|command| command.account.uid == 0);
                privileges::keep_runner(for_root).map_err(io::Error::other)?;
                self.tell(&FromRunner::Ready);
            }
            (
                ToRunner::Run {
                    id,
                    command,
                    args,
                    timeout_ms,
                    stale_ms,
                },
                true,
            ) => {
                let timeout = Duration::from_millis(timeout_ms).min(TIMEOUT_MAX);
                let started = if now_ms() >= stale_ms || self.has_late(command, &args) {
                    Err(Outcome::TimedOut)
                } else {
                    self.start(id, command, args, timeout)
                        .map_err(Outcome::Refused)
                };
                if let Err(outcome) = started {
                    self.tell(&FromRunner::Ended { id, outcome });
                }
            }
            (ToRunner::Add(_) | ToRunner::Begin, _) | (ToRunner::Run { .. }, false) => {
                return Err(io::Error::other("a frame out of order"));
            }
        }
        Ok(())
    }

    /// Whether so many of the same are there still that one more makes no sense.
    fn has_late(&self, command: u32, args: &[String]) -> bool {
        let same = |script: &&Running| script.command == command && script.args == args;
        let late = |script: &&Running| script.late.is_some();
        self.running.iter().filter(same).filter(late).count() >= LATE_OF_ONE_MAX
    }

    fn start(
        &mut self,
        id: u64,
        command: u32,
        args: Vec<String>,
        timeout: Duration,
    ) -> Result<(), String> {
        let place = usize::try_from(command).unwrap_or(usize::MAX);
        let Some(wanted) = self.commands.get(place) else {
            return Err("no such command".to_owned());
        };
        let late = |script: &&Running| script.late.is_some();
        let late = self.running.iter().filter(late).count();
        if self.running.len() - late >= RUNS_MAX || args.len() > EXTRA_ARGS_MAX {
            return Err("too many scripts or arguments at a time".to_owned());
        }
        if late >= LATE_MAX {
            return Err("too many scripts have not ended after their time".to_owned());
        }
        let program = Path::new(wanted.argv.first().map_or("", String::as_str));
        if !program.is_absolute() {
            return Err(format!("{} is not an absolute path", program.display()));
        }
        if wanted.account.uid == 0
            && let Some(objection) = security::objection(program)
        {
            return Err(objection);
        }
        let mark = descendants::mark_of(id);
        let child = launch::command(&wanted.account, mark, &wanted.argv, &args).spawn();
        let child = child.map_err(|error| format!("{}: {error}", program.display()))?;
        self.running.push(Running {
            id,
            command,
            args,
            child,
            deadline: Instant::now() + timeout,
            late: None,
        });
        Ok(())
    }

    /// Takes every script that has ended, and tells how, unless that was told when its time was over.
    fn reap(&mut self) {
        let (ended, running): (Vec<_>, Vec<_>) = self
            .running
            .drain(..)
            .map(|mut script| (script.reap(), script))
            .partition(|(status, _)| status.is_some());
        self.running = running.into_iter().map(|(_, script)| script).collect();
        for (status, script) in ended {
            let Some(status) = status else {
                continue;
            };
            if script.late.is_some() {
                self.left.insert(script.mark());
                self.sweep_at
                    .get_or_insert_with(|| Instant::now() + SWEEP_DELAY);
            } else {
                let id = script.id;
                let outcome = script.outcome(status);
                self.tell(&FromRunner::Ended { id, outcome });
            }
        }
        self.reap_orphans();
        self.tell_stuck();
    }

    /// Leaves no zombie of what scripts have left behind.
    fn reap_orphans(&self) {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
        for _ in 0..ORPHANS_MAX {
            let found = waitid(Id::All, look | WaitPidFlag::WNOWAIT);
            let Some(pid) = found.ok().and_then(|status| status.pid()) else {
                return;
            };
            let is_script = |script: &Running| launch::group_of(script.child.id()) == Some(pid);
            if self.running.iter().any(is_script) {
                // It has ended just now, and the signal that says so is on its way.
                return;
            }
            let _ = waitid(Id::Pid(pid), look);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let scripts = self.running.iter().map(Running::due);
        scripts.chain(self.sweep_at).min()
    }

    /// The next signal for each script whose time is over; with the first one that is told.
    fn end_late(&mut self) {
        // What has ended has ended in time, though this process may have stood still meanwhile.
        self.reap();
        let now = Instant::now();
        let (mut ended, mut killed) = (BTreeSet::new(), BTreeSet::new());
        let mut late = Vec::new();
        for script in &mut self.running {
            match script.end_late(now) {
                Some(Signal::SIGTERM) => {
                    ended.insert(script.mark());
                    late.push(script.id);
                }
                Some(_) => {
                    killed.insert(script.mark());
                }
                None => {}
            }
        }
        for id in late {
            let outcome = Outcome::TimedOut;
            self.tell(&FromRunner::Ended { id, outcome });
        }
        if self.sweep_at.is_some_and(|due| due <= now) {
            self.sweep_at = None;
            killed.append(&mut self.left);
        }
        descendants::signal_marked(&ended, Signal::SIGTERM);
        descendants::kill_marked(&killed);
        self.tell_stuck();
    }

    fn tell_stuck(&mut self) {
        let mut stuck = self.running.iter().filter(|script| script.is_stuck());
        let now = stuck.next().map_or_else(Stuck::default, |oldest| Stuck {
            runs: u32::try_from(stuck.count() + 1).unwrap_or(u32::MAX),
            command: oldest.command,
        });
        if now != self.stuck {
            self.stuck = now;
            self.tell(&FromRunner::Stuck(now));
        }
    }

    async fn end_all(&mut self, ended: &mut tokio::signal::unix::Signal) {
        let now = Instant::now();
        for script in &mut self.running {
            if script.late.is_none() {
                script.terminate(now);
            }
        }
        let marks = self.running.iter().map(Running::mark).collect();
        descendants::signal_marked(&marks, Signal::SIGTERM);
        let latest = now + END_PATIENCE;
        loop {
            self.reap();
            let Some(due) = self.next_deadline() else {
                return;
            };
            tokio::select! {
                _ = ended.recv() => {}
                () = sleep_until(latest) => return,
                () = sleep_until(due) => self.end_late(),
            }
        }
    }

    fn tell(&mut self, what: &FromRunner) {
        if let Ok(frame) = encode(what) {
            self.answers.push_back(frame);
        }
    }
}

/// The socket as the runtime watches it.
pub(super) fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an owned descriptor stays open"
    )]
    AsyncFd::new(socket)
}

/// The next frame from the other end.
pub(super) async fn read<T: bincode::Decode<()>>(
    socket: &AsyncFd<OwnedFd>,
) -> Result<T, FrameError> {
    loop {
        let Ok(mut ready) = socket.readable().await else {
            return Err(FrameError::Closed);
        };
        match take(socket.get_ref()) {
            Err(error) if error.would_block() => ready.clear_ready(),
            taken => return taken,
        }
    }
}

/// Sends a frame; waits for ever when there is none.
pub(super) async fn write(
    socket: &AsyncFd<OwnedFd>,
    frame: Option<&Vec<u8>>,
) -> Result<(), FrameError> {
    let Some(frame) = frame else {
        return std::future::pending().await;
    };
    loop {
        let Ok(mut ready) = socket.ready(Interest::WRITABLE).await else {
            return Err(FrameError::Closed);
        };
        match put(socket.get_ref(), frame) {
            Err(error) if error.would_block() => ready.clear_ready(),
            sent => return sent,
        }
    }
}

const _: () = assert!(FRAME_MAX < 1 << 16, "a frame fits the socket's buffer");
