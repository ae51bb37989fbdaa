//! Listings and statistics of services.

use dataplane_common::entry::server_conns;
use dataplane_common::service::{ServerRecord, ServiceRecord};
use ipvs_model::service::{EditError, Service, ServiceKey};

use super::Services;
use crate::convert::{stats, stats_words};
use crate::maps::{Maps, sum};
use crate::{ServerView, ServiceView};

impl Services {
    pub(crate) fn list(
        &self,
        maps: &Maps,
        key: Option<&ServiceKey>,
    ) -> Result<Vec<ServiceView>, EditError> {
        let chosen: Vec<&Service> = match key {
            Some(key) => vec![self.table.get(key).ok_or(EditError::NoSuchService)?],
            None => self.table.services().iter().collect(),
        };
        chosen
            .into_iter()
            .map(|service| self.view(maps, service))
            .collect()
    }

    fn view(&self, maps: &Maps, service: &Service) -> Result<ServiceView, EditError> {
        let id = self.id(&service.key)?;
        let zero = maps.services.read(id).zero;
        let mut servers = Vec::new();
        for server in &service.servers {
            let Some(slot) = self.slots.get(&(service.key, server.key)).copied() else {
                continue;
            };
            let record = maps.servers.read(slot);
            let active = server_conns::active(record.conns);
            servers.push(ServerView {
                active,
                inactive: server_conns::total(record.conns).saturating_sub(active),
                persistent: record.persistent as u32,
                stats: stats(sum(&maps.server_stats, slot)).since(stats(record.zero)),
                local: record.flags & ServerRecord::LOCAL != 0,
            });
        }
        Ok(ServiceView {
            service: service.clone(),
            stats: stats(sum(&maps.service_stats, id)).since(stats(zero)),
            servers,
        })
    }

    /// Zeroes the statistics of a service and its servers, or of all.
    pub(crate) fn zero(&self, maps: &Maps, key: Option<&ServiceKey>) -> Result<(), EditError> {
        let chosen: Vec<(ServiceKey, u32)> = match key {
            Some(key) => vec![(*key, self.id(key)?)],
            None => self.ids.iter().map(|(key, id)| (*key, *id)).collect(),
        };
        for (key, id) in chosen {
            let now = sum(&maps.service_stats, id);
            for (at, value) in (0..).zip(stats_words(now)) {
                let offset = core::mem::offset_of!(ServiceRecord, zero) + 8 * at;
                maps.services
                    .word(id, offset)
                    .store(value, core::sync::atomic::Ordering::SeqCst);
            }
            for ((service, _), slot) in &self.slots {
                if *service != key {
                    continue;
                }
                let now = sum(&maps.server_stats, *slot);
                for (at, value) in (0..).zip(stats_words(now)) {
                    let offset = core::mem::offset_of!(ServerRecord, zero) + 8 * at;
                    let word = maps.servers.word(*slot, offset);
                    word.store(value, core::sync::atomic::Ordering::SeqCst);
                }
            }
        }
        Ok(())
    }
}
