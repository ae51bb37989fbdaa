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
//! (RFC 5798 §5.1.1.3). Where a LAN carries no multicast they go to a list of peers one by one.
//! Version 2 (RFC 3768) has whole seconds, may carry a password, and is for IPv4; keepalived speaks
//! it over IPv6 too. Version 3 (RFC 5798, RFC 9568) has hundredths of a second and both families.
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
//! bytes of authentication data, a password or zero (RFC 3768 §5.3.10). The checksum of
//! version 3 covers a pseudo-header in IPv6, and in IPv4 by RFC 5798 §5.2.8 but not by RFC 9568: a
//! receiver meets both forms, and a third one of old keepalived
//! ([`ChecksumForm`]).
//!
//! What does not pass every check is not heard at all. Each check is a [`wire::Refusal`] with a name
//! and a counter, in the order in which keepalived looks.
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
//! A backup of version 3 learns the interval of its master; in version 2 all have the same, and one
//! with another is refused. What a router tracks ([`tracking`]) adds to its priority or takes from
//! it, within 1 and 254, and never changes an owner's.
//!
//! # The machine
//!
//! Three states, Initialize, Backup and Master (RFC 5798 §6.4), and Fault, in which a router takes
//! no part because something it needs is bad. In Backup an advertisement of a
//! router at least as good starts the timer anew; one with priority 0 shortens it to the skew; one
//! of a lesser router is ignored when this one may preempt, at once or after a delay. When the timer
//! ends the router becomes Master: it advertises, takes the addresses, and announces them, by
//! gratuitous ARP ([`wire::arp`]) or by unsolicited neighbour advertisements ([`wire::ndp`]), in
//! blocks that [`announce`] has the times of. In Master, an advertisement of a
//! better router (higher priority, or the same and a higher address) leads back to Backup. So does,
//! here and not in the standard, a pause of the master's own so long that another may have taken
//! over: it neither sends nor hears anything as master after it.
//!
//! Routers that stand and fall together, one for each network of a gateway, form a sync group
//! ([`Group`]): all are Master or none is.
//!
//! # What is here
//!
//! ```text
//!  datagram --> AdvertCodec --> Heard --+                +--> SendAdvert --> AdvertCodec --> bytes
//!                   |                   v                |
//!                Refusal        time -> Group --> Effect +--> Became, AnnounceAgain
//!                                       ^                             |
//!  tracked objects --> tracking --------+                             +--> Announcements --> bytes
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`config`] | what a router is told; a [`Config`] cannot be wrong |
//! | [`codec`] | [`AdvertCodec`]: the advertisements of one router, written and checked |
//! | [`wire`] | bytes: messages, headers, checksums, announcements; [`wire::inspect()`] |
//! | [`fsm`], [`effect`] | [`VirtualRouter`], told the time and what was heard, answering with [`Effect`]s |
//! | [`group`] | sync groups; a lone router is a group of one |
//! | [`tracking`] | what tracked objects are worth |
//! | [`announce`] | when which address is announced |
//! | `net` | sockets, the only part that does IO; with the feature `net` |
//!
//! Versions 2 and 3, IPv4 and IPv6, multicast and unicast are whole. Not here: interfaces and
//! addresses (whoever drives this adds and removes them), and who watches what is tracked.
//!
//! Where this differs from keepalived on purpose it says `DIFFERS`, or so in the machine's words.
//! On the wire: all forms of the checksum stay accepted after the old one was met, and an interval
//! of zero is refused.
//!
//! # Source
//!
//! RFC 3768 (version 2), RFC 5798 and RFC 9568 (version 3), RFC 2338 and RFC 2402 for
//! authentication, RFC 5227 and RFC 4861 for announcements, and the behaviour of keepalived 2.2.7.
#![forbid(unsafe_code)]

pub mod announce;
pub mod codec;
pub mod config;
pub mod effect;
pub mod fsm;
pub mod group;
#[cfg(feature = "net")]
pub mod net;
pub mod tracking;
pub mod wire;

pub use codec::{Accepted, AdvertCodec, Datagram, Outgoing, V6Info};
pub use config::{
    Authentication, Config, ConfigError, Family, Interval, Parameters, Peer, Priority, Version,
};
pub use effect::Effect;
pub use fsm::{Event, Heard, VirtualRouter, VrrpState};
pub use group::Group;
pub use wire::checksum::ChecksumForm;
