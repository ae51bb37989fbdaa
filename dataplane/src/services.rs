//! Services and real servers: the table that edits go through, and its projection into the maps.
//!
//! The maps hold the complete record, so [`Services::adopt`] rebuilds everything from them. Every
//! edit is checked on a copy of the table first, then written so that one store makes it visible:
//! the list word of a service, or its entry in `SERVICE_IDS4`. A process that dies before that
//! store leaves places that the next start frees.
//!
//! A removed server keeps its place and its generation (the *trash*) while connections refer to it,
//! and comes back with its counters when it is added again (`ip_vs_ctl.c: ip_vs_trash_get_dest`).

mod adopt;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use dataplane_common::rules::schedule::{
    ListHead, Position, initial_position, on_list_change, wrr_levels,
};
use dataplane_common::service::{ServerRecord, ServiceRecord, list, vip};
use dataplane_common::{Be16, NS_PER_SEC, entry::server_conns};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{
    EditError, Server, ServerKey, ServerSpec, ServiceKey, ServiceSpec, ServiceTable,
};

use crate::arena::Arena;
use crate::convert::{addr_words, address_of, be, fill_spec, map_key, stats_words};
use crate::loader::chain;
use crate::maps::{Maps, grace_period, load, store, sum};
use crate::routes::Routes;
use crate::{Edit, timer_ns};

const AF_INET: u32 = 2;
/// An unused server is freed at the first check this long after it was first seen unused
/// (`ip_vs_ctl.c: IP_VS_DEST_TRASH_PERIOD`).
const TRASH_PERIOD_NS: u64 = 120 * NS_PER_SEC;

type ServerId = (ServiceKey, ServerKey);

/// The service table and where its parts are in the maps.
pub(crate) struct Services {
    table: ServiceTable,
    /// Place in `SERVICES`.
    ids: BTreeMap<ServiceKey, u32>,
    /// Place in `SERVERS`.
    slots: BTreeMap<ServerId, u32>,
    /// Removed servers by what they were.
    trash: BTreeMap<ServerId, u32>,
    free_ids: BTreeSet<u32>,
    free_slots: BTreeSet<u32>,
    /// Freed places that a program run may still look at.
    cooling_ids: Vec<u32>,
    cooling_slots: Vec<u32>,
    arena: Arena,
    /// Virtual addresses as they are in the map, see [`vip`].
    vips: Option<BTreeMap<Ipv4Addr, u32>>,
    /// Addresses that move with virtual routers.
    router_addresses: BTreeSet<Ipv4Addr>,
    created: u64,
}

impl Services {
    pub(crate) fn edit(
        &mut self,
        maps: &mut Maps,
        routes: &Routes,
        edit: &Edit,
    ) -> Result<(), EditError> {
        let mut table = self.table.clone();
        match edit {
            Edit::AddService { key, spec } => {
                table.add_service(*key, spec.clone())?;
                self.add_service(maps, routes, *key, spec)?;
            }
            Edit::EditService { key, spec } => {
                table.edit_service(key, spec.clone())?;
                self.edit_service(maps, &table, key, spec)?;
            }
            Edit::DeleteService { key } => {
                table.delete_service(key)?;
                self.delete_service(maps, key)?;
            }
            Edit::Flush => {
                for service in table.clear() {
                    self.delete_service(maps, &service.key)?;
                    self.table.delete_service(&service.key)?;
                }
            }
            Edit::AddServer {
                service,
                server,
                spec,
            } => {
                table.add_server(service, *server, *spec)?;
                check_local(routes, *server, spec)?;
                self.add_server(maps, routes, &table, service, *server, spec)?;
            }
            Edit::EditServer {
                service,
                server,
                spec,
            } => {
                table.edit_server(service, *server, *spec)?;
                check_local(routes, *server, spec)?;
                self.edit_server(maps, &table, service, *server, spec)?;
            }
            Edit::DeleteServer { service, server } => {
                table.delete_server(service, *server)?;
                self.delete_server(maps, &table, service, *server)?;
            }
        }
        self.table = table;
        self.refresh_vips(maps)
    }

    fn add_service(
        &mut self,
        maps: &mut Maps,
        routes: &Routes,
        key: ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<(), EditError> {
        if self.free_ids.is_empty() && !self.cooling_ids.is_empty() {
            grace_period();
            self.free_ids.extend(self.cooling_ids.drain(..));
        }
        let Some(id) = self.free_ids.first().copied() else {
            return Err(EditError::NoSpace(format!(
                "the table holds {} services",
                maps.services.len()
            )));
        };
        let block = self.write_list(maps, &[])?;
        let old = maps.services.read(id);
        self.created += 1;
        let (protocol, addr) = address_of(&key);
        let mut record = ServiceRecord {
            list: list::pack(block, 0),
            sched: initial_position_of(spec.scheduler, ListHead::default()).to_word(),
            generation: old.generation.wrapping_add(1),
            protocol: protocol.number(),
            port: Be16::from_host(addr.port()),
            family: AF_INET,
            addr: addr_words(addr.ip()),
            created: self.created,
            zero: sum(&maps.service_stats, id),
            ..ServiceRecord::default()
        };
        fill_spec(&mut record, spec);
        maps.services.write(id, record);
        let flags = ServiceRecord::LIVE | vip_flag(routes, &key);
        store!(maps.services, id, ServiceRecord.flags, half, flags);
        maps.service_ids4
            .insert(map_key(&key), id, 0)
            .map_err(|error| EditError::DataPlane(chain(&error)))?;
        self.free_ids.remove(&id);
        self.ids.insert(key, id);
        Ok(())
    }

    fn edit_service(
        &mut self,
        maps: &mut Maps,
        table: &ServiceTable,
        key: &ServiceKey,
        spec: &ServiceSpec,
    ) -> Result<(), EditError> {
        let id = self.id(key)?;
        let mut record = maps.services.read(id);
        let before = record.scheduler;
        fill_spec(&mut record, spec);
        let at = core::mem::offset_of!(ServiceRecord, scheduler);
        let packed = u32::from_ne_bytes([
            record.scheduler,
            record.protocol,
            record.port.0.to_ne_bytes()[0],
            record.port.0.to_ne_bytes()[1],
        ]);
        store!(
            maps.services,
            id,
            ServiceRecord.service_flags,
            half,
            record.service_flags
        );
        store!(
            maps.services,
            id,
            ServiceRecord.timeout_secs,
            half,
            record.timeout_secs
        );
        store!(
            maps.services,
            id,
            ServiceRecord.netmask,
            half,
            record.netmask
        );
        if before != record.scheduler {
            let head = head_of(table, key);
            let position = initial_position_of(spec.scheduler, head);
            store!(
                maps.services,
                id,
                ServiceRecord.sched,
                word,
                position.to_word()
            );
            maps.services
                .half(id, at)
                .store(packed, core::sync::atomic::Ordering::SeqCst);
        }
        Ok(())
    }

    fn delete_service(&mut self, maps: &mut Maps, key: &ServiceKey) -> Result<(), EditError> {
        let id = self.id(key)?;
        maps.service_ids4
            .remove(&map_key(key))
            .map_err(|error| EditError::DataPlane(chain(&error)))?;
        store!(maps.services, id, ServiceRecord.flags, half, 0);
        let servers: Vec<ServerId> = self
            .slots
            .keys()
            .filter(|(service, _)| service == key)
            .copied()
            .collect();
        for server in servers {
            self.throw_away(maps, server);
        }
        self.arena
            .retire(list::low(load(maps.services.word(id, LIST))));
        store!(maps.services, id, ServiceRecord.list, word, 0);
        self.ids.remove(key);
        self.cooling_ids.push(id);
        Ok(())
    }

    fn add_server(
        &mut self,
        maps: &mut Maps,
        routes: &Routes,
        table: &ServiceTable,
        service: &ServiceKey,
        server: ServerKey,
        spec: &ServerSpec,
    ) -> Result<(), EditError> {
        let id = self.id(service)?;
        let generation = maps.services.read(id).generation;
        let who = (*service, server);
        let slot = match self.trash.get(&who) {
            Some(slot) => *slot,
            None => self.new_slot(maps, service, server)?,
        };
        let mut record = maps.servers.read(slot);
        if record.service != id || record.service_generation != generation {
            record.zero = sum(&maps.server_stats, slot);
        }
        record.last_weight = spec.weight;
        let zero = core::mem::offset_of!(ServerRecord, zero) as u32;
        for (at, value) in (0..).zip(stats_words(record.zero)) {
            let offset = zero as usize + 8 * at;
            maps.servers
                .word(slot, offset)
                .store(value, core::sync::atomic::Ordering::SeqCst);
        }
        store!(maps.servers, slot, ServerRecord.service, half, id);
        store!(
            maps.servers,
            slot,
            ServerRecord.service_generation,
            half,
            generation
        );
        store!(maps.servers, slot, ServerRecord.trash_since_ns, word, 0);
        self.store_spec(maps, slot, spec);
        self.store_route(maps, routes, slot, server);
        let list = self.list_of(table, service, Some((server, slot)));
        let local = local_flag(routes, server);
        let flags = ServerRecord::USED | ServerRecord::AVAILABLE | local;
        store!(maps.servers, slot, ServerRecord.flags, half, flags);
        if let Err(error) = self.switch_list(maps, table, service, &list) {
            store!(
                maps.servers,
                slot,
                ServerRecord.flags,
                half,
                ServerRecord::USED
            );
            self.trash.insert(who, slot);
            return Err(error);
        }
        self.trash.remove(&who);
        self.slots.insert(who, slot);
        Ok(())
    }

    fn edit_server(
        &mut self,
        maps: &mut Maps,
        table: &ServiceTable,
        service: &ServiceKey,
        server: ServerKey,
        spec: &ServerSpec,
    ) -> Result<(), EditError> {
        // The list first, because it may find no room; its switch, with the weight, last.
        let list = self.list_of(table, service, None);
        let block = self.write_list(maps, &list)?;
        if let Some(slot) = self.slots.get(&(*service, server)).copied() {
            self.store_spec(maps, slot, spec);
        }
        self.put_in_force(maps, table, service, block, &list)
    }

    fn delete_server(
        &mut self,
        maps: &mut Maps,
        table: &ServiceTable,
        service: &ServiceKey,
        server: ServerKey,
    ) -> Result<(), EditError> {
        let id = self.id(service)?;
        let who = (*service, server);
        let gone = self.slots.get(&who).copied();
        let before = self.predecessor(maps, id, gone);
        let list = self.list_of(table, service, None);
        self.switch_list(maps, table, service, &list)?;
        self.throw_away(maps, who);
        // rr: the position moves back to the predecessor of the server that left
        // (`ip_vs_rr.c: ip_vs_rr_del_dest`).
        let scheduler = table
            .get(service)
            .and_then(|service| service.spec.scheduler);
        if scheduler == Some(Scheduler::Rr) {
            let sched = maps.services.word(id, SCHED);
            let old = load(sched);
            let position = Position::from_word(old);
            if position.slot.is_some() && position.slot == gone {
                let next = Position {
                    slot: before,
                    ..position
                };
                swap(sched, old, next.to_word());
            }
        }
        Ok(())
    }

    /// The server before `slot` in the list in force.
    fn predecessor(&self, maps: &Maps, id: u32, slot: Option<u32>) -> Option<u32> {
        let block = list::low(load(maps.services.word(id, LIST)));
        let index = maps.servers.read(slot?).list_index;
        let before = index.checked_sub(1)?;
        Some(list::low(maps.lists.read(block + list::HEAD + before)))
    }

    /// Slots and weights of a service in list order, by the table.
    fn list_of(
        &self,
        table: &ServiceTable,
        service: &ServiceKey,
        added: Option<(ServerKey, u32)>,
    ) -> Vec<(u32, u32)> {
        let servers = table
            .get(service)
            .map_or(&[][..], |service| &service.servers);
        let slot_of = |server: &Server| match added {
            Some((key, slot)) if key == server.key => Some(slot),
            _ => self.slots.get(&(*service, server.key)).copied(),
        };
        servers
            .iter()
            .filter_map(|server| Some((slot_of(server)?, server.spec.weight)))
            .collect()
    }

    /// Writes a list beside the one in force and switches to it with one store.
    fn switch_list(
        &mut self,
        maps: &mut Maps,
        table: &ServiceTable,
        service: &ServiceKey,
        servers: &[(u32, u32)],
    ) -> Result<(), EditError> {
        let block = self.write_list(maps, servers)?;
        self.put_in_force(maps, table, service, block, servers)
    }

    /// Switches a service to a list that has been written.
    fn put_in_force(
        &mut self,
        maps: &mut Maps,
        table: &ServiceTable,
        service: &ServiceKey,
        block: u32,
        servers: &[(u32, u32)],
    ) -> Result<(), EditError> {
        let id = self.id(service)?;
        let old = load(maps.services.word(id, LIST));
        let edits = list::high(old).wrapping_add(1);
        store!(
            maps.services,
            id,
            ServiceRecord.list,
            word,
            list::pack(block, edits)
        );
        for (index, (slot, _)) in (0..).zip(servers) {
            store!(maps.servers, *slot, ServerRecord.list_index, half, index);
        }
        self.arena.retire(list::low(old));
        let Some(scheduler) = table
            .get(service)
            .and_then(|service| service.spec.scheduler)
        else {
            return Ok(());
        };
        let sched = maps.services.word(id, SCHED);
        for _ in 0..64 {
            let old = load(sched);
            let next = on_list_change(scheduler, Position::from_word(old), head_of(table, service));
            if swap(sched, old, next.to_word()) {
                break;
            }
        }
        Ok(())
    }

    fn write_list(&mut self, maps: &mut Maps, servers: &[(u32, u32)]) -> Result<u32, EditError> {
        let words = list::HEAD + servers.len() as u32;
        let block = self.arena.allocate(words).or_else(|| {
            grace_period();
            self.arena.reuse_retired();
            self.arena.allocate(words)
        });
        let Some(block) = block else {
            return Err(EditError::NoSpace(
                "the space for server lists is used up".into(),
            ));
        };
        let (largest, step) = wrr_levels(servers.iter().map(|(_, weight)| *weight));
        maps.lists.write(block, list::pack(servers.len() as u32, 0));
        maps.lists.write(block + 1, list::pack(largest, step));
        for (at, (slot, weight)) in (block + list::HEAD..).zip(servers) {
            maps.lists.write(at, list::pack(*slot, *weight));
        }
        Ok(block)
    }

    /// A place for a server that was never here, filled in but not in use.
    fn new_slot(
        &mut self,
        maps: &mut Maps,
        service: &ServiceKey,
        server: ServerKey,
    ) -> Result<u32, EditError> {
        if self.free_slots.is_empty() && !self.cooling_slots.is_empty() {
            grace_period();
            self.free_slots.extend(self.cooling_slots.drain(..));
        }
        let Some(slot) = self.free_slots.pop_first() else {
            let text = format!("the table holds {} real servers", maps.servers.len());
            return Err(EditError::NoSpace(text));
        };
        let (protocol, addr) = address_of(service);
        let generation = maps.servers.read(slot).generation.wrapping_add(1);
        let record = ServerRecord {
            generation,
            addr: addr_words(server.ip()),
            port: Be16::from_host(server.port()),
            family: AF_INET as u8,
            service: u32::MAX,
            service_addr: addr_words(addr.ip()),
            service_port: Be16::from_host(addr.port()),
            service_protocol: protocol.number(),
            zero: sum(&maps.server_stats, slot),
            ..ServerRecord::default()
        };
        maps.servers.write(slot, record);
        store!(
            maps.servers,
            slot,
            ServerRecord.flags,
            half,
            ServerRecord::USED
        );
        self.trash.insert((*service, server), slot);
        Ok(slot)
    }

    fn store_spec(&self, maps: &Maps, slot: u32, spec: &ServerSpec) {
        let record = maps.servers.read(slot);
        let [low, high] = record.port.0.to_ne_bytes();
        let packed = u32::from_ne_bytes([low, high, spec.method as u8, record.family]);
        store!(maps.servers, slot, ServerRecord.port, half, packed);
        store!(maps.servers, slot, ServerRecord.weight, half, spec.weight);
        if spec.weight != 0 {
            store!(
                maps.servers,
                slot,
                ServerRecord.last_weight,
                half,
                spec.weight
            );
        }
        store!(
            maps.servers,
            slot,
            ServerRecord.upper_threshold,
            half,
            spec.upper_threshold
        );
        store!(
            maps.servers,
            slot,
            ServerRecord.lower_threshold,
            half,
            spec.lower_threshold
        );
    }

    fn store_route(&self, maps: &Maps, routes: &Routes, slot: u32, server: ServerKey) {
        if let IpAddr::V4(addr) = server.ip() {
            store!(
                maps.servers,
                slot,
                ServerRecord.next_hop,
                word,
                routes.next_hop(addr)
            );
        }
    }

    /// Takes a server out of service; its connections keep it.
    fn throw_away(&mut self, maps: &Maps, who: ServerId) {
        if let Some(slot) = self.slots.remove(&who) {
            store!(maps.servers, slot, ServerRecord.trash_since_ns, word, 0);
            store!(
                maps.servers,
                slot,
                ServerRecord.flags,
                half,
                ServerRecord::USED
            );
            self.trash.insert(who, slot);
        }
    }

    /// Frees servers in the trash that nobody has used for the trash period.
    pub(crate) fn empty_trash(&mut self, maps: &Maps) {
        let now_ns = timer_ns();
        let mut freed = Vec::new();
        for (who, slot) in &self.trash {
            let record = maps.servers.read(*slot);
            if server_conns::total(record.conns) != 0 || record.persistent != 0 {
                store!(maps.servers, *slot, ServerRecord.trash_since_ns, word, 0);
            } else if record.trash_since_ns == 0 {
                store!(
                    maps.servers,
                    *slot,
                    ServerRecord.trash_since_ns,
                    word,
                    now_ns
                );
            } else if now_ns - record.trash_since_ns >= TRASH_PERIOD_NS {
                freed.push(*who);
            }
        }
        for who in freed {
            if let Some(slot) = self.trash.remove(&who) {
                store!(maps.servers, slot, ServerRecord.flags, half, 0);
                self.cooling_slots.push(slot);
            }
        }
    }

    /// Next hops and local addresses after the host's routes changed.
    pub(crate) fn follow_routes(&self, maps: &Maps, routes: &Routes) {
        for ((_, server), slot) in self.slots.iter().chain(&self.trash) {
            self.store_route(maps, routes, *slot, *server);
            let flags = maps.servers.read(*slot).flags & !ServerRecord::LOCAL;
            let flags = flags | local_flag(routes, *server);
            store!(maps.servers, *slot, ServerRecord.flags, half, flags);
        }
        for (key, id) in &self.ids {
            let flags = ServiceRecord::LIVE | vip_flag(routes, key);
            store!(maps.services, *id, ServiceRecord.flags, half, flags);
        }
    }

    /// See [`crate::DataPlane::pretend_vips_are_local`].
    pub(crate) fn pretend_vips_are_local(&self, maps: &Maps) {
        for id in self.ids.values() {
            let flags = ServiceRecord::LIVE | ServiceRecord::VIP_LOCAL;
            store!(maps.services, *id, ServiceRecord.flags, half, flags);
        }
    }

    /// See [`crate::DataPlane::set_router_addresses`].
    pub(crate) fn set_router_addresses(
        &mut self,
        maps: &mut Maps,
        addresses: &[Ipv4Addr],
    ) -> Result<(), EditError> {
        self.router_addresses = addresses.iter().copied().collect();
        self.refresh_vips(maps)
    }

    /// Brings the map of virtual addresses in line with the table.
    fn refresh_vips(&mut self, maps: &mut Maps) -> Result<(), EditError> {
        let routers = self
            .router_addresses
            .iter()
            .map(|addr| (*addr, vip::ROUTER));
        let mut wanted: BTreeMap<Ipv4Addr, u32> = routers.collect();
        for service in self.table.services() {
            if let IpAddr::V4(addr) = address_of(&service.key).1.ip() {
                *wanted.entry(addr).or_default() += 1;
            }
        }
        if self.vips.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let failed = |error: aya::maps::MapError| EditError::DataPlane(chain(&error));
        for (addr, count) in &wanted {
            maps.vips4.insert(be(*addr).0, count, 0).map_err(failed)?;
        }
        let pinned: Vec<u32> = maps.vips4.keys().flatten().collect();
        for key in pinned {
            if !wanted.contains_key(&Ipv4Addr::from(u32::from_be(key))) {
                maps.vips4.remove(&key).map_err(failed)?;
            }
        }
        self.vips = Some(wanted);
        Ok(())
    }

    pub(crate) fn count(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn has_service(&self, key: &ServiceKey) -> bool {
        self.ids.contains_key(key)
    }

    /// Place and generation of a server, for connections that are applied.
    pub(crate) fn server_slot(
        &self,
        maps: &Maps,
        service: &ServiceKey,
        server: ServerKey,
    ) -> Option<(u32, u32)> {
        let slot = self.slots.get(&(*service, server)).copied()?;
        Some((slot, maps.servers.read(slot).generation))
    }

    fn id(&self, key: &ServiceKey) -> Result<u32, EditError> {
        self.ids.get(key).copied().ok_or(EditError::NoSuchService)
    }
}

const LIST: usize = core::mem::offset_of!(ServiceRecord, list);
const SCHED: usize = core::mem::offset_of!(ServiceRecord, sched);

fn swap(word: &core::sync::atomic::AtomicU64, old: u64, new: u64) -> bool {
    use core::sync::atomic::Ordering::SeqCst;
    word.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
}

/// A server of this host can only be reached as it is: rewriting replies would need a hook on the
/// host's own output.
fn check_local(routes: &Routes, server: ServerKey, spec: &ServerSpec) -> Result<(), EditError> {
    let rewrites = spec.method == ForwardMethod::Masquerading;
    if rewrites && local_flag(routes, server) != 0 {
        let text = format!("masquerading to {}, an address of this host", server.ip());
        return Err(EditError::Unsupported(text));
    }
    Ok(())
}

fn local_flag(routes: &Routes, server: ServerKey) -> u32 {
    match server.ip() {
        IpAddr::V4(addr) if routes.is_local(addr) => ServerRecord::LOCAL,
        IpAddr::V4(_) | IpAddr::V6(_) => 0,
    }
}

fn vip_flag(routes: &Routes, key: &ServiceKey) -> u32 {
    match address_of(key).1.ip() {
        IpAddr::V4(addr) if routes.is_local(addr) => ServiceRecord::VIP_LOCAL,
        IpAddr::V4(_) | IpAddr::V6(_) => 0,
    }
}

fn head_of(table: &ServiceTable, key: &ServiceKey) -> ListHead {
    let servers = table.get(key).map_or(&[][..], |service| &service.servers);
    let (wrr_max, wrr_step) = wrr_levels(servers.iter().map(|server| server.spec.weight));
    ListHead {
        count: servers.len() as u32,
        wrr_max,
        wrr_step,
    }
}

fn initial_position_of(scheduler: Option<Scheduler>, head: ListHead) -> Position {
    scheduler.map_or(Position::default(), |scheduler| {
        initial_position(scheduler, head)
    })
}
