//! What ipvsadm 1.31 prints: pure functions from data to text.

pub mod connections;
pub mod daemon;
pub mod list;
pub mod rate;
pub mod save;
pub mod stats;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipvs_control::{ServerEntry, ServiceEntry};
use ipvs_model::flags::ServiceFlags;
use ipvs_model::protocol::Protocol;
use ipvs_model::service::{ServiceKey, ServiceSpec};

use crate::args::{NETMASK_V4_DEFAULT, PREFIX_V6_DEFAULT, SCHED_FLAGS};
use crate::names::Names;

/// The text of `-v`, and the first line of `-h`.
pub const VERSION: &str = "ipvsadm v1.31 2019/12/24 (compiled with popt and IPVS v1.2.1)\n";
/// What follows [`VERSION`] in the text of `-h`.
pub const USAGE: &str = include_str!("format/usage.txt");

/// Names for addresses and ports, or numbers without (`-n`).
pub type NamesOrNumbers<'n> = Option<&'n dyn Names>;

/// `ADDRESS:PORT`, by name where there is one; IPv6 addresses and their names in brackets.
pub fn endpoint(addr: SocketAddr, protocol: Option<Protocol>, names: NamesOrNumbers<'_>) -> String {
    let host = names.and_then(|names| names.host_of(addr.ip()));
    let host = host.unwrap_or_else(|| address(addr.ip()));
    let service = names.and_then(|names| names.service_of(addr.port(), protocol?));
    let service = service.unwrap_or_else(|| addr.port().to_string());
    if addr.is_ipv6() {
        format!("[{host}]:{service}")
    } else {
        format!("{host}:{service}")
    }
}

/// An address as `inet_ntop` writes it.
pub fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => match ip.segments() {
            // The low half of an IPv4-compatible address is dotted there, unlike in std.
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
                let [.., a, b, c, d] = ip.octets();
                format!("::{a}.{b}.{c}.{d}")
            }
            [..] => Ipv6Addr::to_string(&ip),
        },
    }
}

/// The protocol of a service; a fwmark service has none.
pub const fn protocol_of(key: &ServiceKey) -> Option<Protocol> {
    match key {
        ServiceKey::Address { protocol, .. } => Some(*protocol),
        ServiceKey::Fwmark { .. } => None,
    }
}

/// Name of the scheduler as the kernel reports it.
fn scheduler_name(spec: &ServiceSpec) -> &'static str {
    spec.scheduler.map_or("none", |scheduler| scheduler.name())
}

/// Names of the scheduler flags, separated by commas; `None` if no flag is set.
///
/// With `sh` and `mh` the third flag has no name, so alone it gives an empty text.
fn scheduler_flags(spec: &ServiceSpec) -> Option<String> {
    let any = ServiceFlags::SCHED1 | ServiceFlags::SCHED2 | ServiceFlags::SCHED3;
    if spec.flags.0 & any == 0 {
        return None;
    }
    let scheduler = Some(scheduler_name(spec));
    let named = SCHED_FLAGS.iter().any(|(.., needs)| *needs == scheduler);
    let wanted = if named { scheduler } else { None };
    let names: Vec<&str> = SCHED_FLAGS
        .iter()
        .filter(|(_, bit, needs)| *needs == wanted && spec.flags.contains(*bit))
        .map(|(name, ..)| *name)
        .collect();
    Some(names.join(","))
}

/// The netmask of a persistent service, if it is not that of a single address.
fn netmask(key: &ServiceKey, spec: &ServiceSpec) -> Option<String> {
    match (key.is_ipv6(), spec.netmask) {
        (true, PREFIX_V6_DEFAULT) | (false, NETMASK_V4_DEFAULT) => None,
        (true, prefix) => Some(prefix.to_string()),
        (false, mask) => Some(address(IpAddr::V4(mask.into()))),
    }
}

/// Services in the order of listings: by fwmark, address family, protocol, address and port.
///
/// Marks compare as the signed numbers they are printed as.
///
/// DIFFERS: the original compares addresses by the sign of a 32-bit difference, which puts
/// addresses more than 2^31 apart the wrong way round and is not even an order.
pub fn sorted(services: &[ServiceEntry]) -> Vec<ServiceEntry> {
    let mut services = services.to_vec();
    services.sort_by_key(|service| match service.key {
        ServiceKey::Address { protocol, addr } => (
            0,
            addr.is_ipv6(),
            protocol.number(),
            Some((addr.ip(), addr.port())),
        ),
        ServiceKey::Fwmark { mark, ipv6 } => {
            (mark.cast_signed(), ipv6, Protocol::Tcp.number(), None)
        }
    });
    for service in &mut services {
        service
            .servers
            .sort_by_key(|server: &ServerEntry| (server.key.ip(), server.key.port()));
    }
    services
}

#[cfg(test)]
mod tests;
