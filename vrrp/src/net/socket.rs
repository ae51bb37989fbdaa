//! The advertisements of one virtual router on one interface.
//!
//! Two raw sockets receive, of protocol 112 or, with authentication headers, 51. The *election*
//! socket gets only what looks like an advertisement of this virtual router: the kernel runs a
//! filter ([`filter`](super::filter)) over version, type, VRID, TTL and destination before it queues
//! a packet. The *other* socket gets the rest, which is checked and counted like everything else. So
//! a flood that does not even look right fills the queue of the other socket and never pushes out
//! the master's advertisements. A flood that looks right shares the election socket's queue: its
//! packets are checked one by one, and what finds the queue full is lost and counted
//! ([`Received::lost`]). Version 3 has no authentication; the LAN has to keep such a sender away.
//!
//! Both are bound to the interface's index, and a raw socket keeps its index when the interface
//! goes: [`AdvertSocket::is_current`] tells when they have to be opened again.
//!
//! # Through a virtual interface
//!
//! With [`Place::send_on`] advertisements leave through another interface on top of the first, a
//! macvlan with the virtual MAC, and are heard there as well: the kernel hands a group's frames from
//! a macvlan's own address, which is what another router with the same virtual MAC sends, to that
//! macvlan and not to the interface below (macvlan_handle_frame). The source address is still that
//! of the first.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{in6_addr, in6_pktinfo};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

pub use super::filter::Queue;
use super::{filter, source};
use crate::codec::{Datagram, Outgoing, V6Info};
use crate::config::{Config, Family};

/// What a receive buffer has to hold: anything longer is refused as truncated.
///
/// An advertisement over IPv4 has at most 60 bytes of IP header, 24 of authentication header, 16 of
/// its own and 255 addresses; one over IPv6, whose header is not received, 8 and 255 addresses of 16.
pub const BUFFER_LEN: usize = 4096;

/// Internetwork control (RFC 791), as the type of service of our IPv4 packets.
const TRAFFIC_CLASS: u32 = 0xc0;
const HOP_LIMIT: u32 = 255;

/// Where a router advertises.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub interface: &'a str,
    /// A virtual interface on top of it to send and receive through.
    pub send_on: Option<&'a str>,
    /// The address to send from; else the interface's own.
    pub source: Option<IpAddr>,
    /// VRIDs of this node's other routers that listen to the same protocol in the same place.
    pub neighbours: &'a [u8],
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its whole length; more than the buffer's if it was cut. Unit: bytes.
    pub len: usize,
    /// Packets that found the socket's queue full, since it was opened; wraps. Newer kernels look
    /// at the queue before the filter and count what is meant for the other socket as well.
    pub lost: u32,
    /// What stood in the header of an IPv6 packet, which is not among the bytes.
    pub v6: Option<V6Info>,
}

impl Received {
    /// The datagram in the buffer it was received in.
    pub fn datagram<'a>(&self, buffer: &'a [u8]) -> Datagram<'a> {
        Datagram {
            bytes: buffer.get(..self.len).unwrap_or(buffer),
            received_len: self.len,
            v6: self.v6,
        }
    }
}

/// The sockets of one virtual router.
#[derive(Debug)]
pub struct AdvertSocket {
    election: Socket,
    other: Socket,
    /// Where they are bound.
    device: u32,
    /// Whose address the source is.
    ifindex: u32,
    source: IpAddr,
}

impl AdvertSocket {
    /// Opens the sockets on an interface. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The interface does not exist (`ENODEV`), has no address, or not the one wanted
    /// (`EADDRNOTAVAIL`), or a socket is refused.
    pub fn open(place: &Place<'_>, config: &Config) -> io::Result<AdvertSocket> {
        let (ifindex, device) = indexes(place)?;
        let source = source::find(place.interface, ifindex, place.source, config)?;
        let destination = match config.is_unicast() {
            true => source,
            false => config.family().group(),
        };
        let receiver = |queue| {
            let program = filter::filter(config, destination, place.neighbours, queue);
            receiver(device, config, &program)
        };
        Ok(AdvertSocket {
            election: receiver(Queue::Election)?,
            other: receiver(Queue::Other)?,
            device,
            ifindex,
            source,
        })
    }

    /// The address advertisements come from.
    pub fn source(&self) -> IpAddr {
        self.source
    }

    pub fn fd(&self, queue: Queue) -> BorrowedFd<'_> {
        self.socket(queue).as_fd()
    }

    /// Whether the interfaces are still those that were opened, with the address that was found.
    ///
    /// # Errors
    /// There is no interface of this name (`ENODEV`), or it has no address, or not the one wanted
    /// (`EADDRNOTAVAIL`).
    pub fn is_current(&self, place: &Place<'_>, config: &Config) -> io::Result<bool> {
        let is_same = indexes(place)? == (self.ifindex, self.device);
        Ok(is_same && source::is_current(self.source, self.ifindex, place.source, config)?)
    }

    /// Sends one datagram: in IPv4 with its header, in IPv6 what follows it.
    ///
    /// # Errors
    /// The interface is gone or down, or its queue is full: the call never waits.
    pub fn send(&self, outgoing: &Outgoing) -> io::Result<()> {
        let to = source::scoped(outgoing.destination, 0, self.device);
        match (to, self.source) {
            (SocketAddr::V6(to), IpAddr::V6(from)) => self.send_v6(to, from, &outgoing.bytes),
            (to, _) => {
                let to = SockAddr::from(to);
                self.election.send_to(&outgoing.bytes, &to).map(drop)
            }
        }
    }

    fn send_v6(&self, to: SocketAddrV6, from: Ipv6Addr, bytes: &[u8]) -> io::Result<()> {
        let info = in6_pktinfo {
            ipi6_addr: in6_addr {
                s6_addr: from.octets(),
            },
            ipi6_ifindex: self.device,
        };
        let control = [ControlMessage::Ipv6PacketInfo(&info)];
        let (fd, flags) = (self.election.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
        let to = SockaddrIn6::from(to);
        sendmsg(fd, &[IoSlice::new(bytes)], &control, flags, Some(&to))?;
        Ok(())
    }

    /// Takes a datagram from a queue; `None` when there is none.
    ///
    /// # Errors
    /// What the socket reports, once per occasion.
    pub fn receive(&self, queue: Queue, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(u32, i32, in6_pktinfo);
        // MSG_TRUNC has the call return the length of the datagram, not of what fitted.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let fd = self.socket(queue).as_raw_fd();
        // The family of an IPv4 sender is another one, so that it is none here.
        let message = match recvmsg::<SockaddrIn6>(fd, &mut slices, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let (mut lost, mut destination, mut hop_limit) = (0, None, None);
        for control in message.cmsgs()? {
            if let ControlMessageOwned::RxqOvfl(count) = control {
                lost = count;
            } else if let ControlMessageOwned::Ipv6PacketInfo(info) = control {
                destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
            } else if let ControlMessageOwned::Ipv6HopLimit(limit) = control {
                hop_limit = u8::try_from(limit).ok();
            }
        }
        let source = message.address.map(|from| from.ip());
        let v6 = (|| {
            Some(V6Info {
                source: source?,
                destination: destination?,
                hop_limit: hop_limit?,
            })
        })();
        let len = message.bytes;
        Ok(Some(Received { len, lost, v6 }))
    }

    fn socket(&self, queue: Queue) -> &Socket {
        match queue {
            Queue::Election => &self.election,
            Queue::Other => &self.other,
        }
    }
}

/// Of the interface, and of the one the sockets are bound to.
fn indexes(place: &Place<'_>) -> io::Result<(u32, u32)> {
    let ifindex = if_nametoindex(place.interface)?;
    let device = match place.send_on {
        Some(device) => if_nametoindex(device)?,
        None => ifindex,
    };
    Ok((ifindex, device))
}

fn receiver(device: u32, config: &Config, program: &[SockFilter]) -> io::Result<Socket> {
    let domain = match config.family() {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let kind = Type::RAW.nonblocking().cloexec();
    let protocol = Protocol::from(i32::from(config.protocol()));
    let socket = Socket::new(domain, kind, Some(protocol))?;
    // A raw socket receives from the moment it is there: first closed to everything, at last
    // opened to what it is for, so that nothing gets in on the way.
    socket.attach_filter(&filter::closed())?;
    match config.family().group() {
        IpAddr::V4(group) => {
            socket.bind_device_by_index_v4(NonZeroU32::new(device))?;
            socket.set_header_included_v4(true)?;
            if !config.is_unicast() {
                let interface = InterfaceIndexOrAddress::Index(device);
                socket.set_multicast_loop_v4(false)?;
                socket.set_multicast_all_v4(false)?;
                socket.join_multicast_v4_n(&group, &interface)?;
            }
        }
        IpAddr::V6(group) => {
            socket.bind_device_by_index_v6(NonZeroU32::new(device))?;
            socket.set_tclass_v6(TRAFFIC_CLASS)?;
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            socket.set_recv_hoplimit_v6(true)?;
            if config.is_unicast() {
                socket.set_unicast_hops_v6(u32::from(config.unicast_ttl()))?;
            } else {
                socket.set_multicast_hops_v6(HOP_LIMIT)?;
                socket.set_multicast_loop_v6(false)?;
                socket.set_multicast_all_v6(false)?;
                socket.set_multicast_if_v6(device)?;
                socket.join_multicast_v6(&group, device)?;
            }
        }
    }
    set_queue_priority(&socket)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    socket.attach_filter(program)?;
    Ok(socket)
}

/// TC_PRIO_CONTROL, ahead of the data in the queue of the device; older kernels want
/// `CAP_NET_ADMIN` for it and allow TC_PRIO_INTERACTIVE to everybody.
pub(super) fn set_queue_priority(socket: &Socket) -> io::Result<()> {
    const TC_PRIO_CONTROL: i32 = 7;
    const TC_PRIO_INTERACTIVE: i32 = 6;
    setsockopt(socket, sockopt::Priority, &TC_PRIO_CONTROL)
        .or_else(|_| setsockopt(socket, sockopt::Priority, &TC_PRIO_INTERACTIVE))
        .map_err(io::Error::from)
}
