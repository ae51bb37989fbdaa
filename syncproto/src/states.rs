//! State numbers an entry may carry, and their names.

use ipvs_model::flags::ConnFlags;
use ipvs_model::state::TcpState;

use crate::refusal::Refusal;

/// IP protocol numbers that IPVS keeps connections of.
pub mod protocol {
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ESP: u8 = 50;
    pub const AH: u8 = 51;
    pub const SCTP: u8 = 132;
}

/// As `/proc/net/ip_vs_conn` shows them. Source: `ip_vs_proto_sctp.c: sctp_state_name_table`.
const SCTP_NAMES: [&str; 14] = [
    "NONE",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "ESTABLISHED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
];

/// Number of states of a protocol; `None` when connections of it are not known.
///
/// Source: `ip_vs_proto_*.c`, `num_states`.
#[inline]
pub const fn state_count(number: u8) -> Option<u16> {
    match number {
        protocol::TCP => Some(TcpState::COUNT as u16),
        protocol::SCTP => Some(SCTP_NAMES.len() as u16),
        protocol::UDP | protocol::ESP | protocol::AH => Some(1),
        _ => None,
    }
}

/// The state of an entry, if a receiver takes it.
///
/// The protocol of a template is not looked at: that of a fwmark service has none.
///
/// # Errors
/// [`Refusal::TemplateState`], [`Refusal::Protocol`], [`Refusal::State`].
#[inline]
pub(crate) fn check(number: u8, flags: u32, state: u16) -> Result<u8, Refusal> {
    let (count, refusal) = if flags & ConnFlags::TEMPLATE != 0 {
        (2, Refusal::TemplateState)
    } else {
        (
            state_count(number).ok_or(Refusal::Protocol)?,
            Refusal::State,
        )
    };
    match u8::try_from(state) {
        Ok(known) if state < count => Ok(known),
        _ => Err(refusal),
    }
}

/// Name of a state as `ipvsadm -Lc` and `/proc/net/ip_vs_conn` print it.
pub fn state_name(number: u8, template: bool, state: u16) -> &'static str {
    const UNKNOWN: &str = "ERR!";
    if template {
        return if state == 0 { "NONE" } else { "ASSURED" };
    }
    match number {
        protocol::TCP => u8::try_from(state)
            .ok()
            .and_then(TcpState::from_number)
            .map_or(UNKNOWN, TcpState::name),
        protocol::UDP if state == 0 => "UDP",
        protocol::SCTP => SCTP_NAMES.get(usize::from(state)).unwrap_or(&UNKNOWN),
        protocol::AH | protocol::ESP if state == 0 => "NONE",
        _ => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_protocol_takes_its_own_states_and_no_more() {
        let counts = [(6, 11), (17, 1), (132, 14), (51, 1), (50, 1)];
        for (number, count) in counts {
            assert_eq!(state_count(number), Some(count));
            assert_eq!(check(number, 0, count - 1), Ok((count - 1) as u8));
            for state in [count, 0x100, 0xffff] {
                assert_eq!(check(number, 0, state), Err(Refusal::State));
            }
        }
        for number in (0..=255).filter(|n| ![6, 17, 50, 51, 132].contains(n)) {
            assert_eq!(check(number, 0, 0), Err(Refusal::Protocol));
        }
    }

    #[test]
    fn a_template_has_two_states_whatever_its_protocol() {
        for number in [0, 6, 255] {
            assert_eq!(check(number, 0x1000, 0), Ok(0));
            assert_eq!(check(number, 0x1000, 1), Ok(1));
            for state in [2, 0x100, 0x101] {
                assert_eq!(check(number, 0x1000, state), Err(Refusal::TemplateState));
            }
        }
    }

    #[test]
    fn names_are_those_of_the_kernels_listing() {
        assert_eq!(state_name(6, false, 1), "ESTABLISHED");
        assert_eq!(state_name(6, false, 11), "ERR!");
        assert_eq!(state_name(6, true, 1), "ASSURED");
        assert_eq!(state_name(0, true, 0), "NONE");
        assert_eq!(state_name(17, false, 0), "UDP");
        assert_eq!(state_name(132, false, 7), "C-ECHOED");
        assert_eq!(state_name(132, false, 14), "ERR!");
        assert_eq!(state_name(1, false, 0), "ERR!");
    }
}
