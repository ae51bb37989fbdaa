//! The sockets of the sync daemons.
//!
//! ```text
//!             to a multicast group, as the kernel          to peers, our addition
//!  master     one socket, connected to the group           one socket per peer, connected to it
//!  backup     bound to interface, group and port           bound to interface and port, hears
//!                                                          the peers alone
//! ```
//!
//! Groups and peers are of either family. A master sends to a group by its interface, from the
//! primary address of it (IPv4) or from what the kernel chooses there (IPv6); loop-back is off, and
//! long messages are sent in fragments. Nothing waits: what would wait returns, and the caller
//! polls the socket together with whatever else it has to hear. Source: `ip_vs_sync.c:
//! make_send_sock`, `make_receive_sock`.

mod backup;
mod batch;
mod link;
mod master;
mod options;

use std::io;
use std::net::IpAddr;

use socket2::{Domain, Protocol, Socket, Type};

pub use backup::{BackupSocket, backup_socket};
pub use batch::{BATCH_MAX, Datagram, RecvBatch, SendBatch};
pub use link::interface_mtu;
pub use master::{MasterSocket, master_sockets};

/// Most peers of a daemon.
pub const PEERS_MAX: usize = 16;

/// Where a daemon's messages travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Kernel name: `mcast_ifn`.
    pub interface: String,
    /// Not looked at when there are peers. Kernel name: `mcast_group`, `mcast_group6`.
    pub group: IpAddr,
    /// Unicast addresses that a master sends to and a backup hears, in place of the group; of one
    /// family, at most [`PEERS_MAX`]. The kernel has none.
    pub peers: Vec<IpAddr>,
    /// Port of this thread, see [`crate::limits::port_of_thread`].
    pub port: u16,
    /// TTL or hop limit of a master's messages to a group. Kernel name: `mcast_ttl`.
    pub ttl: u8,
    /// Send buffer of a master, receive buffer of a backup; 0 leaves the system's default, see
    /// [`BackupSocket::make_room`]. Above `net.core.wmem_max` or `rmem_max` those are taken. Unit:
    /// bytes; the kernel books twice as many. Kernel name: `sync_sock_size`.
    pub sock_size: usize,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("{0} is not a multicast group")]
    NotMulticast(IpAddr),
    #[error("peer {0} is not the address of another host")]
    NotAPeer(IpAddr),
    #[error("peer {0} is an address of this host")]
    OwnAddress(IpAddr),
    #[error("peers are of two families: {0} and {1}")]
    MixedPeers(IpAddr, IpAddr),
    #[error("{0} peers are more than {PEERS_MAX}")]
    ManyPeers(usize),
    /// A step that failed, and what it was about.
    #[error("cannot {step} ({value}): {source}")]
    Step {
        step: &'static str,
        value: String,
        source: io::Error,
    },
}

/// What works, but hardly as meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetWarning {
    #[error("interface {0} has no IPv4 address: messages are sent from 0.0.0.0 or another one")]
    NoAddress(String),
}

impl NetConfig {
    /// Whether messages travel in IPv6, which leaves less room in each.
    pub fn is_ipv6(&self) -> bool {
        self.peers.first().unwrap_or(&self.group).is_ipv6()
    }

    /// The index of the interface, once everything else makes sense.
    fn checked_interface(&self) -> Result<u32, NetError> {
        match self.peers.first() {
            None if !self.group.is_multicast() => return Err(NetError::NotMulticast(self.group)),
            None => {}
            Some(first) => self.check_peers(*first)?,
        }
        let index = link::index(&self.interface)?;
        let own = link::own_address(&self.peers).map_err(step("read addresses", "all"))?;
        match own {
            Some(own) => Err(NetError::OwnAddress(own)),
            None => Ok(index),
        }
    }

    fn check_peers(&self, first: IpAddr) -> Result<(), NetError> {
        if self.peers.len() > PEERS_MAX {
            return Err(NetError::ManyPeers(self.peers.len()));
        }
        for peer in &self.peers {
            if peer.is_ipv6() != first.is_ipv6() {
                return Err(NetError::MixedPeers(first, *peer));
            }
            if !is_a_hosts(*peer) {
                return Err(NetError::NotAPeer(*peer));
            }
        }
        Ok(())
    }
}

/// Whether another host can have the address.
pub fn is_a_hosts(address: IpAddr) -> bool {
    let odd = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.octets().first() == Some(&0),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    !odd && !address.is_unspecified() && !address.is_multicast() && !address.is_loopback()
}

fn new_socket(ipv6: bool) -> Result<Socket, NetError> {
    let family = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let open = || {
        let socket = Socket::new(family, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if ipv6 {
            socket.set_only_v6(true)?;
        }
        Ok(socket)
    };
    let name = if ipv6 { "UDP over IPv6" } else { "UDP" };
    open().map_err(step("open a socket", name))
}

fn step<V: std::fmt::Display>(step: &'static str, value: V) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError::Step {
        step,
        value: value.to_string(),
        source,
    }
}

/// What fits the C type; the kernel takes less anyway.
const SOCK_SIZE_MAX: usize = i32::MAX as usize;

#[cfg(test)]
mod tests;
