//! The sync daemons on real data planes, sockets and links.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

mod daemons;
mod director;
mod ends;
mod golden;
mod host;
mod inject;
mod listings;
mod pair;
mod ports;
#[allow(dead_code, reason = "the operator's tests use the rest")]
#[path = "../operator/host.rs"]
mod programs;
mod replay;
mod workers;
