//! Model types to map layouts and back: where byte orders meet.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use dataplane_common::service::{ServerRecord, ServiceKey4, ServiceRecord, StatsRecord};
use dataplane_common::sync_daemon::SyncDaemonRecord;
use dataplane_common::{Be16, Be32};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::stats::Stats;
use ipvs_model::sync::SyncSpec;

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

/// `None` for a daemon that does not run, or whose record makes no sense.
pub(crate) fn sync_spec(record: &SyncDaemonRecord) -> Option<SyncSpec> {
    if record.flags & SyncDaemonRecord::RUNS == 0 {
        return None;
    }
    let name = record.interface.split(|byte| *byte == 0).next()?;
    let group = Ipv4Addr::from(record.group[0].to_host());
    Some(SyncSpec {
        interface: str::from_utf8(name).ok()?.to_owned(),
        sync_id: record.sync_id,
        maxlen: record.maxlen,
        group: (!group.is_unspecified()).then_some(group.into()),
        port: record.port,
        ttl: record.ttl,
    })
}

/// An interface name that does not fit, or an IPv6 group, has been refused before.
pub(crate) fn sync_record(spec: Option<&SyncSpec>) -> SyncDaemonRecord {
    let Some(spec) = spec else {
        return SyncDaemonRecord::default();
    };
    let mut record = SyncDaemonRecord {
        flags: SyncDaemonRecord::RUNS,
        maxlen: spec.maxlen,
        port: spec.port,
        sync_id: spec.sync_id,
        ttl: spec.ttl,
        ..SyncDaemonRecord::default()
    };
    if let Some(IpAddr::V4(group)) = spec.group {
        record.group[0] = be(group);
    }
    // The last byte stays zero.
    let room = record.interface.len() - 1;
    for (to, from) in record.interface[..room]
        .iter_mut()
        .zip(spec.interface.bytes())
    {
        *to = from;
    }
    record
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
