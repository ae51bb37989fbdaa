//! What `directord status` tells of the election.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{counters_as_map, duration};
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
