//! `director.toml`: read once, refused with line and reason, or resolved into a [`Config`].
//!
//! One module per section: as typed ([`director`], [`sysctl`], [`sync`], [`vrrp`], [`mark`]), and
//! what it resolves to. What one section says about another is judged in [`Config::parse`].

mod director;
mod mark;
mod sync;
mod sysctl;
mod vrrp;

use std::fs;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::{AttachMode, MarkRule, TableSizes};
use serde::Deserialize;
use toml::Spanned;

use director::RawDirector;
use mark::RawMark;
use sync::RawSync;
use sysctl::RawSysctl;
use vrrp::RawVrrp;

pub use sync::{ByteOrder, DEFAULT_FLUSH, DEFAULT_TABLE_SHARE, SyncConfig};
pub use sysctl::{SYSCTL_PREFIX, SyncTunables, Sysctl, short_tunable_name};
pub use vrrp::{Vip, VrrpConfig};

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/tandem/director.toml";
/// Where programs and maps are pinned by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/tandem";

/// Unit: bytes. The kernel's `IFNAMSIZ` without the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
/// Unit: bytes.
const NAME_MAX: usize = 64;
/// Unit: bytes. A larger file is not a configuration.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// The configuration, validated; nothing reads the file again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub name: String,
    pub interfaces: Vec<String>,
    pub pin_dir: PathBuf,
    pub attach: AttachMode,
    /// `None` never fences.
    pub lease: Option<Duration>,
    /// As in the file; [`Config::control_path`] honours the environment.
    pub control: PathBuf,
    pub sizes: TableSizes,
    pub log: LogFormat,
    pub log_level: LogLevel,
    pub sysctl: Sysctl,
    /// What the sync daemons of this node's role run with; `None` leaves them to `ipvsadm`.
    pub sync: Option<SyncConfig>,
    /// The virtual router whose master is the active node; `None` has no election.
    pub vrrp: Option<VrrpConfig>,
    /// What gives packets a firewall mark; the first that matches decides.
    pub marks: Vec<MarkRule>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub const fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: larger than {FILE_SIZE_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{}:{line}: {reason}", path.display())]
    Refused {
        path: PathBuf,
        line: usize,
        reason: String,
    },
}

impl Config {
    /// Reads and validates a file.
    ///
    /// # Errors
    /// The file cannot be read, or what [`Config::parse`] refuses.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let read = |source| ConfigError::Read {
            path: path.into(),
            source,
        };
        if fs::metadata(path).map_err(read)?.len() > FILE_SIZE_MAX {
            return Err(ConfigError::TooLarge(path.into()));
        }
        let text = String::from_utf8(fs::read(path).map_err(read)?).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            ConfigError::Refused {
                path: path.into(),
                line: line_of(error.as_bytes(), valid),
                reason: "not UTF-8 text".to_owned(),
            }
        })?;
        Config::parse(&text, path, &host_name())
    }

    /// Validates the text of a file; `host_name` is the default of `name`.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with the line of the first offence.
    pub fn parse(text: &str, path: &Path, host_name: &str) -> Result<Config, ConfigError> {
        let refuse = |at: Range<usize>, reason: String| {
            let line = line_of(text.as_bytes(), at.start);
            ConfigError::Refused {
                path: path.into(),
                line,
                reason,
            }
        };
        let raw: RawConfig = toml::from_str(text).map_err(|error| {
            let reason = error.message().lines().collect::<Vec<_>>().join("; ");
            refuse(error.span().unwrap_or(0..0), reason)
        })?;
        raw.resolve(host_name)
            .map_err(|offence| refuse(offence.at.unwrap_or(0..0), offence.reason))
    }

    /// The control socket: `TANDEM_CONTROL`, else what the file says.
    pub fn control_path(&self) -> PathBuf {
        match std::env::var_os(ipvs_control::SOCKET_ENV) {
            Some(path) => path.into(),
            None => self.control.clone(),
        }
    }
}

/// The file as typed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    director: RawDirector,
    sysctl: Option<RawSysctl>,
    sync: Option<RawSync>,
    vrrp: Option<Vec<RawVrrp>>,
    mark: Option<Vec<Spanned<RawMark>>>,
}

/// Every section but `[director]`, validated.
struct Sections {
    sysctl: Sysctl,
    sync: Option<SyncConfig>,
    vrrp: Option<VrrpConfig>,
    marks: Vec<MarkRule>,
}

impl RawConfig {
    fn resolve(self, host_name: &str) -> Result<Config, Offence> {
        let listed = self.director.interface_names();
        let vrrp = vrrp::resolve_all(self.vrrp.unwrap_or_default(), &listed)?;
        let vrid = vrrp.as_ref().map(|instance| instance.vrid);
        let vips = vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
        let vips: Vec<_> = vips.map(|vip| vip.address).collect();
        let sync = self
            .sync
            .map(|sync| sync.resolve(vrid, &vips))
            .transpose()?;
        let sysctl = self.sysctl.map(RawSysctl::resolve).transpose()?;
        let others = Sections {
            sysctl: sysctl.unwrap_or_default(),
            sync,
            vrrp,
            marks: mark::resolve_all(self.mark.unwrap_or_default())?,
        };
        self.director.resolve(host_name, others)
    }
}

/// A value that is refused, and where it stands.
struct Offence {
    at: Option<Range<usize>>,
    reason: String,
}

impl Offence {
    fn new<T>(value: &Spanned<T>, reason: String) -> Offence {
        Offence {
            at: Some(value.span()),
            reason,
        }
    }
}

/// A number within its range, or its default when the key is missing.
fn resolve_number<T>(
    key: &str,
    value: Option<Spanned<T>>,
    range: RangeInclusive<T>,
    default: T,
) -> Result<T, Offence>
where
    T: PartialOrd + std::fmt::Display,
{
    let Some(value) = value else {
        return Ok(default);
    };
    if range.contains(value.get_ref()) {
        return Ok(value.into_inner());
    }
    let (start, end) = range.into_inner();
    let reason = format!("{key} {} is not between {start} and {end}", value.get_ref());
    Err(Offence::new(&value, reason))
}

/// Refuses what no interface can be called.
fn resolve_interface(name: Spanned<String>) -> Result<String, Offence> {
    if is_interface_name(name.get_ref()) {
        return Ok(name.into_inner());
    }
    let reason = format!("{:?} is not an interface name", name.get_ref());
    Err(Offence::new(&name, reason))
}

/// As the kernel's `dev_valid_name`.
fn is_interface_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= INTERFACE_NAME_MAX
        && text != "."
        && text != ".."
        && !text
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// A name for people: of an instance or a director.
fn resolve_name(name: Spanned<String>) -> Result<String, Offence> {
    let text = name.get_ref();
    if text.is_empty() || text.len() > NAME_MAX {
        let length = text.len();
        return Err(Offence::new(
            &name,
            format!("name of {length} bytes is not between 1 and {NAME_MAX}"),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(Offence::new(
            &name,
            "name contains a control character".to_owned(),
        ));
    }
    Ok(name.into_inner())
}

/// Line number, counted from 1, of a byte offset.
fn line_of(text: &[u8], offset: usize) -> usize {
    text.iter()
        .take(offset)
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "director".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
