//! The director: configuration, daemon, control socket, and the commands of `directord`.
//!
//! One process, and one more where scripts are run ([`script_runner`]). Its main thread runs the
//! [`daemon`], the one owner of the data plane; everything else in that thread is a task that sends
//! it a [`daemon::Command`] over a bounded channel and waits for the answer. What must not wait for
//! the owner has a thread of its own: log lines, the election's adverts, sync messages, what is
//! tracked by looking at files and processes.
//!
//! ```text
//!   ipvsadm, directord status -> control_server --Request--+
//!                                                          v
//!   kernel: links, routes ----> netlink ------Network--> daemon: owner of director::Director
//!                                                         |  ^           |
//!   vrrp_driver thread --ElectionView--> failover --steps-+  |           +--> dataplane::DataPlane
//!           ^------------faults, pulse------+                |           |
//!                                              lease, walk --+           +--> sync threads
//! ```
//!
//! Arrows from `failover` go both ways: its steps change the director's role, addresses and sync
//! daemons, all in the owner's task.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`addresses`] | IPv4 addresses of this host, added and removed |
//! | `arp_watch` | who else answers for our addresses |
//! | [`cli`] | the command line, exit status, client side of `status` and `proc` |
//! | [`config`] | `director.toml`: as typed, and validated |
//! | [`control_server`] | the control socket: lock, limits, one task per client |
//! | [`daemon`] | start order, owner loop, shutdown order |
//! | [`decode`] | `directord decode`: sync datagrams, VRRP and announcements, from a capture or live |
//! | `director` | the data plane with its role, lease, routes and sync daemons |
//! | [`failover`] | the failover machine and its driver |
//! | [`metrics`] | figures for Prometheus, over HTTP |
//! | [`netlink`] | links, addresses and routes of the host, followed |
//! | [`notify`] | scripts and a FIFO that are told of each change of role |
//! | [`privileges`] | what a director must be allowed to do, and giving up the rest |
//! | `problems` | what is wrong at the moment |
//! | [`proc`] | text of the files of IPVS in `/proc/net` |
//! | [`script_runner`] | scripts, run by a process of its own |
//! | [`services`] | requests of the control socket carried out on the data plane |
//! | [`status`] | `directord status` as text and JSON |
//! | [`mod@sync`] | the sync daemons and their threads |
//! | `sync_keeper` | which of them should run |
//! | [`sysctl`] | `directord sysctl`: tunables read and set while a director runs |
//! | [`telemetry`] | logging |
//! | [`tracking`] | scripts, processes, files and interfaces that an election watches |
//! | [`vrrp_driver`] | the election thread |
#![deny(unsafe_code)]

pub mod addresses;
mod arp_watch;
pub mod cli;
pub mod config;
pub mod control_server;
pub mod daemon;
pub mod decode;
mod director;
pub mod failover;
pub mod metrics;
pub mod netlink;
pub mod notify;
pub mod privileges;
mod problems;
pub mod proc;
pub mod script_runner;
pub mod services;
pub mod status;
pub mod sync;
mod sync_keeper;
pub mod sysctl;
pub mod telemetry;
pub mod tracking;
pub mod vmac;
pub mod vrrp_driver;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
