//! What an Ethernet frame carries, as far as a drill wants to know.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Its number as a protocol over IP. Authentication headers are not looked behind.
const VRRP: i32 = 112;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// A host says unasked that it has an address: gratuitous ARP, or an unsolicited neighbour
    /// advertisement.
    Announcement {
        address: IpAddr,
    },
    /// A host asks who has an address: ARP, or a neighbour solicitation.
    Question {
        target: IpAddr,
    },
    /// A host says that it has an address because it was asked.
    Answer {
        sender: IpAddr,
    },
    Tcp {
        source: IpAddr,
        destination: IpAddr,
        reset: bool,
    },
    Udp {
        source: IpAddr,
        destination: IpAddr,
    },
    /// A router says that it is master; with priority 0, that it gives up.
    Advert {
        source: IpAddr,
        router: u8,
        priority: u8,
    },
    Other,
}

impl Content {
    /// TCP or UDP from or to one of the addresses.
    pub(crate) fn is_service(&self, addresses: &BTreeSet<IpAddr>) -> bool {
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
            Content::Announcement { .. }
            | Content::Question { .. }
            | Content::Answer { .. }
            | Content::Advert { .. }
            | Content::Other => false,
        }
    }

    /// Asks who has one of the addresses.
    pub(crate) fn asks_for(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        matches!(self, Content::Question { target } if addresses.contains(target))
    }

    /// Says unasked who has one of the addresses.
    pub(crate) fn announces(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        matches!(self, Content::Announcement { address } if addresses.contains(address))
    }

    /// Says who has one of the addresses.
    pub(crate) fn answers_for(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        match self {
            Content::Answer { sender: address } | Content::Announcement { address } => {
                addresses.contains(address)
            }
            Content::Question { .. }
            | Content::Tcp { .. }
            | Content::Udp { .. }
            | Content::Advert { .. }
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
        [0x86, 0xdd] => parse_ipv6(rest),
        _ => None,
    }
}

fn parse_arp(packet: &[u8]) -> Option<Content> {
    let (sender, target) = (ipv4_at(packet, 14)?, ipv4_at(packet, 24)?);
    match packet.get(6..8)? {
        // RFC 5227 §3: announcements come in both forms.
        [0, 1 | 2] if sender == target => Some(Content::Announcement { address: sender }),
        [0, 1] => Some(Content::Question { target }),
        [0, 2] => Some(Content::Answer { sender }),
        _ => None,
    }
}

fn parse_ipv4(packet: &[u8]) -> Option<Content> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    let ends = (ipv4_at(packet, 12)?, ipv4_at(packet, 16)?);
    let payload = packet.get(header_len..)?;
    parse_transport((*packet.get(9)?).into(), ends, payload)
}

/// Extension headers are not met in the lab.
fn parse_ipv6(packet: &[u8]) -> Option<Content> {
    let ends = (ipv6_at(packet, 8)?, ipv6_at(packet, 24)?);
    let (next, payload) = ((*packet.get(6)?).into(), packet.get(40..)?);
    if next == libc::IPPROTO_ICMPV6 {
        return parse_neighbour(payload);
    }
    parse_transport(next, ends, payload)
}

/// RFC 4861 §4.3 and §4.4.
fn parse_neighbour(message: &[u8]) -> Option<Content> {
    const SOLICITATION: u8 = 135;
    const ADVERTISEMENT: u8 = 136;
    const SOLICITED: u8 = 0x40;
    let target = ipv6_at(message, 8)?;
    match *message.first()? {
        SOLICITATION => Some(Content::Question { target }),
        ADVERTISEMENT if *message.get(4)? & SOLICITED != 0 => {
            Some(Content::Answer { sender: target })
        }
        ADVERTISEMENT => Some(Content::Announcement { address: target }),
        _ => None,
    }
}

fn parse_transport(
    protocol: i32,
    (source, destination): (IpAddr, IpAddr),
    payload: &[u8],
) -> Option<Content> {
    match protocol {
        VRRP => Some(Content::Advert {
            source,
            router: *payload.get(1)?,
            priority: *payload.get(2)?,
        }),
        libc::IPPROTO_TCP => {
            let reset = payload.get(13)? & 0x04 != 0;
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

fn ipv4_at(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let bytes: [u8; 4] = packet.get(offset..offset + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(bytes).into())
}

fn ipv6_at(packet: &[u8], offset: usize) -> Option<IpAddr> {
    let bytes: [u8; 16] = packet.get(offset..offset + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT4: [u8; 4] = [192, 0, 2, 10];
    const SERVICE4: [u8; 4] = [192, 0, 2, 100];
    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
    const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100));
    const SERVICE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x100);

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
        frame[28..32].copy_from_slice(&SERVICE4);
        assert_eq!(describe(&frame), Content::Answer { sender: SERVICE });
    }

    #[test]
    fn an_advert_tells_router_and_priority() {
        let mut frame = tcp_frame(0);
        frame[23] = 112;
        frame[34..38].copy_from_slice(&[0x31, 51, 150, 1]);
        let advert = Content::Advert {
            source: CLIENT,
            router: 51,
            priority: 150,
        };
        assert_eq!(describe(&frame), advert);
        assert!(!advert.is_service(&[CLIENT].into()));
    }

    #[test]
    fn an_announcement_is_gratuitous_in_both_forms() {
        for operation in [1, 2] {
            let mut frame = vec![0; 42];
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            frame[20..22].copy_from_slice(&[0, operation]);
            frame[28..32].copy_from_slice(&SERVICE4);
            frame[38..42].copy_from_slice(&SERVICE4);
            let announced = Content::Announcement { address: SERVICE };
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
        let service: BTreeSet<IpAddr> = [SERVICE].into();
        assert!(describe(&tcp_frame(0x10)).is_service(&service));
        assert!(!describe(&tcp_frame(0x10)).is_service(&BTreeSet::new()));
        assert!(!Content::Answer { sender: SERVICE }.is_service(&service));
    }

    fn tcp_frame(tcp_flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..30].copy_from_slice(&CLIENT4);
        frame[30..34].copy_from_slice(&SERVICE4);
        frame[47] = tcp_flags;
        frame
    }

    #[test]
    fn ipv6_is_read_as_ipv4_is() {
        let service = IpAddr::V6(SERVICE6);
        for (kind, flags, content) in [
            (135, 0, Content::Question { target: service }),
            (136, 0x60, Content::Answer { sender: service }),
            (136, 0xa0, Content::Announcement { address: service }),
        ] {
            let frame = icmpv6_frame(kind, flags);
            assert_eq!(describe(&frame), content);
            for len in 0..frame.len() {
                assert_eq!(describe(&frame[..len]), Content::Other, "{len}");
            }
        }
        let mut frame = icmpv6_frame(0, 0);
        frame[20] = 17;
        assert!(describe(&frame).is_service(&[service].into()));
        frame[20] = 6;
        let tcp = describe(&frame);
        assert!(tcp.is_service(&[service].into()), "{tcp:?}");
        assert!(matches!(tcp, Content::Tcp { reset: false, .. }));
    }

    fn icmpv6_frame(kind: u8, flags: u8) -> Vec<u8> {
        let mut frame = vec![0; 78];
        frame[12..14].copy_from_slice(&[0x86, 0xdd]);
        frame[20] = 58;
        frame[38..54].copy_from_slice(&SERVICE6.octets());
        frame[54] = kind;
        frame[58] = flags;
        frame[62..78].copy_from_slice(&SERVICE6.octets());
        frame
    }
}
