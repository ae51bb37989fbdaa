//! The director: configuration, daemon, control socket, and the commands of `directord`.
//!
//! One process, one thread, and a second one that only writes log lines. The [`daemon`] owns the data plane; everything else is a task that
//! sends it a [`daemon::Command`] over a bounded channel and waits for the answer:
//!
//! ```text
//!   ipvsadm, directord status -> control_server --Request--+
//!                                                          v
//!   kernel: links, routes ----> netlink ------Network--> daemon (owner of the DataPlane)
//!                                                          |
//!                       expiry walk, lease: its own clocks +--> dataplane::DataPlane
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`cli`] | the command line, exit status, client side of `status` and `proc` |
//! | [`config`] | `director.toml`: as typed, and validated |
//! | [`control_server`] | the control socket: lock, limits, one task per client |
//! | [`daemon`] | start order, owner loop, shutdown order |
//! | [`decode`] | `directord decode`: sync datagrams, VRRP and announcements, from a capture or live |
//! | [`netlink`] | links and IPv4 routes of the host, followed |
//! | [`privileges`] | what a director must be allowed to do, and giving up the rest |
//! | [`proc`] | text of `/proc/net/ip_vs` and `ip_vs_conn` |
//! | [`services`] | requests of the control socket carried out on the data plane |
//! | [`status`] | `directord status` as text and JSON |
//! | [`telemetry`] | logging |
//! | [`vrrp_driver`] | the election thread |
#![forbid(unsafe_code)]

pub mod addresses;
mod arp_watch;
pub mod cli;
pub mod config;
pub mod control_server;
pub mod daemon;
pub mod decode;
mod director;
pub mod failover;
pub mod netlink;
pub mod privileges;
mod problems;
pub mod proc;
pub mod services;
pub mod status;
pub mod sync;
mod sync_keeper;
pub mod telemetry;
pub mod vrrp_driver;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
