//! What one packet does to the word of a connection.

use super::sctp;
use super::tcp::{self, Direction, TcpEvent};
use crate::entry::{ConnWord, server_conns};
use ipvs_model::state::{SctpState, TcpState};

/// The word after a packet, what that adds to the server's packed counters, and the timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub word: ConnWord,
    /// To be added (wrapping) to `ServerRecord::conns` by whoever wins the swap.
    pub conns_delta: u64,
    /// The client has shown that it is there: the template above the connection is ASSURED from now
    /// on (`ip_vs.h: ip_vs_control_assure_ct`).
    pub assures: bool,
}

/// The word before the state moves, and the column of the table: the first packet from a server
/// clears NOOUTPUT.
#[inline(always)]
const fn directed(word: ConnWord, output: bool) -> (ConnWord, Direction) {
    if output {
        (word.without(ConnWord::NOOUTPUT), Direction::Output)
    } else if word.is(ConnWord::NOOUTPUT) {
        (word, Direction::InputOnly)
    } else {
        (word, Direction::Input)
    }
}

/// The word in its next state, and what its activity changes.
#[inline(always)]
const fn moved(word: ConnWord, next: u8, active: bool, established: u8) -> Transition {
    let assures = next == established && word.state() != established;
    let inactive = word.is(ConnWord::INACTIVE);
    let word = word.with_state(next);
    let (word, conns_delta) = if active && inactive {
        (word.without(ConnWord::INACTIVE), server_conns::ACTIVE_ONE)
    } else if !active && !inactive {
        let delta = server_conns::ACTIVE_ONE.wrapping_neg();
        (word.with(ConnWord::INACTIVE), delta)
    } else {
        (word, 0)
    };
    Transition {
        word,
        conns_delta,
        assures,
    }
}

/// A TCP packet (`ip_vs_proto_tcp.c: set_tcp_state`).
///
/// `output` is true for a packet from the server; the first one clears NOOUTPUT.
#[inline(always)]
pub const fn on_tcp(word: ConnWord, secure: bool, output: bool, event: TcpEvent) -> Transition {
    let (word, direction) = directed(word, output);
    let next = tcp::next_state(secure, direction, event, word.state());
    moved(
        word,
        next,
        tcp::is_active(next),
        TcpState::Established as u8,
    )
}

/// An SCTP packet with this number of an event, see [`sctp::SctpEvent`]
/// (`ip_vs_proto_sctp.c: set_sctp_state`).
#[inline(always)]
pub const fn on_sctp(word: ConnWord, output: bool, event: u8) -> Transition {
    let (word, direction) = directed(word, output);
    let next = sctp::next_state(direction, event, word.state());
    moved(
        word,
        next,
        sctp::is_active(next),
        SctpState::Established as u8,
    )
}

/// A UDP packet: one state; it never becomes active (`ip_vs_proto_udp.c: udp_state_transition`).
#[inline(always)]
pub const fn on_udp(word: ConnWord, output: bool) -> Transition {
    Transition {
        word: directed(word, output).0,
        conns_delta: 0,
        assures: output,
    }
}

/// Timeout in seconds of an entry whose timer ended while it controls others
/// (`ip_vs_conn.c: ip_vs_conn_expire`).
pub const POSTPONED_SECS: u32 = 60;

/// What the removal of a connection adds to its server's packed counters.
pub const fn removal_delta(word: ConnWord) -> u64 {
    let active = if word.is(ConnWord::INACTIVE) {
        0
    } else {
        server_conns::ACTIVE_ONE
    };
    (server_conns::TOTAL_ONE + active).wrapping_neg()
}

/// Whether a connection is over: its deadline has passed.
pub const fn is_expired(deadline_ns: u64, now_ns: u64) -> bool {
    now_ns >= deadline_ns
}

/// How long past its deadline an entry is left alone by whoever would free it: a packet that still
/// found it alive, and is refreshing it on another processor, has long finished by then.
pub const FREE_AFTER_NS: u64 = 100_000_000;

/// Whether an entry that is past its deadline may be marked or freed.
pub const fn may_be_freed(deadline_ns: u64, now_ns: u64) -> bool {
    is_expired(deadline_ns.saturating_add(FREE_AFTER_NS), now_ns)
}

#[cfg(test)]
mod tests {
    use ipvs_model::state::TcpState;

    use super::*;

    const FRESH: ConnWord = ConnWord(ConnWord::LIVE | ConnWord::INACTIVE);

    #[test]
    fn the_first_syn_makes_a_connection_active_at_once() {
        let after = on_tcp(FRESH, false, false, TcpEvent::Syn);
        assert_eq!(after.word.state(), TcpState::SynRecv as u8);
        assert!(!after.word.is(ConnWord::INACTIVE));
        assert_eq!(after.conns_delta, server_conns::ACTIVE_ONE);
    }

    #[test]
    fn active_counts_move_exactly_once_per_transition() {
        let events = [
            TcpEvent::Syn,
            TcpEvent::Ack,
            TcpEvent::Fin,
            TcpEvent::Rst,
            TcpEvent::None,
        ];
        for state in TcpState::ALL {
            for inactive in [false, true] {
                for output in [false, true] {
                    for event in events {
                        let flag = if inactive { ConnWord::INACTIVE } else { 0 };
                        let word = ConnWord(ConnWord::LIVE | flag).with_state(state as u8);
                        let after = on_tcp(word, false, output, event);
                        let now_inactive = after.word.is(ConnWord::INACTIVE);
                        let moved = i64::from(!now_inactive) - i64::from(!inactive);
                        let delta = (moved as u64).wrapping_mul(server_conns::ACTIVE_ONE);
                        assert_eq!(after.conns_delta, delta, "{state:?} {event:?}");
                        let next = TcpState::from_number(after.word.state()).unwrap();
                        assert_eq!(now_inactive, !next.is_active());
                    }
                }
            }
        }
    }

    #[test]
    fn the_template_is_assured_when_the_connection_becomes_established_or_answered() {
        let syn = on_tcp(FRESH, false, false, TcpEvent::Syn);
        let ack = on_tcp(syn.word, false, false, TcpEvent::Ack);
        let data = on_tcp(ack.word, false, false, TcpEvent::Ack);
        assert_eq!(
            [syn.assures, ack.assures, data.assures],
            [false, true, false]
        );
        assert!(!on_udp(FRESH, false).assures && on_udp(FRESH, true).assures);
    }

    #[test]
    fn a_reply_clears_nooutput_for_good() {
        let word = FRESH.with(ConnWord::NOOUTPUT);
        let word = on_tcp(word, false, false, TcpEvent::Syn).word;
        assert!(word.is(ConnWord::NOOUTPUT));
        let word = on_tcp(word, false, true, TcpEvent::Syn).word;
        assert!(!word.is(ConnWord::NOOUTPUT));
        assert!(
            on_udp(FRESH.with(ConnWord::NOOUTPUT), true)
                .word
                .is(ConnWord::INACTIVE)
        );
    }

    #[test]
    fn removal_takes_back_what_the_connection_counted() {
        let mut conns = server_conns::TOTAL_ONE;
        let after = on_tcp(FRESH, false, false, TcpEvent::Syn);
        conns = conns.wrapping_add(after.conns_delta);
        assert_eq!(conns.wrapping_add(removal_delta(after.word)), 0);
        assert_eq!(
            server_conns::TOTAL_ONE.wrapping_add(removal_delta(FRESH)),
            0
        );
    }
}
