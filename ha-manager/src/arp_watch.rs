//! Who else answers for our virtual addresses: ARP and neighbour advertisements as they arrive on the
//! host's interfaces.
//!
//! One packet socket for each of the two on all interfaces. Filters in the kernel let through only ARP
//! whose sender claims one of the addresses, and neighbour advertisements of one, and the queues are
//! short, so that a flood costs the daemon little. Reading is bounded per turn; what found a queue full
//! is counted.

mod filter;

use std::collections::BTreeSet;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use dataplane::common::csum;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, sendto, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;
use vrrp::net::links::Links;
use vrrp::wire::MacAddr;

/// Frames read of each socket in one turn.
const FRAMES_MAX: usize = 16;
/// Unit: bytes of socket buffer; a few dozen frames.
const QUEUE_BYTES: usize = 16 << 10;
/// Unit: bytes of an Ethernet frame with an ARP packet, without padding.
const FRAME_LEN: usize = 42;
/// Unit: bytes of a frame with a neighbour advertisement and the option that names a MAC.
const FRAME_V6_LEN: usize = 86;
/// `ETH_P_ARP`, `ETH_P_IPV6`.
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Where the ARP packet has its sender's hardware and protocol address (RFC 826).
const SENDER_MAC: usize = 22;
const SENDER_ADDRESS: usize = 28;
/// Where a frame has its own sender.
const FRAME_SENDER: usize = 6;
/// Where a neighbour advertisement without extension headers has its next header, type, target address
/// and option (RFC 8200 §3, RFC 4861 §4.4).
const NEXT_HEADER: usize = 20;
const ICMP_TYPE: usize = 54;
const TARGET: usize = 62;
const OPTION: usize = 78;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Type and length, in units of eight bytes, of the option with the target's link-layer address.
const TARGET_MAC: [u8; 2] = [2, 1];

/// Somebody said that an address is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    /// Where it was heard: the sockets hear all interfaces of the host.
    pub(crate) ifindex: u32,
    pub(crate) address: IpAddr,
    pub(crate) mac: MacAddr,
}

/// The open sockets.
pub(crate) struct AddressWatch {
    arp: Queue,
    /// Only with IPv6 addresses.
    neighbours: Option<Queue>,
    addresses: BTreeSet<IpAddr>,
    links: Links,
    lost: u64,
}

/// A socket and its queue.
struct Queue {
    socket: AsyncFd<OwnedFd>,
    /// What the kernel last said that found the queue full (`SO_RXQ_OVFL`); wraps.
    lost: u32,
}

impl AddressWatch {
    /// Needs `CAP_NET_RAW`, later calls do not.
    ///
    /// # Errors
    /// A socket or its filter cannot be had, or the interfaces cannot be listed.
    pub(crate) fn open(addresses: &[IpAddr]) -> io::Result<AddressWatch> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(*address),
                IpAddr::V6(address) => v6.push(*address),
            }
        }
        let neighbours = (!v6.is_empty())
            .then(|| open(ETHERTYPE_IPV6, &filter::advertisements(&v6)))
            .transpose()?;
        Ok(AddressWatch {
            arp: open(ETHERTYPE_ARP, &filter::arp(&v4))?,
            neighbours,
            addresses: addresses.iter().copied().collect(),
            links: Links::list()?,
            lost: 0,
        })
    }

    /// Frames that found a queue full, as far as the kernel has told: with the next one that did not.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Waits until there is something to read.
    pub(crate) async fn readable(&self) {
        tokio::select! {
            () = readable(Some(&self.arp.socket)) => {}
            () = readable(self.neighbours.as_ref().map(|queue| &queue.socket)) => {}
        }
    }

    /// What has arrived, up to a bound.
    pub(crate) fn read(&mut self) -> Vec<Claim> {
        let (mut claims, mut lost) = (Vec::new(), 0);
        lost += read(&mut self.arp, |ifindex, frame| {
            claims.extend(claim(ifindex, frame));
        });
        if let Some(neighbours) = &mut self.neighbours {
            lost += read(neighbours, |ifindex, frame| {
                claims.extend(claim_v6(ifindex, frame));
            });
        }
        self.lost = self.lost.saturating_add(lost);
        // The filters let through a little more.
        claims.retain(|claim| self.addresses.contains(&claim.address));
        claims
    }

    /// Comes before a round of [`AddressWatch::probe`] on these interfaces. Takes long if one of them
    /// has come since the last time, so it is no part of each.
    ///
    /// # Errors
    /// The interfaces cannot be listed.
    pub(crate) fn know(&mut self, ifindexes: impl IntoIterator<Item = u32>) -> io::Result<()> {
        Ok(self.links.know(ifindexes)?)
    }

    /// Asks who has `address`, in the name of nobody (RFC 5227 §2.1.1, RFC 4862 §5.4.2): nobody learns
    /// anything from it, and a host that has the address answers.
    ///
    /// # Errors
    /// The interface is not known, gone or down, or its queue is full.
    pub(crate) fn probe(&self, ifindex: u32, mac: MacAddr, address: IpAddr) -> io::Result<()> {
        let link = self.links.get(ifindex)?;
        let (queue, frame) = match address {
            IpAddr::V4(address) => (Some(&self.arp), probe_frame(mac, address)),
            IpAddr::V6(address) => (self.neighbours.as_ref(), probe_frame_v6(mac, address)),
        };
        let queue = queue.ok_or(Errno::EAFNOSUPPORT)?;
        let socket = queue.socket.get_ref().as_raw_fd();
        sendto(socket, &frame, &link, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
}

fn open(ethertype: u16, filter: &[SockFilter]) -> io::Result<Queue> {
    let kind = Type::RAW.nonblocking().cloexec();
    let protocol = Protocol::from(i32::from(ethertype.to_be()));
    let socket = Socket::new(Domain::PACKET, kind, Some(protocol))?;
    socket.attach_filter(filter)?;
    socket.set_recv_buffer_size(QUEUE_BYTES)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe; an owned descriptor stays open"
    )]
    let socket = AsyncFd::new(OwnedFd::from(socket))?;
    Ok(Queue { socket, lost: 0 })
}

async fn readable(socket: Option<&AsyncFd<OwnedFd>>) {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    match socket.readable().await {
        Ok(mut ready) => ready.retain_ready(),
        // The runtime is going down.
        Err(_) => std::future::pending().await,
    }
}

/// Gives back how many more frames have found the queue full.
fn read(queue: &mut Queue, mut on: impl FnMut(u32, &[u8])) -> u64 {
    let before = queue.lost;
    for _ in 0..FRAMES_MAX {
        let mut frame = [0; FRAME_V6_LEN];
        let lost = &mut queue.lost;
        let read = (queue.socket).try_io(tokio::io::Interest::READABLE, |socket| {
            Ok(receive(socket, &mut frame, lost)?)
        });
        match read {
            Ok((ifindex, length)) => on(ifindex, frame.get(..length).unwrap_or_default()),
            // An interface that went down says so here once.
            Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => {}
            Err(_) => break,
        }
    }
    queue.lost.wrapping_sub(before).into()
}

/// One frame; where it was heard, and its length in the buffer.
fn receive(socket: &OwnedFd, frame: &mut [u8], lost: &mut u32) -> nix::Result<(u32, usize)> {
    let mut slices = [IoSliceMut::new(frame)];
    let mut control = nix::cmsg_space!(u32);
    let (fd, flags) = (socket.as_raw_fd(), MsgFlags::empty());
    let message = recvmsg::<LinkAddr>(fd, &mut slices, Some(&mut control), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::RxqOvfl(count) = control {
            *lost = count;
        }
    }
    let from = message.address.map_or(0, |from| from.ifindex());
    Ok((u32::try_from(from).unwrap_or(0), message.bytes))
}

fn probe_frame(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    [
        &MacAddr::BROADCAST.0[..],
        &mac.0,
        &ETHERTYPE_ARP.to_be_bytes(),
        // Ethernet, IPv4, lengths of their addresses, request.
        &[0, 1, 8, 0, 6, 4, 0, 1],
        &mac.0,
        &[0; 4],
        &[0; 6],
        &address.octets(),
    ]
    .concat()
}

/// A neighbour solicitation as duplicate address detection sends it (RFC 4862 §5.4.2).
fn probe_frame_v6(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let octets = address.octets();
    let [.., high, mid, low] = octets;
    let group_mac = [0x33, 0x33, 0xff, high, mid, low];
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[high, mid, low]);
    let length = 24_u16.to_be_bytes();
    let head = [SOLICITATION, 0];
    let parts: [&[u8]; 5] = [&group, &length, &[0, ICMPV6], &head, &octets];
    let checksum = (!sum(&parts)).to_be_bytes();
    [
        &group_mac[..],
        &mac.0,
        &ETHERTYPE_IPV6.to_be_bytes(),
        &[0x60, 0, 0, 0],
        &length,
        &[ICMPV6, 255],
        &Ipv6Addr::UNSPECIFIED.octets(),
        &group,
        &head,
        &checksum,
        &[0; 4],
        &octets,
    ]
    .concat()
}

/// The one's complement sum of what has an even length in all its parts (RFC 1071).
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.as_chunks::<2>().0);
    csum::fold(words.map(|word| u64::from(u16::from_be_bytes(*word))).sum())
}

fn claim(ifindex: u32, frame: &[u8]) -> Option<Claim> {
    let mac = frame.get(SENDER_MAC..)?.first_chunk::<6>()?;
    let address = frame.get(SENDER_ADDRESS..)?.first_chunk::<4>()?;
    Some(Claim {
        ifindex,
        address: Ipv4Addr::from(*address).into(),
        mac: MacAddr(*mac),
    })
}

/// Of a neighbour advertisement, which names a MAC or else comes from it.
fn claim_v6(ifindex: u32, frame: &[u8]) -> Option<Claim> {
    let address = frame.get(TARGET..)?.first_chunk::<16>()?;
    let named = frame.get(OPTION..)?.strip_prefix(&TARGET_MAC);
    let mac = named.and_then(|mac| mac.first_chunk::<6>());
    let mac = mac.or_else(|| frame.get(FRAME_SENDER..)?.first_chunk::<6>())?;
    Some(Claim {
        ifindex,
        address: Ipv6Addr::from(*address).into(),
        mac: MacAddr(*mac),
    })
}

#[cfg(test)]
mod tests {
    use vrrp::wire::{arp, ndp};

    use super::*;

    #[test]
    fn the_sender_of_an_announcement_is_read_and_shorter_frames_are_nothing() {
        let (address, mac) = (Ipv4Addr::new(192, 0, 2, 100), MacAddr([2, 0, 0, 0, 0, 9]));
        let frame = arp::gratuitous(address, mac);
        let address = address.into();
        assert_eq!(
            claim(3, &frame),
            Some(Claim {
                ifindex: 3,
                address,
                mac
            })
        );
        for short in 0..SENDER_ADDRESS + 4 {
            assert_eq!(claim(3, &frame[..short]), None);
        }
    }

    #[test]
    fn a_probe_claims_nothing() {
        let (address, mac) = (Ipv4Addr::new(192, 0, 2, 100), MacAddr([2, 0, 0, 0, 0, 9]));
        let frame = probe_frame(mac, address);
        assert_eq!(frame.len(), FRAME_LEN);
        let nobody = Ipv4Addr::UNSPECIFIED.into();
        assert_eq!(
            claim(3, &frame),
            Some(Claim {
                ifindex: 3,
                address: nobody,
                mac
            })
        );
        assert_eq!(frame[38..], address.octets());
    }

    #[test]
    fn the_target_of_a_neighbour_advertisement_is_claimed_by_the_mac_it_names() {
        let address: Ipv6Addr = "2001:db8::100".parse().unwrap();
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let mut frame = ndp::unsolicited(address, mac, false);
        let address = address.into();
        assert_eq!(
            claim_v6(3, &frame),
            Some(Claim {
                ifindex: 3,
                address,
                mac
            })
        );
        // One without the option comes from its sender.
        frame[FRAME_SENDER..FRAME_SENDER + 6].copy_from_slice(&[2, 0, 0, 0, 0, 8]);
        let sender = MacAddr([2, 0, 0, 0, 0, 8]);
        assert_eq!(claim_v6(3, &frame).map(|claim| claim.mac), Some(mac));
        assert_eq!(
            claim_v6(3, &frame[..OPTION]).map(|claim| claim.mac),
            Some(sender)
        );
        for short in 0..TARGET + 16 {
            assert_eq!(claim_v6(3, &frame[..short]), None);
        }
    }

    /// The same bytes as the kernel's for this address; its checksum is right when the sum of all of it
    /// is.
    #[test]
    fn a_probe_for_an_ipv6_address_is_that_of_duplicate_address_detection() {
        let address: Ipv6Addr = "2001:db8::1:2345".parse().unwrap();
        let frame = probe_frame_v6(MacAddr([2, 0, 0, 0, 0, 9]), address);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 1, 0x23, 0x45]);
        assert_eq!(frame.len(), 78);
        assert_eq!(frame[22..38], [0; 16]);
        assert_eq!(frame[62..], address.octets());
        let parts: [&[u8]; 3] = [&frame[22..54], &[0, 24, 0, ICMPV6], &frame[54..]];
        assert_eq!(sum(&parts), 0xffff);
    }
}
