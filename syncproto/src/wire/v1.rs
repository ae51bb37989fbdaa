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

/// Reads the entry at the cursor into `entry`, which must be [`Entry::BLANK`] or one that was read
/// before, and moves to where the next one begins. Of the verdict only what the options decide is
/// there.
///
/// # Errors
/// Every refusal that stops the walk.
#[inline]
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, entry: &mut Entry<'a>) -> Result<(), Refusal> {
    let rest = cursor.rest();
    // The kernel wants room for the smallest fixed part before it looks at anything.
    let [kind, _, ver_size @ .., _, _, _, _] = rest
        .first_chunk::<8>()
        .filter(|_| rest.len() >= v1::ENTRY_IPV4_LEN)
        .ok_or(Refusal::EntryNoRoom)?;
    let ver_size = u16::from_be_bytes(*ver_size);
    let length = usize::from(ver_size & SIZE_MASK);
    let mut fields = Cursor::new(cursor.take(length).ok_or(Refusal::EntryPastEnd)?);
    // The last entry of a message need not be padded.
    let padding = length.next_multiple_of(v1::ALIGNMENT).wrapping_sub(length);
    if padding != 0 {
        cursor.take(padding.min(cursor.rest().len()));
    }
    if ver_size >> VERSION_SHIFT != 0 {
        return Err(Refusal::EntryVersion);
    }
    let fixed = match *kind {
        0 => read_ipv4(&mut fields, entry),
        ipv6 if ipv6 & TYPE_IPV6 != 0 => read_ipv6(&mut fields, entry),
        _ => return Err(Refusal::EntryType),
    };
    fixed.ok_or(Refusal::EntryShort)?;
    entry.forget_options();
    if !fields.is_empty() {
        options::read(fields.rest(), entry)?;
    }
    Ok(())
}

#[inline]
fn read_ipv4(fields: &mut Cursor<'_>, entry: &mut Entry<'_>) -> Option<()> {
    let fixed: &[u8; v1::ENTRY_IPV4_LEN] = fields.array_ref()?;
    let (common, ends) = fixed.split_first_chunk()?;
    let (ends, _) = ends.as_chunks::<4>();
    let [client, virt, dest] = <[[u8; 4]; 3]>::try_from(ends).ok()?;
    let [cport, vport, dport] = read_common(common, entry);
    let end = |address, port| SocketAddrV4::new(Ipv4Addr::from(address), port);
    entry.addresses = Addresses::V4(Ends {
        client: end(client, cport),
        virt: end(virt, vport),
        dest: end(dest, dport),
    });
    Some(())
}

#[inline]
fn read_ipv6(fields: &mut Cursor<'_>, entry: &mut Entry<'_>) -> Option<()> {
    let fixed: &[u8; v1::ENTRY_IPV6_LEN] = fields.array_ref()?;
    let (common, ends) = fixed.split_first_chunk()?;
    let (ends, _) = ends.as_chunks::<16>();
    let [client, virt, dest] = <[[u8; 16]; 3]>::try_from(ends).ok()?;
    let [cport, vport, dport] = read_common(common, entry);
    let end = |address, port| SocketAddrV6::new(Ipv6Addr::from(address), port, 0, 0);
    entry.addresses = Addresses::V6(Ends {
        client: end(client, cport),
        virt: end(virt, vport),
        dest: end(dest, dport),
    });
    Some(())
}

/// Type to timeout: what both families begin with. Unit: bytes.
const COMMON_LEN: usize = 24;

/// Reads these and returns the ports.
#[inline]
fn read_common(fields: &[u8; COMMON_LEN], entry: &mut Entry<'_>) -> [u16; 3] {
    #[rustfmt::skip]
    let [
        _kind, protocol, _, _, f0, f1, f2, f3,
        s0, s1, c0, c1, v0, v1, d0, d1,
        m0, m1, m2, m3, t0, t1, t2, t3,
    ] = *fields;
    entry.protocol = protocol;
    entry.flags = u32::from_be_bytes([f0, f1, f2, f3]);
    entry.state = u16::from_be_bytes([s0, s1]);
    entry.fwmark = u32::from_be_bytes([m0, m1, m2, m3]);
    entry.timeout_secs = u32::from_be_bytes([t0, t1, t2, t3]);
    [[c0, c1], [v0, v1], [d0, d1]].map(u16::from_be_bytes)
}

/// Bytes that a connection takes, without padding.
#[inline]
pub(super) fn len(conn: &SyncConn) -> usize {
    let fixed = match conn.addresses {
        Addresses::V4(_) => v1::ENTRY_IPV4_LEN,
        Addresses::V6(_) => v1::ENTRY_IPV6_LEN,
    };
    fixed.saturating_add(options::len(conn.seq.as_ref(), conn.pe.as_deref()))
}

/// Writes a connection of which `len` says that it takes `length` bytes.
pub(super) fn write(conn: &SyncConn, length: usize, out: &mut Vec<u8>) {
    // At most 373 by construction of the options, so the version bits stay 0.
    let ver_size = length as u16 & SIZE_MASK;
    match &conn.addresses {
        Addresses::V4(ends) => {
            out.extend_from_slice(&write_common(conn, 0, ver_size, ends.ports()));
            let ends = [&ends.client, &ends.virt, &ends.dest];
            out.extend_from_slice(ends.map(|end| end.ip().octets()).as_flattened());
        }
        Addresses::V6(ends) => {
            out.extend_from_slice(&write_common(conn, TYPE_IPV6, ver_size, ends.ports()));
            let ends = [&ends.client, &ends.virt, &ends.dest];
            out.extend_from_slice(ends.map(|end| end.ip().octets()).as_flattened());
        }
    }
    options::write(conn.seq.as_ref(), conn.pe.as_deref(), out);
}

#[inline]
fn write_common(conn: &SyncConn, kind: u8, ver_size: u16, ports: [u16; 3]) -> [u8; COMMON_LEN] {
    let [z0, z1] = ver_size.to_be_bytes();
    let [f0, f1, f2, f3] = flags::sent(conn.flags).to_be_bytes();
    let [[c0, c1], [v0, v1], [d0, d1]] = ports.map(u16::to_be_bytes);
    let [m0, m1, m2, m3] = conn.fwmark.to_be_bytes();
    let [t0, t1, t2, t3] = conn.timeout_secs.to_be_bytes();
    #[rustfmt::skip]
    let fields = [
        kind, conn.protocol, z0, z1, f0, f1, f2, f3,
        0, conn.state, c0, c1, v0, v1, d0, d1,
        m0, m1, m2, m3, t0, t1, t2, t3,
    ];
    fields
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
