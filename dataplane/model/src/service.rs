//! The virtual-service table and its edits: validated, all or nothing, as the kernel's
//! configuration interface does them (`ip_vs_ctl.c`).

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use crate::flags::ServiceFlags;
use crate::forward::ForwardMethod;
use crate::protocol::Protocol;
use crate::scheduler::Scheduler;

/// Largest weight and threshold (`INT_MAX`).
pub const WEIGHT_MAX: u32 = i32::MAX as u32;

/// What clients address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub enum ServiceKey {
    Address {
        protocol: Protocol,
        addr: SocketAddr,
    },
    Fwmark {
        mark: u32,
        ipv6: bool,
    },
}

/// Everything an operator gives for a service beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct ServiceSpec {
    /// `None` schedules nothing (`ipvsadm -s none`).
    pub scheduler: Option<Scheduler>,
    pub flags: ServiceFlags,
    /// Persistence timeout in seconds; 0 unless PERSISTENT is set.
    pub timeout_secs: u32,
    /// IPv4: netmask as a number in host order; IPv6: prefix length.
    pub netmask: u32,
    pub pe_name: Option<String>,
}

/// A real server of a service, by address.
pub type ServerKey = SocketAddr;

/// Everything an operator gives for a server beside its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct ServerSpec {
    pub method: ForwardMethod,
    /// 0 quiesces the server.
    pub weight: u32,
    /// Connections at which the server is overloaded; 0 is no threshold.
    pub upper_threshold: u32,
    /// Connections below which an overloaded server recovers; 0 is three quarters of the upper.
    pub lower_threshold: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    pub key: ServerKey,
    pub spec: ServerSpec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub spec: ServiceSpec,
    /// Newest first: the order in which schedulers walk.
    pub servers: Vec<Server>,
}

impl ServiceKey {
    pub const fn is_ipv6(&self) -> bool {
        match self {
            ServiceKey::Address { addr, .. } => addr.is_ipv6(),
            ServiceKey::Fwmark { ipv6, .. } => *ipv6,
        }
    }
}

impl core::fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ServiceKey::Address { protocol, addr } => write!(f, "{} {addr}", protocol.name()),
            ServiceKey::Fwmark { mark, .. } => write!(f, "FWM {mark}"),
        }
    }
}

/// Why an edit was refused; each is one `errno` of the kernel's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub enum EditError {
    /// EEXIST on a service.
    ServiceExists,
    /// ESRCH.
    NoSuchService,
    /// EEXIST on a server.
    ServerExists,
    /// ENOENT on a server.
    NoSuchServer,
    /// ENOENT: no scheduler or persistence engine of that name.
    NoSuchScheduler,
    /// EINVAL: the address is not unicast, or the family does not fit; the text says which.
    Invalid(String),
    /// ERANGE: weight or thresholds.
    OutOfRange(String),
    /// ENOSPC: a table of the data plane is full.
    NoSpace(String),
    /// Known to IPVS, not yet to this director; the text names it.
    Unsupported(String),
    /// EIO: the data plane refused the change.
    DataPlane(String),
}

/// The virtual services in the order of their creation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceTable {
    services: Vec<Service>,
}

impl ServiceTable {
    pub fn from_services(services: Vec<Service>) -> Self {
        ServiceTable { services }
    }

    pub fn services(&self) -> &[Service] {
        &self.services
    }

    pub fn get(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.iter().find(|service| service.key == *key)
    }

    /// # Errors
    /// [`EditError::ServiceExists`], or what [`check_service`] refuses.
    pub fn add_service(&mut self, key: ServiceKey, spec: ServiceSpec) -> Result<(), EditError> {
        if self.get(&key).is_some() {
            return Err(EditError::ServiceExists);
        }
        check_service(&key, &spec)?;
        self.services.push(Service {
            key,
            spec,
            servers: Vec::new(),
        });
        Ok(())
    }

    /// # Errors
    /// [`EditError::NoSuchService`], or what [`check_service`] refuses.
    pub fn edit_service(&mut self, key: &ServiceKey, spec: ServiceSpec) -> Result<(), EditError> {
        let service = self.get_mut(key)?;
        check_service(key, &spec)?;
        service.spec = spec;
        Ok(())
    }

    /// # Errors
    /// [`EditError::NoSuchService`].
    pub fn delete_service(&mut self, key: &ServiceKey) -> Result<Service, EditError> {
        let at = self.services.iter().position(|service| service.key == *key);
        at.map(|at| self.services.remove(at))
            .ok_or(EditError::NoSuchService)
    }

    pub fn clear(&mut self) -> Vec<Service> {
        core::mem::take(&mut self.services)
    }

    /// # Errors
    /// [`EditError::NoSuchService`], [`EditError::ServerExists`], or what [`check_server`] refuses.
    pub fn add_server(
        &mut self,
        key: &ServiceKey,
        server: ServerKey,
        spec: ServerSpec,
    ) -> Result<(), EditError> {
        let service = self.get_mut(key)?;
        check_server(key, server, &spec)?;
        if service.servers.iter().any(|known| known.key == server) {
            return Err(EditError::ServerExists);
        }
        service.servers.insert(0, Server { key: server, spec });
        Ok(())
    }

    /// # Errors
    /// [`EditError::NoSuchService`], [`EditError::NoSuchServer`], or what [`check_server`] refuses.
    pub fn edit_server(
        &mut self,
        key: &ServiceKey,
        server: ServerKey,
        spec: ServerSpec,
    ) -> Result<(), EditError> {
        let service = self.get_mut(key)?;
        check_server(key, server, &spec)?;
        let known = service.servers.iter_mut().find(|known| known.key == server);
        known.ok_or(EditError::NoSuchServer)?.spec = spec;
        Ok(())
    }

    /// # Errors
    /// [`EditError::NoSuchService`] or [`EditError::NoSuchServer`].
    pub fn delete_server(&mut self, key: &ServiceKey, server: ServerKey) -> Result<(), EditError> {
        let service = self.get_mut(key)?;
        let at = service.servers.iter().position(|known| known.key == server);
        service.servers.remove(at.ok_or(EditError::NoSuchServer)?);
        Ok(())
    }

    fn get_mut(&mut self, key: &ServiceKey) -> Result<&mut Service, EditError> {
        let found = self.services.iter_mut().find(|service| service.key == *key);
        found.ok_or(EditError::NoSuchService)
    }
}

/// Checks a service as the kernel would, then refuses by name what this director cannot do yet.
///
/// # Errors
/// [`EditError::Invalid`] or [`EditError::Unsupported`].
pub fn check_service(key: &ServiceKey, spec: &ServiceSpec) -> Result<(), EditError> {
    let unsupported = |what: &str| Err(EditError::Unsupported(String::from(what)));
    if key.is_ipv6() && !(1..=128).contains(&spec.netmask) {
        return Err(EditError::Invalid(alloc::format!(
            "IPv6 prefix length {} is not between 1 and 128",
            spec.netmask
        )));
    }
    match key {
        ServiceKey::Fwmark { .. } => return unsupported("fwmark services"),
        ServiceKey::Address { addr, .. } if addr.is_ipv6() => return unsupported("IPv6 services"),
        ServiceKey::Address {
            protocol: Protocol::Sctp,
            ..
        } => {
            return unsupported("SCTP services");
        }
        ServiceKey::Address { .. } => {}
    }
    if spec.flags.contains(ServiceFlags::PERSISTENT) {
        return unsupported("persistent services");
    }
    if spec.flags.contains(ServiceFlags::ONEPACKET) {
        return unsupported("one-packet scheduling");
    }
    if spec.pe_name.is_some() {
        return unsupported("persistence engines");
    }
    match spec.scheduler {
        Some(scheduler) if !scheduler.is_available() => Err(EditError::Unsupported(
            alloc::format!("scheduler {}", scheduler.name()),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Checks a server as the kernel would, then refuses by name what this director cannot do yet.
///
/// # Errors
/// [`EditError::OutOfRange`], [`EditError::Invalid`] or [`EditError::Unsupported`].
pub fn check_server(
    key: &ServiceKey,
    server: ServerKey,
    spec: &ServerSpec,
) -> Result<(), EditError> {
    let invalid = |text: String| Err(EditError::Invalid(text));
    if spec.weight > WEIGHT_MAX {
        return Err(EditError::OutOfRange(alloc::format!(
            "weight {}",
            spec.weight
        )));
    }
    if spec.lower_threshold > spec.upper_threshold {
        return Err(EditError::OutOfRange(alloc::format!(
            "lower threshold {} above upper threshold {}",
            spec.lower_threshold,
            spec.upper_threshold
        )));
    }
    if server.is_ipv6() != key.is_ipv6() && spec.method != ForwardMethod::Tunnelling {
        return invalid(String::from("another address family needs tunnelling"));
    }
    if !is_unicast(server.ip()) {
        return invalid(alloc::format!(
            "server address {} is not unicast",
            server.ip()
        ));
    }
    if spec.upper_threshold != 0 {
        return Err(EditError::Unsupported(String::from(
            "connection thresholds",
        )));
    }
    match spec.method {
        ForwardMethod::Tunnelling => Err(EditError::Unsupported(String::from("tunnelling"))),
        ForwardMethod::Bypass => invalid(String::from("a server cannot be a bypass")),
        ForwardMethod::Masquerading | ForwardMethod::LocalNode | ForwardMethod::DirectRouting => {
            Ok(())
        }
    }
}

fn is_unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_multicast() && !addr.is_broadcast() && addr.octets()[0] != 0,
        IpAddr::V6(addr) => !addr.is_multicast() && !addr.is_unspecified(),
    }
}

#[cfg(test)]
mod tests;
