//! SCTP states of a connection as a director between client and server follows them.
//!
//! Source: `ip_vs_proto_sctp.c: sctp_states, set_sctp_state`.

use ipvs_model::state::SctpState;

use super::tcp::Direction;

/// What counts of a packet: its first chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SctpEvent {
    /// DATA, and every chunk that has no event of its own.
    Data = 0,
    Init = 1,
    InitAck = 2,
    CookieEcho = 3,
    CookieAck = 4,
    Shutdown = 5,
    ShutdownAck = 6,
    ShutdownComplete = 7,
    Error = 8,
    Abort = 9,
}

/// Chunk types (RFC 9260 §3.2).
pub mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const ERROR: u8 = 9;
    pub const COOKIE_ECHO: u8 = 10;
    pub const COOKIE_ACK: u8 = 11;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

impl SctpEvent {
    /// The event of a packet by the types of its first two chunks. The second counts only after
    /// COOKIE-ECHO and COOKIE-ACK, which an ABORT may follow.
    #[inline(always)]
    pub const fn from_chunks(first: u8, second: Option<u8>) -> SctpEvent {
        match first {
            chunk::COOKIE_ECHO | chunk::COOKIE_ACK if matches!(second, Some(chunk::ABORT)) => {
                SctpEvent::Abort
            }
            chunk::INIT => SctpEvent::Init,
            chunk::INIT_ACK => SctpEvent::InitAck,
            chunk::COOKIE_ECHO => SctpEvent::CookieEcho,
            chunk::COOKIE_ACK => SctpEvent::CookieAck,
            chunk::SHUTDOWN => SctpEvent::Shutdown,
            chunk::SHUTDOWN_ACK => SctpEvent::ShutdownAck,
            chunk::SHUTDOWN_COMPLETE => SctpEvent::ShutdownComplete,
            chunk::ERROR => SctpEvent::Error,
            chunk::ABORT => SctpEvent::Abort,
            _ => SctpEvent::Data,
        }
    }

    /// Whether the second chunk must be looked at, see [`SctpEvent::from_chunks`].
    #[inline(always)]
    pub const fn needs_second(first: u8) -> bool {
        matches!(first, chunk::COOKIE_ECHO | chunk::COOKIE_ACK)
    }
}

// Rows of the table below: one hexadecimal digit per state, state 0 rightmost. Digits: 0 none,
// 1 init1, 2 init, 3 cookie-sent, 4 cookie-replied, 5 cookie-wait, 6 cookie, 7 cookie-echoed,
// 8 established, 9 shutdown-sent, a shutdown-received, b shutdown-ack-sent, c rejected, d closed.
type Row = u64;

/// Index: 16 × direction + event. What lies between the directions and after the last one does not
/// exist; it is there so that a masked index is always inside.
#[rustfmt::skip]
const TABLE: [Row; 64] = [
    0xdc_ba98_7654_3218, 0x22_ba98_7654_3221, 0xdc_ba98_7664_3555, 0xdc_ba98_7654_4224, 0xdc_ba98_8654_3218,
    0xdc_ba9a_7654_321a, 0xdc_dad8_7654_322d, 0xdc_da98_7654_3ddd, 0xdc_ba98_d654_321d, 0xdd_dddd_ddcd_dddd, 0, 0, 0, 0, 0, 0,
    0xdc_ba98_7654_3218, 0x55_5558_5555_5555, 0xdc_ba98_7654_3333, 0xdc_ba98_7777_7777, 0xdc_ba98_8888_8888,
    0xdc_ba99_9999_9999, 0xdc_bbb8_765b_bbbb, 0xdc_ba98_7654_321d, 0xdc_ba98_765d_dddd, 0xdd_dddd_dddd_ddcd, 0, 0, 0, 0, 0, 0,
    0xdc_ba98_7684_3218, 0x22_ba98_7622_2221, 0xdc_ba98_7677_7777, 0xdc_ba98_7688_8888, 0xdc_ba98_8858_8218,
    0xdc_ba9a_7654_321a, 0xdc_dadd_7654_322d, 0xdc_dd98_765d_dddd, 0xdc_ba98_7654_321d, 0xdd_dddd_ddcd_dddd, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// The number of the state after a packet with this number of an event; an unknown state or event
/// goes to NONE.
///
/// The event is a number because the verifier loses the bound of one that was checked by name.
#[inline(always)]
pub const fn next_state(direction: Direction, event: u8, state: u8) -> u8 {
    let row = direction as usize * 16 + (event & 15) as usize;
    (TABLE[row & 63] >> (4 * (state as u32 & 15)) & 0xf) as u8
}

/// Whether a connection in this state counts as active.
#[inline(always)]
pub const fn is_active(state: u8) -> bool {
    state == SctpState::Established as u8
}

/// Default timeouts in seconds by state number (`ip_vs_proto_sctp.c: sctp_timeouts`).
///
/// An unknown state gets the shortest of all, as an unknown TCP state does.
pub const TIMEOUT_SECS: [u32; 16] = [2, 4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61, 2, 2];

#[cfg(test)]
mod tests;
