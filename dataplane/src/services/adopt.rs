//! Rebuilds the service table from pinned maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use dataplane_common::service::{ServerRecord, ServiceRecord, list, vip};
use ipvs_model::service::{EditError, Server, Service, ServiceKey, ServiceTable};

use super::Services;
use crate::arena::Arena;
use crate::convert::{map_key, server_key, server_spec, service_key, service_key_of, service_spec};
use crate::maps::{Maps, store};

impl Services {
    /// Rebuilds the table from the maps; fresh maps give an empty one.
    pub(crate) fn adopt(maps: &mut Maps) -> Result<Services, EditError> {
        let mut services = Services {
            table: ServiceTable::default(),
            ids: BTreeMap::new(),
            slots: BTreeMap::new(),
            trash: BTreeMap::new(),
            free_ids: BTreeSet::new(),
            free_slots: BTreeSet::new(),
            cooling_ids: Vec::new(),
            cooling_slots: Vec::new(),
            arena: Arena::new(maps.lists.len()),
            vips: None,
            router_addresses: pinned_router_addresses(maps),
            created: 0,
        };
        let mut found: Vec<(u64, Service)> = Vec::new();
        for id in 0..maps.services.len() {
            let record = maps.services.read(id);
            let key = service_key(&record);
            let known = record.flags & ServiceRecord::LIVE != 0
                && key.is_some_and(|key| {
                    maps.service_ids4
                        .get(&map_key(&key), 0)
                        .is_ok_and(|found| found == id)
                });
            let Some(key) = key.filter(|_| known) else {
                store!(maps.services, id, ServiceRecord.flags, half, 0);
                services.free_ids.insert(id);
                continue;
            };
            let servers = services.adopt_list(maps, key, &record);
            found.push((
                record.created,
                Service {
                    key,
                    spec: service_spec(&record),
                    servers,
                },
            ));
            services.ids.insert(key, id);
            services.created = services.created.max(record.created);
        }
        found.sort_by_key(|(created, _)| *created);
        services.table =
            ServiceTable::from_services(found.into_iter().map(|(_, service)| service).collect());
        services.adopt_slots(maps);
        services.refresh_vips(maps)?;
        Ok(services)
    }

    /// The servers of an adopted service, in list order.
    fn adopt_list(&mut self, maps: &Maps, key: ServiceKey, record: &ServiceRecord) -> Vec<Server> {
        let block = list::low(record.list);
        if block == 0 {
            return Vec::new();
        }
        let count = list::low(maps.lists.read(block));
        self.arena.occupy(block, list::HEAD + count);
        let mut servers = Vec::new();
        for at in 0..count {
            let word = maps.lists.read(block + list::HEAD + at);
            let slot = list::low(word);
            let server = maps.servers.read(slot);
            let Some(addr) = server_key(&server) else {
                continue;
            };
            // A daemon that was killed in an edit may have left the old positions.
            store!(maps.servers, slot, ServerRecord.list_index, half, at);
            self.slots.insert((key, addr), slot);
            let spec = server_spec(&server, list::high(word));
            servers.push(Server { key: addr, spec });
        }
        servers
    }

    /// Sorts the places of `SERVERS` into listed, trash and free.
    fn adopt_slots(&mut self, maps: &Maps) {
        let listed: BTreeSet<u32> = self.slots.values().copied().collect();
        for slot in 0..maps.servers.len() {
            if listed.contains(&slot) {
                continue;
            }
            let server = maps.servers.read(slot);
            let id = server_key(&server).zip(service_key_of(&server));
            match id.filter(|_| server.flags & ServerRecord::USED != 0) {
                Some((addr, service)) => {
                    store!(
                        maps.servers,
                        slot,
                        ServerRecord.flags,
                        half,
                        ServerRecord::USED
                    );
                    self.trash.insert((service, addr), slot);
                }
                None => {
                    self.free_slots.insert(slot);
                }
            }
        }
    }
}

/// Addresses of virtual routers that an earlier daemon has left in the map: they stay until this
/// one says which there are.
fn pinned_router_addresses(maps: &Maps) -> BTreeSet<Ipv4Addr> {
    let pinned = maps.vips4.iter().flatten();
    pinned
        .filter(|(_, value)| value & vip::ROUTER != 0)
        .map(|(address, _)| Ipv4Addr::from(u32::from_be(address)))
        .collect()
}
