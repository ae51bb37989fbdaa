use super::*;

/// The table as it is usually written down: one line per direction and event, one column per state
/// in the order NO I1 IN CS CR CW CO CE ES SS SR SA RJ CL.
const TEXT: &str = "
    INPUT DATA ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
    INPUT INIT I1 IN IN CS CR CW CO CE ES SS SR SA IN IN
    INPUT INIT-ACK CW CW CW CS CR CO CO CE ES SS SR SA RJ CL
    INPUT COOKIE-ECHO CR IN IN CR CR CW CO CE ES SS SR SA RJ CL
    INPUT COOKIE-ACK ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL
    INPUT SHUTDOWN SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
    INPUT SHUTDOWN-ACK CL IN IN CS CR CW CO CE ES CL SR CL RJ CL
    INPUT SHUTDOWN-COMPLETE CL CL CL CS CR CW CO CE ES SS SR CL RJ CL
    INPUT ERROR CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL
    INPUT ABORT CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
    OUTPUT DATA ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL
    OUTPUT INIT CW CW CW CW CW CW CW CW ES CW CW CW CW CW
    OUTPUT INIT-ACK CS CS CS CS CR CW CO CE ES SS SR SA RJ CL
    OUTPUT COOKIE-ECHO CE CE CE CE CE CE CE CE ES SS SR SA RJ CL
    OUTPUT COOKIE-ACK ES ES ES ES ES ES ES ES ES SS SR SA RJ CL
    OUTPUT SHUTDOWN SS SS SS SS SS SS SS SS SS SS SR SA RJ CL
    OUTPUT SHUTDOWN-ACK SA SA SA SA SA CW CO CE ES SA SA SA RJ CL
    OUTPUT SHUTDOWN-COMPLETE CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
    OUTPUT ERROR CL CL CL CL CL CW CO CE ES SS SR SA RJ CL
    OUTPUT ABORT CL RJ CL CL CL CL CL CL CL CL CL CL CL CL
    INPUT-ONLY DATA ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL
    INPUT-ONLY INIT I1 IN IN IN IN IN CO CE ES SS SR SA IN IN
    INPUT-ONLY INIT-ACK CE CE CE CE CE CE CO CE ES SS SR SA RJ CL
    INPUT-ONLY COOKIE-ECHO ES ES ES ES ES ES CO CE ES SS SR SA RJ CL
    INPUT-ONLY COOKIE-ACK ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL
    INPUT-ONLY SHUTDOWN SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL
    INPUT-ONLY SHUTDOWN-ACK CL IN IN CS CR CW CO CE CL CL SR CL RJ CL
    INPUT-ONLY SHUTDOWN-COMPLETE CL CL CL CL CL CW CO CE ES SS CL CL RJ CL
    INPUT-ONLY ERROR CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL
    INPUT-ONLY ABORT CL CL CL CL CL RJ CL CL CL CL CL CL CL CL
";

const SHORT: [&str; SctpState::COUNT] = [
    "NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL",
];

const EVENTS: [(&str, SctpEvent); 10] = [
    ("DATA", SctpEvent::Data),
    ("INIT", SctpEvent::Init),
    ("INIT-ACK", SctpEvent::InitAck),
    ("COOKIE-ECHO", SctpEvent::CookieEcho),
    ("COOKIE-ACK", SctpEvent::CookieAck),
    ("SHUTDOWN", SctpEvent::Shutdown),
    ("SHUTDOWN-ACK", SctpEvent::ShutdownAck),
    ("SHUTDOWN-COMPLETE", SctpEvent::ShutdownComplete),
    ("ERROR", SctpEvent::Error),
    ("ABORT", SctpEvent::Abort),
];

#[test]
fn every_cell_of_the_table() {
    let mut cells = 0;
    for line in TEXT.lines().filter(|line| !line.trim().is_empty()) {
        let words: std::vec::Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.len(), 2 + SctpState::COUNT, "{line}");
        let direction = match words[0] {
            "INPUT" => Direction::Input,
            "OUTPUT" => Direction::Output,
            "INPUT-ONLY" => Direction::InputOnly,
            other => panic!("no direction {other}"),
        };
        let (_, event) = EVENTS.iter().find(|(name, _)| *name == words[1]).unwrap();
        for (state, expected) in SctpState::ALL.iter().zip(&words[2..]) {
            let next = next_state(direction, *event as u8, *state as u8);
            let next = SctpState::from_number(next).unwrap();
            assert_eq!(
                SHORT[next as usize], *expected,
                "{direction:?} {event:?} in {state:?}"
            );
            cells += 1;
        }
    }
    assert_eq!(cells, 3 * EVENTS.len() * SctpState::COUNT);
}

#[test]
fn an_unknown_state_goes_to_none() {
    for state in SctpState::COUNT as u8..16 {
        for (_, event) in EVENTS {
            assert_eq!(next_state(Direction::Input, event as u8, state), 0);
        }
    }
}

#[test]
fn the_first_chunk_decides_and_types_without_an_event_count_as_data() {
    let named = [
        (1, SctpEvent::Init),
        (2, SctpEvent::InitAck),
        (6, SctpEvent::Abort),
        (7, SctpEvent::Shutdown),
        (8, SctpEvent::ShutdownAck),
        (9, SctpEvent::Error),
        (10, SctpEvent::CookieEcho),
        (11, SctpEvent::CookieAck),
        (14, SctpEvent::ShutdownComplete),
    ];
    for first in 0..=255 {
        let expected = named
            .iter()
            .find(|(chunk, _)| *chunk == first)
            .map_or(SctpEvent::Data, |(_, event)| *event);
        assert_eq!(SctpEvent::from_chunks(first, None), expected, "{first}");
        assert_eq!(SctpEvent::from_chunks(first, Some(0)), expected, "{first}");
    }
}

#[test]
fn an_abort_right_after_a_cookie_chunk_is_an_abort() {
    for first in 0..=255 {
        let cookie = matches!(first, 10 | 11);
        assert_eq!(SctpEvent::needs_second(first), cookie);
        let alone = SctpEvent::from_chunks(first, None);
        let expected = if cookie { SctpEvent::Abort } else { alone };
        assert_eq!(SctpEvent::from_chunks(first, Some(chunk::ABORT)), expected);
    }
}

#[test]
fn active_states_and_timeouts() {
    for state in SctpState::ALL {
        assert_eq!(is_active(state as u8), state.is_active(), "{state:?}");
        let expected = match state {
            SctpState::None => 2,
            SctpState::Init1 | SctpState::Rejected => 4,
            SctpState::Established => 900,
            SctpState::Init
            | SctpState::CookieSent
            | SctpState::CookieReplied
            | SctpState::CookieWait
            | SctpState::Cookie
            | SctpState::CookieEchoed
            | SctpState::ShutdownSent
            | SctpState::ShutdownReceived
            | SctpState::ShutdownAckSent
            | SctpState::Closed => 61,
        };
        assert_eq!(TIMEOUT_SECS[state as usize], expected, "{state:?}");
    }
}
