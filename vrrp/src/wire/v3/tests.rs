#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

use super::*;
use crate::wire::ipv4;

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const VIPS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 101)];

const RUNNING: Expected<'_> = Expected {
    vrid: 51,
    addresses: &VIPS,
    running: true,
};

fn advert(addresses: &[Ipv4Addr]) -> Advert<'_> {
    Advert {
        vrid: 51,
        priority: Priority(150),
        interval: Interval::DEFAULT,
        addresses,
    }
}

fn packet() -> Vec<u8> {
    advert(&VIPS).to_packet(SOURCE, Identification::FIRST)
}

fn judged(packet: &[u8]) -> Result<Accepted, Refusal> {
    receive(packet, packet.len(), &RUNNING)
}

/// A packet with bytes changed, lengths and checksum made to fit again.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet();
    change(&mut packet);
    let len = u16::try_from(packet.len()).unwrap().to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    let begin = usize::from(packet[0] & 0x0f) * 4;
    let dst = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
    if packet.len() >= begin + HEADER_LEN {
        packet[begin + 6..begin + 8].fill(0);
        let sum = checksum::rfc5798(&packet[begin..], SOURCE, dst);
        packet[begin + 6..begin + 8].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

#[test]
fn the_worked_examples_are_met_to_the_byte() {
    let packet = advert(&VIPS[..1]).to_packet(SOURCE, Identification::FIRST);
    let expected = [
        0x45, 0xc0, 0, 0x20, 0, 1, 0, 0, 0xff, 0x70, 0x18, 0x99, 192, 0, 2, 1, 224, 0, 0, 18, 0x31,
        0x33, 0x96, 1, 0, 0x64, 0xd3, 0x71, 192, 0, 2, 100,
    ];
    assert_eq!(packet, expected);
    let owner = Advert {
        priority: Priority::OWNER,
        interval: Interval::from_centis(4095).unwrap(),
        ..advert(&VIPS[..1])
    };
    let packet = owner.to_packet(SOURCE, Identification::FIRST);
    let message = [0x31, 0x33, 0xff, 1, 0x0f, 0xff, 0x5a, 0xd6, 192, 0, 2, 100];
    assert_eq!(packet[20..], message);
}

#[test]
fn what_is_sent_is_accepted() {
    let accepted = judged(&packet()).unwrap();
    assert_eq!(accepted.form, ChecksumForm::Rfc5798);
    let heard = Heard {
        source: SOURCE,
        priority: Priority(150),
        interval: Interval::DEFAULT,
    };
    assert_eq!(accepted.heard, heard);
}

#[test]
fn a_checksum_without_pseudo_header_is_accepted() {
    let mut packet = packet();
    packet[26..28].fill(0);
    let sum = checksum::internet(checksum::Sum::default().bytes(&packet[20..]));
    packet[26..28].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(judged(&packet).unwrap().form, ChecksumForm::Rfc9568);
}

#[test]
fn the_reserved_bits_and_the_order_of_addresses_do_not_matter() {
    let accepted = judged(&changed(|p| p[24] |= 0xf0)).unwrap();
    assert_eq!(accepted.heard.interval, Interval::DEFAULT);
    assert!(judged(&changed(|p| p[28..36].rotate_left(4))).is_ok());
}

#[test]
fn ip_options_do_not_matter() {
    let with_options = changed(|p| {
        p[0] = 0x46;
        p.splice(20..20, [1, 1, 1, 0]);
    });
    assert!(judged(&with_options).is_ok());
}

#[test]
fn identifications_begin_at_one_and_skip_zero() {
    assert_eq!(Identification::FIRST.next(), Identification::from(2));
    assert_eq!(Identification::from(u16::MAX).next(), Identification::FIRST);
}

/// A way to spoil a packet, after which only the lengths and the checksum are put right.
type Spoil = fn(&mut Vec<u8>);

#[test]
fn each_fault_is_refused_by_its_name() {
    let cases: [(Refusal, Spoil); 12] = [
        (Refusal::IpHeader, |p| p[0] = 0x65),
        (Refusal::IpHeader, |p| p[0] = 0x44),
        (Refusal::IpHeader, |p| p[9] = 51),
        (Refusal::IpHeader, |p| p[6] = 0x20),
        (Refusal::Short, |p| p.truncate(27)),
        (Refusal::UnknownVrid, |p| p[21] = 52),
        (Refusal::Length, |p| p.push(0)),
        (Refusal::Length, |p| p[23] = 1),
        (Refusal::Ttl, |p| p[8] = 254),
        (Refusal::Version, |p| {
            p[20] = 0x21;
            p.extend([0; 8]);
        }),
        (Refusal::Type, |p| p[20] = 0x32),
        (Refusal::AddressCount, |p| {
            p[23] = 1;
            p.truncate(32);
        }),
    ];
    for (number, (refusal, spoil)) in cases.into_iter().enumerate() {
        let result = judged(&changed(spoil));
        assert_eq!(result.unwrap_err(), refusal, "case {number}");
    }
    let cases: [(Refusal, Spoil); 3] = [
        (Refusal::Destination, |p| {
            p[16..20].copy_from_slice(&PEER.octets());
        }),
        (Refusal::AddressList, |p| p[31] = 99),
        (Refusal::IntervalZero, |p| p[25] = 0),
    ];
    for (refusal, spoil) in cases {
        assert_eq!(judged(&changed(spoil)).unwrap_err(), refusal);
    }
}

#[test]
fn faults_of_length_and_checksum_are_told_apart() {
    let whole = packet();
    let longer = receive(&whole, whole.len() + 1, &RUNNING);
    assert_eq!(longer.unwrap_err(), Refusal::Truncated);
    let mut other_total = whole.clone();
    other_total[3] -= 1;
    assert_eq!(judged(&other_total).unwrap_err(), Refusal::TotalLength);
    let mut other_sum = whole.clone();
    other_sum[27] ^= 1;
    assert_eq!(judged(&other_sum).unwrap_err(), Refusal::Checksum);
    let idle = Expected {
        running: false,
        ..RUNNING
    };
    let result = receive(&whole, whole.len(), &idle);
    assert_eq!(result.unwrap_err(), Refusal::NotRunning);
}

#[test]
fn the_first_fault_in_the_order_of_the_list_is_named() {
    // Everything that can be wrong together is, and is put right one by one.
    let mut packet = packet();
    packet[21] = 52;
    packet[8] = 1;
    packet[20] = 0x42;
    packet[23] = 3;
    packet[3] -= 1;
    packet[16..20].copy_from_slice(&PEER.octets());
    packet[31] = 99;
    packet[25] = 0;
    let mut seen = Vec::new();
    type Repair = fn(&mut Vec<u8>);
    let repairs: [Repair; 9] = [
        |p| p[21] = 51,
        |p| p.extend([0; 4]),
        |p| p[8] = 255,
        |p| p[20] = 0x32,
        |p| p[20] = 0x31,
        |p| {
            p[23] = 2;
            p.truncate(36);
        },
        |p| p[3] += 1,
        |p| *p = changed(|new| *new = p.clone()),
        |p| {
            p[16..20].copy_from_slice(&GROUP.octets());
            *p = changed(|new| *new = p.clone());
        },
    ];
    for repair in repairs {
        seen.push(judged(&packet).unwrap_err());
        repair(&mut packet);
    }
    seen.push(judged(&packet).unwrap_err());
    let expected = [
        Refusal::UnknownVrid,
        Refusal::Length,
        Refusal::Ttl,
        Refusal::Version,
        Refusal::Type,
        Refusal::AddressCount,
        Refusal::TotalLength,
        Refusal::Checksum,
        Refusal::Destination,
        Refusal::AddressList,
    ];
    assert_eq!(seen, expected);
    assert!(
        seen.is_sorted(),
        "the order of the enum is the order of the checks"
    );
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
    let whole = packet();
    for end in 0..whole.len() {
        assert!(judged(&whole[..end]).is_err());
        let _ = ipv4::Header::parse(&whole[..end]);
    }
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize
    };
    for _ in 0..200_000 {
        let mut bytes = whole.clone();
        for _ in 0..random() % 6 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(random() % (bytes.len() + 1));
        bytes.resize(bytes.len() + random() % 3, 0);
        let _ = judged(&bytes);
        let _ = crate::wire::inspect(&bytes);
    }
}
