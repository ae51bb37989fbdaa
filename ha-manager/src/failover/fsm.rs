//! The failover machine of one virtual router: when which step is due. No clock, no socket, no task.
//!
//! A node has one for each of its virtual routers. What they share, the data plane's role and the
//! sync daemons, the driver derives from all of them: a step that another router still needs undone
//! is done when the last of them asks for it.

mod steps;

pub use steps::{Demotion, Leaving, Promotion, Step};

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
    ///
    /// Not before the first step of a promotion is done: until then the node is to be standby if no other
    /// router is active, so that a lease that lapsed is followed by a higher epoch.
    pub const fn holds_role(&self) -> bool {
        match self.state {
            State::Promoting(Promotion::Direct)
            | State::Standby
            | State::Demoting(_)
            | State::Faulted
            | State::Stopping(_)
            | State::Stopped => false,
            State::Promoting(_) | State::Active => true,
        }
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

#[cfg(test)]
mod tests;
