//! `directord decode`: what passes between directors, from a capture or live.
//!
//! A frame goes through three stages, each of which knows nothing of the next:
//!
//! 1. [`capture`] or [`live`] supplies it with its time;
//! 2. [`Decoder`] tells whether it is one of the four kinds: a sync datagram, a VRRP advertisement,
//!    a gratuitous ARP, an unsolicited neighbour advertisement;
//! 3. the [`Record`] is written, as JSON or as text.
//!
//! Every other frame is passed over. Nothing here judges by configuration: a sync id is shown and
//! not compared, a virtual router need not be known.

mod announcement;
pub mod capture;
pub mod command;
mod filter;
mod frame;
pub mod live;
mod record;
mod text;

use std::net::IpAddr;
use std::ops::RangeInclusive;

use capture::Captured;
use frame::{Content, Packet};
pub use record::{
    AddressRecord, EntryRecord, EntryVerdict, Record, SeqShift, SeqShifts, SyncRecord, SyncVerdict,
    VrrpRecord, VrrpVerdict,
};
use syncproto::limits;
use syncproto::wire::SeqOrder;

/// Finds in frames what directors tell each other.
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Destination ports of sync datagrams.
    ports: Vec<RangeInclusive<u16>>,
    /// Byte order of version 0's sequence blocks.
    seq_order: SeqOrder,
}

impl Decoder {
    /// Takes for sync datagrams what goes to the default group, to the ports of a daemon on the
    /// default port, or to those of one on `base_port`.
    pub fn new(base_port: Option<u16>) -> Decoder {
        let daemon = |base: u16| base..=base.saturating_add(limits::THREADS.end() - 1);
        let bases = [Some(limits::DEFAULT_PORT), base_port];
        Decoder {
            ports: bases.into_iter().flatten().map(daemon).collect(),
            seq_order: SeqOrder::HOST,
        }
    }

    /// The sender's byte order, which version 0 does not say.
    #[must_use]
    pub fn with_seq_order(mut self, seq_order: SeqOrder) -> Decoder {
        self.seq_order = seq_order;
        self
    }

    /// What a frame says, if it is of a kind that is decoded.
    pub fn decode(&self, captured: Captured<'_>) -> Option<Record> {
        let Captured { at, frame } = captured;
        let ethernet = frame::ethernet(frame)?;
        match ethernet.content {
            Content::Arp(arp) => announcement::gratuitous_arp(arp, ethernet.to)
                .map(|found| Record::Garp(AddressRecord::new(at, found))),
            Content::Ip(packet) => match packet.protocol {
                frame::UDP => {
                    let datagram = frame::udp(&packet)?;
                    self.is_sync(&packet, datagram.to).then(|| {
                        Record::Sync(SyncRecord::new(at, &packet, &datagram, self.seq_order))
                    })
                }
                frame::VRRP | frame::AUTHENTICATION => {
                    VrrpRecord::new(at, &packet).map(Record::Vrrp)
                }
                frame::ICMPV6 => announcement::unsolicited_na(&packet, ethernet.from)
                    .map(|found| Record::Na(AddressRecord::new(at, found))),
                _ => None,
            },
        }
    }

    fn is_sync(&self, packet: &Packet<'_>, port: u16) -> bool {
        packet.to == IpAddr::V4(limits::DEFAULT_GROUP)
            || self.ports.iter().any(|ports| ports.contains(&port))
    }
}
