//! The address advertisements come from.
//!
//! Everything here is asked of sockets that are connected and never used: that takes no lock which
//! a change of addresses elsewhere holds, so that it may be asked between two advertisements.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU32;

use nix::ifaddrs::getifaddrs;
use nix::libc::{EADDRNOTAVAIL, EHOSTUNREACH, EINVAL, ENETUNREACH};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::{Config, Family, Priority};

/// Any port but zero will do.
const PORT: u16 = 1;

/// The address to advertise from: the one wanted, or the interface's own.
///
/// That is what the kernel would send from to the group or the first peer: in IPv4 the primary
/// address of the interface, in IPv6 its link-local one, and towards peers whatever reaches them.
///
/// # Errors
/// There is none, or not the one wanted (`EADDRNOTAVAIL`); the interface is down (`ENETUNREACH`).
pub(super) fn find(
    interface: &str,
    ifindex: u32,
    wanted: Option<IpAddr>,
    config: &Config,
) -> io::Result<IpAddr> {
    if let Some(wanted) = wanted {
        return is_local(wanted, ifindex)?
            .then_some(wanted)
            .ok_or_else(none);
    }
    let source = chosen(ifindex, config)?;
    if config.family() == Family::V4 {
        // For an interface that has none the kernel would send from another's.
        let is_own = addresses(interface)?.contains(&source);
        return is_own.then_some(source).ok_or_else(none);
    }
    let is_fit = |address: &IpAddr| {
        config.is_unicast() || matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
    };
    let is_virtual = |address: &IpAddr| {
        config.priority() != Priority::OWNER && config.addresses().contains(address)
    };
    if is_fit(&source) && !is_virtual(&source) {
        return Ok(source);
    }
    // A virtual address may be preferred while it is here.
    for address in addresses(interface)? {
        if is_fit(&address)
            && !is_virtual(&address)
            && Family::of(address) == Family::V6
            && is_local(address, ifindex)?
        {
            return Ok(address);
        }
    }
    // The virtual one is all there is: the caller says so.
    is_fit(&source).then_some(source).ok_or_else(none)
}

/// Whether `source`, found before, is still the one to use.
///
/// # Errors
/// As of [`find`].
pub(super) fn is_current(
    source: IpAddr,
    ifindex: u32,
    wanted: Option<IpAddr>,
    config: &Config,
) -> io::Result<bool> {
    match config.family() {
        // Another one may be primary by now.
        Family::V4 if wanted.is_none() => Ok(chosen(ifindex, config)? == source),
        Family::V4 | Family::V6 => is_local(source, ifindex)?.then_some(true).ok_or_else(none),
    }
}

/// What the kernel would send from.
fn chosen(ifindex: u32, config: &Config) -> io::Result<IpAddr> {
    let group = config.family().group();
    let towards = config.peers().first().map_or(group, |peer| peer.address);
    let source = sent_from(None, towards, ifindex, true)?;
    if source.is_unspecified() {
        return Err(none());
    }
    Ok(source)
}

/// Whether an address is one of this host's.
///
/// In IPv6 what is sent to one's own address comes from the same one. In IPv4 it may come from the
/// primary one of the interface; there a socket can be bound to one's own address, or to any if
/// `ip_nonlocal_bind` is set, but cannot be connected from one that is not (ip_route_output_key).
fn is_local(address: IpAddr, ifindex: u32) -> io::Result<bool> {
    let from = address.is_ipv4().then_some(address);
    match sent_from(from, address, ifindex, false) {
        Ok(source) => Ok(source == address),
        Err(error) => match error.raw_os_error() {
            Some(EADDRNOTAVAIL | EINVAL | ENETUNREACH | EHOSTUNREACH) => Ok(false),
            _ => Err(error),
        },
    }
}

fn sent_from(
    from: Option<IpAddr>,
    towards: IpAddr,
    ifindex: u32,
    through_interface: bool,
) -> io::Result<IpAddr> {
    let through = NonZeroU32::new(ifindex).filter(|_| through_interface);
    let domain = match towards {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM.cloexec(), None)?;
    match towards {
        IpAddr::V4(_) => socket.bind_device_by_index_v4(through)?,
        IpAddr::V6(_) => socket.bind_device_by_index_v6(through)?,
    }
    if let Some(from) = from {
        socket.bind(&SockAddr::from(scoped(from, 0, ifindex)))?;
    }
    socket.connect(&SockAddr::from(scoped(towards, PORT, ifindex)))?;
    let local = socket.local_addr()?.as_socket().ok_or_else(none)?;
    Ok(local.ip())
}

/// An address with the interface it is to be looked for on, which link-local ones need.
pub(super) fn scoped(address: IpAddr, port: u16, ifindex: u32) -> SocketAddr {
    match address {
        IpAddr::V4(_) => SocketAddr::new(address, port),
        IpAddr::V6(address) => {
            let is_of_link = address.is_unicast_link_local() || address.is_multicast();
            let scope = if is_of_link { ifindex } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope))
        }
    }
}

/// The addresses of an interface.
fn addresses(interface: &str) -> io::Result<Vec<IpAddr>> {
    let own = getifaddrs()?.filter(|found| found.interface_name == interface);
    let own = own.filter_map(|found| {
        let address = found.address?;
        let v4 = address.as_sockaddr_in().map(|found| IpAddr::V4(found.ip()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|found| IpAddr::V6(found.ip()))
        })
    });
    Ok(own.collect())
}

pub(super) fn none() -> io::Error {
    io::Error::from_raw_os_error(EADDRNOTAVAIL)
}
