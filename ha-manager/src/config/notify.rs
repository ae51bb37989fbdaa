//! Who is told of a change: the section `[notify]`, and the `notify` keys of `[[vrrp]]` and
//! `[[vrrp_group]]`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::words::{RawCommand, resolve_command, resolve_path, resolve_user};
use super::{Offence, resolve_number};

const DEFAULT_TIMEOUT_MS: u64 = 10_000;
const TIMEOUT_MS: RangeInclusive<u64> = 100..=3_600_000;

/// What holds for all notifications.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotifyConfig {
    /// A line of each change is written here.
    pub fifo: Option<PathBuf>,
    /// Who runs scripts that name nobody; by default `keepalived_script`, or else `nobody`.
    pub user: Option<String>,
    /// A script that runs longer is ended. 100 ms to an hour, default 10 s.
    pub timeout: Duration,
    /// Whether the FIFO tells changes of the priority too. Default false.
    pub priority_changes: bool,
}

impl Default for NotifyConfig {
    fn default() -> NotifyConfig {
        NotifyConfig {
            fifo: None,
            user: None,
            timeout: Duration::from_millis(DEFAULT_TIMEOUT_MS),
            priority_changes: false,
        }
    }
}

/// Programs that are run at a change, with arguments of their own; no shell. Only that for every
/// change is told which one it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyScripts {
    pub master: Option<Vec<String>>,
    pub backup: Option<Vec<String>>,
    pub fault: Option<Vec<String>>,
    pub stop: Option<Vec<String>>,
    /// At every one of these changes, after the one above.
    pub any: Option<Vec<String>>,
    /// When a master hears one of lower priority, which is no change. A group has none.
    pub master_rx_lower_pri: Option<Vec<String>>,
}

impl NotifyScripts {
    /// Every program there is.
    pub fn all(&self) -> impl Iterator<Item = &Vec<String>> {
        let scripts = [
            &self.master,
            &self.backup,
            &self.fault,
            &self.stop,
            &self.any,
            &self.master_rx_lower_pri,
        ];
        scripts.into_iter().flatten()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawNotify {
    fifo: Option<Spanned<PathBuf>>,
    user: Option<Spanned<String>>,
    timeout_ms: Option<Spanned<u64>>,
    priority_changes: Option<Spanned<bool>>,
}

impl RawNotify {
    pub(super) fn resolve(self) -> Result<NotifyConfig, Offence> {
        let fifo = self.fifo.map(|path| resolve_path("fifo", path));
        let fifo = fifo.transpose()?;
        let timeout_ms = resolve_number(
            "timeout_ms",
            self.timeout_ms,
            TIMEOUT_MS,
            DEFAULT_TIMEOUT_MS,
        )?;
        if let Some(changes) = &self.priority_changes
            && *changes.get_ref()
            && fifo.is_none()
        {
            let reason = "priority_changes without fifo: only the FIFO tells them".to_owned();
            return Err(Offence::new(changes, reason));
        }
        Ok(NotifyConfig {
            fifo,
            user: resolve_user(self.user)?,
            timeout: Duration::from_millis(timeout_ms),
            priority_changes: self.priority_changes.is_some_and(Spanned::into_inner),
        })
    }
}

/// The keys as typed.
#[derive(Debug)]
pub(super) struct RawScripts {
    pub(super) master: RawCommand,
    pub(super) backup: RawCommand,
    pub(super) fault: RawCommand,
    pub(super) stop: RawCommand,
    pub(super) any: RawCommand,
    pub(super) master_rx_lower_pri: RawCommand,
}

impl RawScripts {
    pub(super) fn resolve(self) -> Result<NotifyScripts, Offence> {
        Ok(NotifyScripts {
            master: resolve_command("notify_master", self.master)?,
            backup: resolve_command("notify_backup", self.backup)?,
            fault: resolve_command("notify_fault", self.fault)?,
            stop: resolve_command("notify_stop", self.stop)?,
            any: resolve_command("notify", self.any)?,
            master_rx_lower_pri: resolve_command(
                "notify_master_rx_lower_pri",
                self.master_rx_lower_pri,
            )?,
        })
    }
}
