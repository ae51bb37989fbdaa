//! Network namespaces without names.
//!
//! Each host of a lab is a *holder*: this program again, in a network and a mount namespace of its
//! own, waiting for its parent to end. Nothing is bound to a path of the machine, so when the
//! holder ends, and with it the last process inside, namespaces, links, addresses and pinned
//! objects are gone. A holder ends when its input ends, and when the parent dies the kernel kills it.
//!
//! A director's bpffs is mounted in its holder's mount namespace only. The holder outlives a killed
//! director, which is what keeps the pins.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpid, getppid};

/// The hidden subcommand that [`Holder::start`] runs.
pub(crate) const HOLD: &str = "__hold";

/// The two namespaces of a host, by descriptor.
#[derive(Debug)]
pub(crate) struct Namespaces {
    net: OwnedFd,
    mnt: OwnedFd,
}

/// Whether a command ends with the process that started it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tether {
    /// The kernel kills it when the starting thread ends.
    Parent,
    /// It takes the place of the starting process.
    None,
}

impl Namespaces {
    /// # Errors
    /// The process does not exist or may not be looked at.
    pub(crate) fn of(pid: i32) -> Result<Namespaces> {
        let open = |kind: &str| -> Result<OwnedFd> {
            let path = format!("/proc/{pid}/ns/{kind}");
            Ok(File::open(&path).with_context(|| path)?.into())
        };
        Ok(Namespaces {
            net: open("net")?,
            mnt: open("mnt")?,
        })
    }

    /// A command that will run in these namespaces, with no signal blocked.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn command(&self, program: &Path, tether: Tether) -> Result<Command> {
        let net = self.net.try_clone()?;
        let mnt = self.mnt.try_clone()?;
        let parent = getpid();
        let mut command = Command::new(program);
        let enter = move || -> io::Result<()> {
            if tether == Tether::Parent {
                tie_to(parent)?;
            }
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            setns(&mnt, CloneFlags::CLONE_NEWNS)?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes only system calls (prctl, getppid, setns,
        // sigprocmask) on descriptors it owns; it takes no lock and allocates nothing.
        unsafe { command.pre_exec(enter) };
        Ok(command)
    }

    /// Runs `work` on a thread inside the network namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered, or what `work` says.
    pub(crate) fn on_thread<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.enter_thread()?;
                work()
            });
            inside
                .join()
                .unwrap_or_else(|_| bail!("a thread inside a namespace panicked"))
        })
    }

    /// Moves the calling thread into the network namespace, for good.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(crate) fn enter_thread(&self) -> Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET).context("enter a network namespace")
    }

    /// # Errors
    /// No descriptor is left.
    pub(crate) fn try_clone(&self) -> Result<Namespaces> {
        Ok(Namespaces {
            net: self.net.try_clone()?,
            mnt: self.mnt.try_clone()?,
        })
    }
}

/// The process that keeps the namespaces of one host.
#[derive(Debug)]
pub(crate) struct Holder {
    child: Child,
    spaces: Namespaces,
}

impl Holder {
    /// Starts a holder, with a bpffs at `bpffs` in its mount namespace if asked.
    ///
    /// # Errors
    /// No namespaces here, or the holder said why not.
    pub(crate) fn start(bpffs: Option<&Path>) -> Result<Holder> {
        let mut command = Command::new(own_executable()?);
        command
            .arg(HOLD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(path) = bpffs {
            command.arg("--bpffs").arg(path);
        }
        command.arg("--parent").arg(getpid().to_string());
        let mut child = command.spawn().context("start a holder")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        if line.trim_end() != "ready" {
            end(&mut child);
            bail!("a namespace could not be made");
        }
        let spaces = Namespaces::of(i32::try_from(child.id())?)?;
        Ok(Holder { child, spaces })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn spaces(&self) -> &Namespaces {
        &self.spaces
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Sets `/proc/sys/net/NAME`.
///
/// # Errors
/// No such tunable, or not this value.
pub(crate) fn sysctl(spaces: &Namespaces, name: &str, value: &str) -> Result<()> {
    // What a path below /proc/sys/net shows follows the namespace of the writing thread.
    spaces.on_thread(|| {
        let path = format!("/proc/sys/net/{name}");
        fs::write(&path, value).context(path)
    })
}

/// Runs `ip` with a batch of commands.
///
/// # Errors
/// A command failed; the message is what `ip` said.
pub(crate) fn ip(spaces: &Namespaces, batch: &str) -> Result<()> {
    let mut command = spaces.command(Path::new("ip"), Tether::Parent)?;
    command.args(["-batch", "-"]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("start ip")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(batch.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {}", said.trim_end());
    Ok(())
}

/// Kills and reaps a child; one that has ended already is no error.
pub(crate) fn end(child: &mut Child) {
    // Both fail only when the child is gone, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

/// The life of a holder, run as the hidden subcommand.
///
/// # Errors
/// The kernel refuses a namespace or the mount.
pub(crate) fn hold(parent: i32, bpffs: Option<&Path>) -> Result<()> {
    tie_to(Pid::from_raw(parent))?;
    // Ctrl-C reaches the whole foreground group; the parent decides when a holder ends.
    let ignored: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect();
    ignored.thread_block()?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("unshare")?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("make / private")?;
    if let Some(path) = bpffs {
        fs::create_dir_all(path)?;
        mount(Some("bpf"), path, Some("bpf"), MsFlags::empty(), none).context("mount bpffs")?;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "ready")?;
    out.flush()?;
    let mut rest = Vec::new();
    io::stdin().lock().read_to_end(&mut rest)?;
    Ok(())
}

/// The kernel kills the calling process when `parent` dies.
pub(crate) fn tie_to(parent: Pid) -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before the line above.
    if getppid() == parent {
        Ok(())
    } else {
        Err(Errno::ESRCH.into())
    }
}

/// The path this program was started from. Kept by [`remember_executable`] because a build may
/// replace the file while the program runs.
pub(crate) fn own_executable() -> Result<&'static Path> {
    OWN.get()
        .map(PathBuf::as_path)
        .context("the program does not know its own path")
}

/// # Errors
/// The kernel does not tell.
pub(crate) fn remember_executable() -> Result<()> {
    let path = std::env::current_exe().context("own path")?;
    OWN.get_or_init(|| path);
    Ok(())
}

static OWN: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
