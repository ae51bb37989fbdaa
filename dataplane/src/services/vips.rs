//! The maps of virtual addresses, kept in line edit by edit.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use aya::maps::MapError;
use dataplane_common::service::vip;
use dataplane_common::settings::Settings;
use ipvs_model::service::EditError;

use crate::RouterAddress;
use crate::convert::{AF_INET6, be, be6, ip_of};
use crate::loader::chain;
use crate::mapped::store;
use crate::maps::Maps;

/// What each address is virtual for.
#[derive(Debug, Default)]
pub(super) struct Vips {
    /// Services that have the address.
    services: BTreeMap<IpAddr, u32>,
    /// Addresses that move with virtual routers.
    routers: BTreeMap<IpAddr, RouterAddress>,
}

impl Vips {
    /// Brings the maps in line with the services. Addresses of virtual routers that an earlier daemon
    /// has left stay until this one says which there are.
    pub(super) fn adopt(
        maps: &mut Maps,
        services: impl Iterator<Item = IpAddr>,
    ) -> Result<Vips, EditError> {
        let pinned = pinned(maps);
        let of_routers = pinned
            .iter()
            .filter(|(_, value)| value & vip::ROUTER != 0)
            .map(|(addr, value)| (*addr, router_address(*addr, *value)));
        let mut vips = Vips {
            services: BTreeMap::new(),
            routers: of_routers.collect(),
        };
        for addr in services {
            *vips.services.entry(addr).or_default() += 1;
        }
        let pinned = pinned.iter().map(|(addr, _)| *addr);
        let all: BTreeSet<IpAddr> = pinned.chain(vips.services.keys().copied()).collect();
        all.into_iter()
            .try_for_each(|addr| vips.write(maps, addr))?;
        vips.store_not_accepted(maps);
        Ok(vips)
    }

    /// A service more has the address; of none (a firewall mark) nothing is kept.
    pub(super) fn add(&mut self, maps: &mut Maps, addr: Option<IpAddr>) -> Result<(), EditError> {
        let Some(addr) = addr else { return Ok(()) };
        *self.services.entry(addr).or_default() += 1;
        let written = self.write(maps, addr);
        if written.is_err() {
            self.take_off(addr);
        }
        written
    }

    /// A service less has the address.
    pub(super) fn remove(
        &mut self,
        maps: &mut Maps,
        addr: Option<IpAddr>,
    ) -> Result<(), EditError> {
        let Some(addr) = addr else { return Ok(()) };
        self.take_off(addr);
        self.write(maps, addr)
    }

    pub(super) fn set_routers(
        &mut self,
        maps: &mut Maps,
        addresses: Vec<RouterAddress>,
    ) -> Result<(), EditError> {
        let new = addresses.into_iter().map(|router| (router.address, router));
        let old = std::mem::replace(&mut self.routers, new.collect());
        let all: BTreeSet<&IpAddr> = old.keys().chain(self.routers.keys()).collect();
        let mut touched = all
            .into_iter()
            .filter(|addr| old.get(*addr) != self.routers.get(*addr));
        let written = touched.try_for_each(|addr| self.write(maps, *addr));
        self.store_not_accepted(maps);
        written
    }

    /// Has the programs look for such addresses only while there are some.
    fn store_not_accepted(&self, maps: &Maps) {
        let routers = self.routers.values();
        let count = routers.filter(|router| !router.accept).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        store!(maps.settings, 0, Settings.not_accepted, half, count);
    }

    fn take_off(&mut self, addr: IpAddr) {
        if let Some(count) = self.services.get_mut(&addr) {
            *count -= 1;
            if *count == 0 {
                self.services.remove(&addr);
            }
        }
    }

    fn write(&self, maps: &mut Maps, addr: IpAddr) -> Result<(), EditError> {
        let router = match self.routers.get(&addr) {
            Some(RouterAddress { accept: true, .. }) => vip::ROUTER,
            Some(_) => vip::ROUTER | vip::NOT_ACCEPTED,
            None => 0,
        };
        let value = self.services.get(&addr).copied().unwrap_or(0) | router;
        let written = match (addr, value) {
            (IpAddr::V4(addr), 0) => gone(maps.vips4.remove(&be(addr).0)),
            (IpAddr::V6(addr), 0) => gone(maps.vips6.remove(&be6(addr))),
            (IpAddr::V4(addr), _) => maps.vips4.insert(be(addr).0, value, 0),
            (IpAddr::V6(addr), _) => maps.vips6.insert(be6(addr), value, 0),
        };
        written.map_err(|error| EditError::DataPlane(chain(&error)))
    }
}

/// What an element of the maps says of an address.
const fn router_address(address: IpAddr, value: u32) -> RouterAddress {
    RouterAddress {
        address,
        accept: value & vip::NOT_ACCEPTED == 0,
    }
}

/// What is not there need not be removed.
fn gone(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn pinned(maps: &Maps) -> Vec<(IpAddr, u32)> {
    let four = maps.vips4.iter().flatten();
    let four = four.map(|(addr, value)| (Ipv4Addr::from(u32::from_be(addr)).into(), value));
    let six = maps.vips6.iter().flatten();
    let six = six.map(|(addr, value)| (ip_of(addr, AF_INET6), value));
    four.chain(six).collect()
}
