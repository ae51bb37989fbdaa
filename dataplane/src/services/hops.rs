//! Next hops of servers, and which addresses are this host's, by its routes.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::SeqCst;

use dataplane_common::service::{ServerRecord, ServiceRecord};
use ipvs_model::forward::ForwardMethod;
use ipvs_model::service::{EditError, ServerKey, ServerSpec, ServiceKey};

use super::Services;
use super::servers::{clear_flags, set_flags};
use crate::convert::{be, be6, virtual_address};
use crate::mapped::store;
use crate::maps::Maps;
use crate::routes::{NextHop, Prefix, Routes, last_of};

/// Servers and services in one turn of [`Services::catch_up`].
const TURN: usize = 4096;

/// What has an address: a server by its place in `SERVERS`, a service by that in `SERVICES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Server(u32),
    Service(u32),
}

/// What is at which address, and which addresses have to be looked at.
#[derive(Debug, Default)]
pub(super) struct Hops {
    places: BTreeSet<(IpAddr, Place)>,
    behind: VecDeque<Behind>,
}

/// Addresses whose routes have changed: the rest of a prefix.
#[derive(Clone, Copy, Debug)]
struct Behind {
    next: (IpAddr, Place),
    last: IpAddr,
}

impl Behind {
    fn of(prefix: Prefix) -> Behind {
        Behind {
            next: (prefix.0, Place::Server(0)),
            last: last_of(prefix),
        }
    }

    fn places(self) -> RangeInclusive<(IpAddr, Place)> {
        self.next..=(self.last, Place::Service(u32::MAX))
    }
}

impl Hops {
    /// Servers stay known while they are in the trash.
    pub(super) fn add(&mut self, address: IpAddr, place: Place) {
        self.places.insert((address, place));
    }

    pub(super) fn remove(&mut self, address: IpAddr, place: Place) {
        self.places.remove(&(address, place));
    }

    /// What is within a prefix has to be looked at. Nothing is added for what is to be looked at anyway.
    fn touch(&mut self, prefix: Prefix) {
        let new = Behind::of(prefix);
        let known = (self.behind.back())
            .is_some_and(|known| known.next <= new.next && new.last <= known.last);
        if !known && self.places.range(new.places()).next().is_some() {
            self.behind.push_back(new);
        }
    }
}

impl Services {
    /// Routes to these prefixes have changed.
    pub(crate) fn touch(&mut self, prefixes: &[Prefix]) {
        for prefix in prefixes {
            self.hops.touch(*prefix);
        }
    }

    /// Next hops and local addresses after routes have changed: one turn of bounded work. Gives back
    /// whether all is done.
    pub(crate) fn catch_up(&mut self, maps: &Maps, routes: &Routes) -> bool {
        let mut left = TURN;
        while let Some(behind) = self.hops.behind.front_mut() {
            let mut found = self.hops.places.range(behind.places());
            for (address, place) in found.by_ref().take(left) {
                follow(maps, routes, *address, *place);
                left -= 1;
            }
            match found.next() {
                Some(next) => {
                    behind.next = *next;
                    return false;
                }
                None => drop(self.hops.behind.pop_front()),
            }
        }
        true
    }

    /// The same for a few prefixes at once, whatever else is to be looked at.
    pub(crate) fn follow(&self, maps: &Maps, routes: &Routes, prefixes: &[Prefix]) {
        for prefix in prefixes {
            for (address, place) in self.hops.places.range(Behind::of(*prefix).places()) {
                follow(maps, routes, *address, *place);
            }
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

fn follow(maps: &Maps, routes: &Routes, address: IpAddr, place: Place) {
    match place {
        Place::Server(slot) => {
            store_next_hop(maps, slot, routes.next_hop(address));
            store_local(maps, slot, routes, address);
        }
        Place::Service(id) => {
            let flags = ServiceRecord::LIVE | local_flag(routes, address);
            store!(maps.services, id, ServiceRecord.flags, half, flags);
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

pub(super) fn store_local(maps: &Maps, slot: u32, routes: &Routes, server: IpAddr) {
    if routes.is_local(server) {
        set_flags(maps, slot, ServerRecord::LOCAL);
    } else {
        clear_flags(maps, slot, ServerRecord::LOCAL);
    }
}

/// A firewall mark has no address of its own: who gave it wants the packets here.
pub(super) fn vip_flag(routes: &Routes, key: &ServiceKey) -> u32 {
    virtual_address(key).map_or(ServiceRecord::VIP_LOCAL, |addr| local_flag(routes, addr))
}

fn local_flag(routes: &Routes, addr: IpAddr) -> u32 {
    if routes.is_local(addr) {
        ServiceRecord::VIP_LOCAL
    } else {
        0
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
