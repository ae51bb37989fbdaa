//! The failover manager: what this node does when the elections say what it is.
//!
//! [`fsm`] is the machine of one virtual router: election in, steps out, no IO. [`driver`] has one for
//! each, carries the steps out, in the same task that owns the data plane, and tells the election when
//! this node cannot be master. [`vrrp::announce`] says when announcements of the addresses are due,
//! gratuitous ARP and unsolicited neighbour advertisements; `rival` and [`split`] judge what other masters are
//! seen; `handover` is a planned handover.
//!
//! | promotion | demotion | clean stop |
//! | --- | --- | --- |
//! | data plane: active, epoch + 1, lease | addresses removed | sync daemons stopped, the master after sending what it has |
//! | connections are offered; what the peer told is applied | sync backup started | priority 0 |
//! | addresses added | data plane: addresses are not local | addresses removed |
//! | data plane: addresses are local | sync master stopped after sending what it has | data plane: standby |
//! | gratuitous ARP, neighbour advertisements | data plane: standby | |
//! | sync master started | | |
//! | sync backup stopped, half a second later | | |
//!
//! What clients wait for comes first: sync threads start and end behind the announcement. Nothing is
//! lost by that. From the second step on the programs put what the peer has to know into the ring,
//! where it waits for the master's thread, and before the first address comes everything that the
//! backup's threads have handed over is in the table. The node before may go on telling until it has
//! seen the announcement: for half a second the backup hears it, and for 200 ms packets of connections
//! that are not known here are dropped, to be sent again, instead of being left to the stack, which
//! would reset them. In a demotion the backup hears before the master is silent.
//!
//! Several virtual routers share the data plane and the sync daemons: the node is active while any of
//! them is, the sync master runs while any is active or about to be, the sync backup while any is not.
//! In an active/active pair both nodes run both. Steps of several routers are taken by urgency
//! ([`fsm::Machine::urgency`]). A sync group binds elections alone: its members are told the same.
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

pub(crate) mod driver;
pub mod fsm;
mod handover;
mod instance;
mod rival;
pub mod split;
