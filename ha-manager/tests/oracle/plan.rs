//! The small world of a run: who connects to what, and which services and servers there may be.
//!
//! Every real server's address and port belong to one virtual address and port. Otherwise replies of
//! two connections could look alike, which this director refuses (`drop_reply_collision`) and the
//! kernel does not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipvs_model::protocol::Protocol;
use ipvs_model::service::ServiceKey;
use syncproto::conn::{Addresses, Ends, SyncConn};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SCTP: u8 = 132;
pub(crate) const ESP: u8 = 50;
pub(crate) const AH: u8 = 51;

/// Flags of a connection, spelt out.
pub(crate) const NO_CPORT: u32 = 0x0800;
pub(crate) const TEMPLATE: u32 = 0x1000;

/// The mark that services may have.
pub(crate) const MARK: u32 = 7;

/// Ports that clients address. With [`MAPPED`] added, none is another one.
pub(crate) const VPORTS: [u16; 5] = [20, 21, 53, 80, 5000];
/// A mapped port is so much above the virtual one.
const MAPPED: u16 = 8000;

/// Virtual addresses of each family.
pub(crate) const VIPS: u8 = 5;
/// Real servers behind each.
pub(crate) const SERVERS: u8 = 3;
/// Clients of each family. One more never says the truth about its port, see [`is_odd`].
pub(crate) const CLIENTS: u8 = 2;
pub(crate) const ODD_CLIENT: u8 = 99;

const fn v4(net: [u8; 3], host: u8) -> Ipv4Addr {
    Ipv4Addr::new(net[0], net[1], net[2], host)
}

fn v6(net: u16, part: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00 + net, 0, 0, 0, 0, 0, part.into(), host.into())
}

pub(crate) fn client(ipv6: bool, host: u8) -> IpAddr {
    if ipv6 {
        v6(1, 0, host).into()
    } else {
        v4([10, 1, 0], host).into()
    }
}

pub(crate) fn vip(ipv6: bool, number: u8) -> IpAddr {
    if ipv6 {
        v6(2, 0, number).into()
    } else {
        v4([10, 50, 0], number).into()
    }
}

pub(crate) fn server(ipv6: bool, vip: u8, number: u8) -> IpAddr {
    if ipv6 {
        v6(3, vip, number).into()
    } else {
        v4([10, 200, vip], number).into()
    }
}

pub(crate) const fn mapped(vport: u16) -> u16 {
    vport + MAPPED
}

pub(crate) fn addresses(client: SocketAddr, virt: SocketAddr, dest: SocketAddr) -> Addresses {
    match (client, virt, dest) {
        (SocketAddr::V4(client), SocketAddr::V4(virt), SocketAddr::V4(dest)) => {
            Addresses::V4(Ends { client, virt, dest })
        }
        (SocketAddr::V6(client), SocketAddr::V6(virt), SocketAddr::V6(dest)) => {
            Addresses::V6(Ends { client, virt, dest })
        }
        mixed => panic!("{mixed:?}"),
    }
}

/// Number of the virtual address.
fn number_of_vip(addr: IpAddr) -> Option<u8> {
    (1..=VIPS).find(|number| vip(addr.is_ipv6(), *number) == addr)
}

/// Whether no other virtual address and port can have this real server.
pub(crate) fn is_in_place(conn: &SyncConn) -> bool {
    let (virt, dest) = (conn.addresses.virt(), conn.addresses.dest());
    let Some(vip) = number_of_vip(virt.ip()) else {
        return false;
    };
    let of_vip = |number| server(virt.is_ipv6(), vip, number) == dest.ip();
    let port = virt.port();
    VPORTS.contains(&port)
        && (1..=SERVERS).any(of_vip)
        && (dest.port() == port || dest.port() == mapped(port))
}

/// Whether the client's port is 0 without NO_CPORT, or is not 0 with it.
pub(crate) fn is_odd(conn: &SyncConn) -> bool {
    let says_none = conn.flags & NO_CPORT != 0;
    says_none != (conn.addresses.client().port() == 0)
}

/// A service there may be, and the servers it may have: number of the server, port, method.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) key: ServiceKey,
    pub(crate) servers: Vec<(SocketAddr, u32)>,
}

const NAT: u32 = 0;
const LOCAL: u32 = 1;
const DIRECT: u32 = 3;

pub(crate) fn services() -> Vec<Planned> {
    let mut all = Vec::new();
    for ipv6 in [false, true] {
        let protocols = [
            (Protocol::Tcp, 1, 80),
            (Protocol::Udp, 1, 53),
            (Protocol::Sctp, 1, 5000),
            // FTP: its data connections too.
            (Protocol::Tcp, 2, 21),
            // Every port.
            (Protocol::Tcp, 3, 0),
            (Protocol::Udp, 3, 0),
        ];
        for (protocol, number, port) in protocols {
            let addr = SocketAddr::new(vip(ipv6, number), port);
            let key = ServiceKey::Address { protocol, addr };
            all.push(Planned {
                key,
                servers: servers(ipv6, number, port),
            });
        }
        let key = ServiceKey::Fwmark { mark: MARK, ipv6 };
        let mut both = servers(ipv6, 4, 80);
        both.extend(servers(ipv6, 1, 80));
        all.push(Planned { key, servers: both });
    }
    all
}

fn servers(ipv6: bool, vip: u8, port: u16) -> Vec<(SocketAddr, u32)> {
    let at = |number, port, method| (SocketAddr::new(server(ipv6, vip, number), port), method);
    if port == 0 {
        return vec![at(1, 0, NAT), at(2, 0, DIRECT), at(3, 80, NAT)];
    }
    vec![
        at(1, port, NAT),
        at(1, 0, DIRECT),
        at(2, mapped(port), LOCAL),
        at(3, 0, NAT),
    ]
}
