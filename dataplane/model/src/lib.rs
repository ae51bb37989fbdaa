//! What a director reasons about: protocols, forwarding methods, connection states, virtual
//! services and real servers, statistics.
//!
//! Nothing here does IO or reads a clock, and nothing depends on another crate of the workspace.
//! Without the feature `alloc` only the types that the eBPF programs share remain.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "bincode")]
extern crate std;

#[cfg(feature = "alloc")]
pub mod entry;
pub mod extra;
pub mod flags;
pub mod forward;
pub mod protocol;
pub mod scheduler;
#[cfg(feature = "alloc")]
pub mod service;
pub mod state;
#[cfg(feature = "alloc")]
pub mod stats;
#[cfg(feature = "alloc")]
pub mod sync;
#[cfg(feature = "alloc")]
pub mod timeouts;
