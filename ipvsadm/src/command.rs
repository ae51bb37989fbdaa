//! A command line resolved to what is to be done.

use std::net::SocketAddr;

use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{ServerSpec, ServiceKey, ServiceSpec};
use ipvs_model::sync::{SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;

use crate::args::table::{Group, Verb};
use crate::args::{AsTyped, Origin, Stop, Tunnel, parse, rules};
use crate::names::Names;

/// Scheduler of a service that names none, also when it is edited.
pub const SCHEDULER_DEFAULT: &str = "wlc";
/// The persistence engines IPVS has.
const PERSISTENCE_ENGINES: &[&str] = &["sip"];
/// What the kernel calls the absence of a scheduler.
const NO_SCHEDULER: &str = "none";

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    AddService {
        key: ServiceKey,
        spec: Option<ServiceSpec>,
    },
    EditService {
        key: ServiceKey,
        spec: Option<ServiceSpec>,
    },
    DeleteService {
        key: ServiceKey,
    },
    Flush,
    AddServer(ServerOrder),
    EditServer(ServerOrder),
    DeleteServer {
        service: ServiceKey,
        server: SocketAddr,
    },
    Zero {
        service: Option<ServiceKey>,
    },
    SetTimeouts(Timeouts),
    StartDaemon {
        role: SyncRole,
        spec: SyncSpec,
    },
    StopDaemon {
        role: SyncRole,
    },
    Save {
        numeric: bool,
    },
    Restore,
    ListTimeouts,
    ListDaemons,
    ListConnections {
        numeric: bool,
        persistence_engine: bool,
    },
    ListTable(Listing),
}

/// A real server to add or edit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerOrder {
    pub service: ServiceKey,
    pub server: SocketAddr,
    pub spec: ServerSpec,
    pub tunnel: Tunnel,
}

/// Which services to list, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing {
    pub service: Option<ServiceKey>,
    pub columns: Columns,
    pub numeric: bool,
    /// Counters in full.
    pub exact: bool,
    pub sorted: bool,
}

/// The columns of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    Plain,
    Stats,
    Rate,
    Thresholds,
    PersistentConn,
    TunnelInfo,
}

impl Command {
    /// Reads, judges and resolves a command line.
    ///
    /// # Errors
    /// The first mistake, or a request for help or the version.
    pub fn from_line(line: &[String], names: &dyn Names, origin: Origin) -> Result<Command, Stop> {
        let typed = parse(line, names, origin)?;
        rules::check(&typed)?;
        resolve(typed)
    }

    /// Whether the command only reads.
    pub const fn is_listing(&self) -> bool {
        match self {
            Command::Save { .. }
            | Command::ListTimeouts
            | Command::ListDaemons
            | Command::ListConnections { .. }
            | Command::ListTable(_) => true,
            Command::AddService { .. }
            | Command::EditService { .. }
            | Command::DeleteService { .. }
            | Command::Flush
            | Command::AddServer(_)
            | Command::EditServer(_)
            | Command::DeleteServer { .. }
            | Command::Zero { .. }
            | Command::SetTimeouts(_)
            | Command::StartDaemon { .. }
            | Command::StopDaemon { .. }
            | Command::Restore => false,
        }
    }

    /// Whether the command is about a real server, for which a missing service has its own message.
    pub const fn is_about_server(&self) -> bool {
        matches!(
            self,
            Command::AddServer(_) | Command::EditServer(_) | Command::DeleteServer { .. }
        )
    }
}

fn resolve(typed: AsTyped) -> Result<Command, Stop> {
    let numeric = typed.given.has(Group::Numeric);
    Ok(match typed.verb {
        Verb::AddService => Command::AddService {
            key: service(&typed)?,
            spec: spec(&typed),
        },
        Verb::EditService => Command::EditService {
            key: service(&typed)?,
            spec: spec(&typed),
        },
        Verb::DeleteService => Command::DeleteService {
            key: service(&typed)?,
        },
        Verb::Flush => Command::Flush,
        Verb::List => listing(&typed, numeric),
        Verb::AddServer => Command::AddServer(server_order(&typed)?),
        Verb::EditServer => Command::EditServer(server_order(&typed)?),
        Verb::DeleteServer => Command::DeleteServer {
            service: service(&typed)?,
            server: server(&typed)?,
        },
        Verb::SetTimeouts => Command::SetTimeouts(typed.timeouts),
        Verb::StartDaemon => Command::StartDaemon {
            role: typed.sync_role,
            spec: typed.sync,
        },
        // The kernel does not look at the sync id of a stop.
        Verb::StopDaemon => Command::StopDaemon {
            role: typed.sync_role,
        },
        Verb::Restore => Command::Restore,
        Verb::Save => Command::Save { numeric },
        Verb::Zero => Command::Zero {
            service: typed.service,
        },
    })
}

/// `None` if no scheduler or persistence engine has the name given.
fn spec(typed: &AsTyped) -> Option<ServiceSpec> {
    let scheduler = match typed.scheduler.as_deref() {
        Some(NO_SCHEDULER) => None,
        // An empty name counts as none given.
        None | Some("") => Some(Scheduler::from_name(SCHEDULER_DEFAULT)?),
        Some(name) => Some(Scheduler::from_name(name)?),
    };
    let pe_name = typed.pe_name.clone().filter(|name| !name.is_empty());
    if pe_name
        .as_deref()
        .is_some_and(|name| !PERSISTENCE_ENGINES.contains(&name))
    {
        return None;
    }
    let mut flags = typed.sched_flags.0;
    if typed.persistent_secs.is_some() {
        flags |= ServiceFlags::PERSISTENT;
    }
    if typed.given.has(Group::Ops) {
        flags |= ServiceFlags::ONEPACKET;
    }
    Some(ServiceSpec {
        scheduler,
        flags: ServiceFlags(flags),
        timeout_secs: typed.persistent_secs.unwrap_or(0),
        netmask: typed.netmask,
        pe_name,
    })
}

fn server_order(typed: &AsTyped) -> Result<ServerOrder, Stop> {
    let key = service(typed)?;
    let mut real = server(typed)?;
    if let ServiceKey::Address { addr, .. } = key
        && matches!(
            typed.method,
            ForwardMethod::DirectRouting | ForwardMethod::Tunnelling
        )
    {
        // Only masquerading can change the port.
        real.set_port(addr.port());
    }
    Ok(ServerOrder {
        service: key,
        server: real,
        spec: ServerSpec {
            method: typed.method,
            weight: typed.weight,
            upper_threshold: typed.upper_threshold,
            lower_threshold: typed.lower_threshold,
        },
        tunnel: typed.tunnel,
    })
}

fn listing(typed: &AsTyped, numeric: bool) -> Command {
    let given = |group| typed.given.has(group);
    if given(Group::Connection) {
        let persistence_engine = given(Group::PersistentConn);
        return Command::ListConnections {
            numeric,
            persistence_engine,
        };
    }
    if given(Group::Timeout) {
        return Command::ListTimeouts;
    }
    if given(Group::Daemon) {
        return Command::ListDaemons;
    }
    // Of several columns the first of these wins.
    let columns = [
        (Group::Stats, Columns::Stats),
        (Group::Rate, Columns::Rate),
        (Group::Thresholds, Columns::Thresholds),
        (Group::PersistentConn, Columns::PersistentConn),
        (Group::TunInfo, Columns::TunnelInfo),
    ];
    let chosen = columns.iter().find(|(group, _)| given(*group));
    Command::ListTable(Listing {
        service: typed.service,
        columns: chosen.map_or(Columns::Plain, |(_, columns)| *columns),
        numeric,
        exact: given(Group::Exact),
        sorted: !given(Group::NoSort),
    })
}

/// The matrix has made sure that there is one.
fn service(typed: &AsTyped) -> Result<ServiceKey, Stop> {
    typed.service.ok_or(Stop::TryHelp)
}

fn server(typed: &AsTyped) -> Result<SocketAddr, Stop> {
    typed.server.ok_or(Stop::TryHelp)
}
