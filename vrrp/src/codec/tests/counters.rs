//! What counts up from one advertisement to the next.

use super::forge::Kind;
use crate::codec::{AdvertCodec, SEQUENCE_LAST};
use crate::config::{Interval, Priority};
use crate::fsm::Heard;
use crate::wire::ah::AuthHeader;
use crate::wire::{Identification, Refusal};

fn with_headers() -> Vec<Kind> {
    let kinds = Kind::all().into_iter();
    kinds
        .filter(|kind| kind.authentication.is_header())
        .collect()
}

/// The numbers of the next advertisement, one for each destination.
fn sequences(kind: &Kind, codec: &mut AdvertCodec) -> Vec<u32> {
    let sent = codec.encode(Priority(150), kind.peer());
    let sequence = |bytes: &[u8]| AuthHeader::parse(&bytes[20..]).unwrap().0.sequence;
    sent.iter().map(|sent| sequence(&sent.bytes)).collect()
}

fn lower(kind: &Kind) -> Heard {
    Heard {
        source: kind.peer(),
        priority: Priority(100),
        interval: Interval::DEFAULT,
    }
}

#[test]
fn identifications_begin_at_one_skip_zero_and_are_the_same_to_all_peers() {
    for kind in Kind::all() {
        if kind.peer().is_ipv6() {
            continue;
        }
        let mut codec = kind.sender();
        let destinations = if kind.is_unicast { 2 } else { 1 };
        for expected in [1, 2, 3] {
            let sent = codec.encode(Priority(150), kind.peer());
            let found = sent
                .iter()
                .map(|sent| u16::from_be_bytes([sent.bytes[4], sent.bytes[5]]));
            let found: Vec<_> = found.collect();
            assert_eq!(found, vec![expected; destinations], "{kind:?}");
        }
    }
    assert_eq!(Identification::from(u16::MAX).next(), Identification::FIRST);
}

#[test]
fn sequence_numbers_begin_at_one_and_are_the_same_to_all_peers() {
    for kind in with_headers() {
        let mut codec = kind.sender();
        let destinations = if kind.is_unicast { 2 } else { 1 };
        for expected in [1, 2, 3] {
            let found = sequences(&kind, &mut codec);
            assert_eq!(found, vec![expected; destinations], "{kind:?}");
        }
    }
}

#[test]
fn a_sequence_number_is_accepted_once_and_in_order() {
    for kind in with_headers() {
        let (mut sender, mut receiver) = (kind.sender(), kind.receiver());
        let first = kind.sample_of(&mut sender, 150);
        let second = kind.sample_of(&mut sender, 150);
        assert!(second.judged(&mut receiver).is_ok());
        for old in [first, second] {
            let result = old.judged(&mut receiver);
            assert_eq!(result, Err(Refusal::AuthReplay), "{kind:?}");
        }
    }
}

#[test]
fn what_was_sent_while_the_router_took_no_part_is_old_when_it_does() {
    for kind in with_headers() {
        let (mut sender, mut receiver) = (kind.sender(), kind.receiver());
        let meanwhile = kind.sample_of(&mut sender, 150);
        let mut unheard = meanwhile.clone();
        unheard.running = false;
        let result = unheard.judged(&mut receiver);
        assert_eq!(result, Err(Refusal::NotRunning), "{kind:?}");
        let result = meanwhile.judged(&mut receiver);
        assert_eq!(result, Err(Refusal::AuthReplay), "{kind:?}");
        let next = kind.sample_of(&mut sender, 150);
        assert!(next.judged(&mut receiver).is_ok());
    }
}

#[test]
fn what_is_heard_and_what_is_sent_share_one_counter() {
    for kind in with_headers() {
        let (mut sender, mut receiver) = (kind.sender(), kind.receiver());
        for _ in 0..4 {
            sequences(&kind, &mut sender);
        }
        let fifth = kind.sample_of(&mut sender, 150);
        assert!(fifth.judged(&mut receiver).is_ok());
        assert_eq!(sequences(&kind, &mut receiver)[0], 6);
        // Another master that counts the same is heard, or the two would stay masters.
        let sixth = kind.sample_of(&mut sender, 150);
        assert!(sixth.judged(&mut receiver).is_ok());
        assert_eq!(sequences(&kind, &mut receiver)[0], 7);
    }
}

#[test]
fn an_echo_of_its_own_is_a_replay() {
    for kind in with_headers() {
        let mut router = kind.receiver();
        let mut echo = kind.sender();
        for _ in 0..4 {
            sequences(&kind, &mut router);
        }
        for _ in 0..3 {
            sequences(&kind, &mut echo);
        }
        let mut fourth = kind.sample_of(&mut echo, 150);
        fourth.primary = kind.peer();
        let result = fourth.judged(&mut router);
        assert_eq!(result, Err(Refusal::AuthReplay), "{kind:?}");
    }
}

#[test]
fn a_counter_does_not_move_for_what_is_not_proven() {
    for kind in with_headers() {
        let (mut sender, mut receiver) = (kind.sender(), kind.receiver());
        let mut forged = kind.sample_of(&mut sender, 150);
        forged.bytes[28..32].fill(0xff);
        let result = forged.judged(&mut receiver);
        assert_eq!(result, Err(Refusal::AuthDigest), "{kind:?}");
        let next = kind.sample_of(&mut sender, 150);
        assert!(next.judged(&mut receiver).is_ok());
    }
}

#[test]
fn a_master_that_heard_a_lower_router_sends_beyond_its_number() {
    for kind in with_headers() {
        let (mut sender, mut receiver) = (kind.sender(), kind.receiver());
        for _ in 0..9 {
            sequences(&kind, &mut sender);
        }
        let tenth = kind.sample_of(&mut sender, 100);
        assert!(tenth.judged(&mut receiver).is_ok());
        receiver.heard_lower(&lower(&kind));
        assert_eq!(sequences(&kind, &mut receiver)[0], 12, "{kind:?}");
        // Nothing goes back.
        receiver.heard_lower(&lower(&kind));
        assert_eq!(sequences(&kind, &mut receiver)[0], 13, "{kind:?}");
    }
}

#[test]
fn a_counter_at_its_end_stands_still_until_the_router_becomes_master_again() {
    for kind in with_headers() {
        let mut codec = kind.sender();
        codec.sequence = SEQUENCE_LAST - 1;
        assert_eq!(sequences(&kind, &mut codec)[0], SEQUENCE_LAST);
        assert_eq!(sequences(&kind, &mut codec)[0], SEQUENCE_LAST);
        codec.became_master();
        assert_eq!(sequences(&kind, &mut codec)[0], 1, "{kind:?}");
        codec.became_master();
        assert_eq!(sequences(&kind, &mut codec)[0], 2, "{kind:?}");
    }
}

#[test]
fn without_the_header_nothing_is_counted() {
    for kind in Kind::all() {
        let mut codec = kind.sender();
        codec.encode(Priority(150), kind.peer());
        let is_counted = codec.sequence != 0;
        assert_eq!(is_counted, kind.authentication.is_header());
    }
}
