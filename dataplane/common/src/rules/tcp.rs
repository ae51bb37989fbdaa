//! TCP states of a connection as a director between client and server follows them.
//!
//! Source: `ip_vs_proto_tcp.c: tcp_states, tcp_states_dos, set_tcp_state`.

use ipvs_model::state::TcpState;

/// Which packets the director sees of a connection decides the column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the client.
    Input = 0,
    /// From the server.
    Output = 1,
    /// From the client, and replies are never seen.
    InputOnly = 2,
}

/// What counts of a packet's flags: RST before SYN before FIN before ACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpEvent {
    Syn = 0,
    Fin = 1,
    Ack = 2,
    Rst = 3,
    /// None of the four.
    None = 4,
}

/// TCP header flags (RFC 9293 §3.1).
pub mod flag {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

impl TcpEvent {
    pub const fn from_flags(flags: u8) -> TcpEvent {
        if flags & flag::RST != 0 {
            TcpEvent::Rst
        } else if flags & flag::SYN != 0 {
            TcpEvent::Syn
        } else if flags & flag::FIN != 0 {
            TcpEvent::Fin
        } else if flags & flag::ACK != 0 {
            TcpEvent::Ack
        } else {
            TcpEvent::None
        }
    }
}

// Rows of the tables below: one hexadecimal digit per state, state 0 rightmost. Digits:
// 0 none, 1 established, 2 syn-sent, 3 syn-recv, 4 fin-wait, 5 time-wait, 6 close,
// 7 close-wait, 8 last-ack, 9 listen, a synack.
type Row = u64;

/// Index: 16 × table (normal, `secure_tcp`) + 4 × direction + event. The fourth direction of each
/// table does not exist; it is there so that a masked index is always inside.
#[rustfmt::skip]
const TABLES: [Row; 32] = [
    0x333_3333_3113, 0x598_7655_5276, 0x196_7654_1211, 0x398_6666_3666,
    0x392_2222_3212, 0x598_5654_5245, 0x118_7654_1211, 0x666_6656_6266,
    0x333_3333_3113, 0x598_7654_5246, 0x196_7654_1211, 0x698_6666_3666,
    0, 0, 0, 0,
    0xa33_3333_3113, 0xa98_7655_5276, 0xa96_7654_3211, 0x698_6666_3666,
    0xa92_2222_a212, 0x598_5654_5245, 0x118_7654_1211, 0x666_6656_6266,
    0xaaa_aaaa_311a, 0x598_7654_5246, 0x196_7654_1211, 0x698_6666_3666,
    0, 0, 0, 0,
];

/// One bit per state that counts as active, by its number.
const ACTIVE: u16 = 1 << TcpState::Established as u16
    | 1 << TcpState::SynSent as u16
    | 1 << TcpState::SynRecv as u16
    | 1 << TcpState::SynAck as u16;

/// The number of the state after a packet; an unknown state goes to NONE.
#[inline(always)]
pub const fn next_state(secure: bool, direction: Direction, event: TcpEvent, state: u8) -> u8 {
    if matches!(event, TcpEvent::None) {
        return TcpState::Close as u8;
    }
    let row = secure as usize * 16 + direction as usize * 4 + event as usize;
    (TABLES[row & 31] >> (4 * (state as u32 & 15)) & 0xf) as u8
}

/// Whether a connection in this state counts as active.
#[inline(always)]
pub const fn is_active(state: u8) -> bool {
    ACTIVE >> (state & 15) & 1 != 0
}

/// Default timeouts in seconds by state number.
pub const TIMEOUT_SECS: [u32; 16] = [
    2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 2, 2, 2, 2, 2,
];

#[cfg(test)]
mod tests;
