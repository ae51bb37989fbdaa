//! What only the host can tell of a configuration, before anything is touched.

use syncproto::net::interface_mtu;

use super::DaemonError;
use crate::addresses::{AddressError, Addresses, Assigned};
use crate::config::Config;
use crate::netlink::NetworkState;

/// Interfaces that come later are followed; one that is missing at the start is a mistake. The data
/// plane judges those of `[director]`.
pub(super) fn check_interfaces(config: &Config, network: &NetworkState) -> Result<(), DaemonError> {
    let vrrp = config.vrrp.iter().flat_map(|vrrp| vrrp.interfaces());
    let sync = config.sync.iter().map(|sync| sync.spec.interface.as_str());
    let named = vrrp.map(|name| (name, "[[vrrp]]"));
    for (name, section) in named.chain(sync.map(|name| (name, "[sync]"))) {
        if !network.links.contains_key(name) {
            let interface = name.to_owned();
            return Err(DaemonError::NoInterface { interface, section });
        }
    }
    Ok(())
}

/// An election whose interface has none but the virtual addresses would remove what its adverts come
/// from. One that has none at all may get one later.
pub(super) fn check_addresses(config: &Config, network: &NetworkState) -> Result<(), DaemonError> {
    if config.vrrp.is_empty() {
        return Ok(());
    }
    let mut addresses =
        Addresses::open().map_err(|source| DaemonError::Addresses(AddressError::Open(source)))?;
    let listed = addresses.list()?;
    let vips = || config.vrrp.iter().flat_map(|vrrp| vrrp.all_vips());
    let is_virtual = |at: &Assigned| vips().any(|vip| vip.address == at.address);
    for vrrp in &config.vrrp {
        let link = network.links.get(&vrrp.interface);
        let is_ipv6 = vrrp.vips.first().is_some_and(|vip| vip.address.is_ipv6());
        let mut here = listed.clone();
        here.retain(|at| {
            at.address.is_ipv6() == is_ipv6 && link.is_some_and(|link| link.ifindex == at.ifindex)
        });
        if !here.is_empty() && here.iter().all(is_virtual) {
            let here: Vec<String> = here.iter().map(|at| at.address.to_string()).collect();
            return Err(DaemonError::OnlyVirtual {
                interface: vrrp.interface.clone(),
                addresses: here.join(", "),
            });
        }
    }
    Ok(())
}

/// An advert names all addresses of its router, and is never cut into fragments.
pub(super) fn check_adverts(config: &Config) -> Result<(), DaemonError> {
    for vrrp in &config.vrrp {
        // One that is gone meanwhile is a fault of the election.
        let Ok(mtu) = interface_mtu(&vrrp.interface) else {
            continue;
        };
        let is_ipv6 = vrrp.vips.first().is_some_and(|vip| vip.address.is_ipv6());
        let header = match (is_ipv6, vrrp.authentication.is_header()) {
            (true, _) => 40 + 8,
            (false, true) => 20 + 24 + 8,
            (false, false) => 20 + 8,
        };
        let tail = if vrrp.version == 2 && !is_ipv6 { 8 } else { 0 };
        let each = if is_ipv6 { 16 } else { 4 };
        let (fixed, mtu) = (header + tail, mtu as usize);
        let length = fixed + each * vrrp.vips.len();
        if length > mtu {
            return Err(DaemonError::AdvertTooLong {
                name: vrrp.name.clone(),
                addresses: vrrp.vips.len(),
                length,
                interface: vrrp.interface.clone(),
                mtu,
                allowed: mtu.saturating_sub(fixed) / each,
            });
        }
    }
    Ok(())
}
