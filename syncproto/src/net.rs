//! The sockets of the sync daemons. IPv4 groups.
//!
//! A master sends from the primary address of its interface to the group, a backup listens on the
//! group's address and its interface alone. Neither waits: what would wait returns, and the caller
//! polls the socket together with whatever else it has to hear. Source: `ip_vs_sync.c:
//! make_send_sock`, `make_receive_sock`.

mod batch;
mod link;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::socket::sockopt::{GetStruct, SetStruct};
use nix::sys::socket::{GetSockOpt, SetSockOpt};
use nix::{getsockopt_impl, setsockopt_impl};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};

pub use batch::{BATCH_MAX, Datagram, RecvBatch, SendBatch};
pub use link::interface_mtu;

/// Where a daemon's messages travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Kernel name: `mcast_ifn`.
    pub interface: String,
    /// Kernel name: `mcast_group`.
    pub group: Ipv4Addr,
    /// Port of this thread, see [`crate::limits::port_of_thread`].
    pub port: u16,
    /// Of a master's messages. Kernel name: `mcast_ttl`.
    pub ttl: u8,
    /// Send buffer of a master, receive buffer of a backup; 0 leaves the system's default. Above
    /// `net.core.wmem_max` or `rmem_max` those are taken. Unit: bytes; the kernel books twice as
    /// many. Kernel name: `sync_sock_size`.
    pub sock_size: usize,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("{0} is not a multicast group")]
    NotMulticast(Ipv4Addr),
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

/// A master's socket: connected to the group, non-blocking.
#[derive(Debug)]
pub struct MasterSocket(Socket);

/// A backup's socket: bound to the group and the interface, non-blocking.
#[derive(Debug)]
pub struct BackupSocket(Socket);

/// Opens the socket a master sends from.
///
/// # Errors
/// [`NetError`], with the step that failed.
pub fn master_socket(config: &NetConfig) -> Result<(MasterSocket, Option<NetWarning>), NetError> {
    let index = checked_interface(config)?;
    let name = &config.interface;
    let address = link::primary_address(name).map_err(step("read addresses", name))?;
    let socket = new_socket()?;
    let out = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: index as libc::c_int,
    };
    (MulticastInterface
        .set(&socket, &out)
        .map_err(io::Error::from))
    .map_err(step("send multicast on interface", name))?;
    // A node that is master and backup does not hear itself.
    (socket.set_multicast_loop_v4(false)).map_err(step("set multicast loop", false))?;
    (socket.set_multicast_ttl_v4(config.ttl.into())).map_err(step("set TTL", config.ttl))?;
    let never = libc::IP_PMTUDISC_DONT;
    (MtuDiscover.set(&socket, &never).map_err(io::Error::from))
        .map_err(step("allow fragmentation", never))?;
    if config.sock_size > 0 {
        let size = config.sock_size.min(SOCK_SIZE_MAX);
        (socket.set_send_buffer_size(size)).map_err(step("set the send buffer", size))?;
    }
    let from = SocketAddrV4::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), 0);
    (socket.bind(&SockAddr::from(from))).map_err(step("bind", from))?;
    let to = SocketAddrV4::new(config.group, config.port);
    (socket.connect(&SockAddr::from(to))).map_err(step("connect", to))?;
    let warning = address
        .is_none()
        .then(|| NetWarning::NoAddress(name.clone()));
    Ok((MasterSocket(socket), warning))
}

/// Opens the socket a backup hears with.
///
/// # Errors
/// [`NetError`], with the step that failed.
pub fn backup_socket(config: &NetConfig) -> Result<BackupSocket, NetError> {
    let index = checked_interface(config)?;
    let name = &config.interface;
    let socket = new_socket()?;
    (socket.set_reuse_address(true)).map_err(step("allow address reuse", true))?;
    if config.sock_size > 0 {
        let size = config.sock_size.min(SOCK_SIZE_MAX);
        (socket.set_recv_buffer_size(size)).map_err(step("set the receive buffer", size))?;
    }
    (socket.bind_device(Some(name.as_bytes()))).map_err(step("bind to interface", name))?;
    let on = SocketAddrV4::new(config.group, config.port);
    (socket.bind(&SockAddr::from(on))).map_err(step("bind", on))?;
    let index = InterfaceIndexOrAddress::Index(index);
    (socket.join_multicast_v4_n(&config.group, &index)).map_err(step("join", config.group))?;
    Ok(BackupSocket(socket))
}

impl BackupSocket {
    /// Datagrams the kernel has dropped since the socket was opened, most of them because they
    /// were not read fast enough.
    ///
    /// # Errors
    /// What `getsockopt` says.
    pub fn drops(&self) -> io::Result<u32> {
        let [.., drops] = SocketMemory.get(&self.0)?;
        Ok(drops)
    }
}

impl AsFd for MasterSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for MasterSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for BackupSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for BackupSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn checked_interface(config: &NetConfig) -> Result<u32, NetError> {
    if !config.group.is_multicast() {
        return Err(NetError::NotMulticast(config.group));
    }
    link::index(&config.interface)
}

fn new_socket() -> Result<Socket, NetError> {
    let open = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    open().map_err(step("open a socket", "UDP"))
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

/// `IP_MULTICAST_IF` by index: an interface need not have an address.
#[derive(Clone, Copy)]
struct MulticastInterface;
setsockopt_impl!(
    MulticastInterface,
    libc::IPPROTO_IP,
    libc::IP_MULTICAST_IF,
    libc::ip_mreqn,
    SetStruct<'_, libc::ip_mreqn>
);

/// `IP_MTU_DISCOVER`; `IP_PMTUDISC_DONT` never sets "don't fragment".
#[derive(Clone, Copy)]
struct MtuDiscover;
setsockopt_impl!(
    MtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int,
    SetStruct<'_, libc::c_int>
);

/// `SO_MEMINFO`: nine words, the last of them the drops (`SK_MEMINFO_DROPS`).
#[derive(Clone, Copy)]
struct SocketMemory;
getsockopt_impl!(
    SocketMemory,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9],
    GetStruct<[u32; 9]>
);

#[cfg(test)]
mod tests;
