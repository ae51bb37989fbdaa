//! What is done to a director and its neighbours, and when exactly.

use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::director::Director;
use crate::topology::Lab;

/// When a daemon was dead for certain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Killed {
    pub(crate) at: Instant,
}

/// Kills `directord` alone; the moment is taken when the kernel has confirmed its end.
///
/// # Errors
/// It was not running.
pub(crate) fn kill_daemon(director: &mut Director) -> Result<Killed> {
    director.kill().context("kill-daemon")?;
    Ok(Killed { at: Instant::now() })
}

/// Makes a host forget the link-layer address of a neighbour.
///
/// # Errors
/// No such host.
pub(crate) fn forget_neighbour(lab: &Lab, host: &str, address: Ipv4Addr) -> Result<()> {
    lab.ip(host, &format!("neigh flush dev eth0 to {address}\n"))
}
