//! Adds, changes and removes real servers.
//!
//! Programs set and clear OVERLOAD in the flags of a server at any time, so the flags of one that is
//! in use change by single bits only.

use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::entry::server_conns;
use dataplane_common::rules::estimate::Estimator;
use dataplane_common::rules::threshold::{Overload, Thresholds, settle};
use dataplane_common::service::ServerRecord;
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{EditError, ServerKey, ServerSpec, Service, ServiceKey};

use super::hops::Place;
use super::lists::{check_count, members, predecessor, step_back};
use super::{Services, hops};
use crate::convert::{MapKey, addr_words, family_of, stats_words};
use crate::grace::grace_period;
use crate::mapped::{load, store};
use crate::maps::{Maps, sum};
use crate::routes::Routes;

const FLAGS: usize = core::mem::offset_of!(ServerRecord, flags);

impl Services {
    /// `service` is what it will be.
    pub(super) fn add_server(
        &mut self,
        maps: &mut Maps,
        routes: &Routes,
        service: Service,
        server: ServerKey,
        spec: &ServerSpec,
    ) -> Result<(), EditError> {
        check_count(&service)?;
        let (key, scheduler) = (service.key, service.spec.scheduler);
        let id = self.entry(&key)?.id;
        let generation = maps.services.read(id).generation;
        let slot = match self.trash.get(&(key, server)) {
            Some(slot) => *slot,
            None => self.new_slot(maps, &key, server)?,
        };
        let record = maps.servers.read(slot);
        let now = sum(&maps.server_stats, slot);
        if record.service != id || record.service_generation != generation {
            // The statistics belong to the service, the connections to the server.
            let zero = core::mem::offset_of!(ServerRecord, zero);
            for (at, value) in (0..).zip(stats_words(now)) {
                maps.servers.word(slot, zero + 8 * at).store(value, SeqCst);
            }
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
        store_spec(maps, slot, spec, spec.weight);
        hops::store_next_hop(maps, slot, routes.next_hop(server.ip()));
        hops::store_local(maps, slot, routes, server.ip());
        set_flags(maps, slot, ServerRecord::AVAILABLE);
        let entry = self.entry(&key)?;
        let members = members(maps, entry, &service, Some((server, slot, spec.weight)));
        if let Err(error) = self.switch_list(maps, id, scheduler, &members) {
            clear_flags(maps, slot, ServerRecord::AVAILABLE);
            return Err(error);
        }
        self.trash.remove(&(key, server));
        self.server_rates.insert(slot, Estimator::starting_at(&now));
        let entry = self.entry_mut(&key)?;
        entry.slots.insert(server, slot);
        entry.service = service;
        Ok(())
    }

    pub(super) fn edit_server(
        &mut self,
        maps: &mut Maps,
        service: Service,
        server: ServerKey,
        spec: &ServerSpec,
    ) -> Result<(), EditError> {
        let (key, scheduler) = (service.key, service.spec.scheduler);
        let entry = self.entry(&key)?;
        let id = entry.id;
        let slot = *entry.slots.get(&server).ok_or(EditError::NoSuchServer)?;
        let last_weight = match spec.weight {
            0 => maps.servers.read(slot).last_weight,
            weight => weight,
        };
        let members = members(maps, entry, &service, Some((server, slot, last_weight)));
        // The list first, because it may find no room; its switch, with the weight, last.
        let block = self.write_list(maps, scheduler, &members)?;
        store_spec(maps, slot, spec, last_weight);
        self.put_in_force(maps, id, scheduler, block, &members);
        self.entry_mut(&key)?.service = service;
        Ok(())
    }

    pub(super) fn delete_server(
        &mut self,
        maps: &mut Maps,
        service: Service,
        server: ServerKey,
    ) -> Result<(), EditError> {
        let (key, scheduler) = (service.key, service.spec.scheduler);
        let entry = self.entry(&key)?;
        let id = entry.id;
        let gone = entry.slots.get(&server).copied();
        let before = predecessor(maps, id, gone);
        let members = members(maps, entry, &service, None);
        self.switch_list(maps, id, scheduler, &members)?;
        self.throw_away(maps, &key, server);
        self.entry_mut(&key)?.service = service;
        if scheduler == Some(Scheduler::Rr) {
            step_back(maps, id, gone, before);
        }
        Ok(())
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
        let at = MapKey::new(service);
        let record = ServerRecord {
            generation: maps.servers.read(slot).generation.wrapping_add(1),
            addr: addr_words(server.ip()),
            port: dataplane_common::Be16::from_host(server.port()),
            family: family_of(server.ip()),
            service: u32::MAX,
            service_addr: at.addr,
            service_port: at.port,
            service_protocol: at.protocol,
            service_family: at.family,
            service_fwmark: at.fwmark,
            ..ServerRecord::default()
        };
        maps.servers.write(slot, record);
        set_flags(maps, slot, ServerRecord::USED);
        self.trash.insert((*service, server), slot);
        self.hops.add(server.ip(), Place::Server(slot));
        Ok(slot)
    }

    /// Takes a server out of service; its connections keep it.
    pub(super) fn throw_away(&mut self, maps: &Maps, service: &ServiceKey, server: ServerKey) {
        let Some(entry) = self.entries.get_mut(service) else {
            return;
        };
        if let Some(slot) = entry.slots.remove(&server) {
            store!(maps.servers, slot, ServerRecord.trash_since_ns, word, 0);
            clear_flags(maps, slot, ServerRecord::AVAILABLE);
            self.server_rates.remove(&slot);
            self.trash.insert((*service, server), slot);
        }
    }
}

pub(super) fn set_flags(maps: &Maps, slot: u32, flags: u32) {
    maps.servers.half(slot, FLAGS).fetch_or(flags, SeqCst);
}

pub(super) fn clear_flags(maps: &Maps, slot: u32, flags: u32) {
    maps.servers.half(slot, FLAGS).fetch_and(!flags, SeqCst);
}

fn store_spec(maps: &Maps, slot: u32, spec: &ServerSpec, last_weight: u32) {
    let record = maps.servers.read(slot);
    let [low, high] = record.port.0.to_ne_bytes();
    let packed = u32::from_ne_bytes([low, high, spec.method as u8, record.family]);
    store!(maps.servers, slot, ServerRecord.port, half, packed);
    store!(maps.servers, slot, ServerRecord.weight, half, spec.weight);
    store!(
        maps.servers,
        slot,
        ServerRecord.last_weight,
        half,
        last_weight
    );
    let (upper, lower) = (spec.upper_threshold, spec.lower_threshold);
    store!(
        maps.servers,
        slot,
        ServerRecord.upper_threshold,
        half,
        upper
    );
    store!(
        maps.servers,
        slot,
        ServerRecord.lower_threshold,
        half,
        lower
    );
    // Twice: a program that counted with the old thresholds may have stored after the first look.
    settle_overload(maps, slot);
    settle_overload(maps, slot);
}

/// Sets or clears OVERLOAD by the thresholds and the connections there are now.
pub(super) fn settle_overload(maps: &Maps, slot: u32) {
    let record = maps.servers.read(slot);
    let thresholds = Thresholds {
        upper: record.upper_threshold,
        lower: record.lower_threshold,
    };
    let at = core::mem::offset_of!(ServerRecord, conns);
    let connections = server_conns::total(load(maps.servers.word(slot, at)));
    match settle(thresholds, connections) {
        Overload::Keep => {}
        Overload::Set => set_flags(maps, slot, ServerRecord::OVERLOAD),
        Overload::Clear => clear_flags(maps, slot, ServerRecord::OVERLOAD),
    }
}
