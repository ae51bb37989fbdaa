#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test ends there"
)]

use std::net::Ipv4Addr;

use super::*;
use crate::config::{Authentication, Config, Interval, Parameters, Priority};
use crate::wire::{Advert, GROUP, Identification};
use crate::{AdvertCodec, wire::ah};

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x100);

fn advert(addresses: &[IpAddr]) -> Advert<'_> {
    Advert {
        vrid: 51,
        priority: Priority(150),
        interval: Interval::DEFAULT,
        addresses,
    }
}

fn packet() -> Vec<u8> {
    advert(&[VIP.into()]).to_packet(SOURCE, Identification::FIRST)
}

/// A packet of version 2 as a router sends it.
fn packet_v2(authentication: Authentication) -> Vec<u8> {
    let parameters = Parameters {
        version: 2,
        vrid: 51,
        addresses: vec![VIP.into()],
        authentication,
        ..Parameters::default()
    };
    let mut codec = AdvertCodec::new(&Config::new(parameters).unwrap());
    let sent = codec.encode(Priority(150), SOURCE.into());
    sent.into_iter().next().unwrap().bytes
}

fn packet_v6(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).unwrap().to_be_bytes();
    let IpAddr::V6(group) = Family::V6.group() else {
        panic!("a group of IPv6")
    };
    let parts: [&[u8]; 6] = [
        &[0x6c, 0, 0, 0],
        &len,
        &[112, 255],
        &SOURCE_V6.octets(),
        &group.octets(),
        message,
    ];
    parts.concat()
}

fn message_v6(version: u8) -> Vec<u8> {
    let IpAddr::V6(group) = Family::V6.group() else {
        panic!("a group of IPv6")
    };
    let vips = [VIP_V6.into()];
    match version {
        2 => v2::message_v6(&advert(&vips), SOURCE_V6, group),
        _ => v3::message_v6(&advert(&vips), SOURCE_V6, group),
    }
}

fn expected() -> Inspection {
    Inspection {
        src: SOURCE.into(),
        dst: GROUP.into(),
        ttl: 255,
        version: Some(3),
        vrid: Some(51),
        priority: Some(150),
        addrs: vec![VIP.into()],
        advert_int_cs: Some(100),
        auth_type: None,
        auth_header: None,
        checksum_form: Some(ChecksumForm::Rfc5798),
        verdict: Ok(()),
    }
}

#[test]
fn every_field_of_a_good_advert_is_read() {
    let found = inspect(&packet()).unwrap();
    assert_eq!(found, expected());
    assert!(found.checksum_ok());
    assert_eq!(found.verdict_name(), "ok");
}

#[test]
fn every_authentication_of_version_2_is_read() {
    let password = Authentication::password("1111");
    for (authentication, kind) in [
        (Authentication::None, 0),
        (Authentication::Simple(password), 1),
        (Authentication::Header(password), 2),
    ] {
        let found = inspect(&packet_v2(authentication)).unwrap();
        let header = found.auth_header;
        let expected = Inspection {
            version: Some(2),
            auth_type: Some(kind),
            auth_header: header,
            checksum_form: Some(ChecksumForm::Rfc3768),
            ..expected()
        };
        assert_eq!(found, expected);
        let header = header.map(|header| (header.sender, header.sequence));
        assert_eq!(header, (kind == 2).then_some((SOURCE, 1)));
    }
}

#[test]
fn both_versions_are_read_over_ipv6() {
    for version in [2, 3] {
        let found = inspect(&packet_v6(&message_v6(version))).unwrap();
        let expected = Inspection {
            src: SOURCE_V6.into(),
            dst: Family::V6.group(),
            version: Some(version),
            addrs: vec![VIP_V6.into()],
            auth_type: (version == 2).then_some(0),
            checksum_form: Some(ChecksumForm::Ipv6),
            ..expected()
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn padding_of_the_link_is_no_part_of_the_packet() {
    for packet in [packet(), packet_v6(&message_v6(3))] {
        let padded = [packet.as_slice(), &[0; 14]].concat();
        assert_eq!(inspect(&padded), inspect(&packet));
    }
}

#[test]
fn what_is_not_vrrp_is_not_read() {
    for (at, value) in [(0, 0x75), (9, 17)] {
        let mut other = packet();
        other[at] = value;
        assert_eq!(inspect(&other), None);
    }
    let mut other = packet_v6(&message_v6(3));
    other[6] = 58;
    assert_eq!(inspect(&other), None);
    let mut other = packet_v2(Authentication::Header(*b"secret12"));
    other[20] = 6;
    assert_eq!(inspect(&other), None);
    assert_eq!(inspect(&packet()[..19]), None);
    assert_eq!(inspect(&packet_v6(&[])[..39]), None);
    assert_eq!(inspect(&[]), None);
}

#[test]
fn a_cut_packet_shows_the_fields_that_are_left() {
    let v6 = packet_v6(&message_v6(3));
    for (whole, header_len) in [(packet(), 20), (v6, 40)] {
        for len in header_len..whole.len() {
            let found = inspect(&whole[..len]).unwrap();
            assert_eq!(found.verdict, Err(Refusal::Truncated));
            assert_eq!(found.vrid, (len >= header_len + 8).then_some(51));
            assert!(found.addrs.is_empty());
        }
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

#[test]
fn each_fault_of_authentication_has_its_verdict() {
    let verdict = |spoil: fn(&mut Vec<u8>)| {
        let mut packet = packet_v2(Authentication::Header(*b"secret12"));
        spoil(&mut packet);
        inspect(&packet).unwrap().verdict_name()
    };
    assert_eq!(verdict(|p| p[21] = 5), "auth_header");
    assert_eq!(verdict(|p| p[24] ^= 1), "auth_sender");
    assert_eq!(verdict(|p| p[20 + ah::LEN + 4] = 0), "auth_header");
    let mut other = packet_v2(Authentication::None);
    other[24] = 3;
    assert_eq!(inspect(&other).unwrap().verdict_name(), "auth_type");
}
