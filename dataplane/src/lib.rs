//! The data plane seen from user space: loads the eBPF programs, owns the pinned maps, edits
//! services, applies and expires connections through programs.
//!
//! A [`DataPlane`] is the one owner of its pin directory as long as it lives. Dropping it leaves
//! programs and maps in place: packets keep flowing, and the next [`DataPlane::open`] takes over.
//! [`DataPlane::detach`] removes them.

mod arena;
mod attach;
mod bindings;
mod cache;
mod connections;
mod convert;
mod extras;
mod free_places;
mod grace;
mod inspect;
mod jumps;
mod loader;
mod mapped;
mod maps;
mod mark_rules;
mod offers;
mod options;
mod programs;
mod report;
mod routes;
mod services;
mod settings;
mod sweep;
mod synced;

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::NS_PER_SEC;
use dataplane_common::rules::estimate::Estimator;
use dataplane_common::settings::Settings;
use dataplane_common::verdict::{Event, Verdict};
use ipvs_model::entry::ConnEntry;
use ipvs_model::service::{EditError, ServiceKey};
use ipvs_model::stats::{Rates, Stats};
use ipvs_model::sync::{SyncRole, SyncSpec};
use nix::fcntl::Flock;
use nix::time::{ClockId, clock_gettime};

pub use dataplane_common as common;
pub use mark_rules::MarkRule;
pub use offers::{OfferReader, OfferedConn};
pub use options::{AttachMode, OpenError, Options, TableSizes};
pub use programs::{Runner, TestRun};
pub use report::{
    Attachment, ConnectionCount, DetachReport, Edit, ExpireReport, Fill, Lease, RouterAddress,
    ServerView, ServiceView,
};
pub use routes::{Route, RouteKind, RouteTable};
pub use settings::Tunable;
pub use synced::{ApplyReport, Extra, SyncedConn};

use extras::Extras;
use jumps::Jumps;
use mapped::store;
use maps::Maps;
use programs::Programs;
use routes::Routes;
use services::Services;
use sweep::Sweep;

/// A loaded and attached data plane.
pub struct DataPlane {
    maps: Maps,
    programs: Programs,
    services: Services,
    routes: Routes,
    sweep: Sweep,
    /// Rates of the whole director.
    rates: Estimator,
    sizes: TableSizes,
    extras: Extras,
    places: synced::Places,
    sync_made: synced::Made,
    /// See [`DataPlane::set_sync_share`]. Unit: percent.
    sync_share: u32,
    adopted: bool,
    attachments: Vec<Attachment>,
    options: Options,
    /// Keeps programs loaded and the pin directory ours.
    ebpf: aya::Ebpf,
    _jumps: Jumps,
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
            let sizes = loaded.sizes;
            let settings = settings::default_settings(sizes.connections_v4, sizes.connections_v6);
            maps.settings.write(0, settings);
            loader::seal(&mut maps.layout)?;
        }
        let unprivileged_port = settings::unprivileged_port();
        store!(
            maps.settings,
            0,
            Settings.unprivileged_port,
            half,
            unprivileged_port
        );
        let services = Services::adopt(&mut maps).map_err(OpenError::Adopt)?;
        let jumps = Jumps::make(&mut loaded.ebpf, &options.pin_dir)?;
        let attachments = match attach::attach(&mut loaded.ebpf, options) {
            Ok(attachments) => attachments,
            Err(failure) => {
                if !failure.partly {
                    jumps.remove();
                }
                if !loaded.adopted {
                    loader::unpin_maps(&options.pin_dir);
                }
                return Err(failure.error);
            }
        };
        jumps.remove_others(&options.pin_dir);
        // Not before the programs know what this version may write.
        loader::seal(&mut maps.layout)?;
        let rates = Estimator::starting_at(&maps::sum(&maps.total_stats, 0));
        let mut plane = DataPlane {
            rates,
            extras: Extras::adopt(&maps),
            places: synced::Places::default(),
            sync_made: synced::Made::default(),
            sync_share: SYNC_SHARE,
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
            _jumps: jumps,
            _lock: loaded.lock,
        };
        plane.set_sync_share(SYNC_SHARE);
        Ok(plane)
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
        let (attachments, errors) = attach::attach_present(&mut self.ebpf, &self.options);
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

    /// Zeroes the statistics and rates of one service, or of everything.
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
            self.rates.zero();
        }
        self.services.zero(&self.maps, key)
    }

    /// Live connections and templates from table position `cursor` on, IPv4 before IPv6, at most
    /// `limit`; and where to go on. A page looks at a bounded number of places, so it may be empty and
    /// have a next one.
    pub fn connections(&self, cursor: u64, limit: usize) -> (Vec<ConnEntry>, Option<u64>) {
        connections::page(&self.maps, &self.extras, cursor, limit)
    }

    /// Live connections, and places that are not free.
    pub fn connection_count(&self) -> ConnectionCount {
        connections::count(&self.maps)
    }

    pub fn totals(&self) -> Stats {
        let zero = convert::stats(self.maps.settings.read(0).zero);
        convert::stats(maps::sum(&self.maps.total_stats, 0)).since(zero)
    }

    /// What each processor counted since the maps were made, whatever was zeroed: one element for each
    /// possible processor.
    pub fn percpu_totals(&self) -> Vec<Stats> {
        let values = maps::percpu(&self.maps.total_stats, 0);
        values.into_iter().map(convert::stats).collect()
    }

    /// Rates of the whole director.
    pub fn total_rates(&self) -> Rates {
        convert::rates(self.rates.rates())
    }

    /// Renews the rates of the director, of services and of servers. Whoever owns the data plane
    /// calls this every [`common::rules::estimate::PERIOD_SECS`] seconds.
    pub fn estimate(&mut self) {
        self.rates.renew(&maps::sum(&self.maps.total_stats, 0));
        self.services.estimate(&self.maps);
    }

    /// Removes what lblc and lblcr need not remember any more. Whoever owns the data plane calls this
    /// every [`common::rules::schedule::locality::CHECK_SECS`] seconds.
    pub fn clean_caches(&mut self) {
        self.services.clean_caches(&mut self.maps);
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

    /// The host's routes of both families (tables local, main, default); replaces what was there, all at
    /// once. A host may have more than are taken, see [`RouteTable`].
    ///
    /// # Errors
    /// [`EditError::Invalid`] or [`EditError::DataPlane`].
    pub fn set_routes(&mut self, routes: &[Route]) -> Result<(), EditError> {
        self.begin_routes(RouteTable::new(routes, 0)?);
        while !self.follow_routes()? {}
        Ok(())
    }

    /// A new picture of the host's routes, which [`DataPlane::follow_routes`] puts in force.
    pub fn begin_routes(&mut self, routes: RouteTable) {
        self.routes.begin(routes);
    }

    /// One turn of bounded work, of a few milliseconds at most but for the first of all: what is new or
    /// changed comes first, then what is gone, and with each the next hops of the servers it is about.
    /// Gives back whether all is done.
    ///
    /// # Errors
    /// [`EditError::DataPlane`]; the next turn tries again.
    pub fn follow_routes(&mut self) -> Result<bool, EditError> {
        if !self.services.catch_up(&self.maps, &self.routes) {
            return Ok(false);
        }
        let mut touched = Vec::new();
        let done = self.routes.go_on(&mut self.maps, &mut touched);
        self.services.touch(&touched);
        let caught_up = self.services.catch_up(&self.maps, &self.routes);
        Ok(done? && caught_up)
    }

    /// These addresses are this host's, on an interface (`ifindex`), or are not, whatever its routes
    /// say: at once, and also while routes are put in force. They are all there are.
    ///
    /// # Errors
    /// [`EditError::DataPlane`]; the next call tries again.
    pub fn place_addresses(
        &mut self,
        addresses: &BTreeMap<IpAddr, Option<u32>>,
    ) -> Result<(), EditError> {
        let mut touched = Vec::new();
        let placed = self.routes.place(&mut self.maps, addresses, &mut touched);
        self.services.follow(&self.maps, &self.routes, &touched);
        placed
    }

    /// Addresses that move with this node's virtual routers. A lapsed lease keeps the host from
    /// answering for them, whether services have them or not.
    ///
    /// # Errors
    /// [`EditError::DataPlane`].
    pub fn set_router_addresses<A: Copy + Into<RouterAddress>>(
        &mut self,
        addresses: &[A],
    ) -> Result<(), EditError> {
        let addresses = addresses.iter().map(|address| (*address).into());
        self.services
            .set_router_addresses(&mut self.maps, addresses.collect())
    }

    /// Puts marking rules in force, all at once; see [`MarkRule`].
    ///
    /// # Errors
    /// [`EditError::Invalid`] or [`EditError::NoSpace`]; the rules before stay in force then.
    pub fn set_mark_rules(&mut self, rules: &[MarkRule]) -> Result<(), EditError> {
        mark_rules::set(&mut self.maps, rules)
    }

    /// The marking rules in force.
    pub fn mark_rules(&self) -> Vec<MarkRule> {
        mark_rules::get(&self.maps)
    }

    /// One bounded step of the expiry walk: looks at up to `budget` table positions.
    pub fn expire_step(&mut self, budget: u32) -> ExpireReport {
        let report = self.sweep.step(&mut self.maps, &self.programs, budget);
        if let Some(count) = &report.live {
            self.renew_sync_room(count);
            self.extras.clean(&mut self.maps);
        }
        if report.round_done {
            self.services.empty_trash(&self.maps);
            self.services.settle_overloads(&self.maps);
        }
        report
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

    /// The reading end of the ring of offers. There must be one at a time.
    ///
    /// # Errors
    /// [`OpenError::Map`].
    pub fn offers(&self) -> Result<OfferReader, OpenError> {
        OfferReader::open(&self.options.pin_dir)
    }

    /// Has the next round of the expiry walk offer every connection again that this node has ever
    /// offered: the peer may have missed some. What the peer has told of since our last packet is left
    /// to it.
    pub fn offer_all_again(&mut self) {
        self.offer_again_since(0);
    }

    /// The same of those alone that had their last packet at `since_ns` ([`timer_ns`]) or later. What
    /// was lost from a certain moment on is made up for by that; of older connections there is nothing
    /// new to say, and the peer may have them by now.
    pub fn offer_again_since(&mut self, since_ns: u64) {
        self.sweep.offer_again(since_ns);
    }

    /// Whether the expiry walk has not been through yet with what [`DataPlane::offer_again_since`]
    /// asked for.
    pub fn is_offering_again(&self) -> bool {
        self.sweep.is_offering_again()
    }

    /// Notes that a sync daemon is at work at this moment, for the one after it.
    pub fn note_sync_alive(&mut self) {
        store!(
            self.maps.settings,
            0,
            Settings.sync_alive_ns,
            word,
            timer_ns()
        );
    }

    /// When that was noted last ([`timer_ns`]); 0 is never.
    pub fn sync_alive_ns(&self) -> u64 {
        self.maps.settings.read(0).sync_alive_ns
    }

    /// Removes programs, links and maps of a pin directory. Connections end with it.
    ///
    /// # Errors
    /// See [`OpenError`]; another director that uses the directory keeps it.
    pub fn detach(pin_dir: &Path) -> Result<DetachReport, OpenError> {
        loader::detach(pin_dir)
    }
}

/// Of each table, in percent, unless something else is said.
const SYNC_SHARE: u32 = 90;

/// Place in `SYNC_DAEMONS`.
const fn sync_place(role: SyncRole) -> u32 {
    match role {
        SyncRole::Master => 0,
        SyncRole::Backup => 1,
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
