//! What `directord status` tells of the sync daemons.

use std::fmt::{self, Write};
use std::net::IpAddr;

use ipvs_model::sync::SyncRole;
use serde::{Serialize, Serializer};
use syncproto::wire::Version;

use super::counters_as_map;
use crate::sync::{SyncDaemonStatus, SyncPortStatus};

/// Ports with losses that are shown to people; JSON has all.
const PORTS_SHOWN: usize = 8;

/// A running sync daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SyncStatus {
    #[serde(serialize_with = "role_name")]
    pub role: SyncRole,
    pub by: By,
    pub interface: String,
    pub sync_id: u8,
    pub maxlen: u16,
    pub group: Option<IpAddr>,
    /// In place of the group.
    pub peers: Vec<IpAddr>,
    /// Of the first thread.
    pub port: u16,
    pub ttl: u8,
    /// What a master sends; a backup takes both.
    pub version: Option<u8>,
    /// Of all ports together.
    #[serde(serialize_with = "counters_as_map")]
    pub counters: Vec<(&'static str, u64)>,
    /// One of each thread.
    #[serde(serialize_with = "all_ports")]
    pub ports: Vec<SyncPortStatus>,
}

/// Who had a sync daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Manual,
    Role,
}

fn role_name<S: Serializer>(role: &SyncRole, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(role.name())
}

fn all_ports<S: Serializer>(ports: &[SyncPortStatus], to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Port<'a> {
        port: u16,
        queued: u64,
        lag_us: Option<u64>,
        idle_ms: Option<u64>,
        #[serde(serialize_with = "borrowed")]
        counters: &'a [(&'static str, u64)],
    }
    fn borrowed<S: Serializer>(counters: &[(&'static str, u64)], to: S) -> Result<S::Ok, S::Error> {
        counters_as_map(counters, to)
    }
    to.collect_seq(ports.iter().map(|port| Port {
        port: port.port,
        queued: port.queued,
        lag_us: port.lag_us,
        idle_ms: port.idle_ms,
        counters: &port.counters,
    }))
}

impl SyncStatus {
    pub(crate) fn of(daemon: SyncDaemonStatus, by: By) -> SyncStatus {
        SyncStatus {
            role: daemon.role,
            by,
            interface: daemon.spec.interface,
            sync_id: daemon.spec.sync_id,
            maxlen: daemon.spec.maxlen,
            group: daemon.spec.group,
            peers: daemon.peers,
            port: daemon.spec.port,
            ttl: daemon.spec.ttl,
            version: daemon.version.map(|version| match version {
                Version::V0 => 0,
                Version::V1 => 1,
            }),
            counters: daemon.counters,
            ports: daemon.ports,
        }
    }

    pub(super) fn write_text(&self, to: &mut String) -> fmt::Result {
        write!(
            to,
            "sync         {} on {}, id {}, {}",
            self.role.name(),
            self.interface,
            self.sync_id,
            self.place()
        )?;
        if self.version == Some(0) {
            to.push_str(", version 0");
        }
        if self.by == By::Manual {
            to.push_str(", started by hand");
        }
        writeln!(
            to,
            "\n             {}",
            counts(self.counters.iter().copied())
        )?;
        self.write_pace(to)?;
        self.write_losses(to)
    }

    /// Where messages go, or come from.
    fn place(&self) -> String {
        let ports = match self.ports.as_slice() {
            [_, .., last] => format!("{} to {}", self.port, last.port),
            [] | [_] => self.port.to_string(),
        };
        match (self.group, self.peers.as_slice()) {
            (Some(IpAddr::V4(group)), _) => format!("{group}:{ports}"),
            (Some(IpAddr::V6(group)), _) => format!("[{group}]:{ports}"),
            (None, [peer]) => format!("peer {peer} port {ports}"),
            (None, peers) => {
                let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
                format!("peers {} port {ports}", peers.join(" "))
            }
        }
    }

    /// How fresh the newest message is.
    fn write_pace(&self, to: &mut String) -> fmt::Result {
        let Some(idle_ms) = self.ports.iter().filter_map(|port| port.idle_ms).min() else {
            return Ok(());
        };
        write!(to, "             newest message {} ago", seconds(idle_ms))?;
        if let Some(lag_us) = self.ports.iter().filter_map(|port| port.lag_us).max() {
            let (ms, tenth) = (lag_us / 1000, lag_us % 1000 / 100);
            write!(to, ", sent {ms}.{tenth} ms after the offer")?;
        }
        let queued: u64 = self.ports.iter().map(|port| port.queued).sum();
        if queued > 0 {
            write!(to, ", {queued} WAITING")?;
        }
        to.push('\n');
        Ok(())
    }

    /// What did not get on, by port; of a single port the sums have said it.
    fn write_losses(&self, to: &mut String) -> fmt::Result {
        if self.ports.len() < 2 {
            return Ok(());
        }
        let losing = |port: &&SyncPortStatus| port.losses().next().is_some();
        let losing: Vec<&SyncPortStatus> = self.ports.iter().filter(losing).collect();
        for port in losing.iter().take(PORTS_SHOWN) {
            let losses = counts(port.losses());
            writeln!(to, "             port {}: {losses}", port.port)?;
        }
        match losing.len().saturating_sub(PORTS_SHOWN) {
            0 => Ok(()),
            more => writeln!(to, "             and {more} more ports with losses"),
        }
    }
}

/// Zeroes are left out.
fn counts(counters: impl Iterator<Item = (&'static str, u64)>) -> String {
    let counted: Vec<String> = counters
        .filter(|(_, value)| *value > 0)
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    if counted.is_empty() {
        "nothing yet".to_owned()
    } else {
        counted.join(", ")
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16, counters: Vec<(&'static str, u64)>) -> SyncPortStatus {
        SyncPortStatus {
            port,
            counters,
            ..SyncPortStatus::default()
        }
    }

    fn daemon(role: SyncRole, ports: Vec<SyncPortStatus>) -> SyncStatus {
        SyncStatus {
            role,
            by: By::Role,
            interface: "eth2".to_owned(),
            sync_id: 51,
            maxlen: 1472,
            group: Some([224, 0, 0, 81].into()),
            peers: Vec::new(),
            port: 8848,
            ttl: 1,
            version: (role == SyncRole::Master).then_some(1),
            counters: vec![("messages", 12), ("entries", 345)],
            ports,
        }
    }

    fn text(status: &SyncStatus) -> String {
        let mut text = String::new();
        status.write_text(&mut text).unwrap();
        text
    }

    #[test]
    fn many_ports_are_summed_up_and_those_that_lose_are_named() {
        let mut ports: Vec<SyncPortStatus> = (0..64)
            .map(|nth| port(8848 + nth, vec![("messages", 1), ("drop_socket_full", 0)]))
            .collect();
        ports[3].counters = vec![("messages", 1), ("drop_socket_full", 7), ("truncated", 1)];
        assert_eq!(
            text(&daemon(SyncRole::Backup, ports.clone())),
            "sync         backup on eth2, id 51, 224.0.0.81:8848 to 8911\n\
             \x20            messages 12, entries 345\n\
             \x20            port 8851: drop_socket_full 7, truncated 1\n"
        );
        for port in &mut ports {
            port.counters = vec![("drop_not_peer", 1)];
        }
        let text = text(&daemon(SyncRole::Backup, ports));
        assert_eq!(text.lines().count(), 2 + PORTS_SHOWN + 1);
        assert!(text.ends_with("and 56 more ports with losses\n"), "{text}");
    }

    #[test]
    fn a_master_says_how_late_it_is_and_what_waits() {
        let one = SyncPortStatus {
            queued: 3,
            lag_us: Some(5_432),
            idle_ms: Some(250),
            ..port(8848, vec![("entries", 1)])
        };
        let mut status = daemon(SyncRole::Master, vec![one]);
        status.version = Some(0);
        status.group = None;
        status.peers = vec!["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
        assert_eq!(
            text(&status),
            "sync         master on eth2, id 51, peers 192.0.2.1 192.0.2.2 port 8848, version 0\n\
             \x20            messages 12, entries 345\n\
             \x20            newest message 0.2 s ago, sent 5.4 ms after the offer, 3 WAITING\n"
        );
    }

    #[test]
    fn json_has_every_port() {
        let ports = vec![port(8848, vec![("messages", 1)]), port(8849, Vec::new())];
        let json = serde_json::to_value(daemon(SyncRole::Master, ports)).unwrap();
        let expected = serde_json::json!([
            {"port": 8848, "queued": 0, "lag_us": null, "idle_ms": null,
             "counters": {"messages": 1}},
            {"port": 8849, "queued": 0, "lag_us": null, "idle_ms": null, "counters": {}},
        ]);
        assert_eq!(json["ports"], expected);
        assert_eq!(json["counters"]["entries"], 345);
        assert_eq!(
            (&json["version"], &json["group"]),
            (&1.into(), &"224.0.0.81".into())
        );
    }
}
