//! The failover machine of one virtual router: when which step is due. No clock, no socket, no task.
//!
//! A node has one for each of its virtual routers. What they share, the data plane's role and the
//! sync daemons, the driver derives from all of them: a step that another router still needs undone
//! is done when the last of them asks for it.

/// What the election says this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Office {
    Backup,
    Fault,
    Master,
}

/// What the machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Elected(Office),
    /// The step that was due has been carried out.
    Done,
    /// The step that was due has failed; it has changed nothing that doing it again would not mend.
    Failed,
    /// The lease has lapsed: the programs drop since, another node may have taken over, and what the
    /// election said last may be of before. The driver hands in no [`Input::Elected`] until it has
    /// been said anew.
    Lapsed,
    /// The fault that [`Effect::GiveUp`] asked for has been lifted: another try is welcome.
    Lifted,
    /// The daemon is to end.
    Stop,
}

/// What the machine asks for beside its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The step cannot be done here: the election has to be told, so that the peer takes over.
    GiveUp(Step),
}

/// What a driver can be asked to do. Each may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Adds the virtual addresses.
    AddAddresses,
    /// Announces the virtual addresses on their LANs.
    Announce,
    /// Data plane: active, under a higher epoch.
    Direct,
    /// Data plane: the virtual addresses are this host's.
    MakeLocal,
    /// Data plane: connections are offered to the peer from here on, and wait for the sync master.
    /// What the sync backup has received is applied.
    Offer,
    /// Removes the virtual addresses, also those of an earlier life.
    RemoveAddresses,
    /// Gives up the election: priority 0.
    Resign,
    /// Data plane: standby, unless another router is active.
    StandBy,
    /// Sync backup started.
    StartBackup,
    /// Sync master started.
    StartMaster,
    /// Sync backup stopped, which applies what it has received; unless another router is standby.
    StopBackup,
    /// Sync master stopped, which sends what it has; unless another router is active.
    StopMaster,
    /// Both sync daemons stopped, the master after sending what it has.
    StopSync,
}

impl Step {
    /// What the log and the operator call it.
    pub const fn name(self) -> &'static str {
        match self {
            Step::AddAddresses => "adding the addresses",
            Step::Announce => "announcing the addresses",
            Step::Direct => "making the data plane active",
            Step::MakeLocal => "telling the data plane its addresses",
            Step::Offer => "offering connections to the peer",
            Step::RemoveAddresses => "removing the addresses",
            Step::Resign => "resigning",
            Step::StandBy => "making the data plane standby",
            Step::StartBackup => "starting the sync backup",
            Step::StartMaster => "starting the sync master",
            Step::StopBackup => "stopping the sync backup",
            Step::StopMaster => "stopping the sync master",
            Step::StopSync => "stopping the sync daemons",
        }
    }

    /// Whether a role without it would be half a role. A service whose connections are not copied
    /// is worth more than none: the driver goes on trying to start a sync daemon by itself.
    const fn is_essential(self) -> bool {
        match self {
            Step::AddAddresses
            | Step::Announce
            | Step::Direct
            | Step::MakeLocal
            | Step::RemoveAddresses
            | Step::Resign
            | Step::StandBy => true,
            Step::Offer
            | Step::StartBackup
            | Step::StartMaster
            | Step::StopBackup
            | Step::StopMaster
            | Step::StopSync => false,
        }
    }
}

/// Where this node stands; the steps in the order in which they are taken.
///
/// ```text
///                 Master                            Done, last step
///   Standby -----------------> Promoting(step) ---------------------> Active
///    ^   | Fault ^ Backup             | Backup, Fault, Lapsed;          | Backup,
///    |   v       |                    | Failed too often                | Fault, Lapsed
///    |  Faulted                       v                                 |
///    |   ^                       Demoting(step) <-----------------------+
///    |   |                            |
///    +---+----------------------------+ Done, last step         any -- Stop --> Stopping -> Stopped
/// ```
///
/// A node is born in `Demoting`: what an earlier life left behind is removed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Standby,
    Promoting(Promotion),
    Active,
    Demoting(Demotion),
    Faulted,
    Stopping(Leaving),
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    Direct,
    Offer,
    AddAddresses,
    MakeLocal,
    Announce,
    StartMaster,
    StopBackup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demotion {
    RemoveAddresses,
    StartBackup,
    StopMaster,
    StandBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    StopSync,
    Resign,
    RemoveAddresses,
    StandBy,
}

/// How often an essential step is tried before the node gives up.
pub const ATTEMPTS_MAX: u32 = 3;

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    state: State,
    /// What the election said last.
    office: Office,
    /// Failures of the step that is due.
    failures: u32,
    /// Mastership is declined until the fault is lifted, or the election has let go of it.
    declines: bool,
    /// Every way into this node's addresses is known to be closed, or meant to be open.
    clean: bool,
}

impl Default for Machine {
    fn default() -> Machine {
        Machine {
            state: State::Demoting(Demotion::RemoveAddresses),
            office: Office::Fault,
            failures: 0,
            declines: false,
            clean: false,
        }
    }
}

impl Machine {
    pub const fn state(&self) -> State {
        self.state
    }

    /// The step that is due.
    pub const fn step(&self) -> Option<Step> {
        match self.state {
            State::Standby | State::Active | State::Faulted | State::Stopped => None,
            State::Promoting(step) => Some(step.step()),
            State::Demoting(step) => Some(step.step()),
            State::Stopping(step) => Some(step.step()),
        }
    }

    /// Whether this router is, or is becoming, the one that serves its addresses.
    pub const fn holds_role(&self) -> bool {
        matches!(self.state, State::Promoting(_) | State::Active)
    }

    /// Whether a lease that has lapsed was needed here: anything is open that it would let through. The
    /// first step of a promotion opens nothing, and asks for a lease itself.
    pub const fn needs_lease(&self) -> bool {
        match self.state {
            State::Standby
            | State::Promoting(Promotion::Direct)
            | State::Faulted
            | State::Stopping(_)
            | State::Stopped => false,
            State::Promoting(_) | State::Active | State::Demoting(_) => true,
        }
    }

    /// How soon the step that is due has to be done when steps of several routers are: the lowest
    /// first. What clients wait for comes before what only the peer does, and routers that stop do so
    /// in step.
    pub const fn urgency(&self) -> Option<u8> {
        let urgency = match self.state {
            State::Standby | State::Active | State::Faulted | State::Stopped => return None,
            State::Stopping(step) => step as u8,
            State::Promoting(step) if (step as u8) < Promotion::StartMaster as u8 => 0,
            State::Demoting(Demotion::RemoveAddresses) => 1,
            State::Promoting(_) => 2,
            State::Demoting(_) => 3,
        };
        Some(urgency)
    }

    /// The step that is due has failed too often for another try at once.
    pub const fn is_stuck(&self) -> bool {
        self.failures >= ATTEMPTS_MAX
    }

    /// Whether the lease may be renewed: not before what an earlier life left behind is gone, nor
    /// while addresses that should be gone cannot be removed.
    pub const fn may_direct(&self) -> bool {
        self.clean
    }

    /// The one transition function.
    pub fn handle(&mut self, input: Input) -> Option<Effect> {
        match input {
            Input::Elected(office) => self.elected(office),
            Input::Lifted => {
                self.declines = false;
                self.settle();
            }
            Input::Done => self.advance(),
            Input::Failed => return self.failed(),
            Input::Lapsed => match self.state {
                // Nothing is open that a new lease would let through.
                State::Standby
                | State::Promoting(Promotion::Direct)
                | State::Faulted
                | State::Stopping(_)
                | State::Stopped => {}
                State::Promoting(_) | State::Active | State::Demoting(_) => {
                    self.clean = false;
                    self.office = Office::Backup;
                    self.enter(State::Demoting(Demotion::RemoveAddresses));
                }
            },
            Input::Stop => match self.state {
                State::Stopping(_) | State::Stopped => {}
                State::Standby
                | State::Promoting(_)
                | State::Active
                | State::Demoting(_)
                | State::Faulted => self.enter(State::Stopping(Leaving::StopSync)),
            },
        }
        None
    }

    fn elected(&mut self, office: Office) {
        self.office = office;
        if office != Office::Master {
            self.declines = false;
        }
        match (self.state, office) {
            (State::Standby | State::Faulted, _) => self.settle(),
            (State::Promoting(_) | State::Active, Office::Backup | Office::Fault) => {
                self.enter(State::Demoting(Demotion::RemoveAddresses));
            }
            (State::Promoting(_) | State::Active, Office::Master)
            | (
                State::Demoting(_) | State::Stopping(_) | State::Stopped,
                Office::Backup | Office::Fault | Office::Master,
            ) => {}
        }
    }

    /// From rest to where the election wants this node.
    fn settle(&mut self) {
        match self.state {
            State::Standby | State::Faulted => {}
            State::Promoting(_)
            | State::Active
            | State::Demoting(_)
            | State::Stopping(_)
            | State::Stopped => return,
        }
        let state = match self.office {
            Office::Master if !self.declines => State::Promoting(Promotion::Direct),
            Office::Backup => State::Standby,
            Office::Fault | Office::Master => State::Faulted,
        };
        self.enter(state);
    }

    fn advance(&mut self) {
        match self.state {
            State::Standby | State::Active | State::Faulted | State::Stopped => {}
            State::Promoting(step) => {
                self.enter(step.next().map_or(State::Active, State::Promoting));
            }
            State::Demoting(step) => match step.next() {
                Some(next) => self.enter(State::Demoting(next)),
                None => {
                    self.clean = true;
                    self.enter(State::Faulted);
                    self.settle();
                }
            },
            State::Stopping(step) => {
                self.enter(step.next().map_or(State::Stopped, State::Stopping));
            }
        }
    }

    fn failed(&mut self) -> Option<Effect> {
        let step = self.step()?;
        if !step.is_essential() {
            self.advance();
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < ATTEMPTS_MAX {
            return None;
        }
        let first_time = self.failures == ATTEMPTS_MAX;
        match self.state {
            State::Promoting(_) => {
                self.declines = true;
                self.enter(State::Demoting(Demotion::RemoveAddresses));
            }
            // Tried again until it works: there is no other way to a role this node may have.
            State::Demoting(_) => {
                self.declines = true;
                self.clean = false;
            }
            // The process ends in any case; a lease that lapses closes what stayed open.
            State::Stopping(_) => {
                self.advance();
                return None;
            }
            State::Standby | State::Active | State::Faulted | State::Stopped => {}
        }
        first_time.then_some(Effect::GiveUp(step))
    }

    fn enter(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.failures = 0;
        }
    }
}

impl Promotion {
    const fn step(self) -> Step {
        match self {
            Promotion::Direct => Step::Direct,
            Promotion::Offer => Step::Offer,
            Promotion::AddAddresses => Step::AddAddresses,
            Promotion::MakeLocal => Step::MakeLocal,
            Promotion::Announce => Step::Announce,
            Promotion::StartMaster => Step::StartMaster,
            Promotion::StopBackup => Step::StopBackup,
        }
    }

    const fn next(self) -> Option<Promotion> {
        match self {
            Promotion::Direct => Some(Promotion::Offer),
            Promotion::Offer => Some(Promotion::AddAddresses),
            Promotion::AddAddresses => Some(Promotion::MakeLocal),
            Promotion::MakeLocal => Some(Promotion::Announce),
            Promotion::Announce => Some(Promotion::StartMaster),
            Promotion::StartMaster => Some(Promotion::StopBackup),
            Promotion::StopBackup => None,
        }
    }
}

impl Demotion {
    const fn step(self) -> Step {
        match self {
            Demotion::RemoveAddresses => Step::RemoveAddresses,
            Demotion::StartBackup => Step::StartBackup,
            Demotion::StopMaster => Step::StopMaster,
            Demotion::StandBy => Step::StandBy,
        }
    }

    const fn next(self) -> Option<Demotion> {
        match self {
            Demotion::RemoveAddresses => Some(Demotion::StartBackup),
            Demotion::StartBackup => Some(Demotion::StopMaster),
            Demotion::StopMaster => Some(Demotion::StandBy),
            Demotion::StandBy => None,
        }
    }
}

impl Leaving {
    const fn step(self) -> Step {
        match self {
            Leaving::StopSync => Step::StopSync,
            Leaving::Resign => Step::Resign,
            Leaving::RemoveAddresses => Step::RemoveAddresses,
            Leaving::StandBy => Step::StandBy,
        }
    }

    const fn next(self) -> Option<Leaving> {
        match self {
            Leaving::StopSync => Some(Leaving::Resign),
            Leaving::Resign => Some(Leaving::RemoveAddresses),
            Leaving::RemoveAddresses => Some(Leaving::StandBy),
            Leaving::StandBy => None,
        }
    }
}

#[cfg(test)]
mod tests;
