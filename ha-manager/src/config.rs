//! `director.toml`: read once, refused with line and reason, or resolved into a [`Config`].

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::{AttachMode, TableSizes};
use serde::Deserialize;
use toml::Spanned;

/// Where the configuration is unless the command line says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/tandem/director.toml";
/// Where programs and maps are pinned by default.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/tandem";

/// Unit: bytes. The kernel's `IFNAMSIZ` without the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;
/// Interfaces a director may listen on.
const INTERFACES_MAX: usize = 256;
/// Unit: bytes.
const NAME_MAX: usize = 64;
/// Unit: bytes. The kernel's `sun_path` less its terminating zero and the suffix of the name under
/// which the socket is made.
const SOCKET_PATH_MAX: usize = 103;
/// Unit: bytes. A larger file is not a configuration.
const FILE_SIZE_MAX: u64 = 1 << 20;

const CONNECTIONS_LOG2: RangeInclusive<u32> = 8..=24;
const SERVICES: RangeInclusive<u32> = 1..=65_536;
const SERVERS: RangeInclusive<u32> = 1..=1_048_576;
const LEASE_MS: RangeInclusive<u64> = 100..=600_000;

const DEFAULT_CONNECTIONS: u32 = 1 << 20;
const DEFAULT_SERVICES: u32 = 4096;
const DEFAULT_SERVERS: u32 = 16_384;

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
        raw.director
            .resolve(host_name)
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
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDirector {
    name: Option<Spanned<String>>,
    interfaces: Spanned<Vec<Spanned<String>>>,
    pin_dir: Option<Spanned<PathBuf>>,
    attach: Option<RawAttach>,
    lease_ms: Option<Spanned<u64>>,
    control: Option<Spanned<PathBuf>>,
    connections: Option<Spanned<u32>>,
    services: Option<Spanned<u32>>,
    servers: Option<Spanned<u32>>,
    log: Option<LogFormat>,
    log_level: Option<LogLevel>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAttach {
    Auto,
    Tcx,
    Clsact,
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

impl RawDirector {
    fn resolve(self, host_name: &str) -> Result<Config, Offence> {
        let pin_dir = self
            .pin_dir
            .map_or_else(|| Ok(DEFAULT_PIN_DIR.into()), resolve_pin_dir)?;
        let sizes = TableSizes {
            connections_v4: self
                .connections
                .map_or(Ok(DEFAULT_CONNECTIONS), resolve_connections)?,
            services: resolve_size("services", self.services, SERVICES, DEFAULT_SERVICES)?,
            servers: resolve_size("servers", self.servers, SERVERS, DEFAULT_SERVERS)?,
        };
        Ok(Config {
            name: resolve_name(self.name, host_name)?,
            interfaces: resolve_interfaces(self.interfaces)?,
            pin_dir,
            attach: match self.attach {
                None | Some(RawAttach::Auto) => AttachMode::Auto,
                Some(RawAttach::Tcx) => AttachMode::Tcx,
                Some(RawAttach::Clsact) => AttachMode::Clsact,
            },
            lease: self.lease_ms.map_or(Ok(None), resolve_lease)?,
            control: self
                .control
                .map_or_else(|| Ok(ipvs_control::DEFAULT_SOCKET.into()), resolve_control)?,
            sizes,
            log: self.log.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_default(),
        })
    }
}

fn resolve_name(name: Option<Spanned<String>>, host_name: &str) -> Result<String, Offence> {
    let Some(name) = name else {
        return Ok(host_name.to_owned());
    };
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

fn resolve_interfaces(list: Spanned<Vec<Spanned<String>>>) -> Result<Vec<String>, Offence> {
    let count = list.get_ref().len();
    if count == 0 {
        return Err(Offence::new(
            &list,
            "interfaces is empty, at least one is needed".to_owned(),
        ));
    }
    if count > INTERFACES_MAX {
        return Err(Offence::new(
            &list,
            format!("{count} interfaces are more than {INTERFACES_MAX}"),
        ));
    }
    let mut seen = BTreeSet::new();
    for name in list.get_ref() {
        let text = name.get_ref().as_str();
        if !is_interface_name(text) {
            return Err(Offence::new(
                name,
                format!("{text:?} is not an interface name"),
            ));
        }
        if !seen.insert(text) {
            return Err(Offence::new(
                name,
                format!("interface {text} is listed twice"),
            ));
        }
    }
    Ok(list
        .into_inner()
        .into_iter()
        .map(Spanned::into_inner)
        .collect())
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

fn resolve_pin_dir(path: Spanned<PathBuf>) -> Result<PathBuf, Offence> {
    if !path.get_ref().is_absolute() {
        return Err(Offence::new(
            &path,
            "pin_dir is not an absolute path".to_owned(),
        ));
    }
    if path.get_ref().file_name().is_none() {
        return Err(Offence::new(
            &path,
            "pin_dir names no directory inside a bpffs".to_owned(),
        ));
    }
    Ok(path.into_inner())
}

fn resolve_control(path: Spanned<PathBuf>) -> Result<PathBuf, Offence> {
    if !path.get_ref().is_absolute() {
        return Err(Offence::new(
            &path,
            "control is not an absolute path".to_owned(),
        ));
    }
    if path.get_ref().file_name().is_none() {
        return Err(Offence::new(&path, "control names no file".to_owned()));
    }
    let length = path.get_ref().as_os_str().len();
    if length > SOCKET_PATH_MAX {
        return Err(Offence::new(
            &path,
            format!(
                "control of {length} bytes is longer than the {SOCKET_PATH_MAX} a socket allows"
            ),
        ));
    }
    Ok(path.into_inner())
}

fn resolve_lease(lease_ms: Spanned<u64>) -> Result<Option<Duration>, Offence> {
    match *lease_ms.get_ref() {
        0 => Ok(None),
        ms if LEASE_MS.contains(&ms) => Ok(Some(Duration::from_millis(ms))),
        ms => Err(Offence::new(
            &lease_ms,
            format!(
                "lease_ms {ms} is neither 0 nor between {} and {}",
                LEASE_MS.start(),
                LEASE_MS.end()
            ),
        )),
    }
}

fn resolve_connections(connections: Spanned<u32>) -> Result<u32, Offence> {
    let value = *connections.get_ref();
    if value.is_power_of_two() && CONNECTIONS_LOG2.contains(&value.ilog2()) {
        return Ok(value);
    }
    Err(Offence::new(
        &connections,
        format!(
            "connections {value} is not a power of two between {} and {}",
            1u32 << CONNECTIONS_LOG2.start(),
            1u32 << CONNECTIONS_LOG2.end()
        ),
    ))
}

fn resolve_size(
    key: &str,
    value: Option<Spanned<u32>>,
    range: RangeInclusive<u32>,
    default: u32,
) -> Result<u32, Offence> {
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
