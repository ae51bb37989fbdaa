//! A director for tests: it keeps a table and forwards nothing, so it can do everything IPVS
//! knows. Counters move only when a recorded burst of traffic is replayed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ipvs_control::{
    ConnectionPage, Info, Reply, Request, ServerEntry, ServiceEntry, read_frame, write_frame,
};
use ipvs_model::entry::ConnEntry;
use ipvs_model::flags::ConnFlags;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{
    EditError, Server, ServerKey, ServerSpec, Service, ServiceKey, ServiceSpec, check_server,
    check_service,
};
use ipvs_model::stats::{Rates, Stats};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;

/// Small, so that every listing of connections needs more than one page.
const PAGE_ENTRIES: usize = 2;
/// The one interface, as the transcripts have it; its MTU is 1500.
const INTERFACE: &str = "sync0";

/// A director on a socket of its own, until it is dropped.
pub(crate) struct ModelDirector {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

impl ModelDirector {
    pub(crate) fn start(name: &str) -> ModelDirector {
        let socket =
            std::env::temp_dir().join(format!("ipvsadm-{}-{name}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(&stream.unwrap(), &shared);
            }
        });
        ModelDirector { socket, state }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Replays a recorded burst of traffic by its name; other actions leave no trace here.
    pub(crate) fn act(&self, action: &str) {
        let mut state = self.state.lock().unwrap();
        match action {
            "traffic1" => state.three_tcp_connections_and_one_udp(),
            "traffic2" => state.close_one_connection(),
            "bigtraffic" => {
                let stats = stats([1, 12_000, 0, 17_136_000, 0]);
                state
                    .load(Protocol::Udp, "10.50.0.1:53", "10.200.0.13:53")
                    .stats = stats;
            }
            "shell" => {}
            other => panic!("unknown action {other}"),
        }
    }
}

impl Drop for ModelDirector {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// One client at a time, which is all the tests have.
fn serve(mut stream: &UnixStream, state: &Mutex<State>) {
    while let Ok(Some(request)) = read_frame::<Request>(&mut stream) {
        let reply = state.lock().unwrap().answer(request);
        if write_frame(&mut stream, &reply).is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct State {
    services: Vec<Service>,
    timeouts: Timeouts,
    /// What servers carry; outlives their removal, as in the kernel's trash.
    loads: BTreeMap<(ServiceKey, ServerKey), Load>,
    connections: Vec<ConnEntry>,
    /// Master first.
    sync: Vec<(SyncRole, SyncSpec)>,
}

#[derive(Clone, Copy, Default)]
struct Load {
    active: u32,
    inactive: u32,
    persistent: u32,
    stats: Stats,
    /// As recorded: they depend on the moment.
    rates: Rates,
}

impl State {
    fn answer(&mut self, request: Request) -> Reply {
        let done = match request {
            Request::AddService { key, spec } => self.add_service(key, spec),
            Request::EditService { key, spec } => self.edit_service(&key, spec),
            Request::DeleteService { key } => self.service(&key).map(|_| ()).map(|()| {
                self.services.retain(|service| service.key != key);
            }),
            Request::Flush => {
                self.services.clear();
                Ok(())
            }
            Request::AddServer {
                service,
                server,
                spec,
            } => self.add_server(&service, server, spec),
            Request::EditServer {
                service,
                server,
                spec,
            } => self.edit_server(&service, server, spec),
            Request::DeleteServer { service, server } => self.delete_server(&service, server),
            Request::Zero { service } => self.zero(service),
            Request::SetTimeouts(change) => match self.timeouts.changed_by(change) {
                Ok(timeouts) => {
                    self.timeouts = timeouts;
                    Ok(())
                }
                Err(error) => Err(EditError::Invalid(error.0.to_string())),
            },
            Request::GetTimeouts => return Reply::Timeouts(self.timeouts),
            Request::Info => {
                return Reply::Info(Info {
                    version: 0x01_02_01,
                    conn_table_size: 4096,
                });
            }
            Request::StartSyncDaemon { role, spec } => return self.start_sync(role, spec),
            Request::StopSyncDaemon { role } => return self.stop_sync(role),
            Request::ListSyncDaemons => {
                let running = self.sync.iter().map(|(role, spec)| (*role, spec.clone()));
                return Reply::SyncDaemons(running.collect());
            }
            Request::ListServices { service } => return self.list(service),
            Request::ListConnections { cursor } => return self.page(cursor),
            Request::Proc { .. }
            | Request::Status { .. }
            | Request::ListSysctl
            | Request::SetSysctl { .. }
            | Request::Handover { .. } => {
                return Reply::BadRequest("ipvsadm does not ask this".into());
            }
        };
        match done {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Refused(error),
        }
    }

    fn service(&mut self, key: &ServiceKey) -> Result<&mut Service, EditError> {
        let found = self.services.iter_mut().find(|service| service.key == *key);
        found.ok_or(EditError::NoSuchService)
    }

    fn add_service(&mut self, key: ServiceKey, spec: ServiceSpec) -> Result<(), EditError> {
        if self.service(&key).is_ok() {
            return Err(EditError::ServiceExists);
        }
        check_spec(&key, &spec)?;
        self.services.push(Service {
            key,
            spec,
            servers: Vec::new(),
        });
        Ok(())
    }

    fn edit_service(&mut self, key: &ServiceKey, spec: ServiceSpec) -> Result<(), EditError> {
        let service = self.service(key)?;
        check_spec(key, &spec)?;
        service.spec = spec;
        Ok(())
    }

    fn add_server(
        &mut self,
        key: &ServiceKey,
        server: ServerKey,
        spec: ServerSpec,
    ) -> Result<(), EditError> {
        let service = self.service(key)?;
        whatever_ipvs_knows(check_server(key, server, &spec))?;
        if service.servers.iter().any(|known| known.key == server) {
            return Err(EditError::ServerExists);
        }
        service.servers.insert(0, Server { key: server, spec });
        Ok(())
    }

    fn edit_server(
        &mut self,
        key: &ServiceKey,
        server: ServerKey,
        spec: ServerSpec,
    ) -> Result<(), EditError> {
        let service = self.service(key)?;
        whatever_ipvs_knows(check_server(key, server, &spec))?;
        let known = service.servers.iter_mut().find(|known| known.key == server);
        known.ok_or(EditError::NoSuchServer)?.spec = spec;
        Ok(())
    }

    fn delete_server(&mut self, key: &ServiceKey, server: ServerKey) -> Result<(), EditError> {
        let servers = &mut self.service(key)?.servers;
        let at = servers.iter().position(|known| known.key == server);
        servers.remove(at.ok_or(EditError::NoSuchServer)?);
        Ok(())
    }

    fn zero(&mut self, service: Option<ServiceKey>) -> Result<(), EditError> {
        if let Some(key) = service {
            self.service(&key)?;
        }
        for ((key, _), load) in &mut self.loads {
            if service.is_none_or(|service| service == *key) {
                load.stats = Stats::default();
            }
        }
        Ok(())
    }

    /// As the kernel starts a daemon: the interface is looked for first.
    fn start_sync(&mut self, role: SyncRole, spec: SyncSpec) -> Reply {
        if spec.interface != INTERFACE {
            return Reply::SyncRefused(SyncError::NoDevice(spec.interface));
        }
        if self.sync.iter().any(|(running, _)| *running == role) {
            return Reply::SyncRefused(SyncError::Running(role));
        }
        let group = spec
            .group
            .unwrap_or(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 81)));
        let payload_max = if group.is_ipv6() { 1452 } else { 1472 };
        let or = |value, default| if value == 0 { default } else { value };
        let running = SyncSpec {
            maxlen: or(spec.maxlen, payload_max),
            group: Some(group),
            port: or(spec.port, 8848),
            ttl: if spec.ttl == 0 { 1 } else { spec.ttl },
            ..spec
        };
        let at = match role {
            SyncRole::Master => 0,
            SyncRole::Backup => self.sync.len(),
        };
        self.sync.insert(at, (role, running));
        Reply::Done
    }

    fn stop_sync(&mut self, role: SyncRole) -> Reply {
        match self.sync.iter().position(|(running, _)| *running == role) {
            Some(at) => {
                self.sync.remove(at);
                Reply::Done
            }
            None => Reply::SyncRefused(SyncError::NotRunning(role)),
        }
    }

    fn list(&mut self, service: Option<ServiceKey>) -> Reply {
        if let Some(key) = service
            && let Err(error) = self.service(&key)
        {
            return Reply::Refused(error);
        }
        let wanted = self
            .services
            .iter()
            .filter(|entry| service.is_none_or(|key| key == entry.key));
        Reply::Services(wanted.map(|service| self.entry(service)).collect())
    }

    fn entry(&self, service: &Service) -> ServiceEntry {
        let servers: Vec<ServerEntry> = service
            .servers
            .iter()
            .map(|server| {
                let load = self
                    .loads
                    .get(&(service.key, server.key))
                    .copied()
                    .unwrap_or_default();
                let Load {
                    active,
                    inactive,
                    persistent,
                    stats,
                    rates,
                } = load;
                let Server { key, spec } = *server;
                ServerEntry {
                    key,
                    spec,
                    active,
                    inactive,
                    persistent,
                    stats,
                    rates,
                    local: false,
                }
            })
            .collect();
        let total = servers
            .iter()
            .fold(Stats::default(), |sum, server| sum.plus(server.stats));
        ServiceEntry {
            key: service.key,
            spec: service.spec.clone(),
            stats: total,
            rates: servers
                .iter()
                .fold(Rates::default(), |sum, server| plus(sum, server.rates)),
            servers,
        }
    }

    fn page(&self, cursor: u64) -> Reply {
        let start = usize::try_from(cursor).unwrap();
        let entries: Vec<ConnEntry> = self
            .connections
            .iter()
            .skip(start)
            .take(PAGE_ENTRIES)
            .cloned()
            .collect();
        let end = start + entries.len();
        let next = (end < self.connections.len()).then_some(end as u64);
        Reply::Connections(ConnectionPage { entries, next })
    }

    fn load(&mut self, protocol: Protocol, service: &str, server: &str) -> &mut Load {
        let key = ServiceKey::Address {
            protocol,
            addr: addr(service),
        };
        self.loads.entry((key, addr(server))).or_default()
    }

    fn three_tcp_connections_and_one_udp(&mut self) {
        let (web, dns) = ("10.50.0.1:80", "10.50.0.1:53");
        let [one, two, name] = ["10.200.0.11:80", "10.200.0.12:80", "10.200.0.13:53"];
        let load = |[active, inactive, persistent]: [u32; 3],
                    values,
                    [pps_in, bps_in, bps_out]: [u64; 3]| Load {
            active,
            inactive,
            persistent,
            stats: stats(values),
            rates: Rates {
                pps_in,
                bps_in,
                bps_out,
                ..Rates::default()
            },
        };
        *self.load(Protocol::Tcp, web, one) = load([1, 0, 0], [1, 6, 1, 260, 40], [1, 24, 4]);
        *self.load(Protocol::Tcp, web, two) = load([2, 0, 0], [2, 12, 2, 520, 80], [1, 49, 7]);
        *self.load(Protocol::Udp, dns, name) = load([0, 1, 1], [1, 5, 1, 640, 228], [0, 60, 21]);
        self.connections = vec![
            connection(6, 1, "10.100.0.5:41002", web, one, 896),
            connection(6, 1, "10.100.0.5:41003", web, two, 896),
            connection(17, 1, "10.100.0.6:0", dns, name, 96),
            connection(6, 1, "10.100.0.5:41001", web, two, 896),
            connection(17, 0, "10.100.0.6:42001", dns, name, 297),
        ];
        self.connections[2].flags = ConnFlags(ConnFlags::TEMPLATE);
    }

    fn close_one_connection(&mut self) {
        const TIME_WAIT: u8 = 5;
        let load = self.load(Protocol::Tcp, "10.50.0.1:80", "10.200.0.12:80");
        (load.active, load.inactive) = (1, 1);
        self.connections[1].state = TIME_WAIT;
    }
}

fn check_spec(key: &ServiceKey, spec: &ServiceSpec) -> Result<(), EditError> {
    // The recorded kernel was built without this scheduler.
    if spec.scheduler == Some(Scheduler::Twos) {
        return Err(EditError::NoSuchScheduler);
    }
    whatever_ipvs_knows(check_service(key, spec))
}

fn whatever_ipvs_knows(checked: Result<(), EditError>) -> Result<(), EditError> {
    match checked {
        Err(EditError::Unsupported(_)) => Ok(()),
        other => other,
    }
}

fn connection(
    protocol: u8,
    state: u8,
    client: &str,
    virt: &str,
    dest: &str,
    secs: u32,
) -> ConnEntry {
    ConnEntry {
        protocol,
        client: addr(client),
        virt: addr(virt),
        dest: addr(dest),
        flags: ConnFlags::default(),
        state,
        expires_secs: secs,
        in_pkts: 0,
        controls: 0,
        fwmark: 0,
        bound: true,
        pe: None,
    }
}

fn stats([conns, in_pkts, out_pkts, in_bytes, out_bytes]: [u64; 5]) -> Stats {
    Stats {
        conns,
        in_pkts,
        out_pkts,
        in_bytes,
        out_bytes,
    }
}

fn plus(one: Rates, other: Rates) -> Rates {
    Rates {
        cps: one.cps + other.cps,
        pps_in: one.pps_in + other.pps_in,
        pps_out: one.pps_out + other.pps_out,
        bps_in: one.bps_in + other.bps_in,
        bps_out: one.bps_out + other.bps_out,
    }
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
