//! Model types to map layouts and back: where byte orders meet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_common::rules::estimate;
use dataplane_common::service::{
    ServerRecord, ServiceKey4, ServiceKey6, ServiceRecord, StatsRecord,
};
use dataplane_common::sync_daemon::SyncDaemonRecord;
use dataplane_common::{Addr6, Address, Be16, Be32};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::stats::{Rates, Stats};
use ipvs_model::sync::SyncSpec;

pub(crate) const AF_INET: u8 = Be32::FAMILY;
pub(crate) const AF_INET6: u8 = Addr6::FAMILY;

/// An address as it stands in a packet.
pub(crate) fn be(addr: Ipv4Addr) -> Be32 {
    Be32::from_host(u32::from(addr))
}

pub(crate) fn be6(addr: Ipv6Addr) -> Addr6 {
    let bits = addr.to_bits();
    [96, 64, 32, 0].map(|shift| Be32::from_host((bits >> shift) as u32))
}

/// As records for both families hold it.
pub(crate) fn addr_words(addr: IpAddr) -> Addr6 {
    match addr {
        IpAddr::V4(addr) => be(addr).to_words(),
        IpAddr::V6(addr) => be6(addr),
    }
}

pub(crate) fn ip_of(words: Addr6, family: u8) -> IpAddr {
    if family == AF_INET6 {
        let [a, b, c, d] = words.map(|word| u128::from(word.to_host()));
        Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | d).into()
    } else {
        Ipv4Addr::from(words[0].to_host()).into()
    }
}

pub(crate) const fn family_of(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

pub(crate) fn socket_addr(words: Addr6, port: Be16, family: u8) -> SocketAddr {
    (ip_of(words, family), port.to_host()).into()
}

/// A service's key as the maps hold it. A firewall mark stands in the first word of the address, its
/// protocol and port are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MapKey {
    pub(crate) family: u8,
    pub(crate) protocol: u8,
    pub(crate) addr: Addr6,
    pub(crate) port: Be16,
    pub(crate) fwmark: u32,
}

impl MapKey {
    pub(crate) fn new(key: &ServiceKey) -> MapKey {
        match *key {
            ServiceKey::Address { protocol, addr } => MapKey {
                family: family_of(addr.ip()),
                protocol: protocol.number(),
                addr: addr_words(addr.ip()),
                port: Be16::from_host(addr.port()),
                fwmark: 0,
            },
            ServiceKey::Fwmark { mark, ipv6 } => MapKey {
                family: if ipv6 { AF_INET6 } else { AF_INET },
                protocol: 0,
                addr: Be32::from_host(mark).to_words(),
                port: Be16(0),
                fwmark: mark,
            },
        }
    }

    /// Of `SERVICE_IDS4`.
    pub(crate) fn of_ids4(&self) -> ServiceKey4 {
        ServiceKey4 {
            addr: self.addr[0],
            port: self.port,
            protocol: self.protocol,
            reserved: 0,
        }
    }

    /// Of `SERVICE_IDS6`.
    pub(crate) fn of_ids6(&self) -> ServiceKey6 {
        ServiceKey6 {
            addr: self.addr,
            port: self.port,
            protocol: self.protocol,
            reserved: 0,
        }
    }

    /// `None` when the record makes no sense.
    pub(crate) fn service_key(&self) -> Option<ServiceKey> {
        let ipv6 = match self.family {
            AF_INET => false,
            AF_INET6 => true,
            _ => return None,
        };
        if self.protocol == 0 {
            let mark = self.fwmark;
            return (mark != 0).then_some(ServiceKey::Fwmark { mark, ipv6 });
        }
        Some(ServiceKey::Address {
            protocol: Protocol::from_number(self.protocol)?,
            addr: socket_addr(self.addr, self.port, self.family),
        })
    }
}

/// The virtual address of a service; one of a firewall mark has none.
pub(crate) const fn virtual_address(key: &ServiceKey) -> Option<IpAddr> {
    match key {
        ServiceKey::Address { addr, .. } => Some(addr.ip()),
        ServiceKey::Fwmark { .. } => None,
    }
}

pub(crate) fn fill_spec(record: &mut ServiceRecord, spec: &ServiceSpec) {
    record.scheduler = spec.scheduler.map_or(0, |scheduler| scheduler as u8);
    record.service_flags = spec.flags.0;
    record.timeout_secs = spec.timeout_secs;
    record.netmask = spec.netmask;
}

pub(crate) fn service_key(record: &ServiceRecord) -> Option<ServiceKey> {
    let key = MapKey {
        family: u8::try_from(record.family).ok()?,
        protocol: record.protocol,
        addr: record.addr,
        port: record.port,
        fwmark: record.fwmark,
    };
    key.service_key()
}

pub(crate) fn service_key_of(server: &ServerRecord) -> Option<ServiceKey> {
    let key = MapKey {
        family: server.service_family,
        protocol: server.service_protocol,
        addr: server.service_addr,
        port: server.service_port,
        fwmark: server.service_fwmark,
    };
    key.service_key()
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
    used.then(|| socket_addr(record.addr, record.port, record.family))
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
    let group = match record.family {
        0 => None,
        family @ (AF_INET | AF_INET6) => Some(ip_of(record.group, family)),
        _ => return None,
    };
    Some(SyncSpec {
        interface: str::from_utf8(name).ok()?.to_owned(),
        sync_id: record.sync_id,
        maxlen: record.maxlen,
        group,
        port: record.port,
        ttl: record.ttl,
    })
}

/// An interface name that does not fit has been refused before.
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
    if let Some(group) = spec.group {
        record.family = family_of(group);
        record.group = addr_words(group);
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

pub(crate) fn rates(shown: estimate::Rates) -> Rates {
    Rates {
        cps: shown.conns,
        pps_in: shown.in_pkts,
        pps_out: shown.out_pkts,
        bps_in: shown.in_bytes,
        bps_out: shown.out_bytes,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_key_survives_the_maps() {
        let addresses = ["192.0.2.1:80", "[2001:db8::1]:0"].map(|text| ServiceKey::Address {
            protocol: Protocol::Sctp,
            addr: text.parse().unwrap(),
        });
        let marks = [false, true].map(|ipv6| ServiceKey::Fwmark { mark: 258, ipv6 });
        for key in addresses.into_iter().chain(marks) {
            assert_eq!(MapKey::new(&key).service_key(), Some(key));
        }
        let mark = MapKey::new(&marks[0]).of_ids4();
        assert_eq!((mark.addr, mark.protocol), (Be32::from_host(258), 0));
    }

    #[test]
    fn a_sync_daemons_record_holds_groups_of_both_families_or_none() {
        for group in [
            None,
            Some("224.0.0.81"),
            Some("ff02::81"),
            Some("ff05::1:3"),
        ] {
            let spec = SyncSpec {
                interface: "a-name-of-15-b".to_owned(),
                sync_id: 255,
                maxlen: 65_487,
                group: group.map(|text| text.parse().unwrap()),
                port: 65_535,
                ttl: 255,
            };
            assert_eq!(sync_spec(&sync_record(Some(&spec))), Some(spec));
        }
        assert_eq!(sync_spec(&sync_record(None)), None);
        let odd = SyncDaemonRecord {
            flags: SyncDaemonRecord::RUNS,
            family: 77,
            ..SyncDaemonRecord::default()
        };
        assert_eq!(sync_spec(&odd), None, "of no family there is");
    }

    #[test]
    fn addresses_stand_in_the_order_of_a_packet() {
        let addr: IpAddr = "2001:db8::102".parse().unwrap();
        let words = addr_words(addr);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.0.to_ne_bytes()).collect();
        let IpAddr::V6(six) = addr else {
            unreachable!()
        };
        assert_eq!(bytes, six.octets());
        assert_eq!(ip_of(words, AF_INET6), addr);
    }
}
