//! Announcing addresses: gratuitous ARP and unsolicited neighbour advertisements through a packet
//! socket.
//!
//! Many leave in one call (`sendmmsg(2)`), and none is waited for. A queue that is full is no failure:
//! the rest is for later, and the caller is told how far it came.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::links::Links;
use super::socket::set_queue_priority;
use crate::wire::{MacAddr, arp, ndp};

/// `UIO_MAXIOV`: the kernel takes no more in one call.
pub const BATCH_MAX: usize = 1024;
/// What is on its way to a device is charged to the socket, almost a kilobyte for a frame, until the
/// device is done with it. Enough for the queue of one that stands still and for others beside it.
///
/// Unit: bytes.
const SEND_BUFFER: usize = 4 << 20;

/// That an address is at a MAC, told to all on the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub ifindex: u32,
    pub mac: MacAddr,
    pub address: IpAddr,
    /// Whether this host routes; only an IPv6 one says so.
    pub is_router: bool,
}

/// What became of some announcements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// So many from the front were sent, or refused. The queue had no room for the one behind them.
    pub taken: usize,
    /// Places of those that were refused, and why: the interface does not exist or is down.
    pub refused: Vec<(usize, Errno)>,
}

/// Sends announcements on any interface of the network namespace it was opened in.
#[derive(Debug)]
pub struct Announcer {
    socket: Socket,
    links: Links,
}

enum Frame {
    Arp([u8; arp::FRAME_LEN]),
    Advertisement([u8; ndp::FRAME_LEN]),
}

impl Announcer {
    /// Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// No socket, or the interfaces cannot be listed.
    pub fn open() -> io::Result<Announcer> {
        // Of no protocol: nothing is ever received.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        // Past `net.core.wmem_max` only with CAP_NET_ADMIN.
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER))?;
        set_queue_priority(&socket)?;
        let links = Links::list()?;
        Ok(Announcer { socket, links })
    }

    /// Sends each once, in this order; never waits.
    pub fn announce(&mut self, announcements: &[Announcement]) -> Sent {
        let known = self.links.know(announcements.iter().map(|one| one.ifindex));
        let mut sent = Sent::default();
        let (mut places, mut links, mut frames) = (Vec::new(), Vec::new(), Vec::new());
        for (place, one) in announcements.iter().enumerate() {
            // Without a list nothing is known of one that has come since.
            match self.links.get(one.ifindex) {
                Ok(link) => {
                    places.push(place);
                    links.push(Some(link));
                    frames.push(frame(one));
                }
                Err(unknown) => sent.refused.push((place, known.err().unwrap_or(unknown))),
            }
        }
        let mut done = 0;
        while let (Some(next), Some(links), Some(frames)) =
            (places.get(done), links.get(done..), frames.get(done..))
        {
            match self.send(links, frames) {
                Ok(count) if count > 0 => done = done.saturating_add(count),
                // A full socket, a full queue of the device, a host without memory.
                Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => {
                    sent.taken = *next;
                    sent.refused.retain(|(place, _)| place < next);
                    return sent;
                }
                Err(errno) => {
                    sent.refused.push((*next, errno));
                    done = done.saturating_add(1);
                }
            }
        }
        sent.taken = announcements.len();
        sent
    }

    /// How many of them went out, from the front; if none, why the first did not.
    fn send(&self, links: &[Option<LinkAddr>], frames: &[Frame]) -> Result<usize, Errno> {
        let slices: Vec<[IoSlice<'_>; 1]> = (frames.iter().take(BATCH_MAX))
            .map(|frame| [IoSlice::new(frame.bytes())])
            .collect();
        let mut headers = MultiHeaders::preallocate(slices.len(), None);
        let fd = self.socket.as_raw_fd();
        let flags = MsgFlags::MSG_DONTWAIT;
        Ok(sendmmsg(fd, &mut headers, &slices, links, [], flags)?.count())
    }
}

impl Frame {
    fn bytes(&self) -> &[u8] {
        match self {
            Frame::Arp(frame) => frame,
            Frame::Advertisement(frame) => frame,
        }
    }
}

fn frame(one: &Announcement) -> Frame {
    match one.address {
        IpAddr::V4(address) => Frame::Arp(arp::gratuitous(address, one.mac)),
        IpAddr::V6(address) => {
            Frame::Advertisement(ndp::unsolicited(address, one.mac, one.is_router))
        }
    }
}
