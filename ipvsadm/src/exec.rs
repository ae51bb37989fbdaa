//! Executes commands through the director's control socket.

use std::io::{self, Write};
use std::path::Path;

use ipvs_control::{Client, ClientError, Info, Reply, Request, ServiceEntry};
use ipvs_model::service::{EditError, ServiceKey, ServiceSpec};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;

use crate::args::{Tunnel, TunnelType};
use crate::command::{Command, Listing, ServerOrder};
use crate::format::list::View;
use crate::format::{NamesOrNumbers, connections, daemon, list, save, sorted};
use crate::names::Names;

/// Longest name of an interface (`IP_VS_IFNAME_MAXLEN` less its terminating zero). Unit: bytes.
const INTERFACE_NAME_MAX: usize = 15;

/// Why a command came to nothing.
#[derive(Debug)]
pub enum Trouble {
    /// Standard output or standard input broke.
    Io(io::Error),
    Director(ClientError),
    /// The director answered something else than was asked, or did not understand.
    Confused(String),
    Refused(EditError),
    SyncRefused(SyncError),
    /// Known to ipvsadm, not yet to this director; the text names it.
    NotYet(&'static str),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

/// A connection to the director, made when the first command needs it.
pub struct Director<'a> {
    socket: &'a Path,
    client: Option<Client>,
}

impl<'a> Director<'a> {
    pub const fn new(socket: &'a Path) -> Self {
        Director {
            socket,
            client: None,
        }
    }

    fn call(&mut self, request: &Request) -> Result<Reply, Trouble> {
        let client = match &mut self.client {
            Some(client) => client,
            None => {
                let client = Client::connect(self.socket).map_err(Trouble::Director)?;
                self.client.insert(client)
            }
        };
        match client.call(request) {
            Ok(Reply::Refused(error)) => Err(Trouble::Refused(error)),
            Ok(Reply::SyncRefused(error)) => Err(Trouble::SyncRefused(error)),
            Ok(Reply::BadRequest(text)) => Err(Trouble::Confused(text)),
            Ok(reply) => Ok(reply),
            Err(error) => {
                // The stream may be in the middle of a frame.
                self.client = None;
                Err(Trouble::Director(error))
            }
        }
    }

    fn change(&mut self, request: &Request) -> Result<(), Trouble> {
        let Reply::Done = self.call(request)? else {
            return unexpected(request);
        };
        Ok(())
    }

    fn info(&mut self) -> Result<Info, Trouble> {
        let Reply::Info(info) = self.call(&Request::Info)? else {
            return unexpected(&Request::Info);
        };
        Ok(info)
    }

    fn timeouts(&mut self) -> Result<Timeouts, Trouble> {
        let Reply::Timeouts(timeouts) = self.call(&Request::GetTimeouts)? else {
            return unexpected(&Request::GetTimeouts);
        };
        Ok(timeouts)
    }

    fn sync_daemons(&mut self) -> Result<Vec<(SyncRole, SyncSpec)>, Trouble> {
        let Reply::SyncDaemons(daemons) = self.call(&Request::ListSyncDaemons)? else {
            return unexpected(&Request::ListSyncDaemons);
        };
        Ok(daemons)
    }

    fn services(&mut self, service: Option<ServiceKey>) -> Result<Vec<ServiceEntry>, Trouble> {
        let request = Request::ListServices { service };
        let Reply::Services(services) = self.call(&request)? else {
            return unexpected(&request);
        };
        if service.is_some() && services.is_empty() {
            return Err(Trouble::Refused(EditError::NoSuchService));
        }
        Ok(services)
    }

    fn service_exists(&mut self, key: ServiceKey) -> Result<bool, Trouble> {
        match self.services(Some(key)) {
            Ok(_) => Ok(true),
            Err(Trouble::Refused(EditError::NoSuchService)) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }
}

/// Executes a command other than a restore.
///
/// # Errors
/// See [`Trouble`].
pub fn execute(
    command: &Command,
    director: &mut Director<'_>,
    names: &dyn Names,
    out: &mut dyn Write,
) -> Result<(), Trouble> {
    let by_name = |numeric: bool| -> NamesOrNumbers<'_> { (!numeric).then_some(names) };
    match command {
        Command::AddService { key, spec } => add_service(director, *key, spec.as_ref()),
        Command::EditService { key, spec } => edit_service(director, *key, spec.as_ref()),
        Command::DeleteService { key } => director.change(&Request::DeleteService { key: *key }),
        Command::Flush => director.change(&Request::Flush),
        Command::AddServer(order) => {
            let ServerOrder {
                service,
                server,
                spec,
                tunnel,
            } = *order;
            check_tunnel(&tunnel)?;
            director.change(&Request::AddServer {
                service,
                server,
                spec,
            })
        }
        Command::EditServer(order) => {
            let ServerOrder {
                service,
                server,
                spec,
                tunnel,
            } = *order;
            check_tunnel(&tunnel)?;
            director.change(&Request::EditServer {
                service,
                server,
                spec,
            })
        }
        Command::DeleteServer { service, server } => director.change(&Request::DeleteServer {
            service: *service,
            server: *server,
        }),
        Command::Zero { service } => director.change(&Request::Zero { service: *service }),
        Command::SetTimeouts(timeouts) => director.change(&Request::SetTimeouts(*timeouts)),
        Command::StartDaemon { role, spec } => start_daemon(director, *role, spec),
        Command::StopDaemon { role } => director.change(&Request::StopSyncDaemon { role: *role }),
        Command::Save { numeric } => {
            let services = sorted(&director.services(None)?);
            Ok(out.write_all(save::rules(&services, by_name(*numeric)).as_bytes())?)
        }
        // A restore is a loop over commands and not itself one; see `crate::restore`.
        Command::Restore => Ok(()),
        Command::ListTimeouts => {
            let timeouts = director.timeouts()?;
            Ok(out.write_all(daemon::timeouts(&timeouts).as_bytes())?)
        }
        Command::ListDaemons => {
            let daemons = director.sync_daemons()?;
            let lines: String = daemons
                .iter()
                .map(|(role, spec)| daemon::line(*role, spec))
                .collect();
            Ok(out.write_all(lines.as_bytes())?)
        }
        Command::ListConnections {
            numeric,
            persistence_engine,
        } => list_connections(director, by_name(*numeric), *persistence_engine, out),
        Command::ListTable(listing) => list_table(director, listing, by_name(listing.numeric), out),
    }
}

/// The kernel looks for the service first and for the scheduler's name then.
fn add_service(
    director: &mut Director<'_>,
    key: ServiceKey,
    spec: Option<&ServiceSpec>,
) -> Result<(), Trouble> {
    match spec {
        Some(spec) => director.change(&Request::AddService {
            key,
            spec: spec.clone(),
        }),
        None if director.service_exists(key)? => Err(Trouble::Refused(EditError::ServiceExists)),
        None => Err(Trouble::Refused(EditError::NoSuchScheduler)),
    }
}

fn edit_service(
    director: &mut Director<'_>,
    key: ServiceKey,
    spec: Option<&ServiceSpec>,
) -> Result<(), Trouble> {
    match spec {
        Some(spec) => director.change(&Request::EditService {
            key,
            spec: spec.clone(),
        }),
        None if director.service_exists(key)? => Err(Trouble::Refused(EditError::NoSuchScheduler)),
        None => Err(Trouble::Refused(EditError::NoSuchService)),
    }
}

/// DIFFERS: the original cuts a long name to what an interface can have, and may so start on
/// another interface than the one named.
fn start_daemon(
    director: &mut Director<'_>,
    role: SyncRole,
    spec: &SyncSpec,
) -> Result<(), Trouble> {
    let interface = &spec.interface;
    if interface.len() > INTERFACE_NAME_MAX {
        let error = SyncError::NoDevice(interface.clone());
        return Err(Trouble::SyncRefused(error));
    }
    director.change(&Request::StartSyncDaemon {
        role,
        spec: spec.clone(),
    })
}

fn check_tunnel(tunnel: &Tunnel) -> Result<(), Trouble> {
    match tunnel.kind {
        TunnelType::Ipip => Ok(()),
        TunnelType::Gue => Err(Trouble::NotYet("GUE tunnels")),
        TunnelType::Gre => Err(Trouble::NotYet("GRE tunnels")),
    }
}

fn list_table(
    director: &mut Director<'_>,
    listing: &Listing,
    names: NamesOrNumbers<'_>,
    out: &mut dyn Write,
) -> Result<(), Trouble> {
    let services = director.services(listing.service)?;
    let services = if listing.sorted {
        sorted(&services)
    } else {
        services
    };
    if listing.service.is_none() {
        out.write_all(list::head(&director.info()?).as_bytes())?;
    }
    let view = View {
        columns: listing.columns,
        names,
        exact: listing.exact,
    };
    Ok(out.write_all(list::table(&services, &view).as_bytes())?)
}

fn list_connections(
    director: &mut Director<'_>,
    names: NamesOrNumbers<'_>,
    persistence_engine: bool,
    out: &mut dyn Write,
) -> Result<(), Trouble> {
    let mut cursor = 0;
    let mut title = Some(connections::title(persistence_engine));
    loop {
        let request = Request::ListConnections { cursor };
        let Reply::Connections(page) = director.call(&request)? else {
            return unexpected(&request);
        };
        if let Some(title) = title.take() {
            out.write_all(title.as_bytes())?;
        }
        for entry in &page.entries {
            out.write_all(connections::row(entry, names).as_bytes())?;
        }
        match page.next {
            Some(next) if next != cursor => cursor = next,
            Some(_) => return Err(Trouble::Confused("its pages have no end".into())),
            None => return Ok(()),
        }
    }
}

fn unexpected<T>(request: &Request) -> Result<T, Trouble> {
    Err(Trouble::Confused(format!(
        "it answered something else than was asked by {request:?}"
    )))
}
