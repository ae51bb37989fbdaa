//! Who else answers for our virtual addresses: ARP as it arrives on the host's interfaces.
//!
//! One packet socket on all interfaces. A filter in the kernel lets through only ARP whose sender
//! claims one of the addresses, and the queue is short, so that a flood costs the daemon nothing.
//! Reading is bounded per turn.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;
use vrrp::wire::MacAddr;

/// Frames read in one turn.
const FRAMES_MAX: usize = 16;
/// Unit: bytes of socket buffer; a few dozen frames.
const QUEUE_BYTES: usize = 16 << 10;
/// Unit: bytes of an Ethernet frame with an ARP packet, without padding.
const FRAME_LEN: usize = 42;
/// `ETH_P_ARP`.
const ETHERTYPE_ARP: u16 = 0x0806;
/// Where the ARP packet has its sender's hardware and protocol address (RFC 826).
const SENDER_MAC: usize = 22;
const SENDER_ADDRESS: usize = 28;

/// Somebody said that an address is theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: MacAddr,
}

/// The open socket.
pub(crate) struct ArpWatch {
    socket: AsyncFd<OwnedFd>,
}

impl ArpWatch {
    /// Needs `CAP_NET_RAW`, later calls do not.
    ///
    /// # Errors
    /// The socket or its filter cannot be had.
    pub(crate) fn open(addresses: &[Ipv4Addr]) -> io::Result<ArpWatch> {
        // Of no protocol, so that nothing arrives before the filter is there.
        let kind = Type::RAW.nonblocking().cloexec();
        let protocol = Protocol::from(i32::from(ETHERTYPE_ARP.to_be()));
        let socket = Socket::new(Domain::PACKET, kind, Some(protocol))?;
        socket.attach_filter(&filter(addresses))?;
        socket.set_recv_buffer_size(QUEUE_BYTES)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe; an owned descriptor stays open"
        )]
        let socket = AsyncFd::new(OwnedFd::from(socket))?;
        Ok(ArpWatch { socket })
    }

    /// Waits until there is something to read.
    pub(crate) async fn readable(&self) {
        match self.socket.readable().await {
            Ok(mut ready) => ready.retain_ready(),
            // The runtime is going down.
            Err(_) => std::future::pending().await,
        }
    }

    /// What has arrived, up to a bound.
    pub(crate) fn read(&self) -> Vec<Claim> {
        let mut claims = Vec::new();
        for _ in 0..FRAMES_MAX {
            let mut frame = [0; FRAME_LEN];
            let read = self.socket.try_io(tokio::io::Interest::READABLE, |socket| {
                Ok(recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame)?)
            });
            match read {
                Ok((length, _)) => claims.extend(claim(frame.get(..length).unwrap_or_default())),
                // An interface that went down says so here once.
                Err(error) if error.raw_os_error() == Some(Errno::ENETDOWN as i32) => {}
                Err(_) => break,
            }
        }
        claims
    }

    /// Asks who has `address`, in the name of nobody (RFC 5227 §2.1.1): nobody learns anything
    /// from it, and a host that has the address answers.
    ///
    /// # Errors
    /// The interface is gone, down, or its queue is full.
    pub(crate) fn probe(&self, ifindex: u32, mac: MacAddr, address: Ipv4Addr) -> io::Result<()> {
        let is_link = |link: &LinkAddr| u32::try_from(link.ifindex()) == Ok(ifindex);
        let link = getifaddrs()?
            .filter_map(|interface| interface.address?.as_link_addr().copied())
            .find(is_link)
            .ok_or(Errno::ENODEV)?;
        let frame = probe_frame(mac, address);
        let socket = self.socket.get_ref().as_raw_fd();
        sendto(socket, &frame, &link, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }
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

fn claim(frame: &[u8]) -> Option<Claim> {
    let mac = frame.get(SENDER_MAC..)?.first_chunk::<6>()?;
    let address = frame.get(SENDER_ADDRESS..)?.first_chunk::<4>()?;
    Some(Claim {
        address: Ipv4Addr::from(*address),
        mac: MacAddr(*mac),
    })
}

/// A classic BPF program: the sender's address is one of `addresses`, of which there are at most
/// 255, the reach of a jump.
fn filter(addresses: &[Ipv4Addr]) -> Vec<SockFilter> {
    /// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`.
    const LOAD_WORD: u16 = 0x20;
    const JUMP_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let addresses = &addresses[..addresses.len().min(255)];
    let mut program = vec![SockFilter::new(LOAD_WORD, 0, 0, SENDER_ADDRESS as u32)];
    for (at, address) in addresses.iter().enumerate() {
        // Past the other comparisons and the refusal.
        let to_accept = u8::try_from(addresses.len() - at).unwrap_or(u8::MAX);
        program.push(SockFilter::new(JUMP_EQUAL, to_accept, 0, address.to_bits()));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    program.push(SockFilter::new(RETURN, 0, 0, FRAME_LEN as u32));
    program
}

#[cfg(test)]
mod tests {
    use vrrp::wire::arp;

    use super::*;

    #[test]
    fn the_sender_of_an_announcement_is_read_and_shorter_frames_are_nothing() {
        let (address, mac) = (Ipv4Addr::new(192, 0, 2, 100), MacAddr([2, 0, 0, 0, 0, 9]));
        let frame = arp::gratuitous(address, mac);
        assert_eq!(claim(&frame), Some(Claim { address, mac }));
        for short in 0..SENDER_ADDRESS + 4 {
            assert_eq!(claim(&frame[..short]), None);
        }
    }

    #[test]
    fn a_probe_claims_nothing() {
        let (address, mac) = (Ipv4Addr::new(192, 0, 2, 100), MacAddr([2, 0, 0, 0, 0, 9]));
        let frame = probe_frame(mac, address);
        assert_eq!(frame.len(), FRAME_LEN);
        let nobody = Ipv4Addr::UNSPECIFIED;
        assert_eq!(
            claim(&frame),
            Some(Claim {
                address: nobody,
                mac
            })
        );
        assert_eq!(frame[38..], address.octets());
    }
}
