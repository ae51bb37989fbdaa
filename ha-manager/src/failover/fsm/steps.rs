//! What a machine asks for: the steps, and the order in which each way takes them.

/// What a driver can be asked to do. Each may be done twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Adds the virtual addresses.
    AddAddresses,
    /// Announces the virtual addresses on their LANs.
    Announce,
    /// Data plane: active, under a higher epoch.
    Direct,
    /// Data plane: the virtual addresses are this host's no longer. When another node has the role, what
    /// still comes for them is directed for a while before.
    MakeForeign,
    /// Data plane: the virtual addresses are this host's.
    MakeLocal,
    /// Data plane: connections are offered to the peer from here on, and wait for the sync master.
    /// What the sync backup has received is applied.
    Offer,
    /// Removes the virtual addresses from the host, also those of an earlier life. Unless another node
    /// has the role, the data plane has them no longer either.
    RemoveAddresses,
    /// Gives up the election: priority 0.
    Resign,
    /// Data plane: standby, unless another router is active.
    StandBy,
    /// Sync backup started.
    StartBackup,
    /// Sync master started.
    StartMaster,
    /// What the sync backup has received is applied, and it is stopped when the node before has had the
    /// time to tell its last; unless another router is standby.
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
            Step::MakeForeign => "taking the addresses from the data plane",
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
    pub(super) const fn is_essential(self) -> bool {
        match self {
            Step::AddAddresses
            | Step::Announce
            | Step::Direct
            | Step::MakeForeign
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

/// The way to the role.
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

/// The way back from it, or from what an earlier life left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demotion {
    RemoveAddresses,
    StartBackup,
    MakeForeign,
    StopMaster,
    StandBy,
}

/// The way out, when the daemon ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    StopSync,
    Resign,
    RemoveAddresses,
    StandBy,
}

impl Promotion {
    pub(super) const fn step(self) -> Step {
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

    pub(super) const fn next(self) -> Option<Promotion> {
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
    pub(super) const fn step(self) -> Step {
        match self {
            Demotion::RemoveAddresses => Step::RemoveAddresses,
            Demotion::StartBackup => Step::StartBackup,
            Demotion::MakeForeign => Step::MakeForeign,
            Demotion::StopMaster => Step::StopMaster,
            Demotion::StandBy => Step::StandBy,
        }
    }

    pub(super) const fn next(self) -> Option<Demotion> {
        match self {
            Demotion::RemoveAddresses => Some(Demotion::StartBackup),
            Demotion::StartBackup => Some(Demotion::MakeForeign),
            Demotion::MakeForeign => Some(Demotion::StopMaster),
            Demotion::StopMaster => Some(Demotion::StandBy),
            Demotion::StandBy => None,
        }
    }
}

impl Leaving {
    pub(super) const fn step(self) -> Step {
        match self {
            Leaving::StopSync => Step::StopSync,
            Leaving::Resign => Step::Resign,
            Leaving::RemoveAddresses => Step::RemoveAddresses,
            Leaving::StandBy => Step::StandBy,
        }
    }

    pub(super) const fn next(self) -> Option<Leaving> {
        match self {
            Leaving::StopSync => Some(Leaving::Resign),
            Leaving::Resign => Some(Leaving::RemoveAddresses),
            Leaving::RemoveAddresses => Some(Leaving::StandBy),
            Leaving::StandBy => None,
        }
    }
}
