//! A standing lab: `lab up` leaves one behind, `lab exec` runs commands in it, `lab down` ends it.
//!
//! It belongs to a background process of this program, which is its owner like that of any other
//! run and cleans up at SIGTERM.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};

use crate::director::Director;
use crate::netns::{Tether, own_executable};
use crate::run::{ProcessId, Run, living, runs_dir};
use crate::scenario::Scenario;
use crate::topology::{Lab, host_of_run};
use crate::wait::{catch_signals, check_interrupt, pass_time_until, wait_until};

/// The hidden subcommand of the owner.
pub(crate) const STAND: &str = "__stand";
/// Marks the run that `lab` commands mean.
const MARK: &str = "standing";
const DOWN_LIMIT: Duration = Duration::from_secs(20);

/// # Errors
/// One stands already, or it cannot be made.
pub(crate) fn up(scenario: &str, bare: bool) -> Result<()> {
    if let Some((dir, _)) = standing()? {
        bail!("a lab stands already: {}", dir.display());
    }
    let mut command = Command::new(own_executable()?);
    command.args([STAND, scenario]);
    if bare {
        command.arg("--bare");
    }
    // Both outputs of the owner come through one pipe that ends here: it must not hold on to the
    // terminal or the pipe of whoever called this command.
    let (lines, output) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output);
    let mut child = command.spawn()?;
    // The command holds the writing ends too.
    drop(command);
    for line in BufReader::new(lines).lines() {
        let line = line?;
        crate::say(&line);
        if line.starts_with("lab stands") {
            return Ok(());
        }
    }
    bail!("the lab does not stand: {}", child.wait()?)
}

/// The life of the owner, run as the hidden subcommand.
///
/// # Errors
/// The lab cannot be made, or something in it failed.
pub(crate) fn stand(scenario: &str, bare: bool) -> Result<()> {
    setsid().context("a session of its own")?;
    catch_signals()?;
    let scenario = Scenario::load(scenario)?;
    let run = Run::begin()?;
    let lab = Lab::up(&run, &scenario)?;
    let mut directors = Vec::new();
    for node in scenario.directors() {
        let mut director = Director::new(&run, &lab, &scenario, node)?;
        if !bare {
            director.start(&run)?;
            director.add_services(&scenario)?;
        }
        directors.push(director);
    }
    fs::write(run.dir().join(MARK), "")?;
    crate::say(&format!("lab stands: {}", run.dir().display()));
    while check_interrupt().is_ok() {
        // Ends early, with an error, when a signal came.
        let _ = pass_time_until(Instant::now() + Duration::from_secs(1));
    }
    directors.iter_mut().try_for_each(Director::stop)
}

/// Replaces this process by a command inside a host of the standing lab.
///
/// # Errors
/// No lab stands, no such host, or the command cannot be started.
pub(crate) fn exec(host: &str, command: &[String]) -> Result<()> {
    let (dir, _) = standing()?.context("no lab stands; `testbed lab up` makes one")?;
    let (program, args) = command.split_first().context("no command")?;
    let spaces = host_of_run(&dir, host)?;
    let bin_dir = own_executable()?
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(bin_dir).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(dirs)?;
    let mut command = spaces.command(Path::new(program), Tether::None)?;
    command.args(args).env("PATH", path);
    // On a director its own daemon answers, elsewhere the first one's.
    let own = dir.join(host).join("control.sock");
    let first = ["director", "director1"].map(|name| dir.join(name).join("control.sock"));
    let socket = std::iter::once(own).chain(first).find(|path| path.exists());
    if let Some(socket) = socket {
        command.env("TANDEM_CONTROL", socket);
    }
    Err(command.exec()).with_context(|| program.clone())
}

/// # Errors
/// The lab does not end.
pub(crate) fn down() -> Result<()> {
    let Some((dir, owner)) = standing()? else {
        crate::say("no lab stands");
        return Ok(());
    };
    kill(Pid::from_raw(owner.pid), Signal::SIGTERM)?;
    wait_until("the lab ends", DOWN_LIMIT, || {
        let gone = !owner.is_alive() && !dir.exists();
        Ok(gone.then_some(()))
    })
}

fn standing() -> Result<Option<(PathBuf, ProcessId)>> {
    let runs = living(&runs_dir())?;
    Ok(runs.into_iter().find(|(dir, _)| dir.join(MARK).exists()))
}
