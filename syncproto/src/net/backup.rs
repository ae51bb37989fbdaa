//! What a backup hears with.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{InterfaceIndexOrAddress, SockAddr, Socket};

use super::master::scoped;
use super::{NetConfig, NetError, SOCK_SIZE_MAX, new_socket, options, step};

/// A socket bound to an interface, and to the group or to every address of this host.
/// Non-blocking.
#[derive(Debug)]
pub struct BackupSocket {
    socket: Socket,
    /// The only ones that are heard; none hears everybody.
    peers: Vec<IpAddr>,
}

/// Opens the socket a backup hears with.
///
/// # Errors
/// [`NetError`], with the step that failed.
pub fn backup_socket(config: &NetConfig) -> Result<BackupSocket, NetError> {
    let index = config.checked_interface()?;
    let (name, ipv6) = (&config.interface, config.is_ipv6());
    let is_group = config.peers.is_empty();
    let socket = new_socket(ipv6)?;
    if is_group {
        // As the kernel: others may listen to the group too.
        (socket.set_reuse_address(true)).map_err(step("allow address reuse", true))?;
    }
    if config.sock_size > 0 {
        let size = config.sock_size.min(SOCK_SIZE_MAX);
        (socket.set_recv_buffer_size(size)).map_err(step("set the receive buffer", size))?;
    }
    (socket.bind_device(Some(name.as_bytes()))).map_err(step("bind to interface", name))?;
    let address = match (is_group, ipv6) {
        (true, _) => config.group,
        (false, true) => Ipv6Addr::UNSPECIFIED.into(),
        (false, false) => Ipv4Addr::UNSPECIFIED.into(),
    };
    let on = scoped(address, config.port, index);
    (socket.bind(&SockAddr::from(on))).map_err(step("bind", on))?;
    if is_group {
        let joined = match config.group {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, index),
        };
        joined.map_err(step("join", config.group))?;
    }
    Ok(BackupSocket {
        socket,
        peers: config.peers.clone(),
    })
}

impl BackupSocket {
    /// Gives it a receive buffer of `size` bytes, beyond `net.core.rmem_max` if this thread may
    /// (CAP_NET_ADMIN), else as many of them as that lets through. The kernel books twice as many.
    ///
    /// # Errors
    /// [`NetError::Step`].
    pub fn make_room(&self, size: usize) -> Result<(), NetError> {
        let size = size.min(SOCK_SIZE_MAX);
        if setsockopt(&self.socket, sockopt::RcvBufForce, &size).is_ok() {
            return Ok(());
        }
        (self.socket.set_recv_buffer_size(size)).map_err(step("set the receive buffer", size))
    }

    /// Datagrams the kernel has dropped since the socket was opened, most of them because they
    /// were not read fast enough.
    ///
    /// # Errors
    /// What `getsockopt` says.
    pub fn drops(&self) -> io::Result<u32> {
        options::drops(&self.socket)
    }

    /// Whether a datagram from there is heard. To a group anybody may send, as with the kernel.
    pub(super) fn hears(&self, source: Option<IpAddr>) -> bool {
        self.peers.is_empty() || source.is_some_and(|source| self.peers.contains(&source))
    }

    pub(super) fn wants_sources(&self) -> bool {
        !self.peers.is_empty()
    }
}

impl AsFd for BackupSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for BackupSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
