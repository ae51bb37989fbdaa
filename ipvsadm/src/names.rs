//! Host and service names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs};
use std::sync::OnceLock;

use ipvs_model::protocol::Protocol;

/// Names and what they stand for, both ways.
pub trait Names {
    /// First IPv4 address of a host.
    fn address_of(&self, host: &str) -> Option<Ipv4Addr>;
    /// Name of an address.
    fn host_of(&self, ip: IpAddr) -> Option<String>;
    /// Port of a service.
    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16>;
    /// Name of a port.
    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String>;
}

/// The names this host knows: the resolver's and those of `/etc/services`.
#[derive(Debug, Default)]
pub struct SystemNames {
    services: OnceLock<Services>,
    /// A listing asks for the same address many times.
    hosts: RefCell<BTreeMap<IpAddr, Option<String>>>,
}

impl SystemNames {
    fn services(&self) -> &Services {
        self.services.get_or_init(|| {
            // Without the file no port has a name, as in getservbyport(3).
            let text = std::fs::read("/etc/services").unwrap_or_default();
            Services::parse(&String::from_utf8_lossy(&text))
        })
    }
}

impl Names for SystemNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        (host, 0)
            .to_socket_addrs()
            .ok()?
            .find_map(|found| match found.ip() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            })
    }

    fn host_of(&self, ip: IpAddr) -> Option<String> {
        let mut hosts = self.hosts.borrow_mut();
        let known = hosts.entry(ip).or_insert_with(|| {
            let name = dns_lookup::lookup_addr(&ip).ok()?;
            // An address without a name comes back as text.
            name.parse::<IpAddr>().is_err().then_some(name)
        });
        known.clone()
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        self.services().port_of(service, protocol)
    }

    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        self.services().name_of(port, protocol)
    }
}

/// The rows of a services(5) file.
#[derive(Debug, Default)]
pub struct Services {
    rows: Vec<ServiceRow>,
}

#[derive(Debug)]
struct ServiceRow {
    /// The official name, then its aliases.
    names: Vec<String>,
    port: u16,
    protocol: Protocol,
}

impl Services {
    /// Reads the text of a services(5) file; rows of other protocols and malformed ones are left
    /// out.
    pub fn parse(text: &str) -> Services {
        Services {
            rows: text.lines().filter_map(service_row).collect(),
        }
    }

    fn port_of(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let named = |row: &&ServiceRow| {
            row.protocol == protocol && row.names.iter().any(|known| known == name)
        };
        self.rows.iter().find(named).map(|row| row.port)
    }

    fn name_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        let row = self
            .rows
            .iter()
            .find(|row| row.port == port && row.protocol == protocol)?;
        row.names.first().cloned()
    }
}

fn service_row(line: &str) -> Option<ServiceRow> {
    let mut fields = line.split('#').next()?.split_whitespace();
    let name = fields.next()?;
    let (port, protocol) = fields.next()?.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    let names = std::iter::once(name)
        .chain(fields)
        .map(String::from)
        .collect();
    Some(ServiceRow {
        names,
        port: port.parse().ok()?,
        protocol,
    })
}

/// A fixed set of names, for tests that must not depend on the host they run on.
#[derive(Debug, Default)]
pub struct FixedNames {
    /// Addresses with their names, the official one first.
    pub hosts: Vec<(IpAddr, Vec<String>)>,
    pub services: Services,
}

impl Names for FixedNames {
    fn address_of(&self, host: &str) -> Option<Ipv4Addr> {
        self.hosts.iter().find_map(|(ip, names)| match ip {
            IpAddr::V4(ip) if names.iter().any(|name| name == host) => Some(*ip),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
    }

    fn host_of(&self, ip: IpAddr) -> Option<String> {
        let (_, names) = self.hosts.iter().find(|(known, _)| *known == ip)?;
        names.first().cloned()
    }

    fn port_of(&self, service: &str, protocol: Protocol) -> Option<u16> {
        self.services.port_of(service, protocol)
    }

    fn service_of(&self, port: u16, protocol: Protocol) -> Option<String> {
        self.services.name_of(port, protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_found_by_name_alias_and_port_of_their_protocol() {
        let services = Services::parse(
            "# comment\nhttp\t80/tcp\twww # WorldWideWeb\ndomain 53/tcp\ndomain 53/udp\nbad x/tcp\nnone\n",
        );
        assert_eq!(services.port_of("www", Protocol::Tcp), Some(80));
        assert_eq!(services.port_of("http", Protocol::Udp), None);
        assert_eq!(services.name_of(80, Protocol::Tcp).as_deref(), Some("http"));
        assert_eq!(
            services.name_of(53, Protocol::Udp).as_deref(),
            Some("domain")
        );
        assert_eq!(services.name_of(53, Protocol::Sctp), None);
    }
}
