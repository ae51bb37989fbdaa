//! Services in maps of their own, and hands for edits.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::service::list;
use ipvs_model::flags::ServiceFlags;
use ipvs_model::forward::ForwardMethod;
use ipvs_model::protocol::Protocol;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{EditError, ServerSpec, Service, ServiceKey, ServiceSpec};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::loader::make_maps;
use crate::maps::Maps;
use crate::routes::Routes;
use crate::services::Services;
use crate::services::lists::block_of;
use crate::settings::default_settings;
use crate::{Edit, Route, RouteTable, TableSizes};

static NEXT: AtomicU32 = AtomicU32::new(0);

pub(super) const SIZES: TableSizes = TableSizes {
    connections_v4: 256,
    connections_v6: 256,
    services: 64,
    servers: 5000,
    hash_tables: 4,
    cache_entries: 64,
};

/// A bpffs of the test's own thread.
pub(super) struct Bpffs(PathBuf);

impl Bpffs {
    pub(super) fn new() -> Bpffs {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let id = NEXT.fetch_add(1, SeqCst);
        let name = format!("tandem-services-{}-{id}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let none = MsFlags::empty();
        mount(Some("bpf"), &dir, Some("bpf"), none, None::<&str>).unwrap();
        Bpffs(dir)
    }

    /// The maps and the services in them.
    pub(super) fn open(&self) -> Plane {
        let adopted = self.0.join("LAYOUT").exists();
        let mut ebpf = make_maps(&self.0, adopted, &SIZES).unwrap();
        let mut maps = Maps::take(&mut ebpf).unwrap();
        if !adopted {
            maps.settings.write(0, default_settings(256, 256));
        }
        let services = Services::adopt(&mut maps).unwrap();
        Plane {
            maps,
            services,
            routes: Routes::default(),
        }
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.0);
    }
}

pub(super) struct Plane {
    pub(super) maps: Maps,
    pub(super) services: Services,
    pub(super) routes: Routes,
}

impl Plane {
    pub(super) fn edit(&mut self, edit: &Edit) -> Result<(), EditError> {
        self.services.edit(&mut self.maps, &self.routes, edit)
    }

    /// What an operator has given, in order.
    pub(super) fn given(&self) -> Vec<Service> {
        let views = self.services.list(&self.maps, None).unwrap();
        views.into_iter().map(|view| view.service).collect()
    }

    pub(super) fn set_routes(&mut self, routes: &[Route]) {
        self.routes.begin(RouteTable::new(routes, 0).unwrap());
        let mut is_done = false;
        while !is_done {
            let mut touched = Vec::new();
            is_done = self.routes.go_on(&mut self.maps, &mut touched).unwrap();
            self.services.touch(&touched);
            while !self.services.catch_up(&self.maps, &self.routes) {}
        }
    }

    pub(super) fn id(&self, key: &ServiceKey) -> u32 {
        self.services.entry(key).unwrap().id
    }

    /// Services by mark, of FTP and of port zero, as the programs see it.
    pub(super) fn counts(&self) -> [u32; 3] {
        let settings = self.maps.settings.read(0);
        [
            settings.fwmark_services,
            settings.ftp_services,
            settings.port_zero_services,
        ]
    }
}

pub(super) fn at(protocol: Protocol, text: &str) -> ServiceKey {
    let addr = text.parse().unwrap();
    ServiceKey::Address { protocol, addr }
}

pub(super) fn spec(key: &ServiceKey, scheduler: Scheduler) -> ServiceSpec {
    ServiceSpec {
        scheduler: Some(scheduler),
        flags: ServiceFlags::default(),
        timeout_secs: 0,
        netmask: if key.is_ipv6() { 128 } else { u32::MAX },
        pe_name: None,
    }
}

pub(super) fn weight(weight: u32) -> ServerSpec {
    ServerSpec {
        method: ForwardMethod::DirectRouting,
        weight,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

pub(super) fn add(plane: &mut Plane, key: ServiceKey, scheduler: Scheduler) {
    let spec = spec(&key, scheduler);
    plane.edit(&Edit::AddService { key, spec }).unwrap();
}

pub(super) fn add_server(plane: &mut Plane, service: ServiceKey, server: &str, spec: ServerSpec) {
    let server = server.parse().unwrap();
    let edit = Edit::AddServer {
        service,
        server,
        spec,
    };
    plane.edit(&edit).unwrap();
}

pub(super) fn edit_server(plane: &mut Plane, service: ServiceKey, server: &str, spec: ServerSpec) {
    let server = server.parse().unwrap();
    let edit = Edit::EditServer {
        service,
        server,
        spec,
    };
    plane.edit(&edit).unwrap();
}

pub(super) fn place(plane: &Plane, service: &ServiceKey, server: &str) -> (u32, u32) {
    let server = server.parse().unwrap();
    let slot = plane.services.server_slot(&plane.maps, service, server);
    slot.unwrap()
}

/// Servers and table of a service as the programs see them.
pub(super) fn block(plane: &Plane, key: &ServiceKey) -> (Vec<u32>, Vec<u16>) {
    let id = plane.id(key);
    let lists = &plane.maps.lists;
    let block = block_of(&plane.maps, id);
    let counts = lists.read(block);
    let (count, slots) = (list::low(counts), list::high(counts));
    let first = block + list::HEAD;
    let servers = (first..first + count).map(|at| list::low(lists.read(at)));
    let slot = |at: u32| {
        let word = lists.read(first + count + at / list::SLOTS_PER_WORD);
        list::slot_of(word, at)
    };
    (servers.collect(), (0..slots).map(slot).collect())
}

pub(super) fn share(slots: &[u16], index: u16) -> usize {
    slots.iter().filter(|slot| **slot == index).count()
}
