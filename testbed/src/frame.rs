//! What an Ethernet frame carries, as far as a drill wants to know.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A host says unasked that it has an address.
    GratuitousArp {
        address: Ipv4Addr,
    },
    ArpRequest {
        target: Ipv4Addr,
    },
    ArpReply {
        sender: Ipv4Addr,
    },
    Tcp {
        source: Ipv4Addr,
        destination: Ipv4Addr,
        reset: bool,
    },
    Udp {
        source: Ipv4Addr,
        destination: Ipv4Addr,
    },
    Other,
}

impl Content {
    /// TCP or UDP from or to one of the addresses.
    pub(crate) fn is_service(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        match self {
            Content::Tcp {
                source,
                destination,
                ..
            }
            | Content::Udp {
                source,
                destination,
            } => addresses.contains(source) || addresses.contains(destination),
            Content::GratuitousArp { .. }
            | Content::ArpRequest { .. }
            | Content::ArpReply { .. }
            | Content::Other => false,
        }
    }

    /// ARP that asks who has one of the addresses.
    pub(crate) fn asks_for(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        matches!(self, Content::ArpRequest { target } if addresses.contains(target))
    }

    /// ARP that says unasked who has one of the addresses.
    pub(crate) fn announces(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        matches!(self, Content::GratuitousArp { address } if addresses.contains(address))
    }

    /// ARP that says who has one of the addresses.
    pub(crate) fn answers_for(&self, addresses: &BTreeSet<Ipv4Addr>) -> bool {
        match self {
            Content::ArpReply { sender: address } | Content::GratuitousArp { address } => {
                addresses.contains(address)
            }
            Content::ArpRequest { .. }
            | Content::Tcp { .. }
            | Content::Udp { .. }
            | Content::Other => false,
        }
    }
}

/// What an Ethernet frame carries.
pub(crate) fn describe(frame: &[u8]) -> Content {
    parse(frame).unwrap_or(Content::Other)
}

fn parse(frame: &[u8]) -> Option<Content> {
    let (ethernet, rest) = frame.split_at_checked(14)?;
    match ethernet.get(12..)? {
        [0x08, 0x06] => parse_arp(rest),
        [0x08, 0x00] => parse_ipv4(rest),
        _ => None,
    }
}

fn parse_arp(packet: &[u8]) -> Option<Content> {
    let (sender, target) = (address_at(packet, 14)?, address_at(packet, 24)?);
    match packet.get(6..8)? {
        // RFC 5227 §3: announcements come in both forms.
        [0, 1 | 2] if sender == target => Some(Content::GratuitousArp { address: sender }),
        [0, 1] => Some(Content::ArpRequest { target }),
        [0, 2] => Some(Content::ArpReply { sender }),
        _ => None,
    }
}

fn parse_ipv4(packet: &[u8]) -> Option<Content> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let source = address_at(packet, 12)?;
    let destination = address_at(packet, 16)?;
    match i32::from(*packet.get(9)?) {
        libc::IPPROTO_TCP => {
            let reset = packet.get(header_len + 13)? & 0x04 != 0;
            Some(Content::Tcp {
                source,
                destination,
                reset,
            })
        }
        libc::IPPROTO_UDP => Some(Content::Udp {
            source,
            destination,
        }),
        _ => None,
    }
}

fn address_at(packet: &[u8], offset: usize) -> Option<Ipv4Addr> {
    let bytes: [u8; 4] = packet.get(offset..offset + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
    const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

    #[test]
    fn a_reset_is_recognised() {
        let reset = Content::Tcp {
            source: CLIENT,
            destination: SERVICE,
            reset: true,
        };
        assert_eq!(describe(&tcp_frame(0x14)), reset);
        let ack = Content::Tcp {
            source: CLIENT,
            destination: SERVICE,
            reset: false,
        };
        assert_eq!(describe(&tcp_frame(0x10)), ack);
    }

    #[test]
    fn an_arp_reply_names_who_answers() {
        let mut frame = vec![0; 42];
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        frame[20..22].copy_from_slice(&[0, 2]);
        frame[28..32].copy_from_slice(&SERVICE.octets());
        assert_eq!(describe(&frame), Content::ArpReply { sender: SERVICE });
    }

    #[test]
    fn an_announcement_is_gratuitous_in_both_forms() {
        for operation in [1, 2] {
            let mut frame = vec![0; 42];
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame[20..22].copy_from_slice(&[0, operation]);
            frame[28..32].copy_from_slice(&SERVICE.octets());
            frame[38..42].copy_from_slice(&SERVICE.octets());
            let announced = Content::GratuitousArp { address: SERVICE };
            assert_eq!(describe(&frame), announced);
            assert!(announced.announces(&[SERVICE].into()));
            assert!(announced.answers_for(&[SERVICE].into()));
            assert!(!announced.asks_for(&[SERVICE].into()));
        }
    }

    #[test]
    fn a_cut_frame_is_only_other() {
        let frame = tcp_frame(0x10);
        for len in 0..frame.len() - 1 {
            let content = describe(&frame[..len]);
            assert!(len >= 48 || content == Content::Other, "{len}: {content:?}");
        }
    }

    #[test]
    fn service_packets_are_those_with_an_address_of_the_service() {
        let service: BTreeSet<Ipv4Addr> = [SERVICE].into();
        assert!(describe(&tcp_frame(0x10)).is_service(&service));
        assert!(!describe(&tcp_frame(0x10)).is_service(&BTreeSet::new()));
        assert!(!Content::ArpReply { sender: SERVICE }.is_service(&service));
    }

    fn tcp_frame(tcp_flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&CLIENT.octets());
        frame[30..34].copy_from_slice(&SERVICE.octets());
        frame[47] = tcp_flags;
        frame
    }
}
