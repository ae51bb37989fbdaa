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
use crate::wire::options::{Ignored, read_seq, write_seq};
use crate::wire::{Entry, SeqOrder};

const SEQ_FLAGS: u32 = ConnFlags::IN_SEQ | ConnFlags::OUT_SEQ;

/// Reads the entry at the cursor; its verdict is left open.
///
/// # Errors
/// [`Refusal::EntryNoRoom`], [`Refusal::EntryNoSeqBlock`].
pub(super) fn read<'a>(cursor: &mut Cursor<'a>, order: SeqOrder) -> Result<Entry<'a>, Refusal> {
    let mut entry = read_fixed(cursor).ok_or(Refusal::EntryNoRoom)?;
    if entry.flags & SEQ_FLAGS != 0 {
        let block = cursor.array().ok_or(Refusal::EntryNoSeqBlock)?;
        entry.seq = Some(read_seq(&block, order));
    }
    Ok(entry)
}

fn read_fixed<'a>(cursor: &mut Cursor<'a>) -> Option<Entry<'a>> {
    let fixed: [u8; v0::ENTRY_LEN] = cursor.array()?;
    let mut fields = Cursor::new(&fixed);
    let [_reserved, protocol] = fields.array()?;
    let ports = [fields.u16()?, fields.u16()?, fields.u16()?];
    let mut end = |port| Some(SocketAddrV4::new(Ipv4Addr::from(fields.array()?), port));
    let [cport, vport, dport] = ports;
    let ends = Ends {
        client: end(cport)?,
        virt: end(vport)?,
        dest: end(dport)?,
    };
    Some(Entry {
        protocol,
        addresses: Addresses::V4(ends),
        flags: fields.u16()?.into(),
        state: fields.u16()?,
        fwmark: 0,
        timeout_secs: 0,
        seq: None,
        pe_name: None,
        pe_data: None,
        ignored: Ignored::default(),
        verdict: Ok(()),
    })
}

/// Bytes that a connection takes; `None` when version 0 cannot carry it.
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
    out.extend_from_slice(&[0, conn.protocol]);
    for end in [ends.client, ends.virt, ends.dest] {
        out.extend_from_slice(&end.port().to_be_bytes());
    }
    for end in [ends.client, ends.virt, ends.dest] {
        out.extend_from_slice(&end.ip().octets());
    }
    // The upper half of the flags does not travel in this version.
    let flags = flags::sent(conn.flags) as u16;
    out.extend_from_slice(&flags.to_be_bytes());
    out.extend_from_slice(&u16::from(conn.state).to_be_bytes());
    if conn.says_seq() {
        write_seq(&conn.seq.unwrap_or_default(), order, out);
    }
}
