//! What a master sends with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{SockAddr, Socket};

use super::{NetConfig, NetError, NetWarning, SOCK_SIZE_MAX, link, new_socket, options, step};

/// A socket connected to one destination: the group, or a peer. Non-blocking.
#[derive(Debug)]
pub struct MasterSocket(Socket);

/// Opens the sockets a master sends with: one to the group, or one to each peer.
///
/// # Errors
/// [`NetError`], with the step that failed. Nothing is left open then.
pub fn master_sockets(
    config: &NetConfig,
) -> Result<(Vec<MasterSocket>, Option<NetWarning>), NetError> {
    let index = config.checked_interface()?;
    if config.peers.is_empty() {
        let (socket, warning) = match config.group {
            IpAddr::V4(_) => to_group4(config, index)?,
            IpAddr::V6(_) => (to_group6(config, index)?, None),
        };
        return Ok((vec![socket], warning));
    }
    let sockets = config
        .peers
        .iter()
        .map(|peer| to_peer(config, *peer, index));
    Ok((sockets.collect::<Result<_, _>>()?, None))
}

fn to_group4(
    config: &NetConfig,
    index: u32,
) -> Result<(MasterSocket, Option<NetWarning>), NetError> {
    let name = &config.interface;
    let address = link::primary_address(name).map_err(step("read addresses", name))?;
    let socket = sending(config, false)?;
    options::set_multicast_interface(&socket, index)
        .map_err(step("send multicast on interface", name))?;
    // A node that is master and backup does not hear itself.
    (socket.set_multicast_loop_v4(false)).map_err(step("set multicast loop", false))?;
    (socket.set_multicast_ttl_v4(config.ttl.into())).map_err(step("set TTL", config.ttl))?;
    let from = SocketAddrV4::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), 0);
    (socket.bind(&SockAddr::from(from))).map_err(step("bind", from))?;
    let socket = connected(socket, config.group, config.port, index)?;
    let warning = address
        .is_none()
        .then(|| NetWarning::NoAddress(name.clone()));
    Ok((socket, warning))
}

fn to_group6(config: &NetConfig, index: u32) -> Result<MasterSocket, NetError> {
    let socket = sending(config, true)?;
    (socket.set_multicast_if_v6(index))
        .map_err(step("send multicast on interface", &config.interface))?;
    (socket.set_multicast_loop_v6(false)).map_err(step("set multicast loop", false))?;
    let hops = config.ttl;
    (socket.set_multicast_hops_v6(hops.into())).map_err(step("set hop limit", hops))?;
    connected(socket, config.group, config.port, index)
}

/// The routes choose the address it sends from, so it is one the peer knows this host by.
fn to_peer(config: &NetConfig, peer: IpAddr, index: u32) -> Result<MasterSocket, NetError> {
    let socket = sending(config, peer.is_ipv6())?;
    let name = &config.interface;
    (socket.bind_device(Some(name.as_bytes()))).map_err(step("bind to interface", name))?;
    connected(socket, peer, config.port, index)
}

fn sending(config: &NetConfig, ipv6: bool) -> Result<Socket, NetError> {
    let socket = new_socket(ipv6)?;
    options::allow_fragments(&socket, ipv6).map_err(step("allow fragmentation", true))?;
    if config.sock_size > 0 {
        let size = config.sock_size.min(SOCK_SIZE_MAX);
        (socket.set_send_buffer_size(size)).map_err(step("set the send buffer", size))?;
    }
    Ok(socket)
}

fn connected(socket: Socket, to: IpAddr, port: u16, index: u32) -> Result<MasterSocket, NetError> {
    let to = scoped(to, port, index);
    (socket.connect(&SockAddr::from(to))).map_err(step("connect", to))?;
    Ok(MasterSocket(socket))
}

/// A link-local address, or group, is one of its link.
pub(super) fn scoped(address: IpAddr, port: u16, index: u32) -> SocketAddr {
    match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, port).into(),
        IpAddr::V6(address) => {
            let is_scoped = address.is_unicast_link_local() || address.is_multicast();
            let scope = if is_scoped { index } else { 0 };
            SocketAddrV6::new(address, port, 0, scope).into()
        }
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
