//! Version 0: IPv4, no timeout, no mark.
//!
//! ```text
//!  0        1        2                 4                 6                 8
//!  +--------+--------+-----------------+-----------------+-----------------+
//!  |   0    | proto  |      cport      |      vport      |      dport      |
//!  +--------+--------+-----------------+-----------------+-----------------+
//!  |              caddr                |              vaddr                |
//!  +-----------------------------------+-----------------+-----------------+
//!  |              daddr                |      flags      |      state      |
//!  +-----------------------------------+-----------------+-----------------+
//!  |  when flags & 0x0600: the sequence block, 24 bytes, sender's order    |
//!  +-----------------------------------------------------------------------+
//! ```
//!
//! Byte 0 is not looked at. Entries are not padded. Source: `ip_vs_sync.c: struct
//! ip_vs_sync_conn_v0`, `ip_vs_process_message_v0`, `ip_vs_sync_conn_v0`.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipvs_model::flags::ConnFlags;

use crate::conn::{Addresses, Ends, SyncConn};
use crate::flags;
use crate::limits::v0;
use crate::refusal::Refusal;
use crate::wire::cursor::Cursor;
use crate::wire::options::{read_seq, write_seq};
use crate::wire::{Entry, SeqOrder};

const SEQ_FLAGS: u32 = ConnFlags::IN_SEQ | ConnFlags::OUT_SEQ;

/// Reads the entry at the cursor into `entry`, which must be [`Entry::BLANK`] or one that was read
/// before; its verdict is left open.
///
/// # Errors
/// [`Refusal::EntryNoRoom`], [`Refusal::EntryNoSeqBlock`].
#[inline]
pub(super) fn read<'a>(
    cursor: &mut Cursor<'a>,
    order: SeqOrder,
    entry: &mut Entry<'a>,
) -> Result<(), Refusal> {
    let fixed: &[u8; v0::ENTRY_LEN] = cursor.array_ref().ok_or(Refusal::EntryNoRoom)?;
    #[rustfmt::skip]
    let [
        _reserved, protocol, p0, p1, p2, p3, p4, p5,
        c0, c1, c2, c3, v0, v1, v2, v3,
        d0, d1, d2, d3, f0, f1, s0, s1,
    ] = *fixed;
    let end = |address: [u8; 4], port| {
        SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port))
    };
    entry.protocol = protocol;
    entry.addresses = Addresses::V4(Ends {
        client: end([c0, c1, c2, c3], [p0, p1]),
        virt: end([v0, v1, v2, v3], [p2, p3]),
        dest: end([d0, d1, d2, d3], [p4, p5]),
    });
    entry.flags = u16::from_be_bytes([f0, f1]).into();
    entry.state = u16::from_be_bytes([s0, s1]);
    entry.fwmark = 0;
    entry.timeout_secs = 0;
    entry.forget_options();
    if entry.flags & SEQ_FLAGS != 0 {
        let block = cursor.array_ref().ok_or(Refusal::EntryNoSeqBlock)?;
        entry.seq = Some(read_seq(block, order));
    }
    Ok(())
}

/// Bytes that a connection takes; `None` when version 0 cannot carry it.
#[inline]
pub(super) const fn len(conn: &SyncConn) -> Option<usize> {
    match conn.addresses {
        Addresses::V6(_) => None,
        Addresses::V4(_) if conn.says_seq() => Some(v0::ENTRY_WITH_SEQ_LEN),
        Addresses::V4(_) => Some(v0::ENTRY_LEN),
    }
}

/// Writes what version 0 can carry of an IPv4 connection.
pub(super) fn write(
    conn: &SyncConn,
    ends: &Ends<SocketAddrV4>,
    order: SeqOrder,
    out: &mut Vec<u8>,
) {
    let ends = [&ends.client, &ends.virt, &ends.dest];
    let [[p0, p1], [p2, p3], [p4, p5]] = ends.map(|end| end.port().to_be_bytes());
    let [[c0, c1, c2, c3], [v0, v1, v2, v3], [d0, d1, d2, d3]] = ends.map(|end| end.ip().octets());
    // The upper half of the flags does not travel in this version.
    let [f0, f1] = (flags::sent(conn.flags) as u16).to_be_bytes();
    #[rustfmt::skip]
    out.extend_from_slice(&[
        0, conn.protocol, p0, p1, p2, p3, p4, p5,
        c0, c1, c2, c3, v0, v1, v2, v3,
        d0, d1, d2, d3, f0, f1, 0, conn.state,
    ]);
    if conn.says_seq() {
        write_seq(&conn.seq.unwrap_or_default(), order, out);
    }
}
