//! A virtual service and its edits: validated, all or nothing, as the kernel's configuration
//! interface does them (`ip_vs_ctl.c`).

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

impl Service {
    /// A service without servers.
    ///
    /// # Errors
    /// What [`check_service`] refuses.
    pub fn new(key: ServiceKey, spec: ServiceSpec) -> Result<Service, EditError> {
        check_service(&key, &spec)?;
        Ok(Service {
            key,
            spec,
            servers: Vec::new(),
        })
    }

    /// # Errors
    /// What [`check_service`] refuses; nothing is changed then.
    pub fn edit(&mut self, spec: ServiceSpec) -> Result<(), EditError> {
        check_service(&self.key, &spec)?;
        self.spec = spec;
        Ok(())
    }

    /// Puts a new server in front.
    ///
    /// # Errors
    /// [`EditError::ServerExists`], or what [`check_server`] refuses.
    pub fn add_server(&mut self, server: ServerKey, spec: ServerSpec) -> Result<(), EditError> {
        check_server(&self.key, server, &spec)?;
        if self.servers.iter().any(|known| known.key == server) {
            return Err(EditError::ServerExists);
        }
        self.servers.insert(0, Server { key: server, spec });
        Ok(())
    }

    /// # Errors
    /// [`EditError::NoSuchServer`], or what [`check_server`] refuses.
    pub fn edit_server(&mut self, server: ServerKey, spec: ServerSpec) -> Result<(), EditError> {
        check_server(&self.key, server, &spec)?;
        let known = self.servers.iter_mut().find(|known| known.key == server);
        known.ok_or(EditError::NoSuchServer)?.spec = spec;
        Ok(())
    }

    /// # Errors
    /// [`EditError::NoSuchServer`].
    pub fn delete_server(&mut self, server: ServerKey) -> Result<(), EditError> {
        let at = self.servers.iter().position(|known| known.key == server);
        self.servers.remove(at.ok_or(EditError::NoSuchServer)?);
        Ok(())
    }
}

/// Checks a service as the kernel would, then refuses by name what this director cannot do yet.
///
/// # Errors
/// [`EditError::Invalid`], [`EditError::NoSuchScheduler`] or [`EditError::Unsupported`].
pub fn check_service(key: &ServiceKey, spec: &ServiceSpec) -> Result<(), EditError> {
    match spec.pe_name.as_deref() {
        None => {}
        Some("sip") => {
            return Err(EditError::Unsupported(String::from("persistence engines")));
        }
        Some(_) => return Err(EditError::NoSuchScheduler),
    }
    if key.is_ipv6() && !(1..=128).contains(&spec.netmask) {
        return Err(EditError::Invalid(alloc::format!(
            "IPv6 prefix length {} is not between 1 and 128",
            spec.netmask
        )));
    }
    if let ServiceKey::Fwmark { mark: 0, .. } = key {
        return Err(EditError::Invalid(String::from(
            "firewall mark 0 is no mark",
        )));
    }
    Ok(())
}

/// Checks a server as the kernel would, then refuses by name what this director cannot do yet.
/// Whether an IPv6 link-local address is one of this host's is for the caller to see.
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
    if spec.upper_threshold > WEIGHT_MAX {
        return invalid(alloc::format!("upper threshold {}", spec.upper_threshold));
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
    match spec.method {
        ForwardMethod::Tunnelling => Err(EditError::Unsupported(String::from("tunnelling"))),
        ForwardMethod::Bypass => invalid(String::from("a server cannot be a bypass")),
        ForwardMethod::Masquerading | ForwardMethod::LocalNode | ForwardMethod::DirectRouting => {
            Ok(())
        }
    }
}

/// Whether the address alone says that it is one host's (`ip_vs_ctl.c: __ip_vs_new_dest`); IPv4
/// addresses that stand for IPv6 ones are not (`addrconf_core.c: __ipv6_addr_type`).
fn is_unicast(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_multicast() && !addr.is_broadcast() && addr.octets()[0] != 0,
        IpAddr::V6(addr) => {
            !addr.is_multicast() && !addr.is_unspecified() && addr.to_ipv4_mapped().is_none()
        }
    }
}

#[cfg(test)]
mod tests;
