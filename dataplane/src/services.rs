//! Services and real servers: the table that edits go through, and its projection into the maps.
//!
//! The maps hold the complete record, so [`Services::adopt`] rebuilds everything from them. Every
//! edit is checked on a copy of its service first, then written so that one store makes it visible:
//! the list word of the service, or its entry in `SERVICE_IDS4` or `SERVICE_IDS6`. A process that
//! dies before that store leaves places that the next start frees.
//!
//! | file | holds |
//! | --- | --- |
//! | `edit` | adding, changing and removing services |
//! | `servers` | the same for real servers |
//! | `lists` | server lists and the tables of dh, sh and mh |
//! | `trash` | removed servers and freed places |
//! | `hops` | next hops and what is local, by the host's routes |
//! | `vips` | the virtual addresses |
//! | `counts` | how many services of a kind there are, for the programs |
//! | `view` | listings, statistics, rates |
//! | `adopt` | the way back from the maps |

mod adopt;
mod counts;
mod edit;
mod hops;
mod lists;
mod servers;
mod trash;
mod view;
mod vips;

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::rules::estimate::Estimator;
use ipvs_model::service::{EditError, ServerKey, Service, ServiceKey};

use crate::arena::Arena;
use crate::cache::Caches;
use crate::maps::Maps;
use crate::routes::Routes;
use crate::{Edit, RouterAddress};
use counts::Counts;
pub(crate) use counts::FTP;
use hops::Hops;
use vips::Vips;

/// A real server of a service, in use or in the trash.
type ServerId = (ServiceKey, ServerKey);

/// A service and where its parts are in the maps.
#[derive(Debug)]
struct Entry {
    /// Place in `SERVICES`.
    id: u32,
    /// Order of creation.
    created: u64,
    service: Service,
    /// Places in `SERVERS`.
    slots: BTreeMap<ServerKey, u32>,
    rates: Estimator,
}

/// The service table and where its parts are in the maps.
pub(crate) struct Services {
    entries: BTreeMap<ServiceKey, Entry>,
    /// Removed servers by what they were.
    trash: BTreeMap<ServerId, u32>,
    free_ids: BTreeSet<u32>,
    free_slots: BTreeSet<u32>,
    /// Freed places that a program run may still look at.
    cooling_ids: Vec<u32>,
    cooling_slots: Vec<u32>,
    arena: Arena,
    vips: Vips,
    hops: Hops,
    counts: Counts,
    caches: Caches,
    /// Rates of listed servers, by place.
    server_rates: BTreeMap<u32, Estimator>,
    created: u64,
}

impl Services {
    /// Carries out one edit, whole or not at all; `Flush` service by service.
    pub(crate) fn edit(
        &mut self,
        maps: &mut Maps,
        routes: &Routes,
        edit: &Edit,
    ) -> Result<(), EditError> {
        match edit {
            Edit::AddService { key, spec } => {
                if self.entries.contains_key(key) {
                    return Err(EditError::ServiceExists);
                }
                let service = Service::new(*key, spec.clone())?;
                self.add_service(maps, routes, service)
            }
            Edit::EditService { key, spec } => {
                let mut service = self.entry(key)?.service.clone();
                service.edit(spec.clone())?;
                self.edit_service(maps, service)
            }
            Edit::DeleteService { key } => self.delete_service(maps, key),
            Edit::Flush => {
                let keys: Vec<ServiceKey> = self.entries.keys().copied().collect();
                keys.iter()
                    .try_for_each(|key| self.delete_service(maps, key))
            }
            Edit::AddServer {
                service,
                server,
                spec,
            } => {
                let mut changed = self.entry(service)?.service.clone();
                changed.add_server(*server, *spec)?;
                hops::check_address(routes, *server, spec)?;
                self.add_server(maps, routes, changed, *server, spec)
            }
            Edit::EditServer {
                service,
                server,
                spec,
            } => {
                let mut changed = self.entry(service)?.service.clone();
                changed.edit_server(*server, *spec)?;
                hops::check_address(routes, *server, spec)?;
                self.edit_server(maps, changed, *server, spec)
            }
            Edit::DeleteServer { service, server } => {
                let mut changed = self.entry(service)?.service.clone();
                changed.delete_server(*server)?;
                self.delete_server(maps, changed, *server)
            }
        }
    }

    /// See [`crate::DataPlane::set_router_addresses`].
    pub(crate) fn set_router_addresses(
        &mut self,
        maps: &mut Maps,
        addresses: Vec<RouterAddress>,
    ) -> Result<(), EditError> {
        self.vips.set_routers(maps, addresses)
    }

    /// See [`crate::DataPlane::clean_caches`].
    pub(crate) fn clean_caches(&mut self, maps: &mut Maps) {
        self.caches.clean(maps);
    }

    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn has_service(&self, key: &ServiceKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Whether any TCP service of the port of FTP is there, or any of port zero.
    pub(crate) fn has_ftp(&self) -> bool {
        self.counts.ftp() > 0
    }

    pub(crate) fn has_port_zero(&self) -> bool {
        self.counts.port_zero() > 0
    }

    /// Place and generation of a server, for connections that are applied.
    pub(crate) fn server_slot(
        &self,
        maps: &Maps,
        service: &ServiceKey,
        server: ServerKey,
    ) -> Option<(u32, u32)> {
        let slot = *self.entries.get(service)?.slots.get(&server)?;
        Some((slot, maps.servers.read(slot).generation))
    }

    fn entry(&self, key: &ServiceKey) -> Result<&Entry, EditError> {
        self.entries.get(key).ok_or(EditError::NoSuchService)
    }

    fn entry_mut(&mut self, key: &ServiceKey) -> Result<&mut Entry, EditError> {
        self.entries.get_mut(key).ok_or(EditError::NoSuchService)
    }
}

#[cfg(test)]
mod tests;
