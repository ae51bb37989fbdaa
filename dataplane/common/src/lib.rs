//! What the eBPF programs and user space share: the layouts of the maps, the list of verdicts, and
//! the rules that both sides run.
//!
//! Everything here is `no_std` without allocation. Map layouts are `repr(C)`, have no implicit
//! padding, and their sizes are asserted; addresses and ports in them stay in network byte order
//! ([`Be32`], [`Be16`]), so that the programs never convert. Rules are pure functions: they are
//! told the time and give back what changes.
#![no_std]
#![deny(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod batch;
pub mod csum;
pub mod entry;
pub mod extra;
pub mod key;
pub mod layout;
pub mod offer;
pub mod passing;
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "Pod is an unsafe marker; the layouts are asserted beside the types"
)]
mod pod;
pub mod rules;
pub mod service;
pub mod settings;
pub mod sync_daemon;
pub mod verdict;

pub use ipvs_model::state::{SctpState, TcpState};
pub use key::{Addr6, Address, Be16, Be32, FlowKey, FlowKey4, FlowKey6, FlowRef};

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;
