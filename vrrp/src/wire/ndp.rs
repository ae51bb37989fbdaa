//! Unsolicited neighbour advertisement: how an IPv6 address is announced on a LAN.
//!
//! A router that has taken a virtual address tells all nodes where it is from now on (RFC 5798
//! §6.4.2, RFC 4861 §7.2.6). The override flag has hosts replace what they remember.
//!
//! ```text
//!  0                       6                       12          14
//!  +-----------------------+-----------------------+-----------+
//!  | 33:33:00:00:00:01     | sender's MAC          | 0x86dd    |                    Ethernet
//!  +-----------+-----------+-----+-----+-----------+-----------+
//!  14          18          20    21    22                      38                      54
//!  | 6, 0, 0   | 32        | 58  | 255 | the address           | ff02::1               |  IPv6
//!  +-----+-----+-----------+-----+-----+-----------------------+-----------------------+
//!  54    55    56          58          62                      78    79    80            86
//!  | 136 | 0   | checksum  | R S O     | the address           | 2   | 1   | its MAC     |
//!  +-----+-----+-----------+-----------+-----------------------+-----+-----+-------------+
//! ```
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv6Addr;

use super::MacAddr;
use super::checksum::{Sum, internet};

/// Length of the frame. Unit: bytes.
pub const FRAME_LEN: usize = 86;

/// All nodes of the link (RFC 4291 §2.7.1), and its Ethernet address (RFC 2464 §7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Version 6, no traffic class, no flow label.
const VERSION: [u8; 4] = [0x60, 0, 0, 0];
const ICMPV6: u8 = 58;
/// What was routed has less (RFC 4861 §7.1.2).
const HOP_LIMIT: u8 = 255;
/// Type and code (RFC 4861 §4.4).
const ADVERTISEMENT: [u8; 2] = [136, 0];
/// The sender routes: the flag R.
const ROUTER: u8 = 0x80;
/// Hosts replace what they remember: the flag O.
const OVERRIDE: u8 = 0x20;
/// The option that names the link-layer address: its type, and its length in units of eight bytes.
const TARGET_LINK_LAYER_ADDRESS: [u8; 2] = [2, 1];
/// From the type to the end of the option. Unit: bytes.
const MESSAGE_LEN: u16 = 32;

/// The frame that says `addr` is at `mac`. `is_router` is the flag R: hosts that have the address as
/// their router forget it when it is not set (RFC 4861 §7.2.5).
pub fn unsolicited(addr: Ipv6Addr, mac: MacAddr, is_router: bool) -> [u8; FRAME_LEN] {
    let flags = if is_router {
        ROUTER | OVERRIDE
    } else {
        OVERRIDE
    };
    let (octets, all_nodes) = (addr.octets(), ALL_NODES.octets());
    let length = MESSAGE_LEN.to_be_bytes();
    let flags = [flags, 0, 0, 0];
    // The pseudo-header of RFC 8200 §8.1, then the message with no checksum.
    let parts: [&[u8]; 9] = [
        &octets,
        &all_nodes,
        &length,
        &[0, ICMPV6],
        &ADVERTISEMENT,
        &flags,
        &octets,
        &TARGET_LINK_LAYER_ADDRESS,
        &mac.0,
    ];
    let sum = parts.into_iter().fold(Sum::default(), Sum::bytes);
    let checksum = internet(sum).to_be_bytes();
    let fields: [&[u8]; 14] = [
        &ALL_NODES_MAC,
        &mac.0,
        &ETHERTYPE_IPV6,
        &VERSION,
        &length,
        &[ICMPV6, HOP_LIMIT],
        &octets,
        &all_nodes,
        &ADVERTISEMENT,
        &checksum,
        &flags,
        &octets,
        &TARGET_LINK_LAYER_ADDRESS,
        &mac.0,
    ];
    let mut frame = [0; FRAME_LEN];
    for (to, from) in frame.iter_mut().zip(fields.into_iter().flatten()) {
        *to = *from;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);

    #[test]
    fn every_byte_of_the_frame_is_written_and_the_checksum_fits() {
        let addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x100);
        let frame = unsolicited(addr, MAC, true);
        assert_eq!(frame.last(), Some(&1), "the end of the MAC");
        let (ipv6, message) = frame.split_at(14).1.split_at(40);
        let sum = Sum::default()
            .bytes(ipv6.split_at(8).1)
            .bytes(&[0, 32, 0, ICMPV6])
            .bytes(message);
        assert_eq!(internet(sum), 0);
    }

    #[test]
    fn a_host_that_does_not_forward_is_no_router() {
        let addr = Ipv6Addr::LOCALHOST;
        let flags = |is_router| *unsolicited(addr, MAC, is_router).get(58).unwrap();
        assert_eq!((flags(true), flags(false)), (0xa0, 0x20));
    }
}
