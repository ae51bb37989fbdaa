//! The routes in the maps, and the way from one picture of the host to the next.
//!
//! A picture is taken over in turns of bounded work, so that whoever calls can do something else in
//! between: first what is new or changed, then what is gone. Addresses that are given by
//! [`Routes::place`] are in force at once, whatever the pictures say of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use dataplane_common::service::RouteRecord;
use dataplane_common::{Addr6, Be32};
use ipvs_model::service::EditError;

use super::{NextHop, Prefix, Route, RouteKind, RouteTable, masked, whole};
use crate::convert::{AF_INET6, addr_words, be, be6, ip_of};
use crate::loader::chain;
use crate::maps::{Maps, ROUTES_MAX};

/// Changes of the maps in one turn; each is a call of the kernel, of about a microsecond.
const CHANGES_MAX: usize = 1000;
/// Routes that are compared in one turn.
const LOOKS_MAX: usize = 8192;

/// How far the picture has been taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// New and changed ones; the next position in the picture.
    Put(usize),
    /// What is gone; the last prefix that was looked at.
    Drop(Option<Prefix>),
    /// The same where there is no room for what is new before that, from this position on.
    DropFirst(Option<Prefix>, usize),
    /// New ones after that.
    PutRest(usize),
    #[default]
    Done,
}

/// The routes in force.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    /// What the maps hold. `None` is a route that the daemon before this one has left, and of which
    /// nothing but the prefix is known.
    in_force: BTreeMap<Prefix, Option<Route>>,
    /// How many prefixes of each length there are, of both families.
    lengths: BTreeMap<u8, usize>,
    /// How many there are of IPv4 and of IPv6.
    held: [usize; 2],
    /// `in_force` has been read from the maps.
    is_read: bool,
    /// The host's, as told last.
    wanted: RouteTable,
    /// Addresses that are local on an interface, or not local at all, whatever `wanted` says.
    placed: BTreeMap<IpAddr, Option<u32>>,
    stage: Stage,
}

impl Routes {
    /// A new picture; [`Routes::go_on`] takes it over.
    pub(crate) fn begin(&mut self, wanted: RouteTable) {
        self.wanted = wanted;
        self.stage = Stage::Put(0);
    }

    /// One turn of taking over. Gives back whether all is done. Prefixes whose routes have changed are
    /// added to `touched`.
    ///
    /// # Errors
    /// [`EditError::DataPlane`]; the next turn tries again.
    pub(crate) fn go_on(
        &mut self,
        maps: &mut Maps,
        touched: &mut Vec<Prefix>,
    ) -> Result<bool, EditError> {
        if !self.is_read {
            self.read(maps);
            // Servers of the daemon before were told of its routes.
            touched.extend([IpAddr::from([0; 4]), IpAddr::from([0; 16])].map(|all| (all, 0)));
        }
        let (mut looks, mut changes) = (LOOKS_MAX, CHANGES_MAX);
        while looks > 0 && changes > 0 {
            looks -= 1;
            let Some(prefix) = self.next() else {
                self.stage = match self.stage {
                    Stage::Put(_) => Stage::Drop(None),
                    Stage::DropFirst(_, at) => Stage::PutRest(at),
                    Stage::Drop(_) | Stage::PutRest(_) | Stage::Done => Stage::Done,
                };
                if self.stage == Stage::Done {
                    return Ok(true);
                }
                continue;
            };
            if let Stage::Put(at) = self.stage
                && !self.has_room(prefix)
            {
                self.stage = Stage::DropFirst(None, at);
                continue;
            }
            let wanted = self.wants(prefix);
            let puts = matches!(self.stage, Stage::Put(_) | Stage::PutRest(_));
            if wanted.is_some() == puts && self.change(maps, prefix, wanted)? {
                touched.push(prefix);
                changes -= 1;
            }
            self.stage = match self.stage {
                Stage::Put(at) => Stage::Put(at + 1),
                Stage::Drop(_) => Stage::Drop(Some(prefix)),
                Stage::DropFirst(_, at) => Stage::DropFirst(Some(prefix), at),
                Stage::PutRest(at) => Stage::PutRest(at + 1),
                Stage::Done => Stage::Done,
            };
        }
        Ok(self.stage == Stage::Done)
    }

    /// These addresses are local on an interface, or not local (`None`), from now on and whatever the
    /// pictures say; they are all there are.
    ///
    /// # Errors
    /// [`EditError::DataPlane`]; to be tried again.
    pub(crate) fn place(
        &mut self,
        maps: &mut Maps,
        addresses: &BTreeMap<IpAddr, Option<u32>>,
        touched: &mut Vec<Prefix>,
    ) -> Result<(), EditError> {
        let before = std::mem::replace(&mut self.placed, addresses.clone());
        if !self.is_read {
            // Comes with the first picture.
            return Ok(());
        }
        let concerned: BTreeSet<IpAddr> = before
            .into_keys()
            .chain(addresses.keys().copied())
            .collect();
        for address in concerned {
            let prefix = (address, whole(address));
            let wanted = self.wants(prefix);
            if self.change(maps, prefix, wanted)? {
                touched.push(prefix);
            }
        }
        Ok(())
    }

    /// The route that is to be in force for exactly this prefix.
    fn wants(&self, (addr, length): Prefix) -> Option<Route> {
        let told = self.wanted.get(addr, length).copied();
        if length != whole(addr) {
            return told;
        }
        match self.placed.get(&addr) {
            None => told,
            Some(None) => told.filter(|route| route.kind != RouteKind::Local),
            Some(Some(ifindex)) => Some(Route {
                prefix: addr,
                prefix_len: length,
                kind: RouteKind::Local,
                ifindex: *ifindex,
                gateway: None,
            }),
        }
    }

    /// Gives back whether anything had to be changed.
    fn change(
        &mut self,
        maps: &mut Maps,
        prefix: Prefix,
        wanted: Option<Route>,
    ) -> Result<bool, EditError> {
        let known = self.in_force.get(&prefix).copied();
        if known.flatten() == wanted && known.is_some() == wanted.is_some() {
            return Ok(false);
        }
        let failed = |error: MapError| {
            let (addr, length) = prefix;
            EditError::DataPlane(format!("route to {addr}/{length}: {}", chain(&error)))
        };
        match wanted {
            Some(route) => {
                insert(maps, prefix, record(&route)).map_err(failed)?;
                if self.in_force.insert(prefix, Some(route)).is_none() {
                    self.count(prefix, true);
                }
            }
            None => {
                remove(maps, prefix).map_err(failed)?;
                self.in_force.remove(&prefix);
                self.count(prefix, false);
            }
        }
        Ok(true)
    }

    fn count(&mut self, (addr, length): Prefix, is_new: bool) {
        let of_length = self.lengths.entry(length).or_default();
        let held = &mut self.held[usize::from(addr.is_ipv6())];
        if is_new {
            *of_length += 1;
            *held += 1;
        } else {
            *of_length -= 1;
            *held -= 1;
            if *of_length == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// The prefix to look at next in this stage.
    fn next(&self) -> Option<Prefix> {
        match self.stage {
            Stage::Put(at) | Stage::PutRest(at) => self.wanted.routes().get(at).map(Route::key),
            Stage::Drop(last) | Stage::DropFirst(last, _) => self.after(last),
            Stage::Done => None,
        }
    }

    /// Whether a prefix can be put in force beside all that are, and leaves room for the addresses that
    /// are placed.
    fn has_room(&self, prefix: Prefix) -> bool {
        let held = self.held[usize::from(prefix.0.is_ipv6())];
        held + self.placed.len() < ROUTES_MAX || self.in_force.contains_key(&prefix)
    }

    fn after(&self, last: Option<Prefix>) -> Option<Prefix> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.in_force.range((from, Bound::Unbounded));
        rest.next().map(|(prefix, _)| *prefix)
    }

    /// What the maps hold of the daemon before.
    fn read(&mut self, maps: &Maps) {
        let prefix4 = |key: Key<u32>| {
            let addr = Ipv4Addr::from(u32::from_be(key.data()));
            (IpAddr::from(addr), key.prefix_len() as u8)
        };
        let prefix6 = |key: Key<Addr6>| (ip_of(key.data(), AF_INET6), key.prefix_len() as u8);
        let held4 = maps.routes4.keys().flatten().map(prefix4);
        let held6 = maps.routes6.keys().flatten().map(prefix6);
        let held: BTreeSet<Prefix> = held4.chain(held6).collect();
        for prefix in held {
            self.in_force.insert(prefix, None);
            self.count(prefix, true);
        }
        self.is_read = true;
    }

    /// The longest match.
    pub(crate) fn lookup(&self, addr: IpAddr) -> Option<&Route> {
        let lengths = self.lengths.keys().rev();
        let mut prefixes = lengths.filter_map(|length| Some((masked(addr, *length)?, *length)));
        prefixes.find_map(|prefix| self.in_force.get(&prefix)?.as_ref())
    }

    pub(crate) fn is_local(&self, addr: IpAddr) -> bool {
        self.lookup(addr)
            .is_some_and(|route| route.kind == RouteKind::Local)
    }

    /// `None` when nothing can be sent there.
    pub(crate) fn next_hop(&self, addr: IpAddr) -> Option<NextHop> {
        let route = self.lookup(addr)?;
        (route.kind == RouteKind::Unicast).then(|| NextHop {
            ifindex: route.ifindex,
            via: route.gateway.unwrap_or(addr),
        })
    }
}

fn insert(maps: &mut Maps, (addr, length): Prefix, record: RouteRecord) -> Result<(), MapError> {
    let length = u32::from(length);
    match addr {
        IpAddr::V4(addr) => maps
            .routes4
            .insert(&Key::new(length, be(addr).0), record, 0),
        IpAddr::V6(addr) => maps.routes6.insert(&Key::new(length, be6(addr)), record, 0),
    }
}

fn remove(maps: &mut Maps, (addr, length): Prefix) -> Result<(), MapError> {
    let length = u32::from(length);
    match addr {
        IpAddr::V4(addr) => maps.routes4.remove(&Key::new(length, be(addr).0)),
        IpAddr::V6(addr) => maps.routes6.remove(&Key::new(length, be6(addr))),
    }
}

fn record(route: &Route) -> RouteRecord {
    RouteRecord {
        kind: match route.kind {
            RouteKind::Local => RouteRecord::LOCAL,
            RouteKind::Unicast => RouteRecord::UNICAST,
            RouteKind::Unusable => RouteRecord::UNUSABLE,
        },
        ifindex: route.ifindex,
        gateway: route.gateway.map_or([Be32(0); 4], addr_words),
    }
}

#[cfg(test)]
mod tests;
