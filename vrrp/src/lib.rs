//! VRRP, by which routers on a LAN agree who answers for an address.
//!
//! This page is a tour of the protocol for whoever reads or extends it.
//!
//! # What it is for
//!
//! Several routers share *virtual addresses*. One of them, the *master*, has the addresses on its
//! interface and says so by an *advertisement* at a fixed interval. The others are *backups*: when
//! they have heard nothing for a little more than three intervals, the one with the highest
//! priority takes over. There is no quorum: two routers that cannot hear each other are both
//! master.
//!
//! A *virtual router* is one such group, known on a LAN by its number (VRID, 1 to 255) and address
//! family. A router may take part in several.
//!
//! # On the wire
//!
//! Advertisements are IP protocol 112 (behind an authentication header: 51), sent to 224.0.0.18 or
//! ff02::12 with TTL 255; a receiver refuses any other TTL, which keeps out what was routed
//! (RFC 5798 §5.1.1.3). Version 2 (RFC 3768) has whole seconds, may carry a password, and is for
//! IPv4. Version 3 (RFC 5798, RFC 9568) has hundredths of a second and both families.
//!
//! ```text
//!  0        1        2        3        4                 6                 8
//!  +--------+--------+--------+--------+-----------------+-----------------+----------
//!  | 2 | 1  |  VRID  |priority| count  | auth  | seconds |    checksum     | addresses   version 2
//!  +--------+--------+--------+--------+-----------------+-----------------+----------
//!  | 3 | 1  |  VRID  |priority| count  | 0 | centisecs   |    checksum     | addresses   version 3
//!  +--------+--------+--------+--------+-----------------+-----------------+----------
//! ```
//!
//! The first byte holds version and type; the only type is 1. Version 2 for IPv4 ends in eight
//! bytes of authentication data, zero when there is none (RFC 3768 §5.3.10). The checksum of
//! version 3 covers a pseudo-header in IPv6, and in IPv4 by RFC 5798 §5.2.8 but not by RFC 9568: a
//! receiver meets both forms.
//!
//! # Priorities and timers
//!
//! Priority 255 is the owner of the addresses, 1 to 254 are backups (100 by default), and 0 says
//! that the master gives up now. A backup waits three intervals plus a skew that is shorter the
//! higher its priority is, so that the best one is first (RFC 5798 §6.1):
//!
//! ```text
//!  version 3:  skew = (256 - priority) / 256 * interval of the master
//!  version 2:  skew = (256 - priority) / 256 seconds
//!  master down after 3 * interval + skew
//! ```
//!
//! # The machine
//!
//! Three states, Initialize, Backup and Master (RFC 5798 §6.4). In Backup an advertisement of a
//! router at least as good starts the timer anew; one with priority 0 shortens it to the skew; one
//! of a lesser router is ignored when this one may preempt. When the timer ends the router becomes
//! Master: it advertises, takes the addresses, and announces them, by gratuitous ARP
//! ([`wire::arp`]) or by unsolicited neighbour advertisements. In Master, an advertisement of a
//! better router (higher priority, or the same and a higher address) leads back to Backup. So does,
//! here and not in the standard, a pause of the master's own so long that another may have taken
//! over: it neither sends nor hears anything as master after it.
//!
//! # What is here
//!
//! Version 3 for IPv4 by multicast. Bytes come in and go out in [`wire`]; the machine is
//! [`VirtualRouter`], told the time and what was heard, and answering with [`Effect`]s; a
//! [`Config`] cannot be wrong. Of version 2 [`wire::inspect()`] reads what a capture shows.
//! Only the feature `net` brings sockets.
//!
//! # Source
//!
//! RFC 3768 (version 2), RFC 5798 and RFC 9568 (version 3), RFC 2338 for authentication, and
//! RFC 5227 for announcements by ARP.
#![forbid(unsafe_code)]

pub mod config;
pub mod effect;
pub mod fsm;
#[cfg(feature = "net")]
pub mod net;
pub mod wire;

pub use config::{Config, ConfigError, Interval, Parameters, Priority};
pub use effect::Effect;
pub use fsm::{Event, Heard, VirtualRouter, VrrpState};
