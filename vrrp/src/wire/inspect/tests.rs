#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

use super::*;
use crate::config::{Interval, Priority};
use crate::wire::v3::{Advert, Identification};

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

fn packet() -> Vec<u8> {
    let advert = Advert {
        vrid: 51,
        priority: Priority(150),
        interval: Interval::DEFAULT,
        addresses: &[VIP],
    };
    advert.to_packet(SOURCE, Identification::FIRST)
}

#[test]
fn every_field_of_a_good_advert_is_read() {
    let found = inspect(&packet()).unwrap();
    let expected = Inspection {
        src: SOURCE,
        dst: GROUP,
        ttl: 255,
        version: Some(3),
        vrid: Some(51),
        priority: Some(150),
        addrs: vec![VIP],
        advert_int_cs: Some(100),
        auth_type: None,
        checksum_form: Some(ChecksumForm::Rfc5798),
        verdict: Ok(()),
    };
    assert_eq!(found, expected);
    assert!(found.checksum_ok());
    assert_eq!(found.verdict_name(), "ok");
}

#[test]
fn padding_of_the_link_is_no_part_of_the_packet() {
    let padded = [packet(), vec![0; 14]].concat();
    assert_eq!(inspect(&padded), inspect(&packet()));
}

#[test]
fn what_is_not_vrrp_is_not_read() {
    for (at, value) in [(0, 0x65), (9, 17)] {
        let mut other = packet();
        other[at] = value;
        assert_eq!(inspect(&other), None);
    }
    assert_eq!(inspect(&packet()[..19]), None);
    assert_eq!(inspect(&[]), None);
}

#[test]
fn a_cut_packet_shows_the_fields_that_are_left() {
    let whole = packet();
    for len in 20..whole.len() {
        let found = inspect(&whole[..len]).unwrap();
        assert_eq!(found.verdict, Err(Refusal::Truncated));
        assert_eq!(found.vrid, (len >= 28).then_some(51));
        assert!(found.addrs.is_empty());
    }
}

#[test]
fn each_fault_has_its_verdict() {
    let verdict = |spoil: fn(&mut Vec<u8>)| {
        let mut packet = packet();
        spoil(&mut packet);
        inspect(&packet).unwrap().verdict_name()
    };
    assert_eq!(verdict(|p| p[8] = 1), "ttl");
    assert_eq!(verdict(|p| p[20] = 0x41), "version");
    assert_eq!(verdict(|p| p[20] = 0x32), "type");
    assert_eq!(verdict(|p| p[23] = 9), "length");
    assert_eq!(verdict(|p| p[27] ^= 1), "checksum");
    assert_eq!(verdict(|p| p[7] = 1), "ip_header");
    assert_eq!(verdict(|p| p[3] = 27), "short");
    let zero = |p: &mut Vec<u8>| {
        // The checksum without pseudo-header of the same advertisement with interval 0.
        p[25] = 0;
        p[26..28].copy_from_slice(&[0x76, 0x66]);
    };
    assert_eq!(verdict(zero), "interval_zero");
}
