//! `directord status`: one structure, printed as text or JSON.

mod pair;
mod sync;

use std::fmt::{self, Write};
use std::path::PathBuf;

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::tracking::TrackStatus;

pub use pair::{
    LatenessStatus, MasterStatus, Role, SplitStatus, ThreadStatus, VipStatus, VrrpState,
    VrrpStatus, Yields,
};
pub use sync::{By, SyncStatus};

/// Everything `directord status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub name: String,
    pub version: &'static str,
    pub mode: Mode,
    /// Absent when standalone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    pub uptime_secs: u64,
    pub adopted: bool,
    pub pin_dir: PathBuf,
    pub directing: Directing,
    pub lease: LeaseStatus,
    pub vrrp: Vec<VrrpStatus>,
    /// Absent when standalone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub election: Option<ThreadStatus>,
    /// What elections watch, apart from interfaces.
    pub tracked: Vec<TrackStatus>,
    /// Lines that found no room in the FIFO of notifications.
    pub notify_lines_lost: u64,
    /// Others' words that our addresses are theirs which found no room before they were read.
    pub claims_lost: u64,
    /// How often a split brain was seen since the start, by the way it was.
    #[serde(serialize_with = "counters_as_map")]
    pub split_brains: Vec<(&'static str, u64)>,
    /// Other nodes that serve what this one does, as they are seen; none is as it should be.
    pub split_brain: Vec<SplitStatus>,
    pub sync: Vec<SyncStatus>,
    /// What is wrong at the moment, each in one line.
    pub problems: Vec<String>,
    pub interfaces: Vec<InterfaceStatus>,
    pub network: NetworkStatus,
    pub services: u32,
    pub servers: u32,
    /// Servers at their upper threshold, which get no new connections.
    pub overloaded: u32,
    /// Rules of `[[mark]]` in force.
    pub mark_rules: u32,
    pub tables: TableStatus,
    /// Log lines that nobody read in time, since the daemon started.
    pub log_lines_lost: u64,
    #[serde(serialize_with = "counters_as_map")]
    pub counters: Vec<(&'static str, u64)>,
}

/// How it is decided who directs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Standalone,
    Vrrp,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Mode::Standalone => "standalone",
            Mode::Vrrp => "vrrp",
        }
    }
}

/// Whether the programs handle service traffic at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directing {
    Yes,
    /// Requests pass untouched, replies of known connections are handled (`backup_only`).
    RepliesOnly,
    /// Service traffic is dropped.
    LeaseLapsed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseStatus {
    pub epoch: u64,
    /// Length the daemon renews; 0 never fences.
    pub length_ms: u64,
    /// Until the deadline, negative when it has passed; absent without a deadline.
    pub remaining_ms: Option<i64>,
    /// Renewals the data plane refused because of a higher epoch.
    pub refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub ifindex: Option<u32>,
    /// How programs are attached; absent when they are not.
    pub attachment: Option<String>,
    pub link: LinkState,
}

/// State of a network interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    Up,
    /// Administratively up, without carrier.
    NoCarrier,
    Down,
    /// There is no such interface.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkStatus {
    /// Routes of both families handed to the data plane.
    pub routes: u32,
    /// Policy routing rules beside the default ones; they are ignored.
    pub ignored_rules: u32,
    /// Whether the last hand-over of routes succeeded.
    pub current: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    pub connections_v4: ConnectionTable,
    pub connections_v6: ConnectionTable,
    /// Connections and templates of both families.
    pub connections_live: u64,
    pub services_size: u32,
    pub servers_size: u32,
    /// Tables of the scheduler mh there is room for.
    pub hash_tables_size: u32,
    /// Destinations that lblc and lblcr can remember.
    pub cache_entries_size: u32,
    pub memory_bytes: u64,
    /// Entries the expiry walk removed since the daemon started.
    pub expired: u64,
}

/// How full the connection table of one family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionTable {
    pub size: u32,
    /// Connections and templates that have not expired.
    pub live: u32,
    /// Places that are not free: those of the living, and of what has expired and is not yet removed.
    pub taken: u32,
}

fn counters_as_map<S: Serializer>(
    counters: &[(&'static str, u64)],
    to: S,
) -> Result<S::Ok, S::Error> {
    let mut map = to.serialize_map(Some(counters.len()))?;
    for (name, value) in counters {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

impl LeaseStatus {
    /// What the programs do under this lease, when they would do `otherwise` without.
    pub const fn directing(&self, otherwise: Directing) -> Directing {
        match self.remaining_ms {
            Some(remaining) if remaining <= 0 => Directing::LeaseLapsed,
            Some(_) | None => otherwise,
        }
    }
}

impl LinkState {
    const fn name(self) -> &'static str {
        match self {
            LinkState::Up => "up",
            LinkState::NoCarrier => "NO CARRIER",
            LinkState::Down => "DOWN",
            LinkState::Gone => "GONE",
        }
    }
}

impl Status {
    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        match serde_json::to_string(self) {
            Ok(text) => text + "\n",
            // Only a path that is not UTF-8 can do this.
            Err(error) => format!(
                "{{\"error\":\"{}\"}}\n",
                error.to_string().replace('"', "'")
            ),
        }
    }

    /// What an operator reads first comes first; what is wrong is in capitals.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = self.write_text(&mut text);
        text
    }

    fn write_text(&self, to: &mut String) -> fmt::Result {
        let mode = self.mode.name();
        let role = self
            .role
            .map_or(String::new(), |role| format!(" {}", role.name()));
        let origin = if self.adopted {
            "adopted from pins"
        } else {
            "fresh"
        };
        writeln!(
            to,
            "director     {}, {mode}{role}, up {}, tables {origin}, version {}",
            self.name,
            duration(self.uptime_secs),
            self.version
        )?;
        for problem in &self.problems {
            writeln!(to, "PROBLEM      {problem}")?;
        }
        writeln!(to, "directing    {}", self.directing_text())?;
        for instance in &self.vrrp {
            instance.write_text(to)?;
        }
        for split in &self.split_brain {
            split.write_text(to)?;
        }
        if let Some(election) = &self.election {
            election.write_text(to)?;
        }
        self.write_tracked(to)?;
        for daemon in &self.sync {
            daemon.write_text(to)?;
        }
        self.write_interfaces(to)?;
        self.write_network(to)?;
        self.write_tables(to)?;
        self.write_counters(to)
    }

    fn directing_text(&self) -> String {
        let lease = &self.lease;
        let epoch = lease.epoch;
        let what = match self.directing {
            Directing::Yes => "yes",
            Directing::RepliesOnly => "replies only",
            Directing::LeaseLapsed => "NO",
        };
        let mut text = match lease.remaining_ms {
            None => format!("{what}, never fenced (epoch {epoch})"),
            Some(ms) if ms > 0 => {
                format!("{what}, lease lapses in {} (epoch {epoch})", seconds(ms))
            }
            Some(ms) => {
                let ago = seconds(ms.saturating_neg());
                format!("{what}, LEASE LAPSED {ago} ago (epoch {epoch})")
            }
        };
        if lease.refused > 0 {
            let _ = write!(
                text,
                "; RENEWAL REFUSED {} times by a higher epoch",
                lease.refused
            );
        }
        text
    }

    fn write_tracked(&self, to: &mut String) -> fmt::Result {
        for (at, tracked) in self.tracked.iter().enumerate() {
            let title = if at == 0 { "tracked" } else { "" };
            let judged = match tracked.good {
                Some(true) => "good, ",
                Some(false) => "BAD, ",
                None => "",
            };
            let TrackStatus {
                kind, name, last, ..
            } = tracked;
            writeln!(to, "{title:<13}{kind} {name}: {judged}{last}")?;
        }
        if self.notify_lines_lost > 0 {
            let lost = self.notify_lines_lost;
            writeln!(to, "notify       {lost} LINES LOST, the FIFO is not read")?;
        }
        Ok(())
    }

    fn write_interfaces(&self, to: &mut String) -> fmt::Result {
        let width = self
            .interfaces
            .iter()
            .map(|i| i.name.len())
            .max()
            .unwrap_or(0);
        for (at, interface) in self.interfaces.iter().enumerate() {
            let title = if at == 0 { "interfaces" } else { "" };
            let name = &interface.name;
            let kind = interface.attachment.as_deref().unwrap_or("NOT ATTACHED");
            writeln!(
                to,
                "{title:<13}{name:<width$}  {kind}  {}",
                interface.link.name()
            )?;
        }
        Ok(())
    }

    fn write_network(&self, to: &mut String) -> fmt::Result {
        let network = &self.network;
        write!(to, "routes       {}", network.routes)?;
        if !network.current {
            to.push_str(", NOT CURRENT");
        }
        if network.ignored_rules > 0 {
            write!(to, ", {} POLICY RULES IGNORED", network.ignored_rules)?;
        }
        to.push('\n');
        Ok(())
    }

    fn write_tables(&self, to: &mut String) -> fmt::Result {
        let tables = &self.tables;
        write!(
            to,
            "services     {} of {} with {} of {} servers",
            self.services, tables.services_size, self.servers, tables.servers_size
        )?;
        if self.overloaded > 0 {
            write!(to, ", {} overloaded", self.overloaded)?;
        }
        to.push('\n');
        if self.mark_rules > 0 {
            writeln!(to, "mark rules   {}", self.mark_rules)?;
        }
        let families = [
            ("connections", "IPv4", tables.connections_v4),
            ("", "IPv6", tables.connections_v6),
        ];
        for (title, family, table) in families {
            writeln!(to, "{title:<13}{}", fill_text(family, table))?;
        }
        writeln!(to, "expired      {} since start", tables.expired)?;
        writeln!(to, "memory       {}", mebibytes(tables.memory_bytes))?;
        writeln!(to, "pinned in    {}", self.pin_dir.display())?;
        if self.log_lines_lost > 0 {
            writeln!(to, "log          {} LINES LOST", self.log_lines_lost)?;
        }
        Ok(())
    }

    fn write_counters(&self, to: &mut String) -> fmt::Result {
        let counted: Vec<_> = self
            .counters
            .iter()
            .filter(|(_, value)| *value > 0)
            .collect();
        if counted.is_empty() {
            return writeln!(to, "counters     all zero");
        }
        writeln!(
            to,
            "counters     (packets since the tables were made; zeroes left out)"
        )?;
        let width = counted
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or(0);
        for (name, value) in counted {
            writeln!(to, "  {name:<width$}  {value:>12}")?;
        }
        Ok(())
    }
}

fn fill_text(family: &str, table: ConnectionTable) -> String {
    let ConnectionTable { size, live, taken } = table;
    let permille = u64::from(live) * 1000 / u64::from(size.max(1));
    let mut text = format!(
        "{live} of {size} {family} ({}.{} %)",
        permille / 10,
        permille % 10
    );
    if u64::from(taken) * 10 >= u64::from(size) * 9 {
        let _ = write!(text, ", {taken} PLACES TAKEN");
    }
    text
}

/// `3 d 04:12:55`, or `04:12:55`.
fn duration(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    let clock = format!("{hours:02}:{minutes:02}:{:02}", secs % 60);
    if days > 0 {
        format!("{days} d {clock}")
    } else {
        clock
    }
}

/// Milliseconds as seconds with one decimal.
fn seconds(ms: i64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}

#[cfg(test)]
mod tests;
