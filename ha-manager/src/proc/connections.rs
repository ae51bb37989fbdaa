//! Text of `ip_vs_conn` and `ip_vs_conn_sync` (`ip_vs_conn.c: ip_vs_conn_seq_show`,
//! `ip_vs_conn_sync_seq_show`).

use std::fmt::{self, Write};

use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::state::state_name;

use super::hex_addr;

/// The two listings of the connection table. Both are put together page by page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnFile {
    IpVsConn,
    /// With the column `Origin`: `SYNC` for what a sync message created or last changed.
    IpVsConnSync,
}

impl ConnFile {
    /// Name in `/proc/net`.
    pub const fn name(self) -> &'static str {
        match self {
            ConnFile::IpVsConn => "ip_vs_conn",
            ConnFile::IpVsConnSync => "ip_vs_conn_sync",
        }
    }

    /// First line, with its line feed.
    pub const fn header(self) -> &'static str {
        match self {
            ConnFile::IpVsConn => {
                "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
            }
            ConnFile::IpVsConnSync => {
                "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires\n"
            }
        }
    }

    /// A line per entry, without the header.
    pub fn rows(self, entries: &[ConnEntry]) -> String {
        let mut text = String::new();
        for entry in entries {
            // Writing to a string cannot fail.
            let _ = write_conn(&mut text, self, entry);
        }
        text
    }
}

fn write_conn(to: &mut String, file: ConnFile, entry: &ConnEntry) -> fmt::Result {
    let template = entry.flags.contains(ConnFlags::TEMPLATE);
    let protocol = protocol_name(entry.protocol);
    write!(to, "{protocol:<3}")?;
    for end in [entry.client, entry.virt, entry.dest] {
        write!(to, " {} {:04X}", hex_addr(end.ip()), end.port())?;
    }
    let state = state_name(entry.protocol, template, entry.state);
    write!(to, " {state:<11}")?;
    match file {
        ConnFile::IpVsConn => {}
        ConnFile::IpVsConnSync => write!(to, " {:<6}", origin(entry.flags))?,
    }
    write!(to, " {:>7}", entry.expires_secs)?;
    if let (ConnFile::IpVsConn, Some(pe)) = (file, &entry.pe) {
        let [name, data] = [pe.name(), pe.data()].map(printable);
        write!(to, " {name} {data}")?;
    }
    writeln!(to)
}

/// What a peer sent need not be text, and a listing has a line for an entry.
///
/// DIFFERS: the kernel prints the bytes as they are.
fn printable(bytes: &[u8]) -> String {
    let shown = |byte: &u8| match byte {
        b' '..=b'~' => char::from(*byte),
        _ => '.',
    };
    bytes.iter().map(shown).collect()
}

/// `ip_vs_conn.c: ip_vs_origin_name`.
const fn origin(flags: ConnFlags) -> &'static str {
    if flags.contains(ConnFlags::SYNC) {
        "SYNC"
    } else {
        "LOCAL"
    }
}

/// `ip_vs_proto.c: ip_vs_proto_name`.
fn protocol_name(number: u8) -> String {
    match number {
        0 => "IP".to_owned(),
        1 => "ICMP".to_owned(),
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        58 => "ICMPv6".to_owned(),
        132 => "SCTP".to_owned(),
        other => format!("IP_{other}"),
    }
}
