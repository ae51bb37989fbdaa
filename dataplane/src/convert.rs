//! Model types to map layouts and back: where byte orders meet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane_common::service::{ServerRecord, ServiceKey4, ServiceRecord, StatsRecord};
use dataplane_common::{Be16, Be32};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::stats::Stats;

/// An address as it stands in a packet.
pub(crate) fn be(addr: Ipv4Addr) -> Be32 {
    Be32::from_host(u32::from(addr))
}

/// Protocol and address of a service; firewall marks are refused before this is asked.
pub(crate) fn address_of(key: &ServiceKey) -> (Protocol, SocketAddr) {
    match key {
        ServiceKey::Address { protocol, addr } => (*protocol, *addr),
        ServiceKey::Fwmark { .. } => (Protocol::Tcp, (Ipv4Addr::UNSPECIFIED, 0).into()),
    }
}

pub(crate) fn map_key(key: &ServiceKey) -> ServiceKey4 {
    let (protocol, addr) = address_of(key);
    ServiceKey4 {
        addr: addr_words(addr.ip())[0],
        port: Be16::from_host(addr.port()),
        protocol: protocol.number(),
        reserved: 0,
    }
}

pub(crate) fn addr_words(addr: IpAddr) -> [Be32; 4] {
    match addr {
        IpAddr::V4(addr) => [be(addr), Be32(0), Be32(0), Be32(0)],
        IpAddr::V6(addr) => {
            let octets = addr.octets();
            let word = |at: usize| {
                Be32(u32::from_ne_bytes([
                    octets[at],
                    octets[at + 1],
                    octets[at + 2],
                    octets[at + 3],
                ]))
            };
            [word(0), word(4), word(8), word(12)]
        }
    }
}

pub(crate) fn fill_spec(record: &mut ServiceRecord, spec: &ServiceSpec) {
    record.scheduler = spec.scheduler.map_or(0, |scheduler| scheduler as u8);
    record.service_flags = spec.flags.0;
    record.timeout_secs = spec.timeout_secs;
    record.netmask = spec.netmask;
}

pub(crate) fn service_key(record: &ServiceRecord) -> Option<ServiceKey> {
    let protocol = Protocol::from_number(record.protocol)?;
    let addr = Ipv4Addr::from(record.addr[0].to_host());
    Some(ServiceKey::Address {
        protocol,
        addr: (addr, record.port.to_host()).into(),
    })
}

pub(crate) fn service_key_of(server: &ServerRecord) -> Option<ServiceKey> {
    let protocol = Protocol::from_number(server.service_protocol)?;
    let addr = Ipv4Addr::from(server.service_addr[0].to_host());
    Some(ServiceKey::Address {
        protocol,
        addr: (addr, server.service_port.to_host()).into(),
    })
}

pub(crate) fn service_spec(record: &ServiceRecord) -> ServiceSpec {
    ServiceSpec {
        scheduler: Scheduler::from_number(record.scheduler),
        flags: ServiceFlags(record.service_flags),
        timeout_secs: record.timeout_secs,
        netmask: record.netmask,
        pe_name: None,
    }
}

pub(crate) fn server_key(record: &ServerRecord) -> Option<ServerKey> {
    let used = record.flags & ServerRecord::USED != 0;
    let addr = Ipv4Addr::from(record.addr[0].to_host());
    used.then(|| (addr, record.port.to_host()).into())
}

pub(crate) fn server_spec(record: &ServerRecord, weight: u32) -> ServerSpec {
    ServerSpec {
        method: ForwardMethod::from_number(record.method).unwrap_or(ForwardMethod::Masquerading),
        weight,
        upper_threshold: record.upper_threshold,
        lower_threshold: record.lower_threshold,
    }
}

pub(crate) fn stats(record: StatsRecord) -> Stats {
    Stats {
        conns: record.conns,
        in_pkts: record.in_pkts,
        out_pkts: record.out_pkts,
        in_bytes: record.in_bytes,
        out_bytes: record.out_bytes,
    }
}

pub(crate) fn stats_words(record: StatsRecord) -> [u64; 5] {
    [
        record.conns,
        record.in_pkts,
        record.out_pkts,
        record.in_bytes,
        record.out_bytes,
    ]
}
