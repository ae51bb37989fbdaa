//! What a director has to bear: floods from its LAN, a peer that dies at the wrong moment, a process
//! that stood still, an interface that is renamed, a lease that is refused. The shipped `directord`, in
//! namespaces of the test's own thread.
//!
//! One test at a time: they measure time and processors.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what was measured is said")]

mod claims;
mod flood;
mod floods;
#[path = "../operator/host.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod host;
#[path = "../operator/lan.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod lan;
mod lost_peer;
mod many_routes;
#[path = "../operator/node.rs"]
#[allow(dead_code, reason = "each test program uses a part")]
mod node;
mod refused_lease;
mod renamed;
mod router;
mod two_routers;
mod witness;
