//! Logging: text or JSON lines on standard error, and what a service manager is told.
//!
//! Levels: ERROR cannot go on, WARN worth an alert, INFO what an operator would tell a colleague,
//! DEBUG single decisions, TRACE packets. Addresses of clients appear at DEBUG and below only.

mod queue;

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing_subscriber::EnvFilter;

pub use queue::LineQueue;

use crate::config::{LogFormat, LogLevel};

/// How long the end of the process waits for its last lines to be read.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// Where a service manager listens.
const NOTIFY_ENV: &str = "NOTIFY_SOCKET";

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("logging cannot be set up: {0}")]
pub struct TelemetryError(String);

/// The installed log. Dropping it writes out what is left of it, for at most [`FLUSH_MAX`].
#[derive(Debug)]
pub struct Log(LineQueue);

impl Log {
    /// Where lines queue up.
    pub fn queue(&self) -> LineQueue {
        self.0.clone()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(FLUSH_MAX);
    }
}

/// Installs the process-wide log, which never blocks. Other crates' messages appear from WARN on.
///
/// # Errors
/// A log was installed before, or its thread does not start.
pub fn init(format: LogFormat, level: LogLevel) -> Result<Log, TelemetryError> {
    // A descriptor of its own: whoever waits for it holds no lock of the standard library.
    let queue = io::stderr()
        .as_fd()
        .try_clone_to_owned()
        .and_then(LineQueue::to)
        .map_err(|error| TelemetryError(error.to_string()))?;
    let level = level.name();
    let filter = format!("warn,ha_manager={level},dataplane={level}");
    let filter = EnvFilter::try_new(filter).map_err(|error| TelemetryError(error.to_string()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue.clone());
    let installed = match format {
        LogFormat::Text => log.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    installed.map_err(|error| TelemetryError(error.to_string()))?;
    Ok(Log(queue))
}

/// One line on standard output, unless whoever reads there would hold us up.
pub fn announce(line: &str) {
    let out = io::stdout();
    let mut room = [PollFd::new(out.as_fd(), PollFlags::POLLOUT)];
    let writable = poll(&mut room, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        && room[0].revents() == Some(PollFlags::POLLOUT);
    if writable {
        // Nobody has to listen.
        let _ = writeln!(out.lock(), "{line}");
    }
}

/// Tells the service manager, if there is one, in the words of `sd_notify(3)`.
///
/// # Errors
/// The manager's socket cannot be used.
pub fn notify(state: &str) -> io::Result<()> {
    let Some(name) = std::env::var_os(NOTIFY_ENV) else {
        return Ok(());
    };
    let addr = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &addr).map(drop)
}
