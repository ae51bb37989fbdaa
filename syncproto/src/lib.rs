//! The protocol by which IPVS directors tell each other their connections.
//!
//! Both versions, both directions, as Linux speaks them. This page is a tour: first of the crate,
//! then of the protocol.
//!
//! # Layers
//!
//! ```text
//!   connections                                                    connections
//!        |                                                              ^
//!     sender    queue, flush age, bounds, counters        receiver      |   counters by refusal
//!        |                                                              |
//!     buffer    entries packed into messages              wire::walk    |   entries and verdicts
//!        |                                                              |
//!      wire     one entry, exact to the byte              wire          |
//!        |                                                              |
//!       net     sendmmsg, or any other carrier            net       recvmmsg
//! ```
//!
//! * [`conn::SyncConn`] is what both versions say about a connection; above [`wire`] there is no
//!   version. [`flags`] and [`states`] hold what the protocol knows about two of its fields.
//! * [`wire`] reads and writes. [`wire::walk`] shows every entry with its verdict, refused ones
//!   too; a [`receiver::Receiver`] hands on those that are accepted.
//! * [`refusal::Refusal`] lists every reason for which a message, the rest of one, or an entry has
//!   no effect, with the name that its counter bears.
//! * [`buffer::SyncBuffer`] packs, [`sender::Sender`] says when a message is due.
//! * `net`, behind the feature of that name, has the sockets. Nothing else here does IO, reads a
//!   clock or waits: bytes, connections and times come in, bytes, connections and times go out.
//! * [`limits`] holds the numbers.
//!
//! ```
//! use std::time::{Duration, Instant};
//! use syncproto::conn::{Addresses, Ends, SyncConn};
//! use syncproto::receiver::Receiver;
//! use syncproto::sender::{Sender, SenderConfig};
//! use syncproto::wire::WalkConfig;
//!
//! let conn = SyncConn {
//!     protocol: 6,
//!     addresses: Addresses::V4(Ends {
//!         client: "203.0.113.7:40000".parse()?,
//!         virt: "192.0.2.10:80".parse()?,
//!         dest: "10.0.0.21:8080".parse()?,
//!     }),
//!     flags: 0,
//!     state: 1,
//!     fwmark: 0,
//!     timeout_secs: 900,
//!     seq: None,
//!     pe: None,
//! };
//! let flush_age = Duration::from_millis(5);
//! let mut sender = Sender::new(SenderConfig { sync_id: 5, flush_age, ..SenderConfig::default() });
//! let now = Instant::now();
//! sender.push(&conn, now);
//! assert_eq!(sender.next_deadline(), Some(now + flush_age));
//! let message = sender.poll_transmit(now + flush_age).expect("it is due");
//!
//! let mut receiver = Receiver::new(WalkConfig { sync_id: 5, ..WalkConfig::default() });
//! let mut heard = Vec::new();
//! receiver.receive(message.message(), |conn| heard.push(conn));
//! assert_eq!(heard, [conn]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
//!
//! # Where we differ
//!
//! * A message is closed at 255 entries, where a kernel's count wraps; and as soon as no entry
//!   can fit any more, where a kernel waits for the next one.
//! * Another version queues what was packed in the old one at once, where a kernel waits for the
//!   next entry.
//! * Bytes 4 to 7 are looked at only where a message has them; a kernel looks at what an earlier
//!   message left there. Such a message is taken for version 0.
//! * The flush age is configurable, and what has not been sent can be flushed before a stop.
//! * `net` sends to unicast peers too, and hears them, where there is no multicast.
//!
//! # Roles
//!
//! A *master* daemon sends, a *backup* daemon receives; a node may run both, each with its own
//! sync id and interface (`ip_vs_sync.c: start_sync_thread`). Datagrams are UDP, sent to a
//! multicast group on one interface, and each daemon may use several ports: thread *i* takes port
//! `base + i`, and a connection always keeps to one port, so that what is said about it arrives in
//! order. There is no acknowledgement, no sequence number and no authentication. A backup learns
//! what it hears, and a connection that is not mentioned again ends by its own timeout.
//!
//! # Words
//!
//! A *message* is one datagram. An *entry* is one connection in it. An *option* is a type, a length
//! and data at the end of a version 1 entry. Numbers are in network byte order, with one exception
//! noted below.
//!
//! # Two versions
//!
//! Version 1 is what kernels send by default; they receive both.
//!
//! ```text
//!  version 0                               version 1
//!  0        1        2        4            0        1        2        4        5        6       8
//!  +--------+--------+--------+            +--------+--------+--------+--------+--------+-------+
//!  | count  | syncid |  size  |            |   0    | syncid |  size  | count  |   1    |   0   |
//!  +--------+--------+--------+            +--------+--------+--------+--------+--------+-------+
//! ```
//!
//! The zero at the start of a version 1 header makes a receiver that knows version 0 alone see a
//! message without entries. A receiver of both takes a message for version 1 when byte 0 is 0,
//! byte 5 is 1 and bytes 6 and 7 are 0, and for version 0 otherwise
//! (`ip_vs_sync.c: ip_vs_process_message`).
//!
//! A version 0 entry has 24 bytes, for IPv4 alone, and carries neither timeout nor firewall mark.
//! When its flags say that sequence numbers are shifted (an application helper changed the length
//! of the stream), 24 more bytes follow, in the *sender's* byte order. A version 1 entry has a
//! fixed part of 36 bytes (IPv4) or 72 bytes (IPv6) and then options: sequence numbers, in network
//! order this time, and name and data of a persistence engine. Entries of version 1 begin at
//! multiples of four; the padding stands in front of the next entry, never after the last
//! (`ip_vs_sync.c: ip_vs_sync_conn`, `ip_vs_sync_conn_v0`).
//!
//! # Receiving
//!
//! A message is refused when it is shorter than four bytes, when its length is not what its header
//! says, or when its sync id is another one; backup sync id 0 takes all. Then the entries are
//! walked (`ip_vs_sync.c: ip_vs_proc_sync_conn`, `ip_vs_process_message_v0`). A fault has one of
//! two consequences, and which one is part of the protocol:
//!
//! * *stop*: the walk cannot know where the next entry begins, or the message is malformed. What
//!   was applied stays, the rest is dropped.
//! * *skip*: this entry has no effect, the walk goes on. Unknown states and protocols, forbidden
//!   flags and unknown mandatory options are of this kind.
//!
//! An option whose type has the bit 0x40 may be ignored by a receiver that does not know it. That,
//! bytes after the last counted entry, and messages that begin with a zero without being of
//! version 1 are where a kernel looks away, and where extensions can ride: [`wire`] reports what it
//! finds there, and does nothing with it.
//!
//! An accepted entry refreshes the connection it names, or makes it. Its real server is looked up
//! by address in the backup's own table; a connection without one is kept all the same, and binds
//! at the next message about it (`ip_vs_sync.c: ip_vs_proc_conn`).
//!
//! # Sending
//!
//! The master decides per packet from a client whether to mention the connection
//! (`ip_vs_sync.c: ip_vs_sync_conn_needed`). It looks at the TCP or SCTP state, at whether that
//! changed since the last mention, at the number of packets (`sync_threshold`: the packet to begin
//! with, and a period), and at the time since the last mention (`sync_refresh_period`,
//! `sync_retries`). What controls the connection, its persistence template, is considered after
//! it. `sync_persist_mode` leaves connections under a template out.
//!
//! Entries collect in a buffer. A full buffer joins its thread's queue, whose length is bounded
//! (`sync_qlen_max`; more is dropped, `ip_vs_sync.c: sb_queue_tail`); a part-filled one follows
//! when it is two seconds old ([`limits::FLUSH_AGE`]).
//!
//! # What is not said
//!
//! The controller of a connection is not transmitted: a backup's copy has none. The end of a
//! connection is not transmitted either, and neither is the time it has left: version 1 says the
//! length of its timeout, which starts anew at the backup.
//!
//! # Source
//!
//! Linux `net/netfilter/ipvs/ip_vs_sync.c` and `include/net/ip_vs.h`, and
//! `Documentation/networking/ipvs-sysctl.rst` for the tunables.
#![forbid(unsafe_code)]

pub mod buffer;
pub mod conn;
pub mod flags;
pub mod limits;
#[cfg(feature = "net")]
pub mod net;
pub mod receiver;
pub mod refusal;
pub mod sender;
pub mod states;
pub mod wire;
