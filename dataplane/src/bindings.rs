//! Which real server an entry is bound to, among those that are configured here
//! (`ip_vs_ctl.c: ip_vs_find_dest`).

use std::net::{IpAddr, SocketAddr};

use dataplane_common::settings::Settings;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::{ServerKey, ServiceKey};

use crate::SyncedConn;
use crate::maps::Maps;
use crate::services::{FTP, Services};
use crate::synced::method;

const FTP_DATA: u16 = 20;

/// A real server that is configured here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) method: u32,
}

/// What decides to which real server an entry is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BindingKey {
    protocol: u8,
    masqueraded: bool,
    virt: SocketAddr,
    dest: SocketAddr,
    fwmark: u32,
}

/// Lookups made for the entries at hand: many are of the same few servers.
pub(crate) struct Bindings {
    made: [Option<(BindingKey, Option<Bound>)>; Bindings::PLACES],
}

impl Default for Bindings {
    fn default() -> Bindings {
        Bindings {
            made: [None; Bindings::PLACES],
        }
    }
}

impl Bindings {
    /// A power of two.
    const PLACES: usize = 64;

    pub(crate) fn of(
        &mut self,
        maps: &Maps,
        services: &Services,
        settings: &Settings,
        conn: &SyncedConn,
    ) -> Option<Bound> {
        let key = BindingKey {
            protocol: conn.protocol,
            masqueraded: method(conn) == ForwardMethod::Masquerading as u32,
            virt: conn.virt,
            dest: conn.dest,
            fwmark: conn.fwmark,
        };
        let place = &mut self.made[place_of(&key)];
        match place {
            Some((known, bound)) if *known == key => *bound,
            _ => {
                let bound = find_server(maps, services, settings.unprivileged_port, conn);
                *place = Some((key, bound));
                bound
            }
        }
    }
}

/// Servers of a service differ in the last words of their addresses, or in their ports.
fn place_of(key: &BindingKey) -> usize {
    let last = |addr: SocketAddr| match addr.ip() {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => addr.to_bits() as u32,
    };
    let ports = u32::from(key.virt.port()) << 16 | u32::from(key.dest.port());
    let mixed = last(key.dest)
        .wrapping_add(last(key.virt).rotate_left(7))
        .wrapping_add(ports)
        .wrapping_mul(0x9e37_79b1);
    (mixed >> 26) as usize % Bindings::PLACES
}

/// Place, generation and method of an entry's real server, if it is configured here
/// (`ip_vs_ctl.c: ip_vs_find_dest`).
fn find_server(
    maps: &Maps,
    services: &Services,
    unprivileged_port: u32,
    conn: &SyncedConn,
) -> Option<Bound> {
    let candidates = service_keys(services, unprivileged_port, conn);
    let service = candidates
        .into_iter()
        .flatten()
        .find(|key| services.has_service(key))?;
    server_ports(conn).into_iter().find_map(|port| {
        let server: ServerKey = SocketAddr::new(conn.dest.ip(), port);
        let (slot, generation) = services.server_slot(maps, &service, server)?;
        let method = maps.servers.read(slot).method.into();
        Some(Bound {
            slot,
            generation,
            method,
        })
    })
}

/// The services an entry may be of, the first that is there decides: that of its mark, that of its own
/// address and port, that of FTP, that of port 0 (`ip_vs_ctl.c: ip_vs_service_find`).
fn service_keys(
    services: &Services,
    unprivileged_port: u32,
    conn: &SyncedConn,
) -> [Option<ServiceKey>; 4] {
    let mark = (conn.fwmark != 0).then_some(ServiceKey::Fwmark {
        mark: conn.fwmark,
        ipv6: conn.client.is_ipv6(),
    });
    let Some(protocol) = Protocol::from_number(conn.protocol) else {
        return [mark, None, None, None];
    };
    let of_port = |port: u16| ServiceKey::Address {
        protocol,
        addr: SocketAddr::new(conn.virt.ip(), port),
    };
    let port = conn.virt.port();
    let ftp_data = protocol == Protocol::Tcp
        && services.has_ftp()
        && (port == FTP_DATA || u32::from(port) >= unprivileged_port);
    let port_zero = services.has_port_zero();
    [
        mark,
        Some(of_port(port)),
        ftp_data.then(|| of_port(FTP)),
        port_zero.then(|| of_port(0)),
    ]
}

/// Under which ports an entry's server is looked for. Of a mark, one that is not rewritten is a server
/// of all ports first.
fn server_ports(conn: &SyncedConn) -> [u16; 2] {
    let rewritten = method(conn) == ForwardMethod::Masquerading as u32;
    if conn.fwmark != 0 && !rewritten {
        [0, conn.dest.port()]
    } else {
        [conn.dest.port(), 0]
    }
}

#[cfg(test)]
mod tests {
    use ipvs_model::flags::ConnFlags;

    use super::*;
    use crate::synced::tests::conn;

    #[test]
    fn a_server_of_a_mark_that_is_not_rewritten_is_looked_for_under_port_zero_first() {
        let marked = SyncedConn {
            fwmark: 7,
            ..conn(6)
        };
        let rewritten = SyncedConn {
            flags: ConnFlags(ForwardMethod::Masquerading as u32),
            ..marked.clone()
        };
        assert_eq!(server_ports(&conn(6)), [8080, 0]);
        assert_eq!(server_ports(&marked), [0, 8080]);
        assert_eq!(server_ports(&rewritten), [8080, 0]);
    }
}
