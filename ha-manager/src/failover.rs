//! The failover manager: what this node does when the election says what it is.
//!
//! [`fsm`] is the machine: election in, steps out, no IO. [`driver`] carries the steps out, in the
//! same task that owns the data plane, and tells the election when this node cannot be master.
//! [`announce`] says when announcements of the addresses are due, gratuitous ARP and unsolicited
//! neighbour advertisements; [`rival`] judges what other masters are heard.
//!
//! | promotion | demotion | clean stop |
//! | --- | --- | --- |
//! | data plane: active, epoch + 1, lease | addresses removed | sync daemons stopped, the master after sending what it has |
//! | sync backup stopped, master started | sync master stopped, backup started | priority 0 |
//! | addresses added | data plane: standby | addresses removed |
//! | data plane: addresses are local | | data plane: standby |
//! | gratuitous ARP, neighbour advertisements | | |
//!
//! A node whose lease has lapsed under a role stood still, and another may be active: it demotes
//! itself, renews the lease only then, and is promoted again only by what the election says after.
//!
//! Virtual addresses are managed on their configured interfaces. Where else the host has them is not
//! the role's business: a director that is a server too has them on `lo`, and while it is standby
//! they are local to its data plane.
//!
//! A step that fails is tried [`fsm::ATTEMPTS_MAX`] times; then the node demotes itself and tells
//! the election, so that the peer takes over. Sync daemons are the exception: a service whose
//! connections are not copied is better than none, so they are tried again beside the role.

mod announce;
pub(crate) mod driver;
pub mod fsm;
mod rival;
