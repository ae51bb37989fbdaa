//! What the thread tells about its routers.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::VrrpState;

use super::counters::Lateness;

/// What a virtual router is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ElectionRole {
    /// Takes no part: it has resigned.
    #[default]
    Init,
    Backup,
    Master,
    Fault,
}

impl From<VrrpState> for ElectionRole {
    fn from(state: VrrpState) -> ElectionRole {
        match state {
            VrrpState::Initialize => ElectionRole::Init,
            VrrpState::Backup => ElectionRole::Backup,
            VrrpState::Master => ElectionRole::Master,
            VrrpState::Fault => ElectionRole::Fault,
        }
    }
}

/// Where a planned handover stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Yielding {
    #[default]
    No,
    /// A master that has said it gives up, and serves until another is heard.
    Asked,
    /// Another has the role; this router does not preempt.
    Yielded,
}

/// What the owner has to act on. Only the newest value counts, so a slow reader loses nothing that
/// it still needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElectionView {
    pub role: ElectionRole,
    /// Grows with each change of the role.
    pub transitions: u64,
    /// Grows whenever the addresses must be announced again: another master gave up while this one
    /// is master, and stays it.
    pub announce: u64,
    /// Grows whenever the addresses must be announced as `garp_lower_prio_repeat` says: a master of
    /// lower priority was heard, by this router or another of its group.
    pub announce_lower: u64,
    /// Grows whenever this router itself hears one.
    pub rx_lower: u64,
    /// Who is master and with which priority, for a backup that has heard one.
    pub master: Option<(IpAddr, u8)>,
    /// Who else has said to be master while this router is: the last of them, however long ago.
    pub rival: Option<(IpAddr, u8)>,
    /// The address advertisements come from, as long as there are sockets for it.
    pub source: Option<IpAddr>,
    /// As advertised: with what tracking adds.
    pub effective_priority: u8,
    /// Why it is in [`ElectionRole::Fault`].
    pub fault: Option<String>,
    pub yields: Yielding,
    /// Grows whenever nobody took the role that was to be yielded.
    pub yield_failed: u64,
    /// The last question of [`Elections::ask`](super::Elections::ask) that was put before this view
    /// was taken.
    pub answered: u64,
}

/// One virtual router for `directord status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElectionStatus {
    pub name: String,
    pub interface: String,
    pub vrid: u8,
    pub view: ElectionView,
    /// How long it has had its role.
    pub since: Duration,
    /// As configured.
    pub priority: u8,
    /// As advertised.
    pub effective_priority: u8,
    /// In a fixed order; refusals last, each as `refused_<reason>`.
    pub counters: Vec<(&'static str, u64)>,
    /// How much later than planned the latest of our own advertisements went out. Unit:
    /// microseconds.
    pub lateness_max_us: u64,
    /// The same of all of them.
    pub lateness: Lateness,
    /// How the thread is scheduled: "SCHED_RR 50"; else "nice -20" or "ordinary", and why.
    pub scheduling: String,
    /// Whether the memory of the process is locked.
    pub memory_locked: bool,
}
