//! Announcing an address: gratuitous ARP and unsolicited neighbour advertisements through a packet
//! socket.
//!
//! A packet socket wants a link-layer address that names the interface. Interfaces are listed with
//! theirs when the announcer is opened, so that a promotion only sends; one that has come since is
//! looked up when it is first used.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::{Domain, Socket, Type};

use crate::wire::{MacAddr, arp, ndp};

/// Sends announcements on any interface of the network namespace it was opened in.
#[derive(Debug)]
pub struct Announcer {
    socket: Socket,
    /// By interface index.
    links: BTreeMap<u32, LinkAddr>,
}

impl Announcer {
    /// Needs `CAP_NET_RAW`.
    ///
    /// # Errors
    /// No socket, or the interfaces cannot be listed.
    pub fn open() -> io::Result<Announcer> {
        // Of no protocol: nothing is ever received.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?;
        let links = links()?;
        Ok(Announcer { socket, links })
    }

    /// Broadcasts once that `addr` is at `mac`.
    ///
    /// # Errors
    /// The interface does not exist, is down, or its queue is full.
    pub fn announce(&mut self, ifindex: u32, mac: MacAddr, addr: Ipv4Addr) -> io::Result<()> {
        self.send(ifindex, &arp::gratuitous(addr, mac))
    }

    /// Tells all nodes of the link once that `addr` is at `mac`, and whether this host routes.
    ///
    /// # Errors
    /// The interface does not exist, is down, or its queue is full.
    pub fn announce_v6(
        &mut self,
        ifindex: u32,
        mac: MacAddr,
        addr: Ipv6Addr,
        is_router: bool,
    ) -> io::Result<()> {
        self.send(ifindex, &ndp::unsolicited(addr, mac, is_router))
    }

    fn send(&mut self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let link = self.link(ifindex)?;
        sendto(self.socket.as_raw_fd(), frame, &link, MsgFlags::empty())?;
        Ok(())
    }

    fn link(&mut self, ifindex: u32) -> io::Result<LinkAddr> {
        if !self.links.contains_key(&ifindex) {
            self.links = links()?;
        }
        let found = self.links.get(&ifindex).copied();
        found.ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ENODEV))
    }
}

/// The link-layer addresses of all interfaces.
fn links() -> io::Result<BTreeMap<u32, LinkAddr>> {
    let mut links = BTreeMap::new();
    for interface in getifaddrs()? {
        let address = interface.address.as_ref();
        let Some(link) = address.and_then(|address| address.as_link_addr()) else {
            continue;
        };
        if let Ok(ifindex) = u32::try_from(link.ifindex()) {
            links.insert(ifindex, *link);
        }
    }
    Ok(links)
}
