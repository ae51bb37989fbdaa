#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

mod counters;
mod forge;
mod refusals;

use std::net::IpAddr;

use super::*;
use crate::config::{Interval, Parameters, Peer};
use forge::{Kind, OTHER, PEER, SOURCE, Sample, ip};

/// Version, family, cast and authentication, in every combination there is.
#[test]
fn what_is_sent_is_accepted() {
    for kind in Kind::all() {
        let mut receiver = kind.receiver();
        let sample = kind.sample();
        let accepted = sample.judged(&mut receiver).unwrap();
        let heard = Heard {
            source: kind.peer(),
            priority: Priority(150),
            interval: Interval::DEFAULT,
        };
        assert_eq!(accepted.heard, heard, "{kind:?}");
        assert_eq!(accepted.form, kind.form(), "{kind:?}");
        assert!(!accepted.old_form_seen_first_time);
    }
}

#[test]
fn a_packet_goes_to_the_group_or_to_each_peer_in_their_order() {
    for kind in Kind::all() {
        let sent = kind.sender().encode(Priority(150), kind.peer());
        let destinations: Vec<_> = sent.iter().map(|sent| sent.destination).collect();
        if kind.is_unicast {
            let [source, _, other] = kind.hosts();
            assert_eq!(destinations, [source, other], "{kind:?}");
        } else {
            assert_eq!(destinations, [kind.family.group()], "{kind:?}");
        }
    }
}

#[test]
fn without_an_address_of_the_family_nothing_is_sent() {
    for kind in Kind::all() {
        let wrong = match kind.family {
            Family::V4 => ip("2001:db8::1"),
            Family::V6 => ip("192.0.2.1"),
        };
        let mut sender = kind.sender();
        assert_eq!(sender.encode(Priority(150), wrong), []);
        // And nothing has counted up.
        let [first, second] =
            [sender, kind.sender()].map(|mut sender| sender.encode(Priority(150), kind.peer()));
        assert_eq!(first, second, "{kind:?}");
    }
}

#[test]
fn packets_to_peers_have_the_configured_time_to_live() {
    let parameters = Parameters {
        vrid: 51,
        addresses: vec![ip("192.0.2.100")],
        peers: vec![Peer::new(ip(OTHER))],
        unicast_ttl: 64,
        ..Parameters::default()
    };
    let mut codec = AdvertCodec::new(&Config::new(parameters).unwrap());
    let sent = codec.encode(Priority(150), ip(SOURCE));
    assert_eq!(sent[0].bytes[8], 64);
}

/// Version 3 over IPv4 alone has a choice.
fn unicast_v3(checksum: ChecksumForm, to: &str) -> Config {
    let parameters = Parameters {
        vrid: 51,
        addresses: vec![ip("192.0.2.100")],
        peers: vec![Peer::new(ip(to))],
        checksum,
        ..Parameters::default()
    };
    Config::new(parameters).unwrap()
}

#[test]
fn each_form_of_the_checksum_is_sent_and_accepted_by_who_is_not_told_otherwise() {
    for form in [
        ChecksumForm::Rfc5798,
        ChecksumForm::Rfc9568,
        ChecksumForm::OldUnicast,
    ] {
        let mut sender = AdvertCodec::new(&unicast_v3(form, SOURCE));
        let sent = sender.encode(Priority(150), ip(PEER));
        for (told, accepts) in [
            (ChecksumForm::Rfc5798, true),
            (ChecksumForm::Rfc9568, true),
            (ChecksumForm::OldUnicast, form == ChecksumForm::OldUnicast),
        ] {
            let mut receiver = AdvertCodec::new(&unicast_v3(told, PEER));
            let datagram = Datagram::v4(&sent[0].bytes);
            let result = receiver.decode(&datagram, ip(SOURCE), true);
            let found = result.map(|accepted| accepted.form);
            let expected = if accepts {
                Ok(form)
            } else {
                Err(Refusal::Checksum)
            };
            assert_eq!(found, expected, "{form:?} to one told {told:?}");
        }
    }
}

#[test]
fn the_old_form_of_the_checksum_is_said_once_and_not_to_who_expects_it() {
    let mut sender = AdvertCodec::new(&unicast_v3(ChecksumForm::OldUnicast, SOURCE));
    let sent = sender.encode(Priority(150), ip(PEER));
    let datagram = Datagram::v4(&sent[0].bytes);
    for (told, says) in [
        (ChecksumForm::Rfc5798, [true, false]),
        (ChecksumForm::OldUnicast, [false, false]),
    ] {
        let mut receiver = AdvertCodec::new(&unicast_v3(told, PEER));
        let said = [(); 2].map(|()| {
            let accepted = receiver.decode(&datagram, ip(SOURCE), true).unwrap();
            accepted.old_form_seen_first_time
        });
        assert_eq!(said, says, "{told:?}");
    }
}

#[test]
fn reserved_bits_and_the_order_of_addresses_do_not_matter() {
    for kind in Kind::all() {
        let mut sample = kind.sample();
        let message = sample.message_at();
        let address_len = kind.family.address_len();
        let begin = message + 8;
        sample.bytes[begin..begin + 2 * address_len].rotate_left(address_len);
        if kind.version == Version::V3 {
            sample.bytes[message + 4] |= 0xf0;
        }
        sample.seal();
        let accepted = sample.judged(&mut kind.receiver());
        assert_eq!(
            accepted.map(|accepted| accepted.heard.interval),
            Ok(Interval::DEFAULT),
            "{kind:?}"
        );
    }
}

#[test]
fn ip_options_do_not_matter() {
    for kind in Kind::all() {
        if kind.family == Family::V6 {
            continue;
        }
        let mut sample = kind.sample();
        sample.bytes[0] = 0x46;
        sample.bytes.splice(20..20, [1, 1, 1, 0]);
        sample.seal();
        assert!(sample.judged(&mut kind.receiver()).is_ok(), "{kind:?}");
    }
}

#[test]
fn bytes_of_the_other_family_are_refused() {
    for kind in Kind::all() {
        let other = Kind {
            version: Version::V3,
            family: match kind.family {
                Family::V4 => Family::V6,
                Family::V6 => Family::V4,
            },
            authentication: Authentication::None,
            ..kind
        };
        let mut sample: Sample = other.sample();
        sample.primary = kind.primary();
        let result = sample.judged(&mut kind.receiver());
        assert_eq!(result, Err(Refusal::IpHeader), "{kind:?}");
    }
}

#[test]
fn an_interval_of_version_3_is_learnt() {
    for kind in Kind::all() {
        if kind.version == Version::V2 {
            continue;
        }
        let mut sample = kind.sample();
        let at = sample.message_at() + 4;
        sample.bytes[at..at + 2].copy_from_slice(&[0x0f, 0xff]);
        sample.seal();
        let accepted = sample.judged(&mut kind.receiver()).unwrap();
        assert_eq!(accepted.heard.interval, Interval::MAX_V3);
    }
}

#[test]
fn the_type_of_addresses_is_that_of_the_source() {
    let heard = |kind: Kind| kind.sample().judged(&mut kind.receiver()).unwrap().heard;
    for kind in Kind::all() {
        let is_v4 = matches!(heard(kind).source, IpAddr::V4(_));
        assert_eq!(is_v4, kind.family == Family::V4);
    }
}

/// Captured from keepalived 2.2.7: its second advertisement to two peers.
#[test]
fn authentication_headers_to_peers_are_those_of_keepalived() {
    let captured = [
        "45c0004000020000ff3336c5c0000201c000020270040000c00002010000000226dae7f8b8c3b4db203460c4\
         2133960102018465c00002640000000000000000",
        "45c0004000020000ff3336c4c0000201c000020370040000c00002010000000228a3c0a846a24f7d41c27979\
         2133960102018465c00002640000000000000000",
    ];
    let parameters = Parameters {
        version: 2,
        vrid: 51,
        addresses: vec![ip("192.0.2.100")],
        authentication: Authentication::Header(*b"secret12"),
        peers: [PEER, OTHER].map(|peer| Peer::new(ip(peer))).to_vec(),
        ..Parameters::default()
    };
    let mut codec = AdvertCodec::new(&Config::new(parameters).unwrap());
    codec.encode(Priority(150), ip(SOURCE));
    let sent = codec.encode(Priority(150), ip(SOURCE));
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let sent: Vec<_> = sent.iter().map(|sent| hex(&sent.bytes)).collect();
    assert_eq!(sent, captured);
}
