//! The machine of a virtual router, without clock and sockets.

use std::net::IpAddr;

use crate::config::{Interval, Priority};

mod changes;
mod hearing;
mod router;
mod timers;

pub(crate) use router::Others;
pub use router::VirtualRouter;

/// Where a virtual router stands.
///
/// RFC 5798 §6.4, and `Fault`, which keepalived added: something is amiss here, so that this router
/// takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VrrpState {
    Initialize,
    Backup,
    Master,
    Fault,
}

impl VrrpState {
    pub const ALL: [VrrpState; 4] = [
        VrrpState::Initialize,
        VrrpState::Backup,
        VrrpState::Master,
        VrrpState::Fault,
    ];
}

/// What happens to a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin to take part.
    Startup,
    /// Take no part any more; a master says so.
    Shutdown,
    /// Something this router needs is bad; the owner knows what.
    Fault,
    /// Nothing is bad any more.
    Healthy,
    /// An advertisement that was accepted by all checks of the wire.
    Advert(Heard),
    /// Time has passed. Early ones change nothing, so that nobody has to be exact.
    Timer,
    /// The priority after tracking ([`crate::tracking::effective`]). A backup's timer moves by what
    /// it changes of the master-down time; a master says it with its next advertisement. An owner
    /// is not moved, and what is not 1 to 254 becomes the nearest.
    Priority(Priority),
    /// Somebody deleted an address of a master: it says priority 0, is Backup for its own skew, and
    /// Master again, with the address (keepalived).
    VipLost,
    /// An operator hands the role of a master over. It says priority 0 and no more, but stays
    /// Master, with its addresses, until another is heard as master. Then it is Backup, and follows
    /// every master as if it might not preempt. If nobody is heard in time it goes on as before.
    Yield,
    /// Ends what a [`Event::Yield`] left behind: this router preempts again.
    Reclaim,
}

/// What the machine needs of an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Source address of the packet.
    pub source: IpAddr,
    pub priority: Priority,
    /// Interval of the sender.
    pub interval: Interval,
}

/// Advertisements by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Started a backup's timer anew.
    pub accepted: u64,
    /// Of a lower priority, left alone by a backup that may preempt.
    pub lower_priority: u64,
    /// A master that gave up.
    pub resigned: u64,
    /// Of another router while this one was master: two masters for a moment.
    pub other_master: u64,
    /// Of this router's own priority and address while it was master: an address used twice, or an
    /// echo.
    pub same_address: u64,
    /// Of an owner while this router is one: only one of them can be right, so this one is an owner
    /// no more and has priority 254 until it is started again.
    pub other_owner: u64,
    /// Times this router stood still as master for so long that another may have taken over. Not
    /// an advertisement, but the want of this router's own.
    pub lapsed: u64,
    /// Times another took the role that this router offered.
    pub yielded: u64,
    /// Times nobody did.
    pub yield_failed: u64,
}

#[cfg(test)]
mod tests;
