//! The last step before a script: this process becomes the script.
//!
//! It is directord once more, started by the runner, because what has to be done between a fork and
//! an exec can only be done safely in a program of its own. What goes wrong is told on standard
//! output, a pipe that closes when the script has been started.

use std::env::set_current_dir;
use std::ffi::OsString;
use std::fs::{File, read_dir};
use std::io::{self, Write};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid, setsid};

use super::frame::Account;

/// The first argument that makes directord this step.
pub(super) const NAME: &str = "script-exec";
/// As a shell says that a command was not found.
const NOT_STARTED: u8 = 127;
/// Descriptors a script may have open: the usual soft and hard limit.
const OPEN_FILES: (u64, u64) = (1024, 4096);
/// Unit: bytes of locked memory. The director may have raised its own limit.
const LOCKED_BYTES: u64 = 64 << 10;
/// Processes and threads of a script's user, as long as that is not root, whoever has started them: a
/// script that leaves more and more behind ends up without new ones. [`super::RUNS_MAX`] scripts of a
/// few processes each have room.
const PROCESSES: u64 = 1024;
/// Unit: bytes of a file that a script of another user than root writes.
const FILE_BYTES: u64 = 1 << 30;

/// The command line that runs `argv` as `account`, with a mark of [`super::descendants`].
pub(super) fn command(account: &Account, mark: u64, argv: &[String], extra: &[String]) -> Command {
    let groups: Vec<String> = account.groups.iter().map(u32::to_string).collect();
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("directord")
        .arg(NAME)
        .arg(std::process::id().to_string())
        .arg(account.uid.to_string())
        .arg(account.gid.to_string())
        .arg(mark.to_string())
        .arg(groups.join(","))
        .args(argv)
        .args(extra)
        .env_clear()
        .env("PATH", super::SEARCH_PATH)
        .env("HOME", &account.home)
        .env("USER", &account.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Runs what [`command`] made; returns only when that fails.
pub(super) fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    close_descriptors();
    // The exec puts /dev/null in the place of the pipe, even if it fails then.
    let Ok(report) = io::stdout().as_fd().try_clone_to_owned() else {
        return ExitCode::from(NOT_STARTED);
    };
    let Err(reason) = launch(args);
    // The runner is all that listens, and it may be gone.
    let _ = File::from(report).write_all(reason.as_bytes());
    ExitCode::from(NOT_STARTED)
}

fn launch(mut args: impl Iterator<Item = OsString>) -> Result<std::convert::Infallible, String> {
    let mut next = || args.next().and_then(|word| word.into_string().ok());
    let number = |word: Option<String>| word.and_then(|word| word.parse::<u32>().ok());
    let (parent, uid, gid) = (number(next()), number(next()), number(next()));
    let mark = next().and_then(|word| word.parse::<u64>().ok());
    let (Some(parent), Some(uid), Some(gid), Some(mark), Some(groups), Some(program)) =
        (parent, uid, gid, mark, next(), next())
    else {
        return Err(format!("{NAME} is for directord's own use"));
    };
    let groups = groups.split(',').filter(|word| !word.is_empty());
    let groups: Result<Vec<u32>, _> = groups.map(str::parse).collect();
    let groups = groups.map_err(|error| format!("groups: {error}"))?;
    let step = |what: &'static str| {
        move |error: nix::Error| format!("{program_step}: {error}", program_step = what)
    };

    setsid().map_err(step("setsid"))?;
    limit_resources(uid, mark).map_err(step("setrlimit"))?;
    umask(Mode::from_bits_truncate(0o022));
    set_current_dir("/").map_err(|error| format!("chdir /: {error}"))?;
    become_user(uid, gid, &groups).map_err(step("change of user"))?;
    if uid != 0 {
        // No program the script starts gives it more than its user has.
        prctl::set_no_new_privs().map_err(step("no_new_privs"))?;
    }
    // A change of user clears it, so it comes last; the parent may have ended before.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(step("pdeathsig"))?;
    if u32::try_from(getppid().as_raw()).ok() != Some(parent) {
        return Err("the script runner has ended".to_owned());
    }
    let error = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .exec();
    Err(format!("{program}: {error}"))
}

/// Nothing the director or who started it has open gets into a script.
pub(super) fn close_descriptors() {
    let Ok(open) = read_dir("/proc/self/fd") else {
        return;
    };
    let open = open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let open: Vec<RawFd> = open.filter(|&fd| fd > 2).collect();
    for fd in open {
        // One of them was that of the directory.
        let _ = nix::unistd::close(fd);
    }
}

fn limit_resources(uid: u32, mark: u64) -> nix::Result<()> {
    let lower = |resource, soft: u64, hard: u64| {
        let (_, most) = getrlimit(resource)?;
        let hard = hard.min(most);
        setrlimit(resource, soft.min(hard), hard)
    };
    lower(Resource::RLIMIT_CORE, 0, 0)?;
    lower(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1)?;
    lower(Resource::RLIMIT_MEMLOCK, LOCKED_BYTES, LOCKED_BYTES)?;
    lower(Resource::RLIMIT_RTPRIO, 0, 0)?;
    lower(Resource::RLIMIT_RSS, mark, mark)?;
    if uid != 0 {
        lower(Resource::RLIMIT_NPROC, PROCESSES, PROCESSES)?;
        lower(Resource::RLIMIT_FSIZE, FILE_BYTES, FILE_BYTES)?;
    }
    Ok(())
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> nix::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// The group of processes that a script leads.
pub(super) fn group_of(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().map(Pid::from_raw)
}
