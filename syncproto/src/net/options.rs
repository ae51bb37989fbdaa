//! Options of sockets that neither `nix` nor `socket2` has.

use std::io;

use nix::sys::socket::sockopt::{GetStruct, SetStruct};
use nix::sys::socket::{GetSockOpt, SetSockOpt};
use nix::{getsockopt_impl, setsockopt_impl};
use socket2::Socket;

/// Has IPv4 multicast leave by an interface, by its index: it need not have an address.
pub(super) fn set_multicast_interface(socket: &Socket, index: u32) -> io::Result<()> {
    let any = libc::in_addr { s_addr: 0 };
    let out = libc::ip_mreqn {
        imr_multiaddr: any,
        imr_address: any,
        imr_ifindex: index as libc::c_int,
    };
    Ok(MulticastInterface.set(socket, &out)?)
}

/// Never sets "don't fragment": long messages go in fragments.
pub(super) fn allow_fragments(socket: &Socket, ipv6: bool) -> io::Result<()> {
    if ipv6 {
        MtuDiscover6.set(socket, &libc::IPV6_PMTUDISC_DONT)?;
    } else {
        MtuDiscover.set(socket, &libc::IP_PMTUDISC_DONT)?;
    }
    Ok(())
}

/// Datagrams the kernel has dropped at this socket (`SK_MEMINFO_DROPS`).
pub(super) fn drops(socket: &Socket) -> io::Result<u32> {
    let [.., drops] = SocketMemory.get(socket)?;
    Ok(drops)
}

/// `IP_MULTICAST_IF`.
#[derive(Clone, Copy)]
struct MulticastInterface;
setsockopt_impl!(
    MulticastInterface,
    libc::IPPROTO_IP,
    libc::IP_MULTICAST_IF,
    libc::ip_mreqn,
    SetStruct<'_, libc::ip_mreqn>
);

/// `IP_MTU_DISCOVER`.
#[derive(Clone, Copy)]
struct MtuDiscover;
setsockopt_impl!(
    MtuDiscover,
    libc::IPPROTO_IP,
    libc::IP_MTU_DISCOVER,
    libc::c_int,
    SetStruct<'_, libc::c_int>
);

/// `IPV6_MTU_DISCOVER`.
#[derive(Clone, Copy)]
struct MtuDiscover6;
setsockopt_impl!(
    MtuDiscover6,
    libc::IPPROTO_IPV6,
    libc::IPV6_MTU_DISCOVER,
    libc::c_int,
    SetStruct<'_, libc::c_int>
);

/// `SO_MEMINFO`: nine words, the last of them the drops.
#[derive(Clone, Copy)]
struct SocketMemory;
getsockopt_impl!(
    SocketMemory,
    libc::SOL_SOCKET,
    libc::SO_MEMINFO,
    [u32; 9],
    GetStruct<[u32; 9]>
);
