//! What goes into a data plane and what it reports: edits, views, leases, figures.

use std::net::IpAddr;

use ipvs_model::service::{ServerKey, ServerSpec, Service, ServiceKey, ServiceSpec};
use ipvs_model::stats::{Rates, Stats};

/// A change of the service table.
#[derive(Clone, Debug)]
pub enum Edit {
    AddService {
        key: ServiceKey,
        spec: ServiceSpec,
    },
    EditService {
        key: ServiceKey,
        spec: ServiceSpec,
    },
    DeleteService {
        key: ServiceKey,
    },
    Flush,
    AddServer {
        service: ServiceKey,
        server: ServerKey,
        spec: ServerSpec,
    },
    EditServer {
        service: ServiceKey,
        server: ServerKey,
        spec: ServerSpec,
    },
    DeleteServer {
        service: ServiceKey,
        server: ServerKey,
    },
}

/// A service with its counters.
#[derive(Clone, Debug)]
pub struct ServiceView {
    pub service: Service,
    pub stats: Stats,
    pub rates: Rates,
    /// In the order of `service.servers`.
    pub servers: Vec<ServerView>,
}

/// The counters of a real server; its weight and thresholds are in [`ServiceView::service`].
#[derive(Clone, Debug)]
pub struct ServerView {
    pub active: u32,
    pub inactive: u32,
    /// Templates bound.
    pub persistent: u32,
    pub stats: Stats,
    pub rates: Rates,
    /// The address is one of this host's.
    pub local: bool,
    /// At its upper threshold, and not yet below the lower one again.
    pub overloaded: bool,
}

/// Where the director is attached.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub interface: String,
    pub ifindex: u32,
    /// `tcx` or `clsact`.
    pub kind: &'static str,
}

/// What one step of the expiry walk did.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExpireReport {
    pub scanned: u32,
    pub expired: u32,
    pub swept: u32,
    /// Connections offered to the backup that were due before.
    pub offered: u32,
    pub round_done: bool,
    /// How full the round whose scan this step ended found the tables.
    pub live: Option<ConnectionCount>,
}

/// The right to direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub epoch: u64,
    /// CLOCK_BOOTTIME nanoseconds; `None` is never fenced.
    pub deadline_boottime_ns: Option<u64>,
}

/// An address that moves with this node's virtual routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterAddress {
    pub address: IpAddr,
    /// Whether the host takes what comes for the address and is no service traffic (RFC 5798 §6.1,
    /// `Accept_Mode`). If not it is dropped, neighbour discovery excepted.
    pub accept: bool,
}

impl From<IpAddr> for RouterAddress {
    /// An address as hosts have them.
    fn from(address: IpAddr) -> RouterAddress {
        RouterAddress {
            address,
            accept: true,
        }
    }
}

/// What [`DataPlane::detach`] removed.
#[derive(Clone, Debug)]
pub struct DetachReport {
    pub removed: Vec<String>,
}

/// How full the connection tables are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCount {
    pub v4: Fill,
    pub v6: Fill,
}

impl ConnectionCount {
    pub const fn live(&self) -> u32 {
        self.v4.live.saturating_add(self.v6.live)
    }

    pub const fn taken(&self) -> u32 {
        self.v4.taken.saturating_add(self.v6.taken)
    }

    pub const fn places(&self) -> u32 {
        self.v4.places.saturating_add(self.v6.places)
    }
}

/// How full one table is. Templates are among its entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Published, not marked, not past their deadline.
    pub live: u32,
    /// Places that are not free, live ones included.
    pub taken: u32,
    pub places: u32,
}
