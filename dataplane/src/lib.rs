//! The data plane seen from user space: loads the eBPF programs, owns the pinned maps, edits
//! services, applies and expires connections through programs.
//!
//! A [`DataPlane`] is the one owner of its pin directory as long as it lives. Dropping it leaves
//! programs and maps in place: packets keep flowing, and the next [`DataPlane::open`] takes over.
//! [`DataPlane::detach`] removes them.

mod arena;
mod connections;
mod convert;
mod loader;
mod maps;
mod offers;
mod programs;
mod routes;
mod services;
mod sweep;
mod synced;

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::batch::{BatchItem, BatchResult, REGION_ITEMS};
use dataplane_common::rules::directing::{self, Inputs};
use dataplane_common::rules::sync::SyncRules;
use dataplane_common::rules::tcp::TIMEOUT_SECS;
use dataplane_common::settings::{LEASE_FOREVER, Settings};
use dataplane_common::verdict::{Event, Verdict};
use dataplane_common::{NS_PER_SEC, TcpState};
use ipvs_model::entry::ConnEntry;
use ipvs_model::service::{EditError, ServerKey, ServerSpec, Service, ServiceKey, ServiceSpec};
use ipvs_model::stats::Stats;
use ipvs_model::sync::{SyncRole, SyncSpec};
use ipvs_model::timeouts::Timeouts;
use nix::fcntl::Flock;
use nix::time::{ClockId, clock_gettime};

pub use dataplane_common as common;
pub use offers::OfferReader;
pub use programs::{Runner, TestRun};
pub use routes::{Route, RouteKind};
pub use synced::{ApplyReport, SyncedConn};

use maps::{Maps, store};
use programs::Programs;
use routes::Routes;
use services::Services;
use sweep::{Place, Sweep};

/// How the director hooks into an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// TCX where the kernel has it (6.6 on), clsact otherwise.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// How much the tables hold. Pinned tables keep the size they were made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// IPv4 connections, a power of two.
    pub connections_v4: u32,
    pub services: u32,
    pub servers: u32,
}

/// What [`DataPlane::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory in a bpffs; created when missing.
    pub pin_dir: PathBuf,
    pub interfaces: Vec<String>,
    pub attach: AttachMode,
    pub sizes: TableSizes,
}

/// Why a data plane cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("pin directory {}: {source}", path.display())]
    PinDir { path: PathBuf, source: io::Error },
    #[error("pin directory {} is not in a bpffs (mount -t bpf bpf DIR)", .0.display())]
    NotBpffs(PathBuf),
    #[error("another directord uses the pin directory {}", .0.display())]
    Busy(PathBuf),
    #[error(
        "pin directory {} holds maps of another layout ({found}); run the version that made them, \
         or `directord detach`, which ends their connections",
        path.display()
    )]
    OtherLayout { path: PathBuf, found: String },
    #[error(
        "pin directory {} holds torn maps ({reason}); `directord detach` removes them",
        path.display()
    )]
    Torn { path: PathBuf, reason: String },
    #[error("loading the programs: {0}")]
    Load(String),
    #[error("attaching to {interface} by {kind}: {reason}")]
    Attach {
        interface: String,
        kind: &'static str,
        reason: String,
    },
    #[error("map: {0}")]
    Map(String),
    #[error("services in the pinned maps cannot be taken over: {0:?}")]
    Adopt(EditError),
}

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
    /// In the order of `service.servers`.
    pub servers: Vec<ServerView>,
}

/// The counters of a real server.
#[derive(Clone, Debug)]
pub struct ServerView {
    pub active: u32,
    pub inactive: u32,
    pub persistent: u32,
    pub stats: Stats,
    /// The address is one of this host's.
    pub local: bool,
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
    /// Connections found alive by the round whose scan this step ended.
    pub live: Option<u32>,
}

/// The right to direct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub epoch: u64,
    /// CLOCK_BOOTTIME nanoseconds; `None` is never fenced.
    pub deadline_boottime_ns: Option<u64>,
}

/// What [`DataPlane::detach`] removed.
#[derive(Clone, Debug)]
pub struct DetachReport {
    pub removed: Vec<String>,
}

/// A tunable that the programs read, by its kernel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunable {
    ConnReuseMode,
    ExpireNodestConn,
    SecureTcp,
    SloppyTcp,
    /// Ours: seconds during which a synchronised entry does not replace a connection that saw a
    /// packet here.
    ApplyGuardSecs,
}

/// A loaded and attached data plane.
pub struct DataPlane {
    maps: Maps,
    programs: Programs,
    services: Services,
    routes: Routes,
    sweep: Sweep,
    sizes: TableSizes,
    adopted: bool,
    attachments: Vec<Attachment>,
    options: Options,
    /// Keeps programs loaded and the pin directory ours.
    ebpf: aya::Ebpf,
    _lock: Flock<File>,
}

impl DataPlane {
    /// Loads and attaches the programs over the maps in the pin directory, made anew if there are
    /// none.
    ///
    /// # Errors
    /// See [`OpenError`]. Nothing is attached then that was not attached before.
    pub fn open(options: &Options) -> Result<DataPlane, OpenError> {
        for interface in &options.interfaces {
            interface_index(interface)?;
        }
        let mut loaded = loader::load(options)?;
        let programs = Programs {
            director: loader::descriptor(&mut loaded.ebpf, "director")?,
            apply: loader::descriptor(&mut loaded.ebpf, "apply")?,
            expire: loader::descriptor(&mut loaded.ebpf, "expire")?,
        };
        let mut maps = Maps::take(&mut loaded.ebpf)?;
        if !loaded.adopted {
            maps.settings
                .write(0, default_settings(loaded.sizes.connections_v4));
            loader::seal(&mut maps.layout)?;
        }
        let services = Services::adopt(&mut maps).map_err(OpenError::Adopt)?;
        let attachments = match loader::attach(&mut loaded.ebpf, options) {
            Ok(attachments) => attachments,
            Err(error) => {
                if !loaded.adopted {
                    loader::unpin_maps(&options.pin_dir);
                }
                return Err(error);
            }
        };
        Ok(DataPlane {
            maps,
            programs,
            services,
            routes: Routes::default(),
            sweep: Sweep::default(),
            sizes: loaded.sizes,
            adopted: loaded.adopted,
            attachments,
            options: options.clone(),
            ebpf: loaded.ebpf,
            _lock: loaded.lock,
        })
    }

    /// Whether pinned maps were found and taken over.
    pub fn was_adopted(&self) -> bool {
        self.adopted
    }

    pub fn sizes(&self) -> TableSizes {
        self.sizes
    }

    /// Kernel memory of all maps, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.maps.memory_bytes
    }

    pub fn attachments(&self) -> Vec<Attachment> {
        self.attachments.clone()
    }

    /// Attaches to the interfaces of the options again: those that came back as new devices. Those
    /// that are missing are left out.
    ///
    /// # Errors
    /// Interfaces that are there and cannot be attached to; the others are attached.
    pub fn reattach(&mut self) -> Result<(), Vec<OpenError>> {
        let (attachments, errors) = loader::attach_present(&mut self.ebpf, &self.options);
        self.attachments = attachments;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    /// Carries out one edit, whole or not at all.
    ///
    /// # Errors
    /// See [`EditError`].
    pub fn edit(&mut self, edit: &Edit) -> Result<(), EditError> {
        self.services.edit(&mut self.maps, &self.routes, edit)
    }

    /// All services in order of creation, or the one asked for.
    ///
    /// # Errors
    /// [`EditError::NoSuchService`].
    pub fn list(&self, key: Option<&ServiceKey>) -> Result<Vec<ServiceView>, EditError> {
        self.services.list(&self.maps, key)
    }

    /// Zeroes the statistics of one service, or of everything.
    ///
    /// # Errors
    /// [`EditError::NoSuchService`].
    pub fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), EditError> {
        if key.is_none() {
            let now = maps::sum(&self.maps.total_stats, 0);
            for (at, value) in (0..).zip(convert::stats_words(now)) {
                let offset = core::mem::offset_of!(Settings, zero) + 8 * at;
                self.maps.settings.word(0, offset).store(value, SeqCst);
            }
        }
        self.services.zero(&self.maps, key)
    }

    pub fn timeouts(&self) -> Timeouts {
        let settings = self.maps.settings.read(0);
        Timeouts {
            tcp_secs: settings.tcp_timeout_secs[TcpState::Established as usize],
            tcp_fin_secs: settings.tcp_timeout_secs[TcpState::FinWait as usize],
            udp_secs: settings.udp_timeout_secs,
        }
    }

    /// Changes timeouts for later packets; 0 leaves a value as it is.
    ///
    /// # Errors
    /// [`EditError::Invalid`] for a value out of range; nothing is changed then.
    pub fn set_timeouts(&mut self, change: Timeouts) -> Result<(), EditError> {
        let timeouts = self.timeouts().changed_by(change);
        let timeouts =
            timeouts.map_err(|error| EditError::Invalid(format!("timeout {} s", error.0)))?;
        let tcp = core::mem::offset_of!(Settings, tcp_timeout_secs);
        let of = |state: TcpState| tcp + 4 * state as usize;
        self.maps
            .settings
            .half(0, of(TcpState::Established))
            .store(timeouts.tcp_secs, SeqCst);
        self.maps
            .settings
            .half(0, of(TcpState::FinWait))
            .store(timeouts.tcp_fin_secs, SeqCst);
        store!(
            self.maps.settings,
            0,
            Settings.udp_timeout_secs,
            half,
            timeouts.udp_secs
        );
        Ok(())
    }

    /// Changes the timeout of one TCP state for later packets.
    pub fn set_tcp_timeout(&mut self, state: TcpState, secs: u32) {
        let offset = core::mem::offset_of!(Settings, tcp_timeout_secs) + 4 * state as usize;
        self.maps.settings.half(0, offset).store(secs, SeqCst);
    }

    pub fn set_tunable(&mut self, tunable: Tunable, value: u32) {
        let settings = &self.maps.settings;
        match tunable {
            Tunable::ConnReuseMode => store!(settings, 0, Settings.conn_reuse_mode, half, value),
            Tunable::ExpireNodestConn => {
                store!(settings, 0, Settings.expire_nodest_conn, half, value);
            }
            Tunable::SecureTcp => store!(settings, 0, Settings.secure_tcp, half, value),
            Tunable::SloppyTcp => store!(settings, 0, Settings.sloppy_tcp, half, value),
            Tunable::ApplyGuardSecs => store!(settings, 0, Settings.apply_guard_secs, half, value),
        }
    }

    /// Tells the programs what this node does while its lease holds.
    pub fn set_directing(&mut self, inputs: Inputs) {
        let function = directing::function(inputs) as u32;
        store!(self.maps.settings, 0, Settings.function, half, function);
    }

    /// Live connections from table position `cursor` on, at most `limit`; and where to go on. A
    /// page looks at a bounded number of places, so it may be empty and have a next one.
    pub fn connections(&self, cursor: u64, limit: usize) -> (Vec<ConnEntry>, Option<u64>) {
        connections::page(&self.maps, cursor, limit)
    }

    /// Live connections, and places that are not free.
    pub fn connection_count(&self) -> ConnectionCount {
        connections::count(&self.maps)
    }

    pub fn totals(&self) -> Stats {
        let zero = convert::stats(self.maps.settings.read(0).zero);
        convert::stats(maps::sum(&self.maps.total_stats, 0)).since(zero)
    }

    /// Verdict and event counters since the maps were made: name and count.
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        let count = |index: u32| {
            let values = self.maps.counters.get(&index, 0);
            values.map_or(0, |values| {
                values.iter().copied().fold(0, u64::wrapping_add)
            })
        };
        let verdicts = Verdict::ALL
            .iter()
            .map(|verdict| (verdict.name(), count(*verdict as u32)));
        let events = Event::ALL
            .iter()
            .map(|event| (event.name(), count(*event as u32)));
        verdicts.chain(events).collect()
    }

    pub fn services_count(&self) -> usize {
        self.services.count()
    }

    pub fn lease(&self) -> Lease {
        let settings = self.maps.settings.read(0);
        let deadline = settings.lease_deadline_ns;
        Lease {
            epoch: settings.lease_epoch,
            deadline_boottime_ns: (deadline != LEASE_FOREVER).then_some(deadline),
        }
    }

    /// Puts a lease in force; refused (false) when its epoch is lower than the one in force.
    pub fn set_lease(&mut self, lease: Lease) -> bool {
        if lease.epoch < self.maps.settings.read(0).lease_epoch {
            return false;
        }
        let deadline = lease.deadline_boottime_ns.unwrap_or(LEASE_FOREVER);
        store!(
            self.maps.settings,
            0,
            Settings.lease_epoch,
            word,
            lease.epoch
        );
        store!(
            self.maps.settings,
            0,
            Settings.lease_deadline_ns,
            word,
            deadline
        );
        true
    }

    /// The host's IPv4 routes (tables local, main, default); replaces what was there.
    ///
    /// # Errors
    /// [`EditError::NoSpace`] or [`EditError::DataPlane`]; next hops then stay as they were.
    pub fn set_routes(&mut self, routes: &[Route]) -> Result<(), EditError> {
        self.routes.replace(&mut self.maps, routes)?;
        self.services.follow_routes(&self.maps, &self.routes);
        Ok(())
    }

    /// Addresses that move with this node's virtual routers. A lapsed lease keeps the host from
    /// answering for them, whether services have them or not.
    ///
    /// # Errors
    /// [`EditError::DataPlane`].
    pub fn set_router_addresses(&mut self, addresses: &[Ipv4Addr]) -> Result<(), EditError> {
        self.services
            .set_router_addresses(&mut self.maps, addresses)
    }

    /// Takes the virtual addresses of all services for this host's, whatever its routes say, until
    /// they change. For measurements in which a real server's address is a virtual address too.
    #[doc(hidden)]
    pub fn pretend_vips_are_local(&mut self) {
        self.services.pretend_vips_are_local(&self.maps);
    }

    /// One bounded step of the expiry walk: looks at up to `budget` table positions.
    pub fn expire_step(&mut self, budget: u32) -> ExpireReport {
        let report = self.sweep.step(&mut self.maps, &self.programs, budget);
        if report.round_done {
            self.services.empty_trash(&self.maps);
        }
        report
    }

    /// Creates or refreshes connections through the *apply* program; results stand in the items.
    pub fn apply(&mut self, items: &mut [BatchItem]) {
        /// Region of the batch array; the expiry walk has another.
        const REGION: u32 = 1;
        for chunk in items.chunks_mut(REGION_ITEMS as usize) {
            for (at, item) in (REGION * REGION_ITEMS..).zip(chunk.iter()) {
                self.maps.batch.write(at, *item);
            }
            self.programs.apply(REGION, chunk.len() as u32);
            for (at, item) in (REGION * REGION_ITEMS..).zip(chunk.iter_mut()) {
                item.result = self.maps.batch.read(at).result;
            }
        }
    }

    /// Creates or refreshes connections another director tells of; each is bound to its real server
    /// if that is configured here.
    pub fn apply_synced(&mut self, conns: &[SyncedConn]) -> ApplyReport {
        let mut report = ApplyReport::default();
        for chunk in conns.chunks(REGION_ITEMS as usize) {
            let items = chunk
                .iter()
                .filter_map(|conn| synced::item(&self.maps, &self.services, conn));
            let mut items: Vec<BatchItem> = items.collect();
            report.unsupported_method += (chunk.len() - items.len()) as u64;
            self.apply(&mut items);
            for item in &items {
                report.count(BatchResult::from_number(item.result));
            }
        }
        report
    }

    /// The tunables by which connections are offered; the threshold is also what the packet counter
    /// of a synchronised connection starts with.
    pub fn set_sync_rules(&mut self, rules: &SyncRules) {
        let settings = &self.maps.settings;
        store!(settings, 0, Settings.sync_threshold, half, rules.threshold);
        store!(settings, 0, Settings.sync_period, half, rules.period);
        store!(
            settings,
            0,
            Settings.sync_refresh_ms,
            half,
            rules.refresh_ticks
        );
        store!(settings, 0, Settings.sync_retries, half, rules.retries);
        let mode = u32::from(rules.persist_mode);
        store!(settings, 0, Settings.sync_persist_mode, half, mode);
    }

    /// Whether the programs offer connections to whoever holds the [`OfferReader`]. This stays in
    /// force without a daemon: offers that find no room are made by the walk of the next one.
    pub fn set_sync_master(&mut self, runs: bool) {
        let runs = u32::from(runs);
        store!(self.maps.settings, 0, Settings.sync_master, half, runs);
    }

    /// What a sync daemon was started with by the record in the maps, if it was not stopped since.
    pub fn recorded_sync_daemon(&self, role: SyncRole) -> Option<SyncSpec> {
        let record = self.maps.sync_daemons.get(&sync_place(role), 0).ok()?;
        convert::sync_spec(&record)
    }

    /// Notes that a sync daemon runs, or not, for the next daemon that takes over.
    pub fn record_sync_daemon(&mut self, role: SyncRole, spec: Option<&SyncSpec>) {
        let record = convert::sync_record(spec);
        if let Err(error) = self.maps.sync_daemons.set(sync_place(role), record, 0) {
            tracing::warn!(
                role = role.name(),
                error = loader::chain(&error),
                "the sync daemon is not recorded, a restart will not resume it"
            );
        }
    }

    /// Whether the programs offer connections.
    pub fn sync_master(&self) -> bool {
        self.maps.settings.read(0).sync_master != 0
    }

    /// The reading end of the ring of offers. There must be one at a time.
    ///
    /// # Errors
    /// [`OpenError::Map`].
    pub fn offers(&self) -> Result<OfferReader, OpenError> {
        OfferReader::open(&self.options.pin_dir)
    }

    /// Has the next round of the expiry walk offer every connection again that this node has ever
    /// offered: the peer may have missed some.
    pub fn offer_all_again(&mut self) {
        self.sweep.offer_all_again();
    }

    /// Ends connections whatever their deadline; gives back how many were marked.
    pub fn expire_now(&mut self, places: &[(u32, u32)]) -> usize {
        let mut marked = 0;
        let places: Vec<_> = places
            .iter()
            .map(|(index, generation)| Place::new(*index, *generation))
            .collect();
        for chunk in places.chunks(REGION_ITEMS as usize) {
            let op = dataplane_common::batch::ExpireOp::Mark;
            let results = sweep::expire(&mut self.maps, &self.programs, chunk, op);
            marked += results
                .iter()
                .filter(|(_, result)| *result == BatchResult::Marked)
                .count();
        }
        marked
    }

    /// Place and generation of a listed server.
    pub fn server_slot(&self, service: &ServiceKey, server: ServerKey) -> Option<(u32, u32)> {
        self.services.server_slot(&self.maps, service, server)
    }

    /// Packed connection counters of every place for servers, for recounts.
    pub fn server_conns(&self) -> Vec<u64> {
        (0..self.maps.servers.len())
            .map(|slot| self.maps.servers.read(slot).conns)
            .collect()
    }

    /// A copy of the table place, for recounts.
    pub fn conn4(&self, index: u32) -> common::entry::Conn4 {
        self.maps.conns4.read(index)
    }

    /// Elements of the flow table, for recounts.
    pub fn flow_count(&self) -> usize {
        self.maps.flows4.keys().flatten().count()
    }

    /// Runs the director over a frame as if it came in on `ifindex`.
    ///
    /// # Errors
    /// The kernel's, when it cannot run the program.
    pub fn test_run(&self, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<TestRun> {
        self.runner()?.run(frame, ifindex, repeat)
    }

    /// A handle that runs the director from another thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn runner(&self) -> io::Result<Runner> {
        self.programs.runner()
    }

    /// Removes programs, links and maps of a pin directory. Connections end with it.
    ///
    /// # Errors
    /// See [`OpenError`]; another director that uses the directory keeps it.
    pub fn detach(pin_dir: &Path) -> Result<DetachReport, OpenError> {
        loader::detach(pin_dir)
    }
}

/// How full the connection table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionCount {
    /// Published, not marked, not past their deadline.
    pub live: u32,
    /// Places that are not free, live ones included.
    pub taken: u32,
}

/// Place in `SYNC_DAEMONS`.
const fn sync_place(role: SyncRole) -> u32 {
    match role {
        SyncRole::Master => 0,
        SyncRole::Backup => 1,
    }
}

fn default_settings(connections: u32) -> Settings {
    Settings {
        lease_deadline_ns: LEASE_FOREVER,
        function: directing::Function::Direct as u32,
        conns4_mask: connections - 1,
        tcp_timeout_secs: TIMEOUT_SECS,
        udp_timeout_secs: Timeouts::default().udp_secs,
        conn_reuse_mode: 1,
        apply_guard_secs: 2,
        sync_threshold: SyncRules::default().threshold,
        sync_period: SyncRules::default().period,
        ..Settings::default()
    }
}

/// CLOCK_BOOTTIME in nanoseconds: the clock of leases.
pub fn boottime_ns() -> u64 {
    clock_ns(ClockId::CLOCK_BOOTTIME)
}

/// CLOCK_MONOTONIC_COARSE in nanoseconds: the clock of connection timers.
pub fn timer_ns() -> u64 {
    clock_ns(ClockId::CLOCK_MONOTONIC_COARSE)
}

fn clock_ns(clock: ClockId) -> u64 {
    match clock_gettime(clock) {
        Ok(time) => time.tv_sec() as u64 * NS_PER_SEC + time.tv_nsec() as u64,
        Err(_) => 0,
    }
}

pub(crate) fn interface_index(name: &str) -> Result<u32, OpenError> {
    nix::net::if_::if_nametoindex(name).map_err(|_| OpenError::NoInterface(name.to_owned()))
}
