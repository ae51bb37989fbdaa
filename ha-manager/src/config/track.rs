//! What an election watches besides its own interface: `[[track_script]]`, `[[track_process]]`,
//! `[[track_file]]`, and the lists of them in `[[vrrp]]` and `[[vrrp_group]]`.
//!
//! A reference is written as keepalived has it: `NAME`, `NAME weight W`, `NAME weight W reverse`.
//! Without a weight it has that of the definition. A weight moves the priority; a weight of 0 makes
//! what is watched a condition: while it is bad, the instance is in FAULT.

mod refs;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::words::{resolve_command, resolve_path, resolve_user, resolve_word};
use super::{Offence, resolve_number};

pub(super) use refs::{RawRefs, RawTrack};

/// Definitions of a kind, and references in a list. Our own bound.
const TRACKED_MAX: usize = 256;
/// As in keepalived, for interfaces and scripts.
const WEIGHT: RangeInclusive<i64> = -253..=253;
/// As in keepalived, for processes and files.
const WEIGHT_WIDE: RangeInclusive<i64> = -254..=254;
const DEFAULT_INTERVAL_MS: u64 = 1000;
const INTERVAL_MS: RangeInclusive<u64> = 10..=86_400_000;
const TIMEOUT_MS: RangeInclusive<u64> = 0..=86_400_000;
/// Results in a row.
const RESULTS: RangeInclusive<u32> = 1..=10_000;
const QUORUM: RangeInclusive<u32> = 1..=65_536;

/// A program whose exit status says whether something is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackScript {
    pub name: String,
    /// Program and arguments; no shell.
    pub argv: Vec<String>,
    /// From one start to the next. 10 ms to a day, default 1 s.
    pub interval: Duration,
    /// A run that takes longer is ended and counts as bad; with zero, the default, one that still runs
    /// when the next is due.
    pub timeout: Duration,
    /// -253 to 253, default 0.
    pub weight: i16,
    pub reverse: bool,
    /// Good results in a row that make it good. Default 1.
    pub rise: u32,
    /// Bad results in a row that make it bad. Default 1.
    pub fall: u32,
    /// Bad until the first result. Default false: nothing is known until then.
    pub init_fail: bool,
    /// Who runs it, in place of the default user of scripts.
    pub user: Option<String>,
}

/// A program that should be running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackProcess {
    pub name: String,
    /// Name of the program, or its whole command line.
    pub process: String,
    /// -254 to 254, default 1.
    pub weight: i16,
    pub reverse: bool,
    /// So many of them make it good. Default 1.
    pub quorum: u32,
    /// `process` is compared with the whole command line.
    pub full_command: bool,
    /// From one look to the next. 10 ms to a day, default 1 s.
    pub interval: Duration,
}

/// A file that holds a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackFile {
    pub name: String,
    pub path: PathBuf,
    /// The number is multiplied with it; with 0 any number but 0 is FAULT. -254 to 254, default 1.
    pub weight: i16,
    pub reverse: bool,
}

/// What an instance or a group watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    pub interfaces: Vec<TrackInterface>,
    pub scripts: Vec<TrackRef>,
    pub processes: Vec<TrackRef>,
    pub files: Vec<TrackRef>,
    /// Whether the interface of the instance counts too; false with `dont_track_primary`, and for a
    /// group, which has none.
    pub own_interface: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackInterface {
    pub name: String,
    /// -253 to 253, default 0.
    pub weight: i16,
    pub reverse: bool,
}

/// One of the definitions, by its place in the list of its kind in [`super::Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackRef {
    pub index: usize,
    pub weight: i16,
    pub reverse: bool,
}

/// All definitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) scripts: Vec<TrackScript>,
    pub(super) processes: Vec<TrackProcess>,
    pub(super) files: Vec<TrackFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrackScript {
    name: Spanned<String>,
    script: Spanned<Vec<String>>,
    interval_ms: Option<Spanned<u64>>,
    timeout_ms: Option<Spanned<u64>>,
    weight: Option<Spanned<i64>>,
    reverse: Option<bool>,
    rise: Option<Spanned<u32>>,
    fall: Option<Spanned<u32>>,
    init_fail: Option<bool>,
    user: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrackProcess {
    name: Spanned<String>,
    process: Spanned<String>,
    weight: Option<Spanned<i64>>,
    reverse: Option<bool>,
    quorum: Option<Spanned<u32>>,
    full_command: Option<bool>,
    interval_ms: Option<Spanned<u64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrackFile {
    name: Spanned<String>,
    file: Spanned<PathBuf>,
    weight: Option<Spanned<i64>>,
    reverse: Option<bool>,
}

/// The sections as typed.
#[derive(Debug, Default)]
pub(super) struct RawTracked {
    pub(super) scripts: Vec<RawTrackScript>,
    pub(super) processes: Vec<RawTrackProcess>,
    pub(super) files: Vec<RawTrackFile>,
}

impl RawTracked {
    pub(super) fn resolve(self) -> Result<Tracked, Offence> {
        Ok(Tracked {
            scripts: resolve_kind("track_script", self.scripts, |raw| {
                let at = raw.name.clone();
                Ok((at, raw.resolve()?))
            })?,
            processes: resolve_kind("track_process", self.processes, |raw| {
                let at = raw.name.clone();
                Ok((at, raw.resolve()?))
            })?,
            files: resolve_kind("track_file", self.files, |raw| {
                let at = raw.name.clone();
                Ok((at, raw.resolve()?))
            })?,
        })
    }
}

/// What a reference can name.
trait Named {
    fn name(&self) -> &str;
    fn weight(&self) -> (i16, bool);
}

impl Named for TrackScript {
    fn name(&self) -> &str {
        &self.name
    }

    fn weight(&self) -> (i16, bool) {
        (self.weight, self.reverse)
    }
}

impl Named for TrackProcess {
    fn name(&self) -> &str {
        &self.name
    }

    fn weight(&self) -> (i16, bool) {
        (self.weight, self.reverse)
    }
}

impl Named for TrackFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn weight(&self) -> (i16, bool) {
        (self.weight, self.reverse)
    }
}

fn resolve_kind<Raw, T: Named>(
    section: &str,
    raw: Vec<Raw>,
    resolve: impl Fn(Raw) -> Result<(Spanned<String>, T), Offence>,
) -> Result<Vec<T>, Offence> {
    let count = raw.len();
    let mut found: Vec<T> = Vec::new();
    for raw in raw {
        let (at, one) = resolve(raw)?;
        if count > TRACKED_MAX {
            let reason = format!("{count} [[{section}]] sections are more than {TRACKED_MAX}");
            return Err(Offence::new(&at, reason));
        }
        if found.iter().any(|other| other.name() == one.name()) {
            let reason = format!("two [[{section}]] sections have the name {:?}", one.name());
            return Err(Offence::new(&at, reason));
        }
        found.push(one);
    }
    Ok(found)
}

impl RawTrackScript {
    fn resolve(self) -> Result<TrackScript, Offence> {
        let nothing = Offence::new(&self.script, "script is empty".to_owned());
        Ok(TrackScript {
            name: resolve_word(self.name)?,
            argv: resolve_command("script", Some(self.script))?.ok_or(nothing)?,
            interval: resolve_interval(self.interval_ms)?,
            timeout: Duration::from_millis(resolve_number(
                "timeout_ms",
                self.timeout_ms,
                TIMEOUT_MS,
                0,
            )?),
            weight: resolve_weight(self.weight, WEIGHT, 0)?,
            reverse: self.reverse.unwrap_or(false),
            rise: resolve_number("rise", self.rise, RESULTS, 1)?,
            fall: resolve_number("fall", self.fall, RESULTS, 1)?,
            init_fail: self.init_fail.unwrap_or(false),
            user: resolve_user(self.user)?,
        })
    }
}

impl RawTrackProcess {
    fn resolve(self) -> Result<TrackProcess, Offence> {
        let text = self.process.get_ref();
        if text.is_empty() || text.chars().any(char::is_control) {
            let reason = format!("process {text:?} cannot be the name of a program");
            return Err(Offence::new(&self.process, reason));
        }
        Ok(TrackProcess {
            name: resolve_word(self.name)?,
            process: self.process.into_inner(),
            weight: resolve_weight(self.weight, WEIGHT_WIDE, 1)?,
            reverse: self.reverse.unwrap_or(false),
            quorum: resolve_number("quorum", self.quorum, QUORUM, 1)?,
            full_command: self.full_command.unwrap_or(false),
            interval: resolve_interval(self.interval_ms)?,
        })
    }
}

impl RawTrackFile {
    fn resolve(self) -> Result<TrackFile, Offence> {
        Ok(TrackFile {
            name: resolve_word(self.name)?,
            path: resolve_path("file", self.file)?,
            weight: resolve_weight(self.weight, WEIGHT_WIDE, 1)?,
            reverse: self.reverse.unwrap_or(false),
        })
    }
}

fn resolve_interval(interval_ms: Option<Spanned<u64>>) -> Result<Duration, Offence> {
    let ms = resolve_number("interval_ms", interval_ms, INTERVAL_MS, DEFAULT_INTERVAL_MS)?;
    Ok(Duration::from_millis(ms))
}

fn resolve_weight(
    weight: Option<Spanned<i64>>,
    range: RangeInclusive<i64>,
    default: i16,
) -> Result<i16, Offence> {
    let weight = resolve_number("weight", weight, range, i64::from(default))?;
    Ok(i16::try_from(weight).unwrap_or(default))
}
