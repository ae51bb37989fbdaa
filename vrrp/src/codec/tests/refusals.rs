//! One bad datagram for every refusal and every kind of router.

use super::forge::{Kind, Sample, ip};
use crate::codec::AdvertCodec;
use crate::config::{Authentication, Config, Family, Version};
use crate::wire::{Refusal, ah};

/// Why a kind of router never has this reason to refuse.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not said to be impossible has to have its bad datagram"
)]
fn impossible(kind: &Kind, refusal: Refusal) -> Option<&'static str> {
    let is_v2 = kind.version == Version::V2;
    let is_v4 = kind.family == Family::V4;
    let has_password = matches!(kind.authentication, Authentication::Simple(_));
    let has_header = kind.authentication.is_header();
    match refusal {
        Refusal::TotalLength if !is_v4 => Some("no IPv4 header"),
        Refusal::AuthHeader if !is_v4 => Some("another protocol has another socket"),
        Refusal::Cast if is_v4 => Some("over IPv4 it is the destination"),
        Refusal::Ttl if kind.is_unicast => Some("peers may be some hops away"),
        Refusal::AuthType | Refusal::Interval if !is_v2 => Some("version 2 only"),
        Refusal::AuthPassword if !has_password => Some("no password"),
        Refusal::AuthDigest | Refusal::AuthSender | Refusal::AuthReplay if !has_header => {
            Some("no authentication header")
        }
        Refusal::PeerUnknown | Refusal::PeerTtl if !kind.is_unicast => Some("no peers"),
        Refusal::IntervalZero if is_v2 => Some("another interval than the configured one"),
        _ => None,
    }
}

/// Spoils a packet in one way, and makes the rest of it fit again.
fn spoil(sample: &mut Sample, refusal: Refusal) {
    let kind = sample.kind;
    let at = sample.message_at();
    let address_len = kind.family.address_len();
    match refusal {
        Refusal::Truncated => {
            sample.received_len += 1;
            return;
        }
        Refusal::IpHeader => match kind.family {
            Family::V4 => sample.bytes[9] = 17,
            Family::V6 => sample.v6 = None,
        },
        Refusal::Short => sample.bytes.truncate(at + 7),
        Refusal::Cast if kind.is_unicast => sample.set_destination(kind.family.group()),
        Refusal::Cast => sample.set_destination(kind.primary()),
        Refusal::UnknownVrid => sample.bytes[at + 1] = 52,
        Refusal::NotRunning => sample.running = false,
        Refusal::AuthHeader if kind.authentication.is_header() => {
            sample.bytes[9] = 112;
            sample.bytes.drain(20..20 + ah::LEN);
        }
        Refusal::AuthHeader => {
            sample.bytes[9] = 51;
            let header = [112, 4].into_iter().chain([0; ah::LEN - 2]);
            sample.bytes.splice(20..20, header);
        }
        Refusal::Length => sample.bytes.push(0),
        Refusal::Ttl => sample.set_ttl(254),
        Refusal::Version => {
            match (kind.version, kind.family) {
                (Version::V2, Family::V4) => {
                    let len = sample.bytes.len() - 8;
                    sample.bytes.truncate(len);
                }
                (Version::V3, Family::V4) => sample.bytes.extend([0; 8]),
                (Version::V2 | Version::V3, Family::V6) => {}
            }
            // Two becomes three and three two.
            sample.bytes[at] ^= 0x10;
        }
        Refusal::AuthType => sample.bytes[at + 4] ^= 1,
        Refusal::AuthPassword => {
            let last = sample.bytes.len() - 1;
            sample.bytes[last] ^= 1;
        }
        Refusal::AuthDigest => {
            sample.bytes[at - 1] ^= 1;
            return;
        }
        Refusal::AuthSender => sample.bytes[20 + 7] ^= 1,
        Refusal::AuthReplay => sample.bytes[20 + 8..20 + 12].fill(0),
        Refusal::Interval => sample.bytes[at + 5] = 2,
        Refusal::Type => sample.bytes[at] ^= 3,
        Refusal::AddressCount => {
            sample.bytes.drain(at + 8..at + 8 + address_len);
            sample.bytes[at + 3] = 1;
        }
        Refusal::TotalLength => {
            // Longer than what was received, except where the end has to be a password.
            let by: i8 = if kind.version == Version::V2 { 8 } else { 1 };
            sample.bytes[3] = sample.bytes[3].saturating_add_signed(-by);
            if let Authentication::Simple(password) = kind.authentication {
                // What ends there is the last address.
                let end = sample.bytes.len() - 8;
                sample.bytes[end - 8..end].copy_from_slice(&password);
            }
            sample.seal_checksum();
            sample.seal_sum();
            return;
        }
        Refusal::Checksum => {
            sample.bytes[at + 7] ^= 1;
            sample.seal_sum();
            return;
        }
        Refusal::Destination => sample.set_destination(match (kind.family, kind.is_unicast) {
            (Family::V4, true) => kind.family.group(),
            (Family::V4, false) => kind.primary(),
            (Family::V6, true) => kind.hosts()[2],
            (Family::V6, false) => ip("ff02::1"),
        }),
        Refusal::AddressList => sample.bytes[at + 8 + address_len - 1] = 77,
        Refusal::PeerUnknown => sample.set_source(match kind.family {
            Family::V4 => ip("198.51.100.1"),
            Family::V6 => ip("2001:db8:7::7"),
        }),
        Refusal::PeerTtl => sample.set_ttl(199),
        Refusal::IntervalZero => sample.bytes[at + 4..at + 6].fill(0),
    }
    sample.seal();
}

#[test]
fn every_refusal_of_every_kind_has_its_bad_datagram() {
    let (mut refused, mut left_out) = (0, 0);
    for kind in Kind::all() {
        for &refusal in Refusal::ALL {
            if let Some(why) = impossible(&kind, refusal) {
                println!("{kind:?} never refuses {refusal}: {why}");
                left_out += 1;
                continue;
            }
            let mut sample = kind.sample();
            spoil(&mut sample, refusal);
            let result = sample.judged(&mut kind.receiver());
            assert_eq!(result, Err(refusal), "{kind:?}");
            refused += 1;
        }
    }
    println!("{refused} refused, {left_out} impossible");
    assert_eq!(refused + left_out, 12 * Refusal::ALL.len());
}

#[test]
fn of_two_faults_the_first_in_the_order_of_the_list_is_named() {
    // These change different bytes, and no length.
    let faults = [
        Refusal::UnknownVrid,
        Refusal::NotRunning,
        Refusal::Ttl,
        Refusal::AuthType,
        Refusal::AuthPassword,
        Refusal::AuthReplay,
        Refusal::Interval,
        Refusal::Type,
        Refusal::Checksum,
        Refusal::Destination,
        Refusal::AddressList,
        Refusal::PeerUnknown,
        Refusal::PeerTtl,
        Refusal::IntervalZero,
    ];
    assert!(faults.is_sorted());
    let mut pairs = 0;
    for kind in Kind::all() {
        let is_possible = |fault: &Refusal| impossible(&kind, *fault).is_none();
        let possible: Vec<_> = faults.into_iter().filter(is_possible).collect();
        for (index, &first) in possible.iter().enumerate() {
            for &second in &possible[index + 1..] {
                let mut sample = kind.sample();
                spoil(&mut sample, first);
                spoil(&mut sample, second);
                if first == Refusal::Checksum {
                    // The other fault has made it fit again.
                    spoil(&mut sample, first);
                }
                let result = sample.judged(&mut kind.receiver());
                assert_eq!(result, Err(first), "{first} and {second}, {kind:?}");
                pairs += 1;
            }
        }
    }
    println!("{pairs} pairs");
}

#[test]
fn an_authentication_header_of_another_kind_is_refused() {
    for kind in Kind::all() {
        if !kind.authentication.is_header() {
            continue;
        }
        for (at, value) in [(20, 17), (21, 5)] {
            let mut sample = kind.sample();
            sample.bytes[at] = value;
            sample.seal();
            let result = sample.judged(&mut kind.receiver());
            assert_eq!(result, Err(Refusal::AuthHeader), "{kind:?}");
        }
    }
}

#[test]
fn headers_of_ipv4_that_are_none_are_refused() {
    for kind in Kind::all() {
        if kind.family == Family::V6 {
            continue;
        }
        // Another version, a header too short, a fragment, a length shorter than the header.
        for (at, value) in [(0, 0x65), (0, 0x44), (6, 0x20), (3, 19)] {
            let mut sample = kind.sample();
            sample.bytes[at] = value;
            let result = sample.judged(&mut kind.receiver());
            assert_eq!(result, Err(Refusal::IpHeader), "{kind:?}");
        }
    }
}

#[test]
fn with_skip_check_adv_addr_a_sender_once_accepted_is_not_looked_at_again() {
    for kind in Kind::all() {
        for refusal in [
            Refusal::AddressCount,
            Refusal::AddressList,
            Refusal::PeerTtl,
        ] {
            if impossible(&kind, refusal).is_some() {
                continue;
            }
            for skips in [false, true] {
                let context = format!("{refusal}, {kind:?}");
                let [_, peer, other] = kind.hosts();
                let mut parameters = kind.parameters(&[peer, other]);
                parameters.skip_check_adv_addr = skips;
                let mut receiver = AdvertCodec::new(&Config::new(parameters).unwrap());
                let mut sender = kind.sender();
                let mut hears = |source, is_bad| {
                    let mut sample = kind.sample_of(&mut sender, 150);
                    sample.set_source(source);
                    sample.seal();
                    if is_bad {
                        spoil(&mut sample, refusal);
                    }
                    sample.judged(&mut receiver).map(drop)
                };
                assert_eq!(hears(peer, true), Err(refusal), "a new sender, {context}");
                assert_eq!(hears(peer, false), Ok(()), "{context}");
                let expected = if skips { Ok(()) } else { Err(refusal) };
                assert_eq!(hears(peer, true), expected, "the same sender, {context}");
                assert_eq!(hears(other, true), Err(refusal), "another one, {context}");
            }
        }
    }
}

#[test]
fn who_becomes_master_looks_at_every_sender_again() {
    for kind in Kind::all() {
        let [_, peer, other] = kind.hosts();
        let mut parameters = kind.parameters(&[peer, other]);
        parameters.skip_check_adv_addr = true;
        let mut receiver = AdvertCodec::new(&Config::new(parameters).unwrap());
        let mut sender = kind.sender();
        let sample = kind.sample_of(&mut sender, 150);
        assert!(sample.judged(&mut receiver).is_ok());
        receiver.became_master();
        let mut sample = kind.sample_of(&mut sender, 150);
        spoil(&mut sample, Refusal::AddressList);
        let result = sample.judged(&mut receiver);
        assert_eq!(result, Err(Refusal::AddressList), "{kind:?}");
    }
}

#[test]
fn peers_are_checked_only_when_asked_for() {
    for kind in Kind::all() {
        if !kind.is_unicast {
            continue;
        }
        let [_, peer, other] = kind.hosts();
        let mut parameters = kind.parameters(&[peer, other]);
        for peer in &mut parameters.peers {
            peer.min_ttl = 0;
        }
        let mut receiver = AdvertCodec::new(&Config::new(parameters).unwrap());
        let mut sender = kind.sender();
        for refusal in [Refusal::PeerUnknown, Refusal::PeerTtl] {
            let mut sample = kind.sample_of(&mut sender, 150);
            spoil(&mut sample, refusal);
            assert!(sample.judged(&mut receiver).is_ok(), "{kind:?}");
        }
    }
}

#[test]
fn names_of_refusals_are_unique_and_counters_carry_them() {
    let mut names: Vec<_> = Refusal::ALL.iter().map(|refusal| refusal.name()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Refusal::ALL.len());
    for refusal in Refusal::ALL {
        assert_eq!(refusal.counter(), format!("refused_{refusal}"));
    }
}

#[test]
fn no_bytes_make_the_checks_panic() {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for kind in Kind::all() {
        let mut receiver = kind.receiver();
        let whole = kind.sample();
        for _ in 0..20_000 {
            let mut sample = whole.clone();
            for _ in 0..random() % 6 {
                let at = random() % sample.bytes.len();
                sample.bytes[at] = random() as u8;
            }
            let len = random() % (sample.bytes.len() + 1);
            sample.bytes.truncate(len);
            sample.bytes.resize(len + random() % 3, 0);
            sample.received_len = sample.bytes.len();
            let _ = sample.judged(&mut receiver);
            let _ = crate::wire::inspect(&sample.bytes);
        }
    }
}
