//! The section `[director]`.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use dataplane::{AttachMode, TableSizes};
use serde::Deserialize;
use toml::Spanned;

use super::{
    Config, DEFAULT_PIN_DIR, LogFormat, LogLevel, Offence, Sections, VrrpConfig, is_interface_name,
    resolve_name, resolve_number,
};

/// A level of `SCHED_RR` between ordinary programs and what the kernel keeps for itself.
const DEFAULT_RT_PRIORITY: u8 = 50;
/// Above are the kernel's own threads, those that move tasks and watch for lock-ups.
const RT_PRIORITY: RangeInclusive<u8> = 0..=98;
const STARTUP_DELAY_MS: RangeInclusive<u64> = 0..=600_000;
/// Where metrics are served when nothing else is said: for this host alone.
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9140);

/// Interfaces a director may listen on.
const INTERFACES_MAX: usize = 256;
/// Unit: bytes. The kernel's `sun_path` less its terminating zero and the suffix of the name under
/// which the socket is made.
const SOCKET_PATH_MAX: usize = 103;

const CONNECTIONS_LOG2: RangeInclusive<u32> = 8..=24;
const SERVICES: RangeInclusive<u32> = 1..=65_536;
const SERVERS: RangeInclusive<u32> = 1..=1_048_576;
const HASH_TABLES: RangeInclusive<u32> = 1..=65_536;
const CACHE_ENTRIES: RangeInclusive<u32> = 1..=16_777_216;
const LEASE_MS: RangeInclusive<u64> = 100..=600_000;

const DEFAULT_CONNECTIONS: u32 = 1 << 20;
const DEFAULT_SERVICES: u32 = 4096;
const DEFAULT_SERVERS: u32 = 16_384;
/// Unit: tables of `mh`, of 8 KiB each.
const DEFAULT_HASH_TABLES: u32 = 256;
/// Sixteen services as large as the kernel lets their cache grow (`ip_vs_lblc.c: max_size`).
const DEFAULT_CACHE_ENTRIES: u32 = 65_536;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDirector {
    name: Option<Spanned<String>>,
    interfaces: Spanned<Vec<Spanned<String>>>,
    pin_dir: Option<Spanned<PathBuf>>,
    attach: Option<RawAttach>,
    lease_ms: Option<Spanned<u64>>,
    control: Option<Spanned<PathBuf>>,
    connections_v4: Option<Spanned<u32>>,
    connections_v6: Option<Spanned<u32>>,
    services: Option<Spanned<u32>>,
    servers: Option<Spanned<u32>>,
    hash_tables: Option<Spanned<u32>>,
    cache_entries: Option<Spanned<u32>>,
    log: Option<LogFormat>,
    log_level: Option<LogLevel>,
    vrrp_rt_priority: Option<Spanned<u8>>,
    vrrp_startup_delay_ms: Option<Spanned<u64>>,
    metrics: Option<Spanned<String>>,
}

/// How the thread of the elections runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VrrpThreadConfig {
    /// Of `SCHED_RR`, up to 98, default 50; 0 asks for no real-time scheduling.
    pub rt_priority: u8,
    /// How long elections wait after the start. Up to ten minutes, default 0.
    pub startup_delay: Duration,
}

impl Default for VrrpThreadConfig {
    fn default() -> VrrpThreadConfig {
        VrrpThreadConfig {
            rt_priority: DEFAULT_RT_PRIORITY,
            startup_delay: Duration::ZERO,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawAttach {
    Auto,
    Tcx,
    Clsact,
}

impl RawDirector {
    /// As typed.
    pub(super) fn interface_names(&self) -> Vec<String> {
        let names = self.interfaces.get_ref().iter();
        names.map(|name| name.get_ref().clone()).collect()
    }

    pub(super) fn resolve(self, host_name: &str, others: Sections) -> Result<Config, Offence> {
        let Sections {
            sysctl,
            sync,
            vrrp,
            groups,
            tracked,
            notify,
            marks,
        } = others;
        let pin_dir = self
            .pin_dir
            .map_or_else(|| Ok(DEFAULT_PIN_DIR.into()), resolve_pin_dir)?;
        let sizes = TableSizes {
            connections_v4: resolve_connections("connections_v4", self.connections_v4)?,
            connections_v6: resolve_connections("connections_v6", self.connections_v6)?,
            services: resolve_number("services", self.services, SERVICES, DEFAULT_SERVICES)?,
            servers: resolve_number("servers", self.servers, SERVERS, DEFAULT_SERVERS)?,
            hash_tables: resolve_number(
                "hash_tables",
                self.hash_tables,
                HASH_TABLES,
                DEFAULT_HASH_TABLES,
            )?,
            cache_entries: resolve_number(
                "cache_entries",
                self.cache_entries,
                CACHE_ENTRIES,
                DEFAULT_CACHE_ENTRIES,
            )?,
        };
        Ok(Config {
            name: match self.name {
                Some(name) => resolve_name(name)?,
                None => host_name.to_owned(),
            },
            interfaces: resolve_interfaces(self.interfaces)?,
            pin_dir,
            attach: match self.attach {
                None | Some(RawAttach::Auto) => AttachMode::Auto,
                Some(RawAttach::Tcx) => AttachMode::Tcx,
                Some(RawAttach::Clsact) => AttachMode::Clsact,
            },
            lease: match self.lease_ms {
                Some(lease_ms) => resolve_lease(lease_ms)?,
                None => vrrp.iter().map(VrrpConfig::default_lease).min(),
            },
            control: self
                .control
                .map_or_else(|| Ok(ipvs_control::DEFAULT_SOCKET.into()), resolve_control)?,
            sizes,
            log: self.log.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_default(),
            sysctl,
            sync,
            vrrp,
            vrrp_groups: groups,
            track_scripts: tracked.scripts,
            track_processes: tracked.processes,
            track_files: tracked.files,
            notify,
            vrrp_thread: resolve_thread(self.vrrp_rt_priority, self.vrrp_startup_delay_ms)?,
            metrics: match self.metrics {
                Some(metrics) => resolve_metrics(metrics)?,
                None => Some(DEFAULT_METRICS),
            },
            marks,
        })
    }
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

fn resolve_thread(
    rt_priority: Option<Spanned<u8>>,
    startup_delay_ms: Option<Spanned<u64>>,
) -> Result<VrrpThreadConfig, Offence> {
    let rt_priority = resolve_number(
        "vrrp_rt_priority",
        rt_priority,
        RT_PRIORITY,
        DEFAULT_RT_PRIORITY,
    )?;
    let range = STARTUP_DELAY_MS;
    let delay_ms = resolve_number("vrrp_startup_delay_ms", startup_delay_ms, range, 0)?;
    Ok(VrrpThreadConfig {
        rt_priority,
        startup_delay: Duration::from_millis(delay_ms),
    })
}

/// `ADDRESS:PORT`; nothing, or `off`, serves none.
fn resolve_metrics(metrics: Spanned<String>) -> Result<Option<SocketAddr>, Offence> {
    let text = metrics.get_ref();
    if text.is_empty() || text == "off" {
        return Ok(None);
    }
    let refuse = |reason: &str| Err(Offence::new(&metrics, format!("metrics {text:?} {reason}")));
    match text.parse::<SocketAddr>() {
        Err(_) => refuse("is neither ADDRESS:PORT nor \"off\""),
        Ok(address) if address.port() == 0 => refuse("has no port"),
        Ok(address) if address.ip().is_multicast() => refuse("is a group's address"),
        Ok(address) => Ok(Some(address)),
    }
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

fn resolve_connections(key: &str, connections: Option<Spanned<u32>>) -> Result<u32, Offence> {
    let Some(connections) = connections else {
        return Ok(DEFAULT_CONNECTIONS);
    };
    let value = *connections.get_ref();
    if value.is_power_of_two() && CONNECTIONS_LOG2.contains(&value.ilog2()) {
        return Ok(value);
    }
    Err(Offence::new(
        &connections,
        format!(
            "{key} {value} is not a power of two between {} and {}",
            1u32 << CONNECTIONS_LOG2.start(),
            1u32 << CONNECTIONS_LOG2.end()
        ),
    ))
}
