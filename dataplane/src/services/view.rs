//! Listings, statistics and rates of services.

use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::entry::server_conns;
use dataplane_common::rules::estimate::Estimator;
use dataplane_common::service::{ServerRecord, ServiceRecord};
use ipvs_model::service::{EditError, ServiceKey};

use super::{Entry, Services};
use crate::convert::{rates, stats, stats_words};
use crate::maps::{Maps, sum};
use crate::{ServerView, ServiceView};

impl Services {
    /// In order of creation.
    pub(crate) fn list(
        &self,
        maps: &Maps,
        key: Option<&ServiceKey>,
    ) -> Result<Vec<ServiceView>, EditError> {
        let chosen = self.chosen(key)?;
        Ok(chosen
            .into_iter()
            .map(|entry| self.view(maps, entry))
            .collect())
    }

    fn chosen(&self, key: Option<&ServiceKey>) -> Result<Vec<&Entry>, EditError> {
        let Some(key) = key else {
            let mut all: Vec<&Entry> = self.entries.values().collect();
            all.sort_by_key(|entry| entry.created);
            return Ok(all);
        };
        Ok(vec![self.entry(key)?])
    }

    fn view(&self, maps: &Maps, entry: &Entry) -> ServiceView {
        let zero = maps.services.read(entry.id).zero;
        let servers = entry.service.servers.iter();
        let slots = servers.filter_map(|server| entry.slots.get(&server.key).copied());
        ServiceView {
            service: entry.service.clone(),
            stats: stats(sum(&maps.service_stats, entry.id)).since(stats(zero)),
            rates: rates(entry.rates.rates()),
            servers: slots.map(|slot| self.server_view(maps, slot)).collect(),
        }
    }

    fn server_view(&self, maps: &Maps, slot: u32) -> ServerView {
        let record = maps.servers.read(slot);
        let active = server_conns::active(record.conns);
        let estimator = self.server_rates.get(&slot);
        ServerView {
            active,
            inactive: server_conns::total(record.conns).saturating_sub(active),
            persistent: record.persistent as u32,
            stats: stats(sum(&maps.server_stats, slot)).since(stats(record.zero)),
            rates: rates(estimator.map(Estimator::rates).unwrap_or_default()),
            local: record.flags & ServerRecord::LOCAL != 0,
            overloaded: record.flags & ServerRecord::OVERLOAD != 0,
        }
    }

    /// Zeroes the statistics of a service and its servers, or of all
    /// (`ip_vs_ctl.c: ip_vs_zero_service`).
    pub(crate) fn zero(&mut self, maps: &Maps, key: Option<&ServiceKey>) -> Result<(), EditError> {
        if let Some(key) = key {
            self.entry(key)?;
        }
        let chosen = self
            .entries
            .iter_mut()
            .filter(|(known, _)| key.is_none_or(|key| key == *known));
        for (_, entry) in chosen {
            let at = core::mem::offset_of!(ServiceRecord, zero);
            let now = stats_words(sum(&maps.service_stats, entry.id));
            for (offset, value) in (at..).step_by(8).zip(now) {
                maps.services.word(entry.id, offset).store(value, SeqCst);
            }
            entry.rates.zero();
            for slot in entry.slots.values() {
                let at = core::mem::offset_of!(ServerRecord, zero);
                let now = stats_words(sum(&maps.server_stats, *slot));
                for (offset, value) in (at..).step_by(8).zip(now) {
                    maps.servers.word(*slot, offset).store(value, SeqCst);
                }
                if let Some(estimator) = self.server_rates.get_mut(slot) {
                    estimator.zero();
                }
            }
        }
        Ok(())
    }

    /// Renews the rates of every service and server.
    pub(crate) fn estimate(&mut self, maps: &Maps) {
        for entry in self.entries.values_mut() {
            entry.rates.renew(&sum(&maps.service_stats, entry.id));
        }
        for (slot, estimator) in &mut self.server_rates {
            estimator.renew(&sum(&maps.server_stats, *slot));
        }
    }
}
