//! Checksums, computed plainly.

use super::{ICMP, SCTP};

/// Sum of 16-bit words, folded and complemented (RFC 1071).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of TCP, UDP and ICMPv6 over the pseudo header and the message (RFC 9293 §3.1, RFC 8200
/// §8.1); `src` and `dst` are the bytes of the addresses.
pub fn transport(src: &[u8], dst: &[u8], protocol: u8, message: &[u8]) -> u16 {
    let len = (message.len() as u32).to_be_bytes();
    checksum(&[src, dst, &len, &[0, 0, 0, protocol], message])
}

/// CRC32c bit by bit (RFC 9260 appendix A); stored with the least significant byte first.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = crc >> 1 ^ if crc & 1 == 0 { 0 } else { 0x82f6_3b78 };
        }
    }
    !crc
}

/// Protocol and offset of the transport header; IPv6 extension headers are skipped.
pub fn transport_of(packet: &[u8]) -> (u8, usize) {
    if packet[0] >> 4 == 4 {
        return (packet[9], usize::from(packet[0] & 0xf) * 4);
    }
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 44 | 60) {
        let len = if next == 44 {
            8
        } else {
            8 + 8 * usize::from(packet[at + 1])
        };
        next = packet[at];
        at += len;
    }
    (next, at)
}

/// Whether IP and transport checksums of a packet are right.
pub fn checksums_hold(packet: &[u8]) -> bool {
    let (protocol, at) = transport_of(packet);
    let message = &packet[at..];
    let (src, dst) = if packet[0] >> 4 == 4 {
        if checksum(&[&packet[..at]]) != 0 {
            return false;
        }
        (&packet[12..16], &packet[16..20])
    } else {
        (&packet[8..24], &packet[24..40])
    };
    match protocol {
        ICMP => checksum(&[message]) == 0,
        SCTP => {
            let mut zeroed = message.to_vec();
            zeroed[8..12].fill(0);
            message[8..12] == crc32c(&zeroed).to_le_bytes()
        }
        protocol => transport(src, dst, protocol, message) == 0,
    }
}
