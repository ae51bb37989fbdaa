//! The advertisements of one virtual router on one interface.
//!
//! Two raw sockets receive. The *election* socket gets only what looks like an advertisement of
//! this virtual router: the kernel runs a filter over version, type, VRID, TTL and destination
//! before it queues a packet. The *other* socket gets the rest, which is checked and counted like
//! everything else. So a flood that does not even look right fills the queue of the other socket and
//! never pushes out the master's advertisements. A flood that looks right shares the election
//! socket's queue: its packets are checked one by one, and what finds the queue full is lost and
//! counted ([`Received::lost`]). Version 3 has no authentication; the LAN has to keep such a sender
//! away.
//!
//! Both are bound to the interface's index, and a raw socket keeps its index when the interface
//! goes: [`AdvertSocket::is_current`] tells when they have to be opened again.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, SockFilter, Socket, Type};

use crate::wire::v3::PACKET_MAX;
use crate::wire::{GROUP, PROTOCOL};

/// What a receive buffer has to hold: anything longer is refused as truncated.
pub const BUFFER_LEN: usize = PACKET_MAX;

/// Which of the two sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// What looks like an advertisement of this virtual router.
    Election,
    /// Everything else of the protocol.
    Other,
}

/// One datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its whole length; more than the buffer's if it was cut. Unit: bytes.
    pub len: usize,
    /// Packets that found the socket's queue full, since it was opened; wraps. Newer kernels look
    /// at the queue before the filter and count what is meant for the other socket as well.
    pub lost: u32,
}

/// The sockets of one virtual router.
#[derive(Debug)]
pub struct AdvertSocket {
    election: Socket,
    other: Socket,
    group: SockAddr,
    ifindex: u32,
    source: Ipv4Addr,
}

impl AdvertSocket {
    /// Opens the sockets on an interface. Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// The interface does not exist (`ENODEV`), has no address (`EADDRNOTAVAIL`), or a socket is
    /// refused.
    pub fn open(interface: &str, vrid: u8) -> io::Result<AdvertSocket> {
        let ifindex = if_nametoindex(interface)?;
        let source = source_address(ifindex)?;
        if !has_address(interface, source)? {
            return Err(no_address());
        }
        Ok(AdvertSocket {
            election: receiver(ifindex, vrid, Queue::Election)?,
            other: receiver(ifindex, vrid, Queue::Other)?,
            group: SockAddr::from(SocketAddrV4::new(GROUP, 0)),
            ifindex,
            source,
        })
    }

    /// The address advertisements come from: the interface's primary one when it was opened.
    pub fn source(&self) -> Ipv4Addr {
        self.source
    }

    pub fn fd(&self, queue: Queue) -> BorrowedFd<'_> {
        self.socket(queue).as_fd()
    }

    /// Whether the interface is still the one that was opened, with the address it had.
    ///
    /// # Errors
    /// There is no interface of this name (`ENODEV`), or it has no address (`EADDRNOTAVAIL`).
    pub fn is_current(&self, interface: &str) -> io::Result<bool> {
        let ifindex = if_nametoindex(interface)?;
        Ok(ifindex == self.ifindex && source_address(ifindex)? == self.source)
    }

    /// Sends a packet with its IP header to the group.
    ///
    /// # Errors
    /// The interface is gone or down, or its queue is full: the call never waits.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.election.send_to(packet, &self.group).map(drop)
    }

    /// Takes a datagram from a queue; `None` when there is none.
    ///
    /// # Errors
    /// What the socket reports, once per occasion.
    pub fn receive(&self, queue: Queue, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        let mut slices = [IoSliceMut::new(buffer)];
        let mut control = nix::cmsg_space!(u32);
        // MSG_TRUNC has the call return the length of the datagram, not of what fitted.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let fd = self.socket(queue).as_raw_fd();
        let message = match recvmsg::<()>(fd, &mut slices, Some(&mut control), flags) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut lost = 0;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::RxqOvfl(count) = control {
                lost = count;
            }
        }
        let len = message.bytes;
        Ok(Some(Received { len, lost }))
    }

    fn socket(&self, queue: Queue) -> &Socket {
        match queue {
            Queue::Election => &self.election,
            Queue::Other => &self.other,
        }
    }
}

fn receiver(ifindex: u32, vrid: u8, queue: Queue) -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(
        Domain::IPV4,
        kind,
        Some(Protocol::from(i32::from(PROTOCOL))),
    )?;
    // A raw socket receives from the moment it is there: first closed to everything, at last
    // opened to what it is for, so that nothing gets in on the way.
    socket.attach_filter(&[SockFilter::new(RETURN, 0, 0, NOTHING)])?;
    let index = NonZeroU32::new(ifindex);
    socket.bind_device_by_index_v4(index)?;
    socket.set_header_included_v4(true)?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_multicast_all_v4(false)?;
    socket.join_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Index(ifindex))?;
    set_queue_priority(&socket)?;
    setsockopt(&socket, sockopt::RxqOvfl, &1)?;
    socket.attach_filter(&filter(vrid, queue))?;
    Ok(socket)
}

/// TC_PRIO_CONTROL, ahead of the data in the queue of the device; older kernels want
/// `CAP_NET_ADMIN` for it and allow TC_PRIO_INTERACTIVE to everybody.
fn set_queue_priority(socket: &Socket) -> io::Result<()> {
    const TC_PRIO_CONTROL: i32 = 7;
    const TC_PRIO_INTERACTIVE: i32 = 6;
    setsockopt(socket, sockopt::Priority, &TC_PRIO_CONTROL)
        .or_else(|_| setsockopt(socket, sockopt::Priority, &TC_PRIO_INTERACTIVE))
        .map_err(io::Error::from)
}

/// The address the kernel would send from to the group: the first primary one of the interface.
///
/// Asked of a socket that is connected and never used, which takes no lock that a change of
/// addresses elsewhere holds.
fn source_address(ifindex: u32) -> io::Result<Ipv4Addr> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM.cloexec(), None)?;
    socket.bind_device_by_index_v4(NonZeroU32::new(ifindex))?;
    // Any port but zero will do.
    socket.connect(&SockAddr::from(SocketAddrV4::new(GROUP, 1)))?;
    let local = socket.local_addr()?.as_socket_ipv4();
    let source = local.map(|address| *address.ip()).ok_or_else(no_address)?;
    if source.is_unspecified() {
        return Err(no_address());
    }
    Ok(source)
}

/// Whether the address is the interface's: for one that has none the kernel would send from
/// another's.
fn has_address(interface: &str, source: Ipv4Addr) -> io::Result<bool> {
    Ok(getifaddrs()?.any(|found| {
        let address = found
            .address
            .as_ref()
            .and_then(|found| found.as_sockaddr_in());
        found.interface_name == interface && address.is_some_and(|found| found.ip() == source)
    }))
}

fn no_address() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EADDRNOTAVAIL)
}

/// Instructions of a classic socket filter (linux/bpf_common.h).
const LOAD_LENGTH: u16 = 0x80;
const LOAD_BYTE: u16 = 0x30;
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const NOTHING: u32 = 0;
const WHOLE_PACKET: u32 = u32::MAX;
/// An IP header and the eight bytes of every advertisement. Unit: bytes.
const SHORTEST: u32 = 28;

/// Divides the packets of the protocol between the two sockets.
///
/// The bytes are those from the IP header on. A load behind the end of a packet ends the program
/// as if it had returned zero, and the packet would reach neither socket: hence the length first.
fn filter(vrid: u8, queue: Queue) -> [SockFilter; 14] {
    let (matching, rest) = match queue {
        Queue::Election => (WHOLE_PACKET, NOTHING),
        Queue::Other => (NOTHING, WHOLE_PACKET),
    };
    let load = |code, offset| SockFilter::new(code, 0, 0, offset);
    // A jump counts from the next instruction; all lead to the last one.
    let equal = |value, to_last| SockFilter::new(JUMP_IF_EQUAL, 0, to_last, value);
    [
        load(LOAD_LENGTH, 0),
        SockFilter::new(JUMP_IF_GREATER_OR_EQUAL, 0, 11, SHORTEST),
        load(LOAD_BYTE, 0),
        equal(0x45, 9),
        load(LOAD_BYTE, 8),
        equal(255, 7),
        load(LOAD_WORD, 16),
        equal(GROUP.to_bits(), 5),
        load(LOAD_BYTE, 20),
        equal(0x31, 3),
        load(LOAD_BYTE, 21),
        equal(u32::from(vrid), 1),
        SockFilter::new(RETURN, 0, 0, matching),
        SockFilter::new(RETURN, 0, 0, rest),
    ]
}
