//! What a frame was, as `--json` prints it: one object per frame.
//!
//! The names are a contract with other people's scripts; `time` is the frame's, in seconds since the
//! epoch, to the microsecond.

use std::net::IpAddr;
use std::time::Duration;

use ipvs_model::flags::ConnFlags;
use serde::{Serialize, Serializer};
use syncproto::conn::{SeqPair, SeqRecord};
use syncproto::refusal::Refusal;
use syncproto::states::state_name;
use syncproto::wire::{Entry, Format, Header, Message, SeqOrder, WalkConfig, walk};
use vrrp::wire::{Inspection, inspect, inspect_v6};

use super::announcement::Announcement;
use super::frame::{self, Datagram, Extent, Packet, Payload};

/// What becomes of a sync datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncVerdict {
    Ok,
    /// The datagram, or its rest, is refused: the entries are those before.
    Refused(Refusal),
    /// The first of several fragments; the others are not put together.
    Fragment,
    /// The capture has only the beginning of the frame.
    Truncated,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryVerdict {
    Ok,
    /// A backup skips it.
    Skipped(Refusal),
}

/// What becomes of an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VrrpVerdict {
    Ok,
    Refused(vrrp::wire::Refusal),
}

const OK: &str = "ok";

/// One frame.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    Sync(SyncRecord),
    Vrrp(VrrpRecord),
    Garp(AddressRecord),
    Na(AddressRecord),
}

/// A sync datagram. What its bytes do not reach to is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SyncRecord {
    pub time: f64,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub version: Option<u8>,
    pub syncid: Option<u8>,
    /// What the header says, in bytes.
    pub size: Option<u16>,
    pub nr_conns: Option<u8>,
    pub verdict: SyncVerdict,
    pub entries: Vec<EntryRecord>,
    /// What a backup does not look at, for the reader of the text.
    #[serde(skip)]
    pub unread: Unread,
}

/// Bytes of a sync datagram that have no effect on a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// After the last counted entry.
    pub trailing: usize,
    /// The version byte of a message that is of neither version.
    pub foreign: Option<u8>,
}

/// An entry of a sync datagram.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EntryRecord {
    pub protocol: u8,
    pub caddr: IpAddr,
    pub cport: u16,
    pub vaddr: IpAddr,
    pub vport: u16,
    pub daddr: IpAddr,
    pub dport: u16,
    /// As on the wire.
    pub flags: u32,
    pub state: u16,
    pub state_name: &'static str,
    pub fwmark: u32,
    /// In seconds; version 0 has none.
    pub timeout: Option<u32>,
    pub seq: Option<SeqShifts>,
    pub pe_name: Option<String>,
    /// In hexadecimal.
    pub pe_data: Option<String>,
    pub verdict: EntryVerdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SeqShifts {
    #[serde(rename = "in")]
    pub input: SeqShift,
    #[serde(rename = "out")]
    pub output: SeqShift,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SeqShift {
    pub init_seq: u32,
    pub delta: i32,
    pub previous_delta: i32,
}

/// A VRRP advertisement. What its bytes do not reach to, or its version does not have, is `None`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VrrpRecord {
    pub time: f64,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub version: Option<u8>,
    pub vrid: Option<u8>,
    pub priority: Option<u8>,
    pub addrs: Vec<IpAddr>,
    /// In centiseconds, whatever the version.
    pub advert_int_cs: Option<u16>,
    /// 0 none, 1 simple text, 2 authentication header.
    pub auth_type: Option<u8>,
    /// Of the authentication header.
    pub auth_sequence: Option<u32>,
    pub checksum_ok: bool,
    pub checksum_form: Option<&'static str>,
    pub verdict: VrrpVerdict,
}

/// An announcement of an address.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AddressRecord {
    pub time: f64,
    pub addr: IpAddr,
    pub mac: String,
}

impl SyncRecord {
    pub(super) fn new(
        at: Duration,
        packet: &Packet<'_>,
        datagram: &Datagram<'_>,
        seq_order: SeqOrder,
    ) -> SyncRecord {
        let message = datagram.payload.bytes;
        let header = Header::read(message);
        let (version, nr_conns) = match header.map(|header| header.format) {
            None => (None, None),
            Some(Format::V0 { count }) => (Some(0), Some(count)),
            Some(Format::V1 { count }) => (Some(1), Some(count)),
            // A kernel takes it for version 0, without entries.
            Some(Format::Foreign { .. }) => (Some(0), Some(0)),
        };
        let mut record = SyncRecord {
            time: seconds(at),
            src: packet.from,
            dst: packet.to,
            sport: datagram.from,
            dport: datagram.to,
            version,
            syncid: header.map(|header| header.sync_id),
            size: header.map(|header| header.size),
            nr_conns,
            verdict: SyncVerdict::Ok,
            entries: Vec::new(),
            unread: Unread::default(),
        };
        match datagram.payload.extent {
            Extent::Whole => record.read_entries(message, seq_order),
            Extent::FirstFragment => record.verdict = SyncVerdict::Fragment,
            Extent::CutByCapture => record.verdict = SyncVerdict::Truncated,
        }
        record
    }

    fn read_entries(&mut self, message: &[u8], seq_order: SeqOrder) {
        // Its default takes every sync id and everything the protocol can say.
        let config = WalkConfig {
            seq_order,
            ..WalkConfig::default()
        };
        let mut entries = match walk(message, &config) {
            Ok(Message::Entries(walk)) => walk,
            Ok(Message::Foreign(message)) => {
                self.unread.foreign = message.get(5).copied();
                return;
            }
            Err(refusal) => {
                self.verdict = SyncVerdict::Refused(refusal);
                return;
            }
        };
        let has_timeout = self.version == Some(1);
        for entry in &mut entries {
            match entry {
                Ok(entry) => self.entries.push(EntryRecord::new(&entry, has_timeout)),
                Err(refusal) => self.verdict = SyncVerdict::Refused(refusal),
            }
        }
        self.unread.trailing = entries.trailing().map_or(0, <[u8]>::len);
    }
}

impl EntryRecord {
    fn new(entry: &Entry<'_>, has_timeout: bool) -> EntryRecord {
        let [client, virt, dest] = [
            entry.addresses.client(),
            entry.addresses.virt(),
            entry.addresses.dest(),
        ];
        let template = entry.flags & ConnFlags::TEMPLATE != 0;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        EntryRecord {
            protocol: entry.protocol,
            caddr: client.ip(),
            cport: client.port(),
            vaddr: virt.ip(),
            vport: virt.port(),
            daddr: dest.ip(),
            dport: dest.port(),
            flags: entry.flags,
            state: entry.state,
            state_name: state_name(entry.protocol, template, entry.state),
            fwmark: entry.fwmark,
            timeout: has_timeout.then_some(entry.timeout_secs),
            seq: entry.seq.map(SeqShifts::from),
            pe_name: entry.pe_name.map(text),
            pe_data: entry.pe_data.map(hex),
            verdict: entry
                .verdict
                .map_or_else(EntryVerdict::Skipped, |()| EntryVerdict::Ok),
        }
    }
}

impl From<SeqPair> for SeqShifts {
    fn from(pair: SeqPair) -> SeqShifts {
        SeqShifts {
            input: pair.input.into(),
            output: pair.output.into(),
        }
    }
}

impl From<SeqRecord> for SeqShift {
    fn from(record: SeqRecord) -> SeqShift {
        SeqShift {
            init_seq: record.init_seq,
            delta: record.delta,
            previous_delta: record.previous_delta,
        }
    }
}

impl VrrpRecord {
    /// `None` when the packet does not carry VRRP after all.
    pub(super) fn new(at: Duration, packet: &Packet<'_>) -> Option<VrrpRecord> {
        let found = inspected(packet)?;
        let checksum_ok = found.checksum_ok();
        let Inspection {
            src,
            dst,
            ttl,
            version,
            vrid,
            priority,
            addrs,
            advert_int_cs,
            auth_type,
            auth_header,
            checksum_form,
            verdict,
        } = found;
        Some(VrrpRecord {
            time: seconds(at),
            src,
            dst,
            ttl,
            version,
            vrid,
            priority,
            addrs,
            advert_int_cs,
            auth_type,
            auth_sequence: auth_header.map(|header| header.sequence),
            checksum_ok,
            checksum_form: checksum_form.map(|form| form.name()),
            verdict: verdict.map_or_else(VrrpVerdict::Refused, |()| VrrpVerdict::Ok),
        })
    }
}

/// Over IPv6 whatever headers are before the message.
fn inspected(packet: &Packet<'_>) -> Option<Inspection> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (packet.from, packet.to) else {
        return inspect(packet.bytes);
    };
    if packet.protocol != frame::VRRP {
        return None;
    }
    let Payload { bytes, extent } = packet.payload;
    let read = |bytes, is_whole| inspect_v6(from, to, packet.ttl, bytes, is_whole);
    Some(match extent {
        Extent::Whole => read(bytes, true),
        Extent::CutByCapture => read(bytes, false),
        Extent::FirstFragment => Inspection {
            verdict: Err(vrrp::wire::Refusal::IpHeader),
            ..read(&[], true)
        },
    })
}

impl AddressRecord {
    pub(super) fn new(at: Duration, announcement: Announcement) -> AddressRecord {
        AddressRecord {
            time: seconds(at),
            addr: announcement.addr,
            mac: announcement.mac.to_string(),
        }
    }
}

impl Serialize for SyncVerdict {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match self {
            SyncVerdict::Ok => OK,
            SyncVerdict::Refused(refusal) => refusal.name(),
            SyncVerdict::Fragment => "fragment",
            SyncVerdict::Truncated => "truncated",
        })
    }
}

impl Serialize for EntryVerdict {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match self {
            EntryVerdict::Ok => OK,
            EntryVerdict::Skipped(refusal) => refusal.name(),
        })
    }
}

impl Serialize for VrrpVerdict {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(match self {
            VrrpVerdict::Ok => OK,
            VrrpVerdict::Refused(refusal) => refusal.name(),
        })
    }
}

/// One division of a whole number, so that the nearest number to the time is printed.
fn seconds(at: Duration) -> f64 {
    at.as_micros() as f64 / 1e6
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
