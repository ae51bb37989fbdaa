//! What is asked of an interface: its index, its first address, its MTU.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::{NetError, step};

/// # Errors
/// [`NetError::NoInterface`].
pub(super) fn index(name: &str) -> Result<u32, NetError> {
    if_nametoindex(name).map_err(|_| NetError::NoInterface(name.to_owned()))
}

/// The primary IPv4 address: the first that the kernel lists. Its label may be that of an alias.
pub(super) fn primary_address(name: &str) -> io::Result<Option<Ipv4Addr>> {
    let of_interface = |label: &str| label.split(':').next() == Some(name);
    let mut addresses = getifaddrs()?.filter(|found| of_interface(&found.interface_name));
    Ok(addresses.find_map(|found| Some(found.address?.as_sockaddr_in()?.ip())))
}

/// The first of `addresses` that is one of this host's, on whatever interface.
pub(super) fn own_address(addresses: &[IpAddr]) -> io::Result<Option<IpAddr>> {
    if addresses.is_empty() {
        return Ok(None);
    }
    let mut own = getifaddrs()?.filter_map(|found| {
        let found = found.address?;
        let four = found.as_sockaddr_in().map(|address| address.ip().into());
        four.or_else(|| Some(found.as_sockaddr_in6()?.ip().into()))
    });
    Ok(own.find(|own| addresses.contains(own)))
}

/// MTU of an interface, up or not. Unit: bytes.
///
/// # Errors
/// [`NetError::NoInterface`], or that rtnetlink did not answer.
pub fn interface_mtu(name: &str) -> Result<u32, NetError> {
    let index = index(name)?;
    let answer = ask_link(index).map_err(step("read the MTU of interface", name))?;
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "no MTU in the answer");
    find_mtu(&answer)
        .ok_or_else(missing)
        .map_err(step("read the MTU of interface", name))
}

/// `struct nlmsghdr` and `struct ifinfomsg`. Unit: bytes.
const REQUEST_LEN: usize = 16 + 16;
/// More than a link's answer takes; a longer one is cut, and the MTU stands near its beginning.
const ANSWER_LEN_MAX: usize = 16 * 1024;

/// One `RTM_GETLINK`: the answer, header included.
fn ask_link(index: u32) -> io::Result<Vec<u8>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let mut request = Vec::with_capacity(REQUEST_LEN);
    request.extend_from_slice(&(REQUEST_LEN as u32).to_ne_bytes());
    request.extend_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request.extend_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    // Sequence number, port, then family and type of the link: of no interest here.
    request.extend_from_slice(&[0; 12]);
    request.extend_from_slice(&index.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    send(netlink.as_raw_fd(), &request, MsgFlags::empty())?;
    let mut answer = vec![0; ANSWER_LEN_MAX];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    answer.truncate(length);
    Ok(answer)
}

/// `IFLA_MTU` in an `RTM_NEWLINK`; `None` in anything else.
fn find_mtu(answer: &[u8]) -> Option<u32> {
    let half = |bytes: &[u8], at: usize| {
        let two = bytes.get(at..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*two))
    };
    if half(answer, 4)? != libc::RTM_NEWLINK {
        return None;
    }
    let mut attributes = answer.get(REQUEST_LEN..)?;
    loop {
        let length = usize::from(half(attributes, 0)?);
        let value = attributes.get(4..length)?;
        if half(attributes, 2)? == libc::IFLA_MTU {
            return Some(u32::from_ne_bytes(*value.first_chunk()?));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}
