//! Gratuitous ARP: how an IPv4 address is announced on a LAN.
//!
//! A router that has taken a virtual address broadcasts an ARP request in which it is both the one
//! that asks and the one that is asked for (RFC 5798 §6.4.2, "broadcast a gratuitous ARP request";
//! RFC 5227 §2.3, where it is called an announcement). Hosts renew what they remember for the
//! address, and switches learn the port of the sender.
//!
//! ```text
//!  0                       6                       12          14
//!  +-----------------------+-----------------------+-----------+
//!  | ff:ff:ff:ff:ff:ff     | sender's MAC          | 0x0806    |                    Ethernet
//!  +-----------+-----------+-----+-----+-----------+-----------+
//!  14          16          18    19    20          22
//!  | 1         | 0x0800    | 6   | 4   | 1 request |                                ARP (RFC 826)
//!  +-----------+-----------+-----+-----+-----------+-----------+
//!  22                      28              32                      38              42
//!  | sender's MAC          | the address   | ff:ff:ff:ff:ff:ff     | the address   |
//!  +-----------------------+---------------+-----------------------+---------------+
//! ```
//!
//! The target's MAC means nothing in a request. RFC 5227 §2.1.1 asks for zeros there in a probe;
//! all ones is what keepalived sends, and what this module sends.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::net::Ipv4Addr;

use super::MacAddr;

/// Length of a frame without padding, which the device adds where its medium wants it.
///
/// Unit: bytes.
pub const FRAME_LEN: usize = 42;

const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Ethernet, IPv4, and the lengths of their addresses in bytes (RFC 826).
const ETHERNET_AND_IPV4: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];
const REQUEST: [u8; 2] = [0x00, 0x01];

/// Somebody's word that an address is at a MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub addr: Ipv4Addr,
    /// The sender's MAC in the ARP packet, not that of the Ethernet frame around it.
    pub mac: MacAddr,
}

/// Reads an ARP packet, from behind the Ethernet header on; `None` when it is not a gratuitous
/// request. What follows its 28 bytes is padding.
pub fn announcement(packet: &[u8]) -> Option<Announcement> {
    let (kind, rest) = packet.split_first_chunk::<6>()?;
    let (operation, rest) = rest.split_first_chunk::<2>()?;
    let (mac, rest) = rest.split_first_chunk::<6>()?;
    let (sender, rest) = rest.split_first_chunk::<4>()?;
    let (_, rest) = rest.split_first_chunk::<6>()?;
    let (target, _) = rest.split_first_chunk::<4>()?;
    let is_gratuitous = *kind == ETHERNET_AND_IPV4 && *operation == REQUEST && sender == target;
    is_gratuitous.then_some(Announcement {
        addr: Ipv4Addr::from(*sender),
        mac: MacAddr(*mac),
    })
}

/// The frame that says `addr` is at `mac`.
pub fn gratuitous(addr: Ipv4Addr, mac: MacAddr) -> [u8; FRAME_LEN] {
    let addr = addr.octets();
    let fields: [&[u8]; 9] = [
        &MacAddr::BROADCAST.0,
        &mac.0,
        &ETHERTYPE_ARP,
        &ETHERNET_AND_IPV4,
        &REQUEST,
        &mac.0,
        &addr,
        &MacAddr::BROADCAST.0,
        &addr,
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

    #[test]
    fn every_byte_of_the_frame_is_written() {
        let frame = gratuitous(Ipv4Addr::new(198, 51, 100, 7), MacAddr([2, 3, 4, 5, 6, 7]));
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 3, 4, 5, 6, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2,
            3, 4, 5, 6, 7, 198, 51, 100, 7, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 198, 51, 100, 7,
        ];
        assert_eq!(frame, expected);
    }

    #[test]
    fn only_a_gratuitous_request_is_an_announcement() {
        let (addr, mac) = (Ipv4Addr::new(198, 51, 100, 7), MacAddr([2, 3, 4, 5, 6, 7]));
        let frame = gratuitous(addr, mac);
        let packet = frame.split_at(14).1;
        assert_eq!(announcement(packet), Some(Announcement { addr, mac }));
        for short in 0..packet.len() {
            assert_eq!(announcement(packet.split_at(short).0), None);
        }
        // Hardware, protocol, their lengths, the operation, either address.
        for changed in (0..8).chain(14..18).chain(24..28) {
            let mut other = packet.to_vec();
            *other.get_mut(changed).unwrap() ^= 2;
            assert_eq!(announcement(&other), None, "byte {changed}");
        }
        let padded = [packet, &[0; 18]].concat();
        assert_eq!(announcement(&padded), Some(Announcement { addr, mac }));
    }
}
