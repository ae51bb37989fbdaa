//! Rebuilds the service table from pinned maps.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::rules::estimate::Estimator;
use dataplane_common::rules::schedule::table::table_size;
use dataplane_common::service::{ServerRecord, ServiceRecord, list};
use ipvs_model::service::{EditError, Server, Service, ServiceKey};

use super::counts::Counts;
use super::edit::find_id;
use super::hops::{Hops, Place};
use super::lists::{block_of, block_words, members};
use super::servers::{clear_flags, set_flags, settle_overload};
use super::vips::Vips;
use super::{Entry, Services};
use crate::arena::Arena;
use crate::cache::Caches;
use crate::convert::{
    MapKey, server_key, server_spec, service_key, service_key_of, service_spec, virtual_address,
};
use crate::mapped::store;
use crate::maps::{Maps, sum};

impl Services {
    /// Rebuilds the table from the maps; fresh maps give an empty one.
    pub(crate) fn adopt(maps: &mut Maps) -> Result<Services, EditError> {
        let mut services = Services {
            entries: BTreeMap::new(),
            trash: BTreeMap::new(),
            free_ids: BTreeSet::new(),
            free_slots: BTreeSet::new(),
            cooling_ids: Vec::new(),
            cooling_slots: Vec::new(),
            arena: Arena::new(maps.lists.len()),
            vips: Vips::default(),
            hops: Hops::default(),
            counts: Counts::default(),
            caches: Caches::default(),
            server_rates: BTreeMap::new(),
            created: 0,
        };
        for id in 0..maps.services.len() {
            let record = maps.services.read(id);
            let key = service_key(&record);
            let known = record.flags & ServiceRecord::LIVE != 0
                && key.is_some_and(|key| {
                    find_id(maps, &MapKey::new(&key)).is_ok_and(|found| found == id)
                });
            match key.filter(|_| known) {
                Some(key) => services.adopt_service(maps, id, key, &record),
                None => {
                    store!(maps.services, id, ServiceRecord.flags, half, 0);
                    services.free_ids.insert(id);
                }
            }
        }
        services.adopt_slots(maps);
        services.adopt_tables(maps)?;
        services.adopt_hops();
        let keys = services.entries.keys();
        services.counts = keys.fold(Counts::default(), Counts::with);
        services.counts.store(maps);
        let addresses = services.entries.keys().filter_map(virtual_address);
        services.vips = Vips::adopt(maps, addresses)?;
        Ok(services)
    }

    fn adopt_service(&mut self, maps: &Maps, id: u32, key: ServiceKey, record: &ServiceRecord) {
        let mut entry = Entry {
            id,
            created: record.created,
            service: Service {
                key,
                spec: service_spec(record),
                servers: Vec::new(),
            },
            slots: BTreeMap::new(),
            rates: Estimator::starting_at(&sum(&maps.service_stats, id)),
        };
        self.adopt_list(maps, &mut entry, record);
        self.entries.insert(key, entry);
        self.created = self.created.max(record.created);
    }

    /// The servers of an adopted service, in list order.
    fn adopt_list(&mut self, maps: &Maps, entry: &mut Entry, record: &ServiceRecord) {
        let block = list::low(record.list);
        if block == 0 {
            return;
        }
        let counts = maps.lists.read(block);
        let (count, slots) = (list::low(counts), list::high(counts));
        self.arena.occupy(block, block_words(count, slots));
        for at in 0..count {
            let word = maps.lists.read(block + list::HEAD + at);
            let slot = list::low(word);
            let server = maps.servers.read(slot);
            let Some(key) = server_key(&server) else {
                continue;
            };
            // A daemon that was killed in an edit may have left the old positions, or a weight that
            // is not in force.
            store!(maps.servers, slot, ServerRecord.list_index, half, at);
            store!(
                maps.servers,
                slot,
                ServerRecord.weight,
                half,
                list::high(word)
            );
            settle_overload(maps, slot);
            set_flags(maps, slot, ServerRecord::AVAILABLE);
            entry.slots.insert(key, slot);
            let spec = server_spec(&server, list::high(word));
            entry.service.servers.push(Server { key, spec });
            let now = sum(&maps.server_stats, slot);
            self.server_rates.insert(slot, Estimator::starting_at(&now));
        }
    }

    /// Writes lists anew that have not the table of their scheduler: a daemon was killed while it
    /// changed one.
    fn adopt_tables(&mut self, maps: &mut Maps) -> Result<(), EditError> {
        let mut stale = Vec::new();
        for entry in self.entries.values() {
            let block = block_of(maps, entry.id);
            if block == 0 {
                continue;
            }
            let counts = maps.lists.read(block);
            let scheduler = entry.service.spec.scheduler;
            let size = scheduler.map_or(0, |scheduler| table_size(scheduler as u8));
            if list::low(counts) != 0 && list::high(counts) != size {
                let members = members(maps, entry, &entry.service, None);
                stale.push((entry.id, scheduler, members));
            }
        }
        for (id, scheduler, members) in stale {
            self.switch_list(maps, id, scheduler, &members)?;
        }
        Ok(())
    }

    /// What has which address.
    fn adopt_hops(&mut self) {
        for (key, entry) in &self.entries {
            if let Some(address) = virtual_address(key) {
                self.hops.add(address, Place::Service(entry.id));
            }
        }
        let listed = self.entries.values().flat_map(|entry| &entry.slots);
        let thrown = self.trash.iter().map(|((_, server), slot)| (server, slot));
        for (server, slot) in listed.chain(thrown) {
            self.hops.add(server.ip(), Place::Server(*slot));
        }
    }

    /// Sorts the places of `SERVERS` into listed, trash and free.
    fn adopt_slots(&mut self, maps: &Maps) {
        let listed = self.entries.values().flat_map(|entry| entry.slots.values());
        let listed: BTreeSet<u32> = listed.copied().collect();
        for slot in 0..maps.servers.len() {
            if listed.contains(&slot) {
                continue;
            }
            let server = maps.servers.read(slot);
            match server_key(&server).zip(service_key_of(&server)) {
                Some((addr, service)) => {
                    clear_flags(maps, slot, ServerRecord::AVAILABLE);
                    self.trash.insert((service, addr), slot);
                }
                None => {
                    self.free_slots.insert(slot);
                }
            }
        }
    }
}
