use super::*;

/// The tables as they are usually written down: one line per direction and event, one column per
/// state in the order NO ES SS SR FW TW CL CW LA LI SA.
const NORMAL_TEXT: &str = "
    INPUT SYN SR ES ES SR SR SR SR SR SR SR SR
    INPUT FIN CL CW SS TW TW TW CL CW LA LI TW
    INPUT ACK ES ES SS ES FW TW CL CW CL LI ES
    INPUT RST CL CL CL SR CL CL CL CL LA LI SR
    OUTPUT SYN SS ES SS SR SS SS SS SS SS LI SR
    OUTPUT FIN TW FW SS TW FW TW CL TW LA LI TW
    OUTPUT ACK ES ES SS ES FW TW CL CW LA ES ES
    OUTPUT RST CL CL SS CL CL TW CL CL CL CL CL
    INPUT-ONLY SYN SR ES ES SR SR SR SR SR SR SR SR
    INPUT-ONLY FIN CL FW SS TW FW TW CL CW LA LI TW
    INPUT-ONLY ACK ES ES SS ES FW TW CL CW CL LI ES
    INPUT-ONLY RST CL CL CL SR CL CL CL CL LA LI CL
";

const SECURE_TEXT: &str = "
    INPUT SYN SR ES ES SR SR SR SR SR SR SR SA
    INPUT FIN CL CW SS TW TW TW CL CW LA LI SA
    INPUT ACK ES ES SS SR FW TW CL CW CL LI SA
    INPUT RST CL CL CL SR CL CL CL CL LA LI CL
    OUTPUT SYN SS ES SS SA SS SS SS SS SS LI SA
    OUTPUT FIN TW FW SS TW FW TW CL TW LA LI TW
    OUTPUT ACK ES ES SS ES FW TW CL CW LA ES ES
    OUTPUT RST CL CL SS CL CL TW CL CL CL CL CL
    INPUT-ONLY SYN SA ES ES SR SA SA SA SA SA SA SA
    INPUT-ONLY FIN CL FW SS TW FW TW CL CW LA LI TW
    INPUT-ONLY ACK ES ES SS ES FW TW CL CW CL LI ES
    INPUT-ONLY RST CL CL CL SR CL CL CL CL LA LI CL
";

fn short(name: &str) -> TcpState {
    match name {
        "NO" => TcpState::None,
        "ES" => TcpState::Established,
        "SS" => TcpState::SynSent,
        "SR" => TcpState::SynRecv,
        "FW" => TcpState::FinWait,
        "TW" => TcpState::TimeWait,
        "CL" => TcpState::Close,
        "CW" => TcpState::CloseWait,
        "LA" => TcpState::LastAck,
        "LI" => TcpState::Listen,
        "SA" => TcpState::SynAck,
        other => panic!("no state {other}"),
    }
}

fn check(text: &str, secure: bool) {
    let mut cells = 0;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: [&str; 13] = line
            .split_whitespace()
            .collect::<std::vec::Vec<_>>()
            .try_into()
            .unwrap();
        let direction = match words[0] {
            "INPUT" => Direction::Input,
            "OUTPUT" => Direction::Output,
            _ => Direction::InputOnly,
        };
        let event = match words[1] {
            "SYN" => TcpEvent::Syn,
            "FIN" => TcpEvent::Fin,
            "ACK" => TcpEvent::Ack,
            _ => TcpEvent::Rst,
        };
        for (state, expected) in TcpState::ALL.iter().zip(&words[2..]) {
            let next = next_state(secure, direction, event, *state as u8);
            assert_eq!(
                next,
                short(expected) as u8,
                "{direction:?} {event:?} in {state:?}"
            );
            cells += 1;
        }
    }
    assert_eq!(cells, 3 * 4 * TcpState::COUNT);
}

#[test]
fn every_cell_of_the_normal_table() {
    check(NORMAL_TEXT, false);
}

#[test]
fn every_cell_of_the_secure_table() {
    check(SECURE_TEXT, true);
}

#[test]
fn a_packet_without_any_of_the_four_flags_closes() {
    for state in TcpState::ALL {
        for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
            let next = next_state(false, direction, TcpEvent::None, state as u8);
            assert_eq!(next, TcpState::Close as u8);
        }
    }
}

#[test]
fn the_strongest_flag_of_a_packet_decides() {
    use flag::*;
    for flags in 0..=0x3fu8 {
        let expected = match flags {
            flags if flags & RST != 0 => TcpEvent::Rst,
            flags if flags & SYN != 0 => TcpEvent::Syn,
            flags if flags & FIN != 0 => TcpEvent::Fin,
            flags if flags & ACK != 0 => TcpEvent::Ack,
            _ => TcpEvent::None,
        };
        assert_eq!(TcpEvent::from_flags(flags), expected, "{flags:#x}");
    }
}

#[test]
fn active_states_are_those_of_the_model() {
    for state in TcpState::ALL {
        assert_eq!(is_active(state as u8), state.is_active(), "{state:?}");
    }
}
