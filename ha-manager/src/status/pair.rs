//! What `directord status` tells of the election.

use std::fmt::{self, Write};

use serde::Serialize;

use super::{counters_as_map, duration};
use crate::failover::split::SeenBy;
use crate::vrrp_driver::{ElectionRole, LATENESS_BOUNDS_US, Lateness};

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
    /// It is active: its addresses are here and announced.
    pub is_serving: bool,
    pub yields: Yields,
    /// Handovers that nobody took.
    pub yield_failed: u64,
    /// What tracking adds to the priority, as the election was told.
    pub weights: i32,
    pub lateness: LatenessStatus,
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

/// How much later than planned a master's advertisements went out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LatenessStatus {
    /// Upper bound of each class and how many advertisements are in it alone; the last has no bound.
    /// Unit: microseconds.
    pub buckets: Vec<(Option<u64>, u64)>,
    /// Unit: microseconds.
    pub sum_us: u64,
    /// Unit: microseconds.
    pub max_us: u64,
}

impl LatenessStatus {
    pub(crate) fn new(lateness: &Lateness, max_us: u64) -> LatenessStatus {
        let bounds = LATENESS_BOUNDS_US.iter().copied().map(Some);
        let bounds = bounds.chain([None]);
        LatenessStatus {
            buckets: bounds.zip(lateness.counts).collect(),
            sum_us: lateness.sum_us,
            max_us,
        }
    }

    fn count(&self) -> u64 {
        let counts = self.buckets.iter().map(|(_, count)| count);
        counts.sum()
    }

    /// The bound of the class in which this share of all advertisements is reached; `None` for the
    /// last. Unit: thousandths.
    fn reached(&self, share: u64) -> Option<u64> {
        let (all, mut sum) = (self.count(), 0);
        let found = self.buckets.iter().find(|(_, count)| {
            sum += count;
            sum.saturating_mul(1000) >= all.saturating_mul(share)
        });
        found.and_then(|(bound, _)| *bound)
    }
}

/// How the election's thread runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ThreadStatus {
    pub scheduling: String,
    pub memory_locked: bool,
}

impl ThreadStatus {
    pub(super) fn write_text(&self, to: &mut String) -> fmt::Result {
        let memory = if self.memory_locked {
            "memory locked"
        } else {
            "memory NOT LOCKED"
        };
        writeln!(to, "election     {}, {memory}", self.scheduling)
    }
}

/// Where a planned handover stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Yields {
    No,
    Asked,
    /// Another is master, and is not preempted until `directord handover --reclaim`.
    Yielded,
}

/// Another node serves what this one does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SplitStatus {
    pub seen_by: SeenBy,
    /// Absent when it is all of them.
    pub instance: Option<String>,
    /// The other, as far as it is known.
    pub who: String,
    /// How long it has been seen.
    pub since_ms: u64,
}

impl SplitStatus {
    pub(super) fn write_text(&self, to: &mut String) -> fmt::Result {
        let instance = self.instance.as_deref().unwrap_or("all");
        let (seen_by, who) = (self.seen_by.name(), &self.who);
        let length = duration(self.since_ms / 1000);
        writeln!(
            to,
            "SPLIT BRAIN  {instance}: seen by {seen_by} for {length}: {who}"
        )
    }
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
        if self.lateness.count() > 0 {
            let (count, max_us) = (self.lateness.count(), self.lateness.max_us);
            write!(to, "             adverts late by at most {max_us} us")?;
            if let Some(bound) = self.lateness.reached(990) {
                write!(to, ", 99 % of {count} by {bound} us")?;
            }
            to.push('\n');
        }
        match self.yields {
            Yields::No => {}
            Yields::Asked => writeln!(to, "             IS BEING HANDED OVER")?,
            Yields::Yielded => writeln!(
                to,
                "             handed over: does not preempt until handover --reclaim"
            )?,
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
