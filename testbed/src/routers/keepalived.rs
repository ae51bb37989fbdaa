//! The real keepalived as a router.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::{Namespaces, Tether, end};
use crate::run::Run;
use crate::setup::Missing;
use crate::sync_rate::cpu::pin_process;
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const LOG_LINES: usize = 12;

/// One keepalived; everything of it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Keepalived {
    spaces: Namespaces,
    dir: PathBuf,
    child: Option<Child>,
}

/// Whether this machine has keepalived.
///
/// # Errors
/// It has not.
pub(crate) fn require() -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs
        .map(|dir| dir.join("keepalived"))
        .find(|path| path.is_file());
    found.ok_or_else(|| Missing::new("keepalived: Debian's package keepalived, to compare with"))
}

impl Keepalived {
    /// Writes the configuration; nothing is started yet.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn new(spaces: &Namespaces, dir: PathBuf, config: &str) -> Result<Keepalived> {
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("keepalived.conf"), config)?;
        Ok(Keepalived {
            spaces: spaces.try_clone()?,
            dir,
            child: None,
        })
    }

    /// Starts it and waits until its VRRP process is there.
    ///
    /// # Errors
    /// It ended.
    pub(crate) fn start(&mut self, run: &Run) -> Result<()> {
        let program = require()?;
        for file in ["main.pid", "vrrp.pid"] {
            // There is none at the first start.
            let _ = fs::remove_file(self.dir.join(file));
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = self.spaces.command(&program, Tether::Parent)?;
        command.args(["--vrrp", "--dont-fork", "--log-console", "--use-file"]);
        command.arg(self.dir.join("keepalived.conf"));
        command.arg("--pid").arg(self.dir.join("main.pid"));
        command.arg("--vrrp_pid").arg(self.dir.join("vrrp.pid"));
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = command.spawn().context("start keepalived")?;
        let pid = child.id();
        run.record(pid)?;
        self.child = Some(child);
        wait_until("keepalived has its process", START_LIMIT, || {
            self.check_alive()?;
            Ok((!children_of(pid)?.is_empty()).then_some(()))
        })
        .with_context(|| self.log_tail())
    }

    /// Stops the parent, which would start its child again.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn hold(&mut self) -> Result<()> {
        self.check_alive()?;
        kill(self.pid()?, Signal::SIGSTOP)?;
        Ok(())
    }

    /// SIGKILL of all its processes. The parent must be held.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let pid = self.pid()?;
        for child in children_of(pid.as_raw().cast_unsigned())? {
            kill(Pid::from_raw(child), Signal::SIGKILL)?;
        }
        if let Some(mut child) = self.child.take() {
            end(&mut child);
        }
        Ok(())
    }

    /// SIGTERM, as a service manager does, and an orderly end.
    ///
    /// # Errors
    /// It does not end, or with an error.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let pid = self.pid()?;
        let mut child = self.child.take().context("keepalived is not running")?;
        kill(pid, Signal::SIGTERM)?;
        let ended = wait_until("keepalived ends", STOP_LIMIT, || Ok(child.try_wait()?));
        match ended {
            Ok(status) => {
                ensure!(status.success(), "keepalived: {status}");
                Ok(())
            }
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// How often it says that it became master.
    ///
    /// # Errors
    /// It has no log.
    pub(crate) fn became_master(&self) -> Result<u64> {
        Ok(count(&self.log()?, "Entering MASTER STATE"))
    }

    /// How often its VRRP process died and was started again.
    ///
    /// # Errors
    /// It has no log.
    pub(crate) fn restarts(&self) -> Result<u64> {
        Ok(count(&self.log()?, "Respawning"))
    }

    /// Lets all its processes run on this processor alone.
    ///
    /// # Errors
    /// It does not run.
    pub(crate) fn pin(&self, processor: usize) -> Result<()> {
        let pid = self.pid()?.as_raw().cast_unsigned();
        pin_process(pid, &[processor])?;
        for child in children_of(pid)? {
            pin_process(child.cast_unsigned(), &[processor])?;
        }
        Ok(())
    }

    pub(crate) fn log_tail(&self) -> String {
        let text = self.log().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..);
        let tail = tail.unwrap_or_default().join("\n");
        format!("end of {}:\n{tail}", self.log_path().display())
    }

    fn check_alive(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("keepalived is not running")?;
        if let Some(status) = child.try_wait()? {
            bail!("keepalived ended by itself: {status}");
        }
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        let child = self.child.as_ref().context("keepalived is not running")?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.log_path())?)
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("keepalived.log")
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if self.child.is_some() {
            // Without its child the parent would only wait.
            let _ = self.hold().and_then(|()| self.kill());
        }
    }
}

fn children_of(pid: u32) -> Result<Vec<i32>> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(Path::new(&path)).context(path)?;
    let pids = text.split_whitespace().map(str::parse);
    Ok(pids.collect::<Result<_, _>>()?)
}

fn count(text: &str, wanted: &str) -> u64 {
    text.lines().filter(|line| line.contains(wanted)).count() as u64
}
