//! Connections that another director tells of: finds their real server, and has them applied
//! (`ip_vs_sync.c: ip_vs_proc_conn`).

use std::net::{IpAddr, SocketAddr, SocketAddrV4};

use dataplane_common::FlowKey4;
use dataplane_common::batch::{BatchItem, BatchResult};
use dataplane_common::entry::NO_SERVER;
use dataplane_common::key::Be16;
use dataplane_common::settings::Settings;
use ipvs_model::flags::ConnFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::{ServerKey, ServiceKey};

use crate::convert::be;
use crate::maps::Maps;
use crate::services::Services;

/// A connection as a master tells of it; the receiver has checked states and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncedConn {
    pub protocol: Protocol,
    pub client: SocketAddrV4,
    pub virt: SocketAddrV4,
    pub dest: SocketAddrV4,
    /// As they are to be stored, see [`ConnFlags`].
    pub flags: ConnFlags,
    pub state: u8,
    pub fwmark: u32,
    /// 0 is not said: the state's own timeout here.
    pub timeout_secs: u32,
}

/// What became of a batch of synchronised connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    pub created: u64,
    pub updated: u64,
    /// The real server had changed.
    pub replaced: u64,
    /// The end of a connection that another one has replaced.
    pub late: u64,
    /// This node directs and saw a packet of the connection just now.
    pub guarded: u64,
    pub table_full: u64,
    /// The way back belongs to another connection.
    pub reply_collision: u64,
    /// Another hand was at the entry.
    pub busy: u64,
    /// Neither its real server here nor, without one, the entry itself is forwarded by a method the
    /// programs have.
    pub unsupported_method: u64,
}

impl ApplyReport {
    pub(crate) fn count(&mut self, result: Option<BatchResult>) {
        let counter = match result {
            Some(BatchResult::Created) => &mut self.created,
            Some(BatchResult::Updated) => &mut self.updated,
            Some(BatchResult::Replaced) => &mut self.replaced,
            Some(BatchResult::Late) => &mut self.late,
            Some(BatchResult::Guarded) => &mut self.guarded,
            Some(BatchResult::TableFull) => &mut self.table_full,
            Some(BatchResult::ReplyCollision) => &mut self.reply_collision,
            Some(
                BatchResult::Untouched
                | BatchResult::Marked
                | BatchResult::Swept
                | BatchResult::Kept
                | BatchResult::Missed
                | BatchResult::Offered
                | BatchResult::RingFull,
            )
            | None => &mut self.busy,
        };
        *counter += 1;
    }
}

/// The item that has a connection applied; none when there is no way to forward it.
pub(crate) fn item(maps: &Maps, services: &Services, conn: &SyncedConn) -> Option<BatchItem> {
    let bound = find_server(maps, services, conn);
    let (server, server_generation, method) = match bound {
        Some(found) => found,
        None => (NO_SERVER, 0, conn.flags.0 & ConnFlags::FWD_MASK),
    };
    if !is_forwarded(method) {
        return None;
    }
    // INACTIVE and NOOUTPUT live in the entry's word.
    let kept = !(ConnFlags::FWD_MASK | ConnFlags::INACTIVE | ConnFlags::NOOUTPUT);
    let flags = conn.flags.0 & kept & u32::from(u16::MAX) | method;
    let endpoint = |addr: &SocketAddrV4| (be(*addr.ip()), Be16::from_host(addr.port()));
    let (client, virt, dest) = (
        endpoint(&conn.client),
        endpoint(&conn.virt),
        endpoint(&conn.dest),
    );
    Some(BatchItem {
        key: FlowKey4::flow(client.0, client.1, virt.0, virt.1, conn.protocol.number()),
        daddr: dest.0,
        dport: dest.1,
        conn_flags: flags as u16,
        server,
        server_generation,
        timeout_secs: timeout(&maps.settings.read(0), conn),
        fwmark: conn.fwmark,
        state: conn.state,
        inactive: u8::from(conn.flags.contains(ConnFlags::INACTIVE)),
        ..BatchItem::default()
    })
}

/// Whether the programs have a connection's forwarding method.
fn is_forwarded(method: u32) -> bool {
    let known = u8::try_from(method)
        .ok()
        .and_then(ForwardMethod::from_number);
    match known {
        Some(
            ForwardMethod::Masquerading | ForwardMethod::LocalNode | ForwardMethod::DirectRouting,
        ) => true,
        Some(ForwardMethod::Tunnelling | ForwardMethod::Bypass) | None => false,
    }
}

/// A timeout that the master does not say is that of the state here.
fn timeout(settings: &Settings, conn: &SyncedConn) -> u32 {
    /// Longest timeout: what `ipvsadm --set` takes (`ip_vs_ctl.c: MAX_TIMEOUT`), far beyond any
    /// that a director gives.
    const TIMEOUT_MAX_SECS: u32 = i32::MAX as u32 / 1000;
    match (conn.timeout_secs, conn.protocol) {
        (0, Protocol::Tcp) => settings.tcp_timeout_secs[usize::from(conn.state & 15)],
        (0, Protocol::Udp) => settings.udp_timeout_secs,
        (0, Protocol::Sctp) => 180,
        (secs, _) => secs.min(TIMEOUT_MAX_SECS),
    }
}

/// Place, generation and method of a connection's real server, if it is configured here: first
/// in the service of its own address and port, then in the one of FTP, then in the one of port 0
/// (`ip_vs_ctl.c: ip_vs_find_dest`).
fn find_server(maps: &Maps, services: &Services, conn: &SyncedConn) -> Option<(u32, u32, u32)> {
    let port = conn.virt.port();
    let of_port = |port: u16| ServiceKey::Address {
        protocol: conn.protocol,
        addr: SocketAddr::new(IpAddr::V4(*conn.virt.ip()), port),
    };
    let ftp_data = conn.protocol == Protocol::Tcp && (port == FTP_DATA || port >= UNPRIVILEGED);
    let candidates = [
        Some(of_port(port)),
        ftp_data.then(|| of_port(FTP)),
        Some(of_port(0)),
    ];
    let service = candidates
        .into_iter()
        .flatten()
        .find(|key| services.has_service(key))?;
    // Connections of a mark that are not rewritten are of a server of all ports first.
    let all_ports_first = conn.fwmark != 0
        && conn.flags.0 & ConnFlags::FWD_MASK != ForwardMethod::Masquerading as u32;
    let mut ports = [conn.dest.port(), 0];
    if all_ports_first {
        ports.reverse();
    }
    ports.into_iter().find_map(|port| {
        let server: ServerKey = SocketAddr::new(IpAddr::V4(*conn.dest.ip()), port);
        let (slot, generation) = services.server_slot(maps, &service, server)?;
        Some((slot, generation, maps.servers.read(slot).method.into()))
    })
}

const FTP: u16 = 21;
const FTP_DATA: u16 = 20;
/// Default of `ip_unprivileged_port_start`.
const UNPRIVILEGED: u16 = 1024;
