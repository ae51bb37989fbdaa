//! What the machine asks of whoever drives it.

use crate::config::Priority;
use crate::fsm::VrrpState;

/// One thing to do, in the order in which they are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send one advertisement of this priority now.
    SendAdvert { priority: Priority },
    /// The state has changed: take the addresses and announce them on `Master`, give them up when
    /// it was `Master` before.
    Became(VrrpState),
    /// Another master gives up, or another member of the sync group heard one that does, while this
    /// router is master and stays it: hosts and switches may have learnt the other, so the addresses
    /// have to be announced again.
    AnnounceAgain,
    /// A master of lower priority was heard, whether or not it is answered: announce the addresses
    /// as `garp_lower_prio_repeat` says, and tell whoever wants to know (`MASTER_RX_LOWER_PRI` of
    /// keepalived).
    LowerPriorityHeard,
    /// Another member of the sync group has heard one: announce in the same way, but tell nobody.
    LowerPriorityInGroup,
    /// Nobody took the role that this master offered ([`Event::Yield`](crate::Event::Yield)): it
    /// goes on as master.
    YieldFailed,
}
