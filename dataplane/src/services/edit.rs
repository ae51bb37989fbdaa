//! Adds, changes and removes services.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::MapError;
use dataplane_common::rules::estimate::Estimator;
use dataplane_common::rules::schedule::ListHead;
use dataplane_common::rules::schedule::table::table_size;
use dataplane_common::service::{ServiceRecord, list};
use ipvs_model::scheduler::Scheduler;
use ipvs_model::service::{EditError, ServerKey, Service, ServiceKey, ServiceSpec};

use super::hops::Place;
use super::lists::{Member, block_of, check_count, head_of, initial_position_of, members};
use super::{Entry, Services, hops};
use crate::cache;
use crate::convert::{AF_INET6, MapKey, fill_spec, virtual_address};
use crate::grace::grace_period;
use crate::loader::chain;
use crate::mapped::store;
use crate::maps::{Maps, sum};
use crate::routes::Routes;

impl Services {
    pub(super) fn add_service(
        &mut self,
        maps: &mut Maps,
        routes: &Routes,
        service: Service,
    ) -> Result<(), EditError> {
        let id = self.free_id(maps)?;
        let key = service.key;
        let block = self.write_list(maps, service.spec.scheduler, &[])?;
        self.created += 1;
        let zero = sum(&maps.service_stats, id);
        let at = MapKey::new(&key);
        let mut record = ServiceRecord {
            list: list::pack(block, 0),
            sched: initial_position_of(service.spec.scheduler, ListHead::default()).to_word(),
            generation: maps.services.read(id).generation.wrapping_add(1),
            protocol: at.protocol,
            port: at.port,
            fwmark: at.fwmark,
            family: u32::from(at.family),
            addr: at.addr,
            created: self.created,
            zero,
            ..ServiceRecord::default()
        };
        fill_spec(&mut record, &service.spec);
        maps.services.write(id, record);
        let flags = ServiceRecord::LIVE | hops::vip_flag(routes, &key);
        store!(maps.services, id, ServiceRecord.flags, half, flags);
        if let Err(error) = self.make_visible(maps, &key, id) {
            store!(maps.services, id, ServiceRecord.flags, half, 0);
            self.arena.retire(block);
            return Err(error);
        }
        self.free_ids.remove(&id);
        let entry = Entry {
            id,
            created: self.created,
            service,
            slots: BTreeMap::new(),
            rates: Estimator::starting_at(&zero),
        };
        self.entries.insert(key, entry);
        if let Some(address) = virtual_address(&key) {
            self.hops.add(address, Place::Service(id));
        }
        Ok(())
    }

    /// Last comes the element that leads packets to the service.
    fn make_visible(
        &mut self,
        maps: &mut Maps,
        key: &ServiceKey,
        id: u32,
    ) -> Result<(), EditError> {
        self.vips.add(maps, virtual_address(key))?;
        let before = self.counts;
        self.counts = before.with(key);
        self.counts.store(maps);
        let inserted = insert_id(maps, &MapKey::new(key), id);
        if inserted.is_err() {
            self.counts = before;
            self.counts.store(maps);
            self.vips.remove(maps, virtual_address(key))?;
        }
        inserted.map_err(|error| EditError::DataPlane(chain(&error)))
    }

    pub(super) fn delete_service(
        &mut self,
        maps: &mut Maps,
        key: &ServiceKey,
    ) -> Result<(), EditError> {
        let entry = self.entry(key)?;
        let id = entry.id;
        let servers: Vec<ServerKey> = entry.slots.keys().copied().collect();
        remove_id(maps, &MapKey::new(key)).map_err(|error| EditError::DataPlane(chain(&error)))?;
        store!(maps.services, id, ServiceRecord.flags, half, 0);
        for server in servers {
            self.throw_away(maps, key, server);
        }
        self.arena.retire(block_of(maps, id));
        store!(maps.services, id, ServiceRecord.list, word, 0);
        self.entries.remove(key);
        if let Some(address) = virtual_address(key) {
            self.hops.remove(address, Place::Service(id));
        }
        self.cooling_ids.push(id);
        self.caches.expect_orphans();
        self.counts = self.counts.without(key);
        self.counts.store(maps);
        self.vips.remove(maps, virtual_address(key))
    }

    /// A place in `SERVICES` that nobody uses.
    fn free_id(&mut self, maps: &Maps) -> Result<u32, EditError> {
        if self.free_ids.is_empty() && !self.cooling_ids.is_empty() {
            grace_period();
            self.free_ids.extend(self.cooling_ids.drain(..));
        }
        self.free_ids.first().copied().ok_or_else(|| {
            EditError::NoSpace(format!("the table holds {} services", maps.services.len()))
        })
    }

    pub(super) fn edit_service(
        &mut self,
        maps: &mut Maps,
        service: Service,
    ) -> Result<(), EditError> {
        check_count(&service)?;
        let key = service.key;
        let entry = self.entry(&key)?;
        let (id, before) = (entry.id, entry.service.spec.scheduler);
        let members = members(maps, entry, &service, None);
        if before != service.spec.scheduler {
            self.change_scheduler(maps, id, before, service.spec.scheduler, &members)?;
        }
        store_spec(maps, id, &service.spec);
        self.entry_mut(&key)?.service = service;
        Ok(())
    }

    /// Changes list and scheduler so that no program run meets a scheduler with a table too small for
    /// it, in whatever order it reads the two: the larger table comes first and goes last, a grace
    /// period away from the scheduler.
    fn change_scheduler(
        &mut self,
        maps: &mut Maps,
        id: u32,
        before: Option<Scheduler>,
        after: Option<Scheduler>,
        members: &[Member],
    ) -> Result<(), EditError> {
        let slots = |scheduler: Option<Scheduler>| {
            scheduler.map_or(0, |scheduler| table_size(scheduler as u8))
        };
        let (old, new) = (slots(before), slots(after));
        if old.max(new) == 0 || members.is_empty() {
            store_scheduler(maps, id, after, members);
        } else {
            let block = self.write_list(maps, after, members)?;
            if new >= old {
                self.switch_block(maps, id, block, members);
                if new > old {
                    grace_period();
                }
                store_scheduler(maps, id, after, members);
            } else {
                store_scheduler(maps, id, after, members);
                grace_period();
                self.switch_block(maps, id, block, members);
            }
        }
        if before.is_some_and(has_cache) {
            // What lblc remembers means something else to lblcr, and is too old for lblc by the time
            // it comes back.
            grace_period();
            cache::forget(maps, id);
        }
        Ok(())
    }
}

const fn has_cache(scheduler: Scheduler) -> bool {
    matches!(scheduler, Scheduler::Lblc | Scheduler::Lblcr)
}

/// Everything of a service's spec but its scheduler. The flags last: a service becomes persistent with
/// the timeout and netmask that belong to it.
fn store_spec(maps: &Maps, id: u32, spec: &ServiceSpec) {
    let mut record = ServiceRecord::default();
    fill_spec(&mut record, spec);
    let (timeout, netmask) = (record.timeout_secs, record.netmask);
    store!(maps.services, id, ServiceRecord.timeout_secs, half, timeout);
    store!(maps.services, id, ServiceRecord.netmask, half, netmask);
    let flags = record.service_flags;
    store!(maps.services, id, ServiceRecord.service_flags, half, flags);
}

fn store_scheduler(maps: &Maps, id: u32, scheduler: Option<Scheduler>, members: &[Member]) {
    let position = initial_position_of(scheduler, head_of(members)).to_word();
    store!(maps.services, id, ServiceRecord.sched, word, position);
    // One half holds the scheduler, the protocol and the port.
    let at = core::mem::offset_of!(ServiceRecord, scheduler);
    let half = maps.services.half(id, at);
    let [_, protocol, high, low] = half.load(SeqCst).to_ne_bytes();
    let number = scheduler.map_or(0, |scheduler| scheduler as u8);
    let packed = u32::from_ne_bytes([number, protocol, high, low]);
    half.store(packed, SeqCst);
}

/// Where the map has a service of this key.
pub(super) fn find_id(maps: &Maps, key: &MapKey) -> Result<u32, MapError> {
    if key.family == AF_INET6 {
        maps.service_ids6.get(&key.of_ids6(), 0)
    } else {
        maps.service_ids4.get(&key.of_ids4(), 0)
    }
}

fn insert_id(maps: &mut Maps, key: &MapKey, id: u32) -> Result<(), MapError> {
    if key.family == AF_INET6 {
        maps.service_ids6.insert(key.of_ids6(), id, 0)
    } else {
        maps.service_ids4.insert(key.of_ids4(), id, 0)
    }
}

fn remove_id(maps: &mut Maps, key: &MapKey) -> Result<(), MapError> {
    if key.family == AF_INET6 {
        maps.service_ids6.remove(&key.of_ids6())
    } else {
        maps.service_ids4.remove(&key.of_ids4())
    }
}
