//! The form for people: a line per frame, an indented line per entry, in capitals what is wrong.

use std::fmt::{self, Display, Formatter};
use std::net::{IpAddr, SocketAddr};

use ipvs_model::flags::ConnFlags;
use ipvs_model::forward::ForwardMethod;
use syncproto::refusal::Consequence;

use super::record::{
    AddressRecord, EntryRecord, EntryVerdict, Record, SyncRecord, SyncVerdict, VrrpRecord,
    VrrpVerdict,
};

/// Flags that are not told by another column, and their words.
const FLAG_WORDS: [(u32, &str); 8] = [
    (ConnFlags::TEMPLATE, "template"),
    (ConnFlags::INACTIVE, "inactive"),
    (ConnFlags::NOOUTPUT, "nooutput"),
    (ConnFlags::NO_CPORT, "no-cport"),
    (ConnFlags::ONE_PACKET, "one-packet"),
    (ConnFlags::SYNC, "synced"),
    (ConnFlags::HASHED, "hashed"),
    (ConnFlags::NFCT, "conntrack"),
];

/// Type of authentication of an advertisement with a password in it (RFC 2338 §5.3.6).
const AUTH_TEXT: u8 = 1;

impl Display for Record {
    /// Without the last line feed.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Record::Sync(sync) => write_sync(f, sync),
            Record::Vrrp(vrrp) => write_vrrp(f, vrrp),
            Record::Garp(garp) => write_announcement(f, "ARP", garp),
            Record::Na(na) => write_announcement(f, "NA", na),
        }
    }
}

fn write_sync(f: &mut Formatter<'_>, sync: &SyncRecord) -> fmt::Result {
    let from = SocketAddr::new(sync.src, sync.sport);
    let to = SocketAddr::new(sync.dst, sync.dport);
    write_head(f, sync.time, "SYNC", &from, &to)?;
    if let (Some(version), Some(syncid), Some(size), Some(entries)) =
        (sync.version, sync.syncid, sync.size, sync.nr_conns)
    {
        let plural = if entries == 1 { "entry" } else { "entries" };
        write!(
            f,
            "  v{version} syncid {syncid}, {size} bytes, {entries} {plural}"
        )?;
    }
    if let Some(version) = sync.unread.foreign {
        write!(
            f,
            ", OF NO KNOWN VERSION (its byte is {version}), no effect on a backup"
        )?;
    }
    if sync.unread.trailing != 0 {
        write!(f, ", {} bytes after the last entry", sync.unread.trailing)?;
    }
    for entry in &sync.entries {
        write!(f, "\n  {}", Line(entry))?;
    }
    match sync.verdict {
        SyncVerdict::Ok => Ok(()),
        SyncVerdict::Fragment => write!(f, "\n  NOT DECODED: the first of several fragments"),
        SyncVerdict::Truncated => write!(f, "\n  NOT DECODED: the capture has only its beginning"),
        SyncVerdict::Refused(refusal) => match refusal.consequence() {
            Consequence::Message => write!(f, "\n  REFUSED: {refusal}"),
            Consequence::Stop | Consequence::Skip => {
                write!(f, "\n  STOPPED, the rest is dropped: {refusal}")
            }
        },
    }
}

/// One entry.
struct Line<'r>(&'r EntryRecord);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let entry = self.0;
        let end = |addr: IpAddr, port: u16| SocketAddr::new(addr, port).to_string();
        write!(
            f,
            "{:<4} {:<11} {:<21} > {:<21} > {:<21} {}",
            protocol_name(entry.protocol),
            entry.state_name,
            end(entry.caddr, entry.cport),
            end(entry.vaddr, entry.vport),
            end(entry.daddr, entry.dport),
            method_name(entry.flags),
        )?;
        if let Some(timeout) = entry.timeout {
            write!(f, " {timeout}s")?;
        }
        for (flag, word) in FLAG_WORDS {
            if entry.flags & flag != 0 {
                write!(f, " {word}")?;
            }
        }
        if entry.fwmark != 0 {
            write!(f, " mark {}", entry.fwmark)?;
        }
        if let Some(seq) = entry.seq {
            write!(
                f,
                " seq in {:+} out {:+}",
                seq.input.delta, seq.output.delta
            )?;
        }
        if let Some(name) = &entry.pe_name {
            // A peer may send anything for a name.
            write!(f, " pe {}", name.escape_default())?;
        }
        match entry.verdict {
            EntryVerdict::Ok => Ok(()),
            EntryVerdict::Skipped(refusal) => write!(f, " SKIPPED: {refusal}"),
        }
    }
}

fn write_vrrp(f: &mut Formatter<'_>, vrrp: &VrrpRecord) -> fmt::Result {
    write_head(f, vrrp.time, "VRRP", &vrrp.src, &vrrp.dst)?;
    if let (Some(version), Some(vrid), Some(priority)) = (vrrp.version, vrrp.vrid, vrrp.priority) {
        write!(f, "  v{version} vrid {vrid} prio {priority}")?;
    }
    if vrrp.priority == Some(0) {
        f.write_str(" RESIGNS")?;
    }
    if let Some(interval) = vrrp.advert_int_cs {
        write!(f, " every {}.{:02}s", interval / 100, interval % 100)?;
    }
    for (at, addr) in vrrp.addrs.iter().enumerate() {
        let before = if at == 0 { "  " } else { ", " };
        write!(f, "{before}{addr}")?;
    }
    match (vrrp.auth_type, vrrp.auth_sequence) {
        (Some(AUTH_TEXT), _) => f.write_str("  password")?,
        (_, Some(sequence)) => write!(f, "  authentication header {sequence}")?,
        _ => {}
    }
    if let Some(form @ ("rfc9568" | "old_unicast")) = vrrp.checksum_form {
        // The others go without saying.
        write!(f, "  checksum {form}")?;
    }
    match vrrp.verdict {
        VrrpVerdict::Ok => Ok(()),
        VrrpVerdict::Refused(refusal) => write!(f, "  REFUSED: {refusal}"),
    }
}

fn write_announcement(f: &mut Formatter<'_>, kind: &str, record: &AddressRecord) -> fmt::Result {
    let AddressRecord { time, addr, mac } = record;
    write!(f, "{} {kind:<4} {addr} is at {mac}", Clock(*time))
}

fn write_head(
    f: &mut Formatter<'_>,
    time: f64,
    kind: &str,
    from: &dyn Display,
    to: &dyn Display,
) -> fmt::Result {
    write!(f, "{} {kind:<4} {from} > {to}", Clock(time))
}

/// Time of day, UTC.
struct Clock(f64);

impl Display for Clock {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let micros = (self.0 * 1e6).round() as u64;
        let (secs, micros) = (micros / 1_000_000, micros % 1_000_000);
        let [hours, minutes, secs] = [secs / 3600 % 24, secs / 60 % 60, secs % 60];
        write!(f, "{hours:02}:{minutes:02}:{secs:02}.{micros:06}")
    }
}

/// `ip_vs_proto.c: ip_vs_proto_name`.
fn protocol_name(number: u8) -> String {
    match number {
        0 => "IP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        50 => "ESP".to_owned(),
        51 => "AH".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("IP_{other}"),
    }
}

/// The forwarding method in the flags, by its name in listings.
fn method_name(flags: u32) -> String {
    let number = u8::try_from(flags & ConnFlags::FWD_MASK).ok();
    match number.and_then(ForwardMethod::from_number) {
        // Listings show it as masquerading.
        Some(ForwardMethod::Bypass) => "Bypass".to_owned(),
        Some(method) => method.name().to_owned(),
        None => format!("fwd-{}", flags & ConnFlags::FWD_MASK),
    }
}
