//! `directord status`: one structure, printed as text or JSON.

use std::fmt::{self, Write};
use std::path::PathBuf;

use serde::{Serialize, Serializer, ser::SerializeMap};

/// Everything `directord status` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    pub name: String,
    pub version: &'static str,
    pub mode: Mode,
    pub uptime_secs: u64,
    pub adopted: bool,
    pub pin_dir: PathBuf,
    pub directing: Directing,
    pub lease: LeaseStatus,
    pub interfaces: Vec<InterfaceStatus>,
    pub network: NetworkStatus,
    pub services: u32,
    pub servers: u32,
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
}

/// Whether the programs handle service traffic at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Directing {
    Yes,
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
    /// IPv4 routes handed to the data plane.
    pub routes: u32,
    /// Policy routing rules beside the three defaults; they are ignored.
    pub ignored_rules: u32,
    /// Whether the last hand-over of routes succeeded.
    pub current: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TableStatus {
    pub connections_v4_size: u32,
    /// Connections of all servers, active and inactive.
    pub connections_live: u64,
    pub services_size: u32,
    pub servers_size: u32,
    pub memory_bytes: u64,
    /// Entries the expiry walk removed since the daemon started.
    pub expired: u64,
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
    /// Whether the programs direct under this lease.
    pub const fn directing(&self) -> Directing {
        match self.remaining_ms {
            Some(remaining) if remaining <= 0 => Directing::LeaseLapsed,
            Some(_) | None => Directing::Yes,
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
        let Mode::Standalone = self.mode;
        let origin = if self.adopted {
            "adopted from pins"
        } else {
            "fresh"
        };
        writeln!(
            to,
            "director     {}, standalone, up {}, tables {origin}, version {}",
            self.name,
            duration(self.uptime_secs),
            self.version
        )?;
        writeln!(to, "directing    {}", self.directing_text())?;
        self.write_interfaces(to)?;
        self.write_network(to)?;
        self.write_tables(to)?;
        self.write_counters(to)
    }

    fn directing_text(&self) -> String {
        let lease = &self.lease;
        let epoch = lease.epoch;
        let mut text = match lease.remaining_ms {
            None => format!("yes, never fenced (epoch {epoch})"),
            Some(ms) if ms > 0 => format!("yes, lease lapses in {} (epoch {epoch})", seconds(ms)),
            Some(ms) => {
                let ago = seconds(ms.saturating_neg());
                format!("NO, LEASE LAPSED {ago} ago (epoch {epoch})")
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
        writeln!(
            to,
            "services     {} of {} with {} of {} servers",
            self.services, tables.services_size, self.servers, tables.servers_size
        )?;
        let size = u64::from(tables.connections_v4_size);
        let permille = tables.connections_live.saturating_mul(1000) / size.max(1);
        writeln!(
            to,
            "connections  {} of {size} ({}.{} %), {} expired since start",
            tables.connections_live,
            permille / 10,
            permille % 10,
            tables.expired
        )?;
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
mod tests {
    use super::*;

    #[test]
    fn a_healthy_director_reads_at_a_glance() {
        assert_eq!(
            healthy().to_text(),
            "director     lb1, standalone, up 3 d 04:12:55, tables adopted from pins, version 0.1.0\n\
             directing    yes, never fenced (epoch 4)\n\
             interfaces   eth0    tcx  up\n\
             \x20            inside  tcx  up\n\
             routes       7\n\
             services     2 of 4096 with 5 of 16384 servers\n\
             connections  131072 of 1048576 (12.5 %), 99 expired since start\n\
             memory       330.5 MiB\n\
             pinned in    /sys/fs/bpf/tandem\n\
             counters     (packets since the tables were made; zeroes left out)\n\
             \x20 forwarded       1234567\n\
             \x20 no_server             3\n"
        );
    }

    #[test]
    fn what_is_wrong_is_in_capitals() {
        let mut status = healthy();
        status.adopted = false;
        status.lease = LeaseStatus {
            epoch: 5,
            length_ms: 1000,
            remaining_ms: Some(-2150),
            refused: 3,
        };
        status.directing = status.lease.directing();
        status.interfaces[0].link = LinkState::NoCarrier;
        status.interfaces[1] = InterfaceStatus {
            name: "inside".to_owned(),
            ifindex: None,
            attachment: None,
            link: LinkState::Gone,
        };
        status.network = NetworkStatus {
            routes: 0,
            ignored_rules: 2,
            current: false,
        };
        status.counters.clear();
        status.log_lines_lost = 17;
        let text = status.to_text();
        for line in [
            "directing    NO, LEASE LAPSED 2.1 s ago (epoch 5); RENEWAL REFUSED 3 times by a higher epoch",
            "interfaces   eth0    tcx  NO CARRIER",
            "             inside  NOT ATTACHED  GONE",
            "routes       0, NOT CURRENT, 2 POLICY RULES IGNORED",
            "log          17 LINES LOST",
            "counters     all zero",
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
        assert!(text.contains("tables fresh"), "{text}");
        assert_eq!(status.directing, Directing::LeaseLapsed);
    }

    #[test]
    fn a_running_lease_says_when_it_lapses() {
        let mut status = healthy();
        status.lease.remaining_ms = Some(640);
        assert!(
            status
                .to_text()
                .contains("directing    yes, lease lapses in 0.6 s (epoch 4)\n")
        );
    }

    #[test]
    fn json_has_every_counter_and_stable_names() {
        let json: serde_json::Value = serde_json::from_str(&healthy().to_json()).unwrap();
        assert_eq!(json["mode"], "standalone");
        assert_eq!(json["directing"], "yes");
        assert_eq!(json["lease"]["epoch"], 4);
        assert!(json["lease"]["remaining_ms"].is_null());
        assert_eq!(json["interfaces"][1]["link"], "up");
        assert_eq!(json["tables"]["connections_live"], 131_072);
        assert_eq!(json["counters"]["never"], 0);
        assert_eq!(json["counters"]["no_server"], 3);
    }

    fn healthy() -> Status {
        let interface = |name: &str, ifindex| InterfaceStatus {
            name: name.to_owned(),
            ifindex: Some(ifindex),
            attachment: Some("tcx".to_owned()),
            link: LinkState::Up,
        };
        let lease = LeaseStatus {
            epoch: 4,
            length_ms: 0,
            remaining_ms: None,
            refused: 0,
        };
        Status {
            name: "lb1".to_owned(),
            version: "0.1.0",
            mode: Mode::Standalone,
            uptime_secs: 3 * 86_400 + 4 * 3600 + 12 * 60 + 55,
            adopted: true,
            pin_dir: "/sys/fs/bpf/tandem".into(),
            directing: lease.directing(),
            lease,
            interfaces: vec![interface("eth0", 2), interface("inside", 3)],
            network: NetworkStatus {
                routes: 7,
                ignored_rules: 0,
                current: true,
            },
            services: 2,
            servers: 5,
            tables: TableStatus {
                connections_v4_size: 1 << 20,
                connections_live: 131_072,
                services_size: 4096,
                servers_size: 16_384,
                memory_bytes: (330 << 20) + (1 << 19),
                expired: 99,
            },
            log_lines_lost: 0,
            counters: vec![("forwarded", 1_234_567), ("never", 0), ("no_server", 3)],
        }
    }
}
