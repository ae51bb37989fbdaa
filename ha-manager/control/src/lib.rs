//! The language of the director's control socket.
//!
//! A client connects to a Unix stream socket, writes one [`Request`] frame and reads one [`Reply`]
//! frame, as often as it likes. A frame is a length (u32, little endian, bytes that follow, at
//! most [`FRAME_MAX`]) and a bincode 2 value in its standard configuration. Both sides decode with
//! that limit.
#![forbid(unsafe_code)]

mod client;
mod frame;
mod sysctl;

use ipvs_model::entry::ConnEntry;
use ipvs_model::service::{EditError, ServerKey, ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::stats::{Rates, Stats};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;

pub use client::{Client, ClientError};
pub use frame::{FRAME_MAX, FrameError, decode, encode, read_frame, write_frame};
pub use sysctl::SysctlError;

/// Where the control socket is unless the environment or the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/tandem/control.sock";
/// Environment variable that overrides [`DEFAULT_SOCKET`].
pub const SOCKET_ENV: &str = "TANDEM_CONTROL";

/// The socket a client should use: `TANDEM_CONTROL`, else [`DEFAULT_SOCKET`].
pub fn socket_path() -> std::path::PathBuf {
    std::env::var_os(SOCKET_ENV)
        .unwrap_or_else(|| DEFAULT_SOCKET.into())
        .into()
}

/// What a client may ask.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Request {
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
    /// Removes every service (`ipvsadm -C`).
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
    /// Zeroes the statistics of one service, or of everything.
    Zero {
        service: Option<ServiceKey>,
    },
    SetTimeouts(Timeouts),
    GetTimeouts,
    /// The kernel's "get info": table size for the head line of listings.
    Info,
    /// All services, or one, with servers and statistics.
    ListServices {
        service: Option<ServiceKey>,
    },
    /// One page of connections; start with cursor 0.
    ListConnections {
        cursor: u64,
    },
    /// The text of `directord proc NAME`.
    Proc {
        name: String,
    },
    /// The text of `directord status`, as JSON if asked.
    Status {
        json: bool,
    },
    /// `ipvsadm --start-daemon`.
    StartSyncDaemon {
        role: SyncRole,
        spec: SyncSpec,
    },
    /// `ipvsadm --stop-daemon`.
    StopSyncDaemon {
        role: SyncRole,
    },
    /// `ipvsadm -L --daemon`.
    ListSyncDaemons,
    /// Every tunable with its value in force: `directord sysctl -a`.
    ListSysctl,
    /// `directord handover`: the virtual router of this name, or all that are active here, is given to
    /// another node; or, with `reclaim`, preempts again. The answer comes when that is done.
    Handover {
        instance: Option<String>,
        reclaim: bool,
    },
    /// `directord sysctl -w NAME=VALUE`, until the director ends; the name with or without
    /// `net.ipv4.vs.`.
    SetSysctl {
        name: String,
        value: String,
    },
}

/// What the director answers.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub enum Reply {
    Done,
    Refused(EditError),
    Timeouts(Timeouts),
    Info(Info),
    Services(Vec<ServiceEntry>),
    Connections(ConnectionPage),
    Text(String),
    /// The running daemons, master first, with every value filled in.
    SyncDaemons(Vec<(SyncRole, SyncSpec)>),
    SyncRefused(SyncError),
    /// The request itself made no sense; the text says why.
    BadRequest(String),
    /// Name, without `net.ipv4.vs.`, and value of every tunable, as the kernel would print it; in
    /// the order of their names.
    Sysctl(Vec<(String, String)>),
    SysctlRefused(SysctlError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct Info {
    /// IPVS version as the kernel packs it: 1.2.1 is 0x010201.
    pub version: u32,
    /// Connections the tables of both families can hold, printed as `size=`.
    pub conn_table_size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ServiceEntry {
    pub key: ServiceKey,
    pub spec: ServiceSpec,
    pub stats: Stats,
    pub rates: Rates,
    /// Newest first.
    pub servers: Vec<ServerEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ServerEntry {
    pub key: ServerKey,
    pub spec: ServerSpec,
    pub active: u32,
    pub inactive: u32,
    /// Templates bound to the server.
    pub persistent: u32,
    pub stats: Stats,
    pub rates: Rates,
    /// The address is this host's own; listings show the method as `Local`.
    pub local: bool,
}

/// Some connections, and where to go on; `next` is `None` on the last page.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct ConnectionPage {
    pub entries: Vec<ConnEntry>,
    pub next: Option<u64>,
}
