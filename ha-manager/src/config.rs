//! `director.toml`: read once, refused with line and reason, or resolved into a [`Config`].
//!
//! One module per section: as typed ([`director`], [`sysctl`], [`sync`], [`mod@vrrp`], [`group`],
//! [`track`], [`notify`], [`mark`]), and what it resolves to. What one section says about another is judged in [`Config::parse`].

mod director;
mod group;
mod mark;
mod notify;
mod sync;
mod sysctl;
mod track;
mod vrrp;
mod words;

use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dataplane::{AttachMode, MarkRule, TableSizes};
use serde::Deserialize;
use toml::Spanned;
use zeroize::Zeroizing;

use director::RawDirector;
use group::RawGroup;
use mark::RawMark;
use notify::RawNotify;
use sync::RawSync;
use sysctl::RawSysctl;
use track::{RawTrackFile, RawTrackProcess, RawTrackScript, RawTracked, Tracked};
use vrrp::{RawVrrp, Surroundings};

pub use director::VrrpThreadConfig;
pub use group::GroupConfig;
pub use notify::{NotifyConfig, NotifyScripts};
pub use sync::{ByteOrder, DEFAULT_FLUSH, DEFAULT_TABLE_SHARE, SyncConfig};
pub use sysctl::{SYSCTL_PREFIX, SyncTunables, Sysctl, short_tunable_name};
pub use track::{Track, TrackFile, TrackInterface, TrackProcess, TrackRef, TrackScript};
pub use vrrp::{Vip, VmacConfig, VrrpConfig};

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
/// The bit of a file's mode that lets everybody read it.
const READ_BY_OTHERS: u32 = 0o004;

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
    /// The virtual routers whose masters are active; with none there is no election.
    pub vrrp: Vec<VrrpConfig>,
    /// Instances that change together.
    pub vrrp_groups: Vec<GroupConfig>,
    /// What instances and groups refer to by its place.
    pub track_scripts: Vec<TrackScript>,
    pub track_processes: Vec<TrackProcess>,
    pub track_files: Vec<TrackFile>,
    pub notify: NotifyConfig,
    /// How the thread of the elections runs.
    pub vrrp_thread: VrrpThreadConfig,
    /// Where metrics are served; `None` serves none.
    pub metrics: Option<SocketAddr>,
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
        let mut file = fs::File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        let limit = FILE_SIZE_MAX.saturating_add(1);
        // It may hold passwords, and leaves no copy behind: it is overwritten in the end, and never moves.
        let room = usize::try_from(metadata.len().min(limit)).unwrap_or(0);
        let mut bytes = Zeroizing::new(Vec::with_capacity(room.saturating_add(1)));
        let size = file.by_ref().take(limit).read_to_end(&mut bytes);
        if u64::try_from(size.map_err(read)?).unwrap_or(u64::MAX) > FILE_SIZE_MAX {
            return Err(ConfigError::TooLarge(path.into()));
        }
        let text = str::from_utf8(&bytes).map_err(|error| ConfigError::Refused {
            path: path.into(),
            line: line_of(&bytes, error.valid_up_to()),
            reason: "not UTF-8 text".to_owned(),
        })?;
        let is_public = metadata.permissions().mode() & READ_BY_OTHERS != 0;
        Config::judge(text, path, &host_name(), is_public)
    }

    /// Validates the text of a file that nobody else may read; `host_name` is the default of `name`.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with the line of the first offence.
    pub fn parse(text: &str, path: &Path, host_name: &str) -> Result<Config, ConfigError> {
        Config::judge(text, path, host_name, false)
    }

    fn judge(
        text: &str,
        path: &Path,
        host_name: &str,
        is_public: bool,
    ) -> Result<Config, ConfigError> {
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
        raw.resolve(host_name, is_public)
            .map_err(|offence| refuse(offence.at.unwrap_or(0..0), offence.reason))
    }

    /// What an operator should know of, though it is not refused.
    pub fn remarks(&self) -> Vec<String> {
        let routers = self.vrrp.iter().flat_map(VrrpConfig::remarks);
        let pair = routers.chain(self.lease_remark());
        pair.chain(self.untracked()).collect()
    }

    /// A daemon that was killed has programs that direct until the lease lapses, or for ever.
    fn lease_remark(&self) -> Option<String> {
        let soonest = self.vrrp.iter().map(VrrpConfig::taken_over_after).min()?;
        let soonest = soonest.as_millis();
        match self.lease.map(|lease| lease.as_millis()) {
            None => Some(
                "lease_ms = 0: after a crash of this daemon the node directs on beside the peer that \
                 takes over"
                    .to_owned(),
            ),
            Some(lease) if lease > soonest => Some(format!(
                "the lease of {lease} ms is longer than the {soonest} ms after which a peer may take \
                 over: after a crash of this daemon both direct for the rest of it"
            )),
            Some(_) => None,
        }
    }

    /// Whether it holds a secret.
    pub fn has_password(&self) -> bool {
        self.vrrp.iter().any(|vrrp| !vrrp.authentication.is_none())
    }

    /// What is defined and nothing depends on.
    fn untracked(&self) -> Vec<String> {
        let routers = self.vrrp.iter().map(|vrrp| &vrrp.track);
        let tracks: Vec<&Track> = routers
            .chain(self.vrrp_groups.iter().map(|group| &group.track))
            .collect();
        let mut remarks = Vec::new();
        let mut look = |section: &str, names: Vec<&String>, refs: fn(&Track) -> &[TrackRef]| {
            for (index, name) in names.into_iter().enumerate() {
                let is_tracked = |track: &&Track| refs(track).iter().any(|at| at.index == index);
                if !tracks.iter().any(is_tracked) {
                    remarks.push(format!("[[{section}]] {name}: nothing depends on it"));
                }
            }
        };
        let scripts = self.track_scripts.iter().map(|script| &script.name);
        look("track_script", scripts.collect(), |track| &track.scripts);
        let processes = self.track_processes.iter().map(|process| &process.name);
        look("track_process", processes.collect(), |track| {
            &track.processes
        });
        let files = self.track_files.iter().map(|file| &file.name);
        look("track_file", files.collect(), |track| &track.files);
        remarks
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
    vrrp_group: Option<Vec<RawGroup>>,
    track_script: Option<Vec<RawTrackScript>>,
    track_process: Option<Vec<RawTrackProcess>>,
    track_file: Option<Vec<RawTrackFile>>,
    notify: Option<RawNotify>,
    mark: Option<Vec<Spanned<RawMark>>>,
}

/// Every section but `[director]`, validated.
struct Sections {
    sysctl: Sysctl,
    sync: Option<SyncConfig>,
    vrrp: Vec<VrrpConfig>,
    groups: Vec<GroupConfig>,
    tracked: Tracked,
    notify: NotifyConfig,
    marks: Vec<MarkRule>,
}

impl RawConfig {
    fn resolve(self, host_name: &str, is_public: bool) -> Result<Config, Offence> {
        let listed = self.director.interface_names();
        let tracked = RawTracked {
            scripts: self.track_script.unwrap_or_default(),
            processes: self.track_process.unwrap_or_default(),
            files: self.track_file.unwrap_or_default(),
        };
        let tracked = tracked.resolve()?;
        let around = Surroundings {
            listed: &listed,
            tracked: &tracked,
            is_public,
        };
        let (vrrp, members) = vrrp::resolve_all(self.vrrp.unwrap_or_default(), &around)?;
        let groups = self.vrrp_group.unwrap_or_default();
        let groups = group::resolve_all(groups, &vrrp, &members, &tracked)?;
        let vrid = vrrp.first().map(|instance| instance.vrid);
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
            groups,
            tracked,
            notify: self.notify.unwrap_or_default().resolve()?,
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
