//! Announcements against captured ones.
#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::net::Ipv4Addr;

use vrrp::wire::MacAddr;
use vrrp::wire::arp::gratuitous;

#[test]
fn announcements_are_those_of_keepalived_to_the_byte() {
    let vectors: Vec<_> = include_str!("vectors/garp.hex")
        .lines()
        .filter_map(vector)
        .collect();
    assert_eq!(vectors.len(), 2);
    for (addr, mac, frame) in vectors {
        assert_eq!(gratuitous(addr, mac).as_slice(), frame);
    }
}

/// Address, MAC and frame of a line that is neither empty nor a comment.
fn vector(line: &str) -> Option<(Ipv4Addr, MacAddr, Vec<u8>)> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let [addr, mac, frame] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let mac = bytes(mac).try_into().unwrap();
    Some((addr.parse().unwrap(), MacAddr(mac), bytes(frame)))
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2));
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}
