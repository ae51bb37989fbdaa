//! Virtual MAC addresses: the macvlans alone, what goes out of them, and two directors that share one.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends there, and says what it left out"
)]

mod alone;
mod captures;
mod elsewhere;
mod keepalived;
mod lan;
mod pair;
mod snooping;
