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
    /// Another router has advertised the addresses while this one is master and stays it: hosts
    /// and switches may have learnt the other, so the addresses have to be announced again.
    AnnounceAgain,
}
