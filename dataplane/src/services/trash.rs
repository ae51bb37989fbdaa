//! Removed servers: they keep place and generation (the *trash*) while connections or templates refer
//! to them, and come back with their counters when they are added again
//! (`ip_vs_ctl.c: ip_vs_trash_get_dest`).

use dataplane_common::NS_PER_SEC;
use dataplane_common::entry::server_conns;
use dataplane_common::service::ServerRecord;

use super::Services;
use super::hops::Place;
use super::servers::settle_overload;
use crate::mapped::store;
use crate::maps::Maps;
use crate::timer_ns;

/// An unused server is freed at the first check this long after it was first seen unused
/// (`ip_vs_ctl.c: IP_VS_DEST_TRASH_PERIOD`).
const TRASH_PERIOD_NS: u64 = 120 * NS_PER_SEC;

impl Services {
    /// Looks at OVERLOAD of every listed server that has it or may get it. Programs keep it right; a
    /// daemon that was killed in an edit, or a processor that stood still in the middle of a count, may
    /// leave it wrong, and then nothing but this would mend it.
    pub(crate) fn settle_overloads(&self, maps: &Maps) {
        for slot in self.entries.values().flat_map(|entry| entry.slots.values()) {
            let record = maps.servers.read(*slot);
            if record.upper_threshold != 0 || record.flags & ServerRecord::OVERLOAD != 0 {
                settle_overload(maps, *slot);
            }
        }
    }

    /// Frees servers in the trash that nobody has used for the trash period.
    pub(crate) fn empty_trash(&mut self, maps: &Maps) {
        let now_ns = timer_ns();
        let since = |slot: u32, now_ns: u64| {
            store!(
                maps.servers,
                slot,
                ServerRecord.trash_since_ns,
                word,
                now_ns
            );
        };
        let mut freed = Vec::new();
        for (who, slot) in &self.trash {
            let record = maps.servers.read(*slot);
            if server_conns::total(record.conns) != 0 || record.persistent != 0 {
                since(*slot, 0);
            } else if record.trash_since_ns == 0 {
                since(*slot, now_ns);
            } else if now_ns.saturating_sub(record.trash_since_ns) >= TRASH_PERIOD_NS {
                freed.push(*who);
            }
        }
        for who in freed {
            if let Some(slot) = self.trash.remove(&who) {
                store!(maps.servers, slot, ServerRecord.flags, half, 0);
                self.hops.remove(who.1.ip(), Place::Server(slot));
                self.cooling_slots.push(slot);
            }
        }
    }
}
