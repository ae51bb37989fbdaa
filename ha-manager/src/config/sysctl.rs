//! Tunables by their kernel names (`net.ipv4.vs.NAME`): the section `[sysctl]`, and what `directord
//! sysctl` reads and sets while the director runs. Both are judged by [`Sysctl::set`].
//!
//! A name of the kernel that has no effect here yet takes its default alone, and a value without an
//! effect is refused: none is silently ignored.

mod absent;
mod slot;

use std::collections::BTreeMap;

use dataplane::Tunable;
use ipvs_control::SysctlError;
use serde::Deserialize;
use syncproto::limits;
use syncproto::wire::Version;
use toml::Spanned;

use super::Offence;
use slot::{Slot, Threshold};

/// Where the kernel has them.
pub const SYSCTL_PREFIX: &str = "net.ipv4.vs.";

/// Unit: messages.
///
/// DIFFERS: the kernel's default is a 32nd of its free pages; this is about 6 MB of messages for each
/// port, however much memory a host has.
const DEFAULT_SYNC_QLEN_MAX: u64 = 4096;
/// What the kernel counts intervals in. Unit: per second; Debian's.
const HZ: i32 = 250;
/// Unit: seconds. What an interval is bounded by, as it is kept in jiffies: `INT_MAX / HZ`.
const INTERVAL_SECS_MAX: i32 = i32::MAX / HZ;
/// Unit: seconds. `ip_vs.h: DEFAULT_EXPIRATION`, a day.
const DEFAULT_CACHE_EXPIRATION_SECS: i32 = 24 * 60 * 60;
/// Unit: characters of a refused name or value that are repeated to whoever sent it.
const SHOWN_MAX: usize = 64;

/// Tunables with an effect here, in the order of their names.
pub(super) const SUPPORTED: [&str; 19] = [
    "backup_only",
    "cache_bypass",
    "conn_reuse_mode",
    "expire_nodest_conn",
    "expire_quiescent_template",
    "lblc_expiration",
    "lblcr_expiration",
    "run_estimation",
    "secure_tcp",
    "sloppy_sctp",
    "sloppy_tcp",
    "sync_persist_mode",
    "sync_ports",
    "sync_qlen_max",
    "sync_refresh_period",
    "sync_retries",
    "sync_sock_size",
    "sync_threshold",
    "sync_version",
];

/// The tunables as they were written, with the kernel's defaults; a switch is on with any number but 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// A switch, default 0. While the backup sync daemon runs, requests are not handled.
    backup_only: i32,
    /// A switch, default 0. A packet by mark for which there is no real server goes on to where it
    /// was addressed.
    cache_bypass: i32,
    /// Its bits count. Default 1.
    conn_reuse_mode: i32,
    /// A switch, default 0.
    expire_nodest_conn: i32,
    /// A switch, default 0. Templates of quiesced servers are not used any more.
    expire_quiescent_template: i32,
    /// How long `lblc` remembers a destination that is not used, 0 and below not at all. Unit: seconds;
    /// default 86400.
    lblc_expiration: i32,
    /// The same of `lblcr`, and how long a set of servers stays before it shrinks.
    lblcr_expiration: i32,
    /// A switch, default 1. Rates are estimated.
    run_estimation: i32,
    /// 0 (default) or 3: the second table of TCP timeouts is in use.
    secure_tcp: i32,
    /// A switch, default 0.
    sloppy_sctp: i32,
    /// A switch, default 0.
    sloppy_tcp: i32,
    /// A switch, default 0.
    sync_persist_mode: i32,
    /// A power of two, default 1.
    sync_ports: i32,
    /// Unit: messages.
    sync_qlen_max: u64,
    /// Unit: seconds; default 0, which is off. A negative number is a long time.
    sync_refresh_period: i32,
    /// 0 (default) to 3.
    sync_retries: i32,
    /// Unit: bytes; 0 (default) and below ask for none, see [`SyncTunables::sock_size`].
    sync_sock_size: i32,
    /// Default 3 and 50.
    sync_threshold: Threshold,
    /// 0 or 1, the default.
    sync_version: i32,
}

impl Default for Sysctl {
    fn default() -> Sysctl {
        Sysctl {
            backup_only: 0,
            cache_bypass: 0,
            conn_reuse_mode: 1,
            expire_nodest_conn: 0,
            expire_quiescent_template: 0,
            lblc_expiration: DEFAULT_CACHE_EXPIRATION_SECS,
            lblcr_expiration: DEFAULT_CACHE_EXPIRATION_SECS,
            run_estimation: 1,
            secure_tcp: 0,
            sloppy_sctp: 0,
            sloppy_tcp: 0,
            sync_persist_mode: 0,
            sync_ports: 1,
            sync_qlen_max: DEFAULT_SYNC_QLEN_MAX,
            sync_refresh_period: 0,
            sync_retries: 0,
            sync_sock_size: 0,
            sync_threshold: Threshold::default(),
            sync_version: 1,
        }
    }
}

impl Sysctl {
    /// Sets a tunable, its name with or without [`SYSCTL_PREFIX`] and in either spelling of `sysctl`; the
    /// value as `sysctl` would be given it.
    ///
    /// # Errors
    /// Nothing has changed then.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SysctlError> {
        let short = short_tunable_name(name);
        let done = match self.slot(&short) {
            Some(slot) => slot.write(text),
            None => match absent::find(&short) {
                Some(tunable) => tunable.check(text),
                None => return Err(SysctlError::Unknown(cut(name))),
            },
        };
        done.map_err(|reason| SysctlError::Refused {
            name: short,
            value: shown(text),
            reason,
        })
    }

    /// Name, without [`SYSCTL_PREFIX`], and value of every tunable of the kernel, as it would print them,
    /// in the order of their names. What has no effect here shows its default.
    pub fn list(&self) -> Vec<(String, String)> {
        // Reading and writing use the same slots; what is written to here is a copy.
        let mut copy = *self;
        let mut all = BTreeMap::new();
        for name in SUPPORTED {
            if let Some(slot) = copy.slot(name) {
                all.insert(name, slot.text());
            }
        }
        for tunable in &absent::NOT_YET {
            all.insert(tunable.name, tunable.text());
        }
        all.into_iter()
            .map(|(name, text)| (name.to_owned(), text))
            .collect()
    }

    fn slot(&mut self, name: &str) -> Option<Slot<'_>> {
        // The kernel bounds a negative number the same way.
        let interval = -INTERVAL_SECS_MAX..=INTERVAL_SECS_MAX;
        Some(match name {
            "backup_only" => Slot::Any(&mut self.backup_only),
            "cache_bypass" => Slot::Any(&mut self.cache_bypass),
            "conn_reuse_mode" => Slot::Any(&mut self.conn_reuse_mode),
            "expire_nodest_conn" => Slot::Any(&mut self.expire_nodest_conn),
            "expire_quiescent_template" => Slot::Any(&mut self.expire_quiescent_template),
            "lblc_expiration" => Slot::Within(&mut self.lblc_expiration, interval),
            "lblcr_expiration" => Slot::Within(&mut self.lblcr_expiration, interval),
            "run_estimation" => Slot::Any(&mut self.run_estimation),
            "secure_tcp" => Slot::SecureTcp(&mut self.secure_tcp),
            "sloppy_sctp" => Slot::Any(&mut self.sloppy_sctp),
            "sloppy_tcp" => Slot::Any(&mut self.sloppy_tcp),
            "sync_persist_mode" => Slot::Any(&mut self.sync_persist_mode),
            "sync_ports" => Slot::PowerOfTwo(&mut self.sync_ports),
            "sync_qlen_max" => Slot::Count(&mut self.sync_qlen_max),
            "sync_refresh_period" => Slot::Within(&mut self.sync_refresh_period, interval),
            "sync_retries" => Slot::Within(&mut self.sync_retries, 0..=3),
            "sync_sock_size" => Slot::Any(&mut self.sync_sock_size),
            "sync_threshold" => Slot::Threshold(&mut self.sync_threshold),
            "sync_version" => Slot::Within(&mut self.sync_version, 0..=1),
            _ => return None,
        })
    }

    pub(crate) const fn backup_only(&self) -> bool {
        self.backup_only != 0
    }

    pub(crate) const fn run_estimation(&self) -> bool {
        self.run_estimation != 0
    }

    /// What the data plane's programs go by, apart from synchronisation.
    pub(crate) fn data_plane(&self) -> [(Tunable, u32); 9] {
        let switch = |value: i32| u32::from(value != 0);
        [
            (Tunable::CacheBypass, switch(self.cache_bypass)),
            (Tunable::ConnReuseMode, self.conn_reuse_mode.cast_unsigned()),
            (Tunable::ExpireNodestConn, switch(self.expire_nodest_conn)),
            (
                Tunable::ExpireQuiescentTemplate,
                switch(self.expire_quiescent_template),
            ),
            (
                Tunable::LblcExpirationSecs,
                never_negative(self.lblc_expiration),
            ),
            (
                Tunable::LblcrExpirationSecs,
                never_negative(self.lblcr_expiration),
            ),
            (Tunable::SecureTcp, self.secure_tcp.cast_unsigned()),
            (Tunable::SloppySctp, switch(self.sloppy_sctp)),
            (Tunable::SloppyTcp, switch(self.sloppy_tcp)),
        ]
    }

    /// What the sync daemons go by.
    pub fn sync(&self) -> SyncTunables {
        let Threshold { threshold, period } = self.sync_threshold;
        let ports_max = *limits::THREADS.end();
        SyncTunables {
            threshold: threshold.cast_unsigned(),
            period: period.cast_unsigned(),
            refresh_secs: refresh_secs(self.sync_refresh_period),
            retries: self.sync_retries.cast_unsigned(),
            persist_mode: self.sync_persist_mode != 0,
            qlen_max: u32::try_from(self.sync_qlen_max).unwrap_or(u32::MAX),
            sock_size: never_negative(self.sync_sock_size),
            // Any power of two can be set; `ip_vs_sync.c: start_sync_thread` uses that many at most.
            ports: u16::try_from(self.sync_ports).map_or(ports_max, |ports| ports.min(ports_max)),
            version: match self.sync_version {
                0 => Version::V0,
                _ => Version::V1,
            },
        }
    }
}

/// Where a negative number acts as 0: a cache that forgets at once, a buffer left as it is.
fn never_negative(written: i32) -> u32 {
    u32::try_from(written).unwrap_or(0)
}

/// The kernel keeps jiffies in an unsigned number, so that a negative period is a very long one.
fn refresh_secs(written: i32) -> u32 {
    const WRAPS_AT_SECS: u32 = u32::MAX / HZ.cast_unsigned();
    match u32::try_from(written) {
        Ok(secs) => secs,
        Err(_) => WRAPS_AT_SECS.saturating_sub(written.unsigned_abs()),
    }
}

/// A name without [`SYSCTL_PREFIX`], dots or slashes between its parts.
pub fn short_tunable_name(name: &str) -> String {
    let dotted = name.replace('/', ".");
    let short = dotted.strip_prefix(SYSCTL_PREFIX).unwrap_or(&dotted);
    short.to_owned()
}

/// A value in a message: numbers as they are, anything else in quotes, and not more of it than helps.
fn shown(text: &str) -> String {
    let text = text.trim();
    if text.parse::<i64>().is_ok() {
        return text.to_owned();
    }
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_MAX).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// When connections are synchronised, and how much may wait: the values to use, where [`Sysctl`] has
/// what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTunables {
    /// Unit: packets. Kernel name: first value of `sync_threshold`; default 3.
    pub threshold: u32,
    /// Unit: packets; 0 sends once. Kernel name: second value of `sync_threshold`; default 50.
    pub period: u32,
    /// Unit: seconds; 0 is off, the default. Kernel name `sync_refresh_period`.
    pub refresh_secs: u32,
    /// 0 (default) to 3. Kernel name `sync_retries`.
    pub retries: u32,
    /// Connections under a template are not synchronised. Default 0.
    pub persist_mode: bool,
    /// Unit: messages of each port; with 0 full ones are dropped, and those sent for their age alone go
    /// out. Default 4096. Kernel name `sync_qlen_max`.
    pub qlen_max: u32,
    /// Unit: bytes of socket buffer; 0 (default) leaves a master the system's, and gives a backup
    /// [`limits::RECEIVE_ROOM`]. Kernel name `sync_sock_size`.
    pub sock_size: u32,
    /// Threads, each with a port of its own; a power of two, 1 (default) to 64. Kernel name
    /// `sync_ports`.
    pub ports: u16,
    /// 0 or 1, the default. Kernel name `sync_version`.
    pub version: Version,
}

impl Default for SyncTunables {
    fn default() -> SyncTunables {
        Sysctl::default().sync()
    }
}

/// Names are data, so that those of the kernel can be told from mistakes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct RawSysctl(BTreeMap<Spanned<String>, Spanned<RawValue>>);

/// A number, or the words `sysctl` would print.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "a tunable is a number, or numbers in a string")]
enum RawValue {
    Number(i64),
    Text(String),
}

impl RawSysctl {
    pub(super) fn resolve(self) -> Result<Sysctl, Offence> {
        let mut sysctl = Sysctl::default();
        for (name, value) in &self.0 {
            let done = match value.get_ref() {
                RawValue::Number(number) => sysctl.set(name.get_ref(), &number.to_string()),
                RawValue::Text(text) => sysctl.set(name.get_ref(), text),
            };
            done.map_err(|error| match error {
                SysctlError::Unknown(_) => Offence::new(name, error.to_string()),
                SysctlError::Refused { .. } => Offence::new(value, error.to_string()),
            })?;
        }
        Ok(sysctl)
    }
}

#[cfg(test)]
mod tests;
