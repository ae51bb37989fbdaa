//! What `directord status` tells of a node that has a peer: election and synchronisation.

use std::fmt::{self, Write};
use std::net::IpAddr;

use ipvs_model::sync::SyncRole;
use serde::Serialize;

use super::{counters_as_map, duration};
use crate::sync::SyncDaemonStatus;
use crate::vrrp_driver::ElectionRole;

/// What this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Active,
    Standby,
    /// It can not become active.
    Fault,
}

impl Role {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Role::Active => "active",
            Role::Standby => "standby",
            Role::Fault => "FAULT",
        }
    }
}

/// One virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VrrpStatus {
    pub name: String,
    pub interface: String,
    pub vrid: u8,
    pub state: VrrpState,
    /// As configured.
    pub priority: u8,
    /// As advertised.
    pub effective_priority: u8,
    /// How long it has been in its state.
    pub since_ms: u64,
    pub transitions: u64,
    /// The other router that is master, while this one is not.
    pub master: Option<MasterStatus>,
    pub vips: Vec<VipStatus>,
    /// Why this node cannot be master.
    pub fault: Option<String>,
    #[serde(serialize_with = "counters_as_map")]
    pub counters: Vec<(&'static str, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VrrpState {
    Init,
    Backup,
    Master,
    Fault,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MasterStatus {
    pub address: String,
    pub priority: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VipStatus {
    /// With its prefix length.
    pub address: String,
    pub interface: String,
    /// The address is on the interface.
    pub present: bool,
}

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
    pub port: u16,
    pub ttl: u8,
    #[serde(serialize_with = "counters_as_map")]
    pub counters: Vec<(&'static str, u64)>,
}

/// Who had a sync daemon started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    Manual,
    Role,
}

fn role_name<S: serde::Serializer>(role: &SyncRole, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(role.name())
}

impl From<ElectionRole> for VrrpState {
    fn from(role: ElectionRole) -> VrrpState {
        match role {
            ElectionRole::Init => VrrpState::Init,
            ElectionRole::Backup => VrrpState::Backup,
            ElectionRole::Master => VrrpState::Master,
            ElectionRole::Fault => VrrpState::Fault,
        }
    }
}

impl VrrpState {
    const fn name(self) -> &'static str {
        match self {
            VrrpState::Init => "INIT",
            VrrpState::Backup => "backup",
            VrrpState::Master => "master",
            VrrpState::Fault => "FAULT",
        }
    }
}

impl VrrpStatus {
    pub(super) fn write_text(&self, to: &mut String) -> fmt::Result {
        write!(
            to,
            "vrrp         {} is {} for {}",
            self.name,
            self.state.name(),
            duration(self.since_ms / 1000)
        )?;
        if let Some(fault) = &self.fault {
            write!(to, ": {fault}")?;
        }
        write!(
            to,
            "\n             vrid {} on {}, priority {}",
            self.vrid, self.interface, self.priority
        )?;
        if self.effective_priority != self.priority {
            write!(to, " (now {})", self.effective_priority)?;
        }
        let plural = if self.transitions == 1 { "" } else { "s" };
        writeln!(to, ", {} transition{plural}", self.transitions)?;
        match (&self.master, self.state) {
            (Some(master), _) => writeln!(
                to,
                "             master is {}, priority {}",
                master.address, master.priority
            )?,
            (None, VrrpState::Backup) => writeln!(to, "             NO MASTER HEARD")?,
            (None, VrrpState::Init | VrrpState::Master | VrrpState::Fault) => {}
        }
        self.write_vips(to)
    }

    fn write_vips(&self, to: &mut String) -> fmt::Result {
        let width = |text: fn(&VipStatus) -> &str| {
            let lengths = self.vips.iter().map(|vip| text(vip).len());
            lengths.max().unwrap_or(0)
        };
        let addresses = width(|vip| &vip.address);
        let interfaces = width(|vip| &vip.interface);
        let is_master = self.state == VrrpState::Master;
        for (at, vip) in self.vips.iter().enumerate() {
            let title = if at == 0 { "addresses" } else { "" };
            let here = match (vip.present, is_master) {
                (true, true) => "here",
                (false, false) => "not here",
                (true, false) => "HERE",
                (false, true) => "NOT HERE",
            };
            let VipStatus {
                address, interface, ..
            } = vip;
            writeln!(
                to,
                "{title:<13}{address:<addresses$}  {interface:<interfaces$}  {here}"
            )?;
        }
        Ok(())
    }
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
            port: daemon.spec.port,
            ttl: daemon.spec.ttl,
            counters: daemon.counters,
        }
    }

    pub(super) fn write_text(&self, to: &mut String) -> fmt::Result {
        let group = self.group.map_or(String::new(), |group| group.to_string());
        write!(
            to,
            "sync         {} on {}, id {}, {group}:{}",
            self.role.name(),
            self.interface,
            self.sync_id,
            self.port
        )?;
        if self.by == By::Manual {
            to.push_str(", started by hand");
        }
        to.push('\n');
        let counted: Vec<String> = (self.counters.iter())
            .filter(|(_, value)| *value > 0)
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let text = if counted.is_empty() {
            "nothing yet".to_owned()
        } else {
            counted.join(", ")
        };
        writeln!(to, "             {text}")
    }
}
