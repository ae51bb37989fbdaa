//! Next hops of servers, and which addresses are this host's, by its routes.

use std::net::IpAddr;
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::service::{ServerRecord, ServiceRecord};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::service::{EditError, ServerKey, ServerSpec, ServiceKey};

use super::Services;
use super::servers::{clear_flags, set_flags};
use crate::convert::{be, be6, virtual_address};
use crate::mapped::store;
use crate::maps::Maps;
use crate::routes::{NextHop, Routes};

impl Services {
    /// Next hops and local addresses after the host's routes changed.
    pub(crate) fn follow_routes(&self, maps: &Maps, routes: &Routes) {
        let listed = self.entries.values().flat_map(|entry| &entry.slots);
        let thrown = self.trash.iter().map(|((_, server), slot)| (server, slot));
        for (server, slot) in listed.chain(thrown) {
            store_next_hop(maps, *slot, routes.next_hop(server.ip()));
            store_local(maps, *slot, routes, *server);
        }
        for (key, entry) in &self.entries {
            let flags = ServiceRecord::LIVE | vip_flag(routes, key);
            store!(maps.services, entry.id, ServiceRecord.flags, half, flags);
        }
    }

    /// See [`crate::DataPlane::pretend_vips_are_local`].
    pub(crate) fn pretend_vips_are_local(&self, maps: &Maps) {
        for entry in self.entries.values() {
            let flags = ServiceRecord::LIVE | ServiceRecord::VIP_LOCAL;
            store!(maps.services, entry.id, ServiceRecord.flags, half, flags);
        }
    }
}

/// What the addresses of this host decide: a server of this host can only be reached as it is, because
/// rewriting replies would need a hook on the host's own output; and a link-local address that is not
/// this host's may be anybody's (`ip_vs_ctl.c: __ip_vs_new_dest`).
pub(super) fn check_address(
    routes: &Routes,
    server: ServerKey,
    spec: &ServerSpec,
) -> Result<(), EditError> {
    let local = routes.is_local(server.ip());
    if let IpAddr::V6(addr) = server.ip()
        && addr.is_unicast_link_local()
        && !local
    {
        let text = format!("server address {addr} is link-local and not this host's");
        return Err(EditError::Invalid(text));
    }
    if local && spec.method == ForwardMethod::Masquerading {
        let text = format!("masquerading to {}, an address of this host", server.ip());
        return Err(EditError::Unsupported(text));
    }
    Ok(())
}

pub(super) fn store_local(maps: &Maps, slot: u32, routes: &Routes, server: ServerKey) {
    if routes.is_local(server.ip()) {
        set_flags(maps, slot, ServerRecord::LOCAL);
    } else {
        clear_flags(maps, slot, ServerRecord::LOCAL);
    }
}

/// A firewall mark has no address of its own: who gave it wants the packets here.
pub(super) fn vip_flag(routes: &Routes, key: &ServiceKey) -> u32 {
    match virtual_address(key) {
        Some(addr) if !routes.is_local(addr) => 0,
        Some(_) | None => ServiceRecord::VIP_LOCAL,
    }
}

/// One store switches the next hop. An IPv6 gateway does not fit into that word: it is written where
/// the word in force does not point.
pub(super) fn store_next_hop(maps: &Maps, slot: u32, hop: Option<NextHop>) {
    let record = maps.servers.read(slot);
    let word = match hop {
        None => 0,
        Some(NextHop {
            ifindex,
            via: IpAddr::V4(via),
        }) => u64::from(ifindex) | u64::from(be(via).0) << 32,
        Some(NextHop {
            ifindex,
            via: IpAddr::V6(via),
        }) => {
            let which = (record.next_hop >> 32) as usize & 1;
            let gateway = be6(via);
            if record.next_hop as u32 == ifindex && record.gateways[which] == gateway {
                return;
            }
            let other = 1 - which;
            let start = core::mem::offset_of!(ServerRecord, gateways) + 16 * other;
            for (at, part) in (0..).zip(gateway) {
                let half = maps.servers.half(slot, start + 4 * at);
                half.store(part.0, SeqCst);
            }
            u64::from(ifindex) | (other as u64) << 32
        }
    };
    store!(maps.servers, slot, ServerRecord.next_hop, word, word);
}
