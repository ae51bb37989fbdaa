//! The steps of a drill.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::failover_times;
use crate::false_takeovers;
use crate::kernel_sync;
use crate::scenario::{LoadKind, Scenario};

/// What happens in a drill, in order. A director that is not named is the first one.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    /// A load from start to end.
    Run { load: String },
    /// A load in the background; goes on when each of its flows has had an answer.
    Start { load: String },
    /// Ends a background load and takes its figures.
    Stop { load: String },
    /// Until each flow of a background load has had one more answer: `LOAD.resumed_ms`.
    Progress { load: String, limit_ms: u64 },
    /// Time passes.
    Hold { ms: u64 },
    /// SIGKILL of `directord` alone.
    KillDaemon,
    /// Time passes until the lease of the killed daemon has ended.
    LeaseOver,
    /// Frames on the director's links during a time: `NAME.sent` and `NAME.arp_replies` by the
    /// director, `NAME.offered` and `NAME.arp_requests` by others.
    Watch { name: String, ms: u64 },
    /// A host forgets who has an address, and must ask again.
    ForgetNeighbour { host: String, address: IpAddr },
    /// `directord` is started again on what is pinned.
    RestartDaemon,
    /// Remembers services, counters and connections.
    Snapshot { name: String },
    /// What of the earlier snapshot is still there in the later one: `kept.*`.
    Compare { before: String, after: String },
    /// Prints what an operator would look at.
    Show,

    /// Until a director says it is active and every other one that runs says standby:
    /// `NAME.elected_ms`. Of a group of addresses: that it is its master, and every other one its backup.
    Elected {
        name: String,
        active: String,
        limit_ms: u64,
        group: Option<u8>,
    },
    /// `ipvsadm --start-daemon` by hand.
    StartSync {
        director: String,
        role: SyncDaemonRole,
        /// Without it, that of the pair.
        sync_id: Option<u8>,
    },
    /// Until another director lists every flow of these loads as the one that directs them does, or
    /// the limit: `NAME.flows_offered`, `.flows_listed`, `.flows_missing`, `.wrong_server`,
    /// `.timers_dead`, `.after_ms`.
    Synced {
        name: String,
        from: String,
        on: String,
        loads: Vec<String>,
        limit_ms: u64,
    },
    /// A new phase begins with what happens to a director. Just before, every other director
    /// forgets its neighbours, and what is on the way in both directions is counted.
    Fault {
        /// Prefix of the figures of the phase, `NAME.`; the phase of an unnamed fault has none.
        #[serde(default)]
        phase: String,
        director: String,
        /// Without it, the one for which the drill runs.
        fault: Option<Fault>,
        /// Not when the drill runs for another one.
        only: Option<Fault>,
    },
    /// Until a director says it has taken over, everything or a group of addresses: `takeover_ms`,
    /// `garp_ms` and `garp_inside_ms` after the beginning of the phase; when all were started at once,
    /// `election_ms` after the beginning of its election.
    Takeover {
        by: String,
        limit_ms: u64,
        group: Option<u8>,
        /// Not when the drill runs for another one.
        only: Option<Fault>,
    },
    /// Until one director says it is active and every other one standby, and only its adverts were on
    /// the wire for some intervals: `NAME.settled_ms`, and its number as `NAME.active`. Then, of all the
    /// time since the first fault, `NAME.takeovers` and `NAME.takeovers.DIRECTOR`: how often a director
    /// that had been silent began to send adverts. When all were started at once, `NAME.undue.DIRECTOR`
    /// counts those that the moments of the starts do not explain, see [`crate::starts`]. And
    /// what [`Step::RoleChanges`] gives.
    Settled { name: String, limit_ms: u64 },
    /// By the directors' own count, since the first fault: `NAME.role_changes.DIRECTOR`,
    /// `NAME.promotions.DIRECTOR`, see [`crate::role_counts`].
    RoleChanges { name: String },
    /// Until a director has announced its addresses since the phase began, or the limit: `garp_ms` and
    /// `garp_inside_ms` with the prefix of the phase.
    Announced {
        by: String,
        limit_ms: u64,
        /// Not when the drill runs for another one.
        only: Option<Fault>,
    },
    /// Until every director shows a split brain, or none does, or the limit: `NAME.split` is the number
    /// of those that show one.
    Split {
        name: String,
        seen: bool,
        limit_ms: u64,
        /// Not when the drill runs for another one.
        only: Option<Fault>,
    },
    /// Idle flows are used.
    Use { load: String },
    /// Until every living flow of a load has done an amount in this phase, or the limit: bytes each
    /// way for streams, else answers.
    WentOn {
        load: String,
        amount: u64,
        limit_ms: u64,
    },
    /// Until the connections that `ipvsadm -Ln` counts are those that `-Lnc` lists, or the limit:
    /// `NAME.counters_off`, `NAME.counters_compared`.
    Recount {
        name: String,
        director: String,
        limit_ms: u64,
    },
    /// A director that failed is there again, with a daemon. A killed node has lost all it knew; it
    /// begins a phase if it will take over by itself.
    Return {
        director: String,
        #[serde(default)]
        phase: String,
    },
    /// Remembers which TCP flows a director lists, as those that this phase must keep.
    Covered { director: String },
    /// A host on the LAN sends nonsense to the daemons for a time: `flood.*`.
    Flood { ms: u64 },
    /// Each service of the scenario in turn as address, persistent and firewall-mark service, with
    /// several schedulers: `matrix.rows`, `matrix.failed`, `matrix.connections`.
    Matrix,
    /// Connections by hand, see [`crate::puppets`], are opened through a director.
    OpenPuppets { set: u8, by: String },
    /// Those of a set become what their kind is to become, through another one.
    MovePuppets { set: u8, by: String },
    /// Remembers the connections of a director: `NAME.finished`, `NAME.moved` by hand.
    Regard { name: String, director: String },
    /// What became of them: `NAME.compared`, `.replaced`, `.gone`, `.regressed`, `.timers_back`,
    /// `.timers_reset`, `.counters_backwards`.
    Unharmed { name: String, director: String },
    /// Counters of all sync daemons: `NAME.DIRECTOR.ROLE.COUNTER`.
    SyncCounts { name: String },
    /// A director has every virtual address, whoever else has them: nobody elects it.
    GiveAddresses { director: String },
    /// A host sends to a director what is for an address, whatever anybody announces.
    Pin {
        host: String,
        address: IpAddr,
        director: String,
    },
    /// The drill is this step alone, without the lab: our director and a kernel's as sync peers.
    KernelSync(kernel_sync::Plan),
    /// The drill is this step alone: failovers of ours and of keepalived's, see
    /// [`crate::failover_times`].
    FailoverTimes(failover_times::Plan),
    /// The drill is this step alone: takeovers that should not be, of ours and of keepalived's, see
    /// [`crate::false_takeovers`].
    FalseTakeovers(false_takeovers::Plan),
    /// Rates of synchronisation with so many connections, loss and lag: `receive.*`, `send.*`,
    /// `loss.*`, `lag.*`, `beside.*`.
    SyncRate { entries: u32 },
    /// What a service costs on the sync link, plain and persistent: `plain.*`, `persistent.*`,
    /// `refreshed.*`.
    SyncPersistCost { packets: u32 },
    /// Every director gets the services of the probes, see [`crate::outage`].
    AddProbes,
    /// Datagrams go through the directors from here on, every half millisecond.
    StartProbes,
    /// Ends them: `NAME.lost`, `NAME.outage_ms`, and the same by way.
    EndProbes { name: String },
    /// A planned handover that nobody can take: `NAME.refused` is 1 when the command failed and said
    /// why, `NAME.active` 1 when the role stayed.
    HandoverRefused { name: String, director: String },
    /// Every row of the directing function that can be reached here, see [`crate::directing`]: `rows`,
    /// `wrong`.
    Directing,
    /// Ends every background load and counts what became of it, by method and phase.
    Conclude,
}

/// What happens to a director.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// All its links are cut in the same instant and its processes killed.
    KillNode,
    /// SIGKILL of `directord` alone: programs stay attached, links stay up.
    KillDaemon,
    /// SIGTERM of `directord`.
    CleanStop,
    /// `directord handover`.
    Handover,
    /// SIGSTOP of `directord` alone: programs stay attached, links stay up.
    Freeze,
    /// SIGSTOP, and nothing passes its links: a host that is paused.
    FreezeNode,
    /// SIGSTOP, and nothing passes its sync link: what the other one says meanwhile is lost, as it is
    /// when there is more than a socket holds.
    FreezeDeaf,
    /// No link between the two directors carries anything, those to all others do.
    Split,
    /// Its link to the clients loses carrier.
    LinkDownOutside,
    /// Its link to the servers inside loses carrier.
    LinkDownInside,
    /// Its link for synchronisation loses carrier.
    LinkDownSync,
    /// Nothing passes its link to the clients, which has carrier.
    CutOutside,
    /// Nothing passes its link for synchronisation, which has carrier.
    CutSync,
    /// Its link to the clients loses carrier for a moment, several times.
    Flap,
    /// CLOCK_REALTIME of the machine, which all namespaces share, steps forward and back.
    ClockStep,
    /// SIGKILL of every `directord`; all of them are started again at once.
    RestartBoth,
    /// Every director loses its links, processes, memory and addresses, and is there again.
    RebootBoth,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SyncDaemonRole {
    Master,
    Backup,
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::KillNode => "kill-node",
            Fault::KillDaemon => "kill-daemon",
            Fault::CleanStop => "clean-stop",
            Fault::Handover => "handover",
            Fault::Freeze => "freeze",
            Fault::FreezeNode => "freeze-node",
            Fault::FreezeDeaf => "freeze-deaf",
            Fault::Split => "split",
            Fault::LinkDownOutside => "link-down-outside",
            Fault::LinkDownInside => "link-down-inside",
            Fault::LinkDownSync => "link-down-sync",
            Fault::CutOutside => "cut-outside",
            Fault::CutSync => "cut-sync",
            Fault::Flap => "flap",
            Fault::ClockStep => "clock-step",
            Fault::RestartBoth => "restart-both",
            Fault::RebootBoth => "reboot-both",
        }
    }

    /// # Errors
    /// No such fault.
    pub(crate) fn parse(name: &str) -> Result<Fault> {
        let all = [
            Fault::KillNode,
            Fault::KillDaemon,
            Fault::CleanStop,
            Fault::Handover,
            Fault::Freeze,
            Fault::FreezeNode,
            Fault::FreezeDeaf,
            Fault::Split,
            Fault::LinkDownOutside,
            Fault::LinkDownInside,
            Fault::LinkDownSync,
            Fault::CutOutside,
            Fault::CutSync,
            Fault::Flap,
            Fault::ClockStep,
            Fault::RestartBoth,
            Fault::RebootBoth,
        ];
        let found = all.into_iter().find(|fault| fault.name() == name);
        found.with_context(|| format!("no fault {name}"))
    }
}

impl SyncDaemonRole {
    pub(crate) fn name(self) -> &'static str {
        match self {
            SyncDaemonRole::Master => "master",
            SyncDaemonRole::Backup => "backup",
        }
    }
}

impl Step {
    /// Whether what the step names is there.
    ///
    /// # Errors
    /// What is not.
    pub(crate) fn check(&self, scenario: &Scenario) -> Result<()> {
        match self {
            Step::Run { load } => {
                let kind = scenario.load_spec(load)?.kind;
                ensure!(
                    kind == LoadKind::Connections,
                    "load {load} has no end to run to"
                );
            }
            Step::Start { load }
            | Step::Stop { load }
            | Step::Progress { load, .. }
            | Step::WentOn { load, .. } => {
                scenario.load_spec(load)?;
            }
            Step::Use { load } => {
                let kind = scenario.load_spec(load)?.kind;
                ensure!(kind == LoadKind::IdleFlows, "load {load} is not idle");
            }
            Step::Watch { .. } => ensure!(scenario.capture, "watch needs capture = true"),
            Step::Synced {
                from, on, loads, ..
            } => {
                scenario.director_named(from)?;
                scenario.director_named(on)?;
                for load in loads {
                    scenario.load_spec(load)?;
                }
            }
            Step::Elected { active, .. } => check_pair(scenario, active)?,
            Step::Fault {
                director, fault, ..
            } => {
                check_pair(scenario, director)?;
                ensure!(scenario.capture, "a fault needs capture = true");
                ensure!(
                    fault.is_some() || !scenario.faults.is_empty(),
                    "which fault?"
                );
            }
            Step::Takeover { by, .. } => check_pair(scenario, by)?,
            Step::Announced { by, .. } => {
                check_pair(scenario, by)?;
                ensure!(
                    scenario.capture,
                    "announcements are seen with capture = true"
                );
            }
            Step::RoleChanges { .. } | Step::Split { .. } => {
                ensure!(scenario.pair.is_some(), "there is no pair")
            }
            Step::Settled { .. } => {
                ensure!(scenario.pair.is_some(), "there is no pair");
                ensure!(scenario.capture, "adverts are counted with capture = true");
            }
            Step::StartSync { director, .. }
            | Step::Return { director, .. }
            | Step::OpenPuppets { by: director, .. }
            | Step::MovePuppets { by: director, .. }
            | Step::GiveAddresses { director }
            | Step::Pin { director, .. }
            | Step::Covered { director } => check_pair(scenario, director)?,
            Step::Recount { director, .. }
            | Step::Regard { director, .. }
            | Step::Unharmed { director, .. } => {
                scenario.director_named(director)?;
            }
            Step::Flood { .. } => {
                let pair = scenario.pair.as_ref().context("a flood needs a pair")?;
                ensure!(pair.intruder, "a flood needs intruder = true");
            }
            Step::HandoverRefused { director, .. } => check_pair(scenario, director)?,
            Step::AddProbes | Step::StartProbes | Step::EndProbes { .. } => {
                ensure!(scenario.pair.is_some(), "probes are for a pair");
            }
            Step::Directing => {
                ensure!(scenario.capture, "directing needs capture = true");
                ensure!(
                    scenario.director.lease_ms > 0,
                    "a lease of 0 does not lapse"
                );
            }
            Step::Matrix => ensure!(
                scenario.pair.is_none() && scenario.services.iter().all(|it| it.fwmark.is_some()),
                "the matrix is for one director and services with marks"
            ),
            Step::SyncRate { .. } | Step::SyncPersistCost { .. } => {
                check_pair(scenario, crate::sync_rate::BACKUP)?;
            }
            Step::KernelSync(_) | Step::FailoverTimes(_) | Step::FalseTakeovers(_) => {
                ensure!(scenario.steps.len() == 1, "this step is a drill of its own")
            }
            Step::Hold { .. }
            | Step::KillDaemon
            | Step::LeaseOver
            | Step::ForgetNeighbour { .. }
            | Step::RestartDaemon
            | Step::Snapshot { .. }
            | Step::Compare { .. }
            | Step::Show
            | Step::SyncCounts { .. }
            | Step::Conclude => {}
        }
        Ok(())
    }
}

fn check_pair(scenario: &Scenario, director: &str) -> Result<()> {
    ensure!(scenario.pair.is_some(), "there is no pair");
    scenario.director_named(director)?;
    Ok(())
}
