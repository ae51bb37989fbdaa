//! ipvsadm for a Tandem director: the command line, the output and the exit statuses of ipvsadm
//! 1.31, with the director's control socket in the place of the kernel.
//!
//! A command line passes through four stages, each of which knows nothing of the next:
//!
//! 1. [`args::words`] splits it as popt does, along the table in [`args::table`];
//! 2. [`args`] reads it as typed, and [`args::rules`] judges the combination;
//! 3. [`command`] resolves it to what is to be done;
//! 4. [`exec`] does it through `ipvs-control`, and [`format`](mod@format) writes what comes back.
//!
//! [`restore`] drives the stages for one line or for the many of `-R`; [`report`] holds the
//! messages for what goes wrong; [`wrapper`] is `ipvsadm-save` and `ipvsadm-restore`. What the director cannot do yet is refused by name.
#![forbid(unsafe_code)]

pub mod args;
pub mod command;
pub mod exec;
pub mod format;
pub mod names;
pub mod report;
pub mod restore;
pub mod wrapper;

pub use restore::{World, run};
