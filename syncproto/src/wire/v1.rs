//! Version 1: both families, options.
//!
//! ```text
//!  0        1        2                 4                 6                 8
//!  +--------+--------+-----------------+-----------------------------------+
//!  | type   | proto  | ver_size        |               flags               |
//!  +--------+--------+-----------------+-----------------+-----------------+
//!  |      state      |      cport      |      vport      |      dport      |
//!  +-----------------+-----------------+-----------------+-----------------+
//!  |              fwmark               |              timeout              |
//!  +-----------------------------------+-----------------------------------+
//!  |  caddr, vaddr, daddr: 4 bytes each (type 0) or 16 (type bit 0 set)    |
//!  +-----------------------------------------------------------------------+
//!  |  options                                                              |
//!  +-----------------------------------------------------------------------+
//! ```
//!
//! `ver_size`: the version of the entry (0) in the upper four bits, its length with options and
//! without padding in the lower twelve. Source: `ip_vs_sync.c: union ip_vs_sync_conn`,
//! `ip_vs_proc_sync_conn`, `ip_vs_sync_conn`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};

use crate::conn::{Addresses, Ends, SyncConn};
use crate::flags;
use crate::limits::v1;
use crate::refusal::Refusal;
use crate::wire::Entry;
use crate::wire::cursor::Cursor;
use crate::wire::options;

/// Source: `ip_vs_sync.c: STYPE_F_INET6`.
const TYPE_IPV6: u8 = 0x01;
/// Source: `ip_vs_sync.c: SVER_SHIFT`.
const VERSION_SHIFT: u32 = 12;
/// Source: `ip_vs_sync.c: SVER_MASK`.
const SIZE_MASK: u16 = 0x0fff;

/// Reads the entry at the cursor and moves to where the next one begins. Of the verdict only what
/// the options decide is there.
///
/// # Errors
/// Every refusal that stops the walk.
pub(super) fn read<'a>(cursor: &mut Cursor<'a>) -> Result<Entry<'a>, Refusal> {
    let rest = cursor.rest();
    // The kernel wants room for the smallest fixed part before it looks at anything.
    let [kind, _, ver_size @ .., _, _, _, _] = rest
        .first_chunk::<8>()
        .filter(|_| rest.len() >= v1::ENTRY_IPV4_LEN)
        .ok_or(Refusal::EntryNoRoom)?;
    let ver_size = u16::from_be_bytes(*ver_size);
    let length = usize::from(ver_size & SIZE_MASK);
    let entry = cursor.take(length).ok_or(Refusal::EntryPastEnd)?;
    // The last entry of a message need not be padded.
    let padding = length.next_multiple_of(v1::ALIGNMENT).wrapping_sub(length);
    cursor.take(padding.min(cursor.rest().len()));
    if ver_size >> VERSION_SHIFT != 0 {
        return Err(Refusal::EntryVersion);
    }
    let mut fields = Cursor::new(entry);
    let fixed = match *kind {
        0 => read_ipv4(&mut fields),
        ipv6 if ipv6 & TYPE_IPV6 != 0 => read_ipv6(&mut fields),
        _ => return Err(Refusal::EntryType),
    };
    let mut entry = fixed.ok_or(Refusal::EntryShort)?;
    let options = options::read(fields.rest())?;
    entry.seq = options.seq;
    entry.pe_name = options.pe_name;
    entry.pe_data = options.pe_data;
    entry.ignored = options.ignored;
    if options.unknown {
        entry.verdict = Err(Refusal::OptionUnknown);
    }
    Ok(entry)
}

fn read_ipv4<'a>(fields: &mut Cursor<'a>) -> Option<Entry<'a>> {
    let fixed: [u8; v1::ENTRY_IPV4_LEN] = fields.array()?;
    let mut fields = Cursor::new(&fixed);
    let (mut entry, [cport, vport, dport]) = read_common(&mut fields)?;
    let mut end = |port| Some(SocketAddrV4::new(Ipv4Addr::from(fields.array()?), port));
    entry.addresses = Addresses::V4(Ends {
        client: end(cport)?,
        virt: end(vport)?,
        dest: end(dport)?,
    });
    Some(entry)
}

fn read_ipv6<'a>(fields: &mut Cursor<'a>) -> Option<Entry<'a>> {
    let fixed: [u8; v1::ENTRY_IPV6_LEN] = fields.array()?;
    let mut fields = Cursor::new(&fixed);
    let (mut entry, [cport, vport, dport]) = read_common(&mut fields)?;
    let mut end = |port| {
        let address = Ipv6Addr::from(fields.array::<16>()?);
        Some(SocketAddrV6::new(address, port, 0, 0))
    };
    entry.addresses = Addresses::V6(Ends {
        client: end(cport)?,
        virt: end(vport)?,
        dest: end(dport)?,
    });
    Some(entry)
}

/// The 24 bytes both families begin with, and the ports in them.
#[inline]
fn read_common<'a>(fields: &mut Cursor<'_>) -> Option<(Entry<'a>, [u16; 3])> {
    let [_kind, protocol, _, _] = fields.array()?;
    let flags = fields.u32()?;
    let state = fields.u16()?;
    let ports = [fields.u16()?, fields.u16()?, fields.u16()?];
    let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
    let entry = Entry {
        protocol,
        addresses: Addresses::V4(Ends {
            client: nowhere,
            virt: nowhere,
            dest: nowhere,
        }),
        flags,
        state,
        fwmark: fields.u32()?,
        timeout_secs: fields.u32()?,
        seq: None,
        pe_name: None,
        pe_data: None,
        ignored: options::Ignored::default(),
        verdict: Ok(()),
    };
    Some((entry, ports))
}

/// Bytes that a connection takes, without padding.
pub(super) fn len(conn: &SyncConn) -> usize {
    let fixed = match conn.addresses {
        Addresses::V4(_) => v1::ENTRY_IPV4_LEN,
        Addresses::V6(_) => v1::ENTRY_IPV6_LEN,
    };
    fixed.saturating_add(options::len(conn.seq.as_ref(), conn.pe.as_deref()))
}

/// Writes a connection.
pub(super) fn write(conn: &SyncConn, out: &mut Vec<u8>) {
    let (kind, ports) = match &conn.addresses {
        Addresses::V4(ends) => (0, ends.ports()),
        Addresses::V6(ends) => (TYPE_IPV6, ends.ports()),
    };
    // At most 373 by construction of the options, so the version bits stay 0.
    let ver_size = len(conn) as u16 & SIZE_MASK;
    out.extend_from_slice(&[kind, conn.protocol]);
    out.extend_from_slice(&ver_size.to_be_bytes());
    out.extend_from_slice(&flags::sent(conn.flags).to_be_bytes());
    out.extend_from_slice(&u16::from(conn.state).to_be_bytes());
    for port in ports {
        out.extend_from_slice(&port.to_be_bytes());
    }
    out.extend_from_slice(&conn.fwmark.to_be_bytes());
    out.extend_from_slice(&conn.timeout_secs.to_be_bytes());
    match &conn.addresses {
        Addresses::V4(Ends { client, virt, dest }) => {
            for end in [client, virt, dest] {
                out.extend_from_slice(&end.ip().octets());
            }
        }
        Addresses::V6(Ends { client, virt, dest }) => {
            for end in [client, virt, dest] {
                out.extend_from_slice(&end.ip().octets());
            }
        }
    }
    options::write(conn.seq.as_ref(), conn.pe.as_deref(), out);
}

impl Ends<SocketAddrV4> {
    fn ports(&self) -> [u16; 3] {
        [self.client.port(), self.virt.port(), self.dest.port()]
    }
}

impl Ends<SocketAddrV6> {
    fn ports(&self) -> [u16; 3] {
        [self.client.port(), self.virt.port(), self.dest.port()]
    }
}
