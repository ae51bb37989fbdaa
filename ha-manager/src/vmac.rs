//! Interfaces with virtual MAC addresses: a macvlan for each virtual router that has one
//! (RFC 5798 §7.3; keepalived's `use_vmac`).
//!
//! The macvlan lies on the interface of the instance (the one *below*) and is there in every role;
//! the virtual addresses are on it while this node is active. Clients keep their neighbour entries
//! across a takeover, because whoever is active answers from the same MAC address.
//!
//! A start finds what an earlier life has left and takes it over, or removes it if the configuration has
//! it no more ([`removal`]); [`Vmacs::tend`] makes again what went with the interface below, and brings
//! up again what somebody set down; [`Vmacs::stop`] removes what is ours and puts back the settings of the
//! interface below. What those were before is kept in the alias of the macvlan, so a daemon that was
//! killed leaves it to the next one. All of it needs CAP_NET_ADMIN alone, settings included
//! (`sysctl_net.c: net_ctl_permissions`), so it works for the daemon's whole life.
//!
//! DIFFERS from keepalived:
//! * Membership reports and other unasked-for messages are kept from going out by a TC program, and the
//!   interface below is a member in place of the macvlan (`groups`). keepalived has nftables send the
//!   reports out below.
//! * `all.rp_filter` stays as it is: the kernel takes the larger of it and the interface's own, so
//!   the macvlan gets 2 (loose) where the host has anything, and 0 where it has none.
//! * The interface below gets `arp_announce` 2 besides. With another value its own ARP requests
//!   about clients would name a virtual address as the sender's, and move it to its own MAC address.

mod groups;
mod links;
mod removal;
mod settings;
mod tender;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use dataplane::Attachment;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use vrrp::wire::MacAddr;

use crate::config::VrrpConfig;
use crate::netlink::NetworkState;
use crate::status::LinkState;
use groups::Membership;
use links::{Found, Links};
use removal::Hold;
use settings::Below;
pub use tender::Tender;

/// The kernel answers within microseconds; what takes longer has failed.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Settings are a dozen files, some of which wait for the lock of network configuration.
const SETTINGS_MAX: Duration = Duration::from_secs(2);

/// A macvlan to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmacSpec {
    pub name: String,
    /// The interface below.
    pub interface: String,
    pub mac: MacAddr,
    /// IPv6 adverts go out here, from the link-local address of the interface below.
    pub adverts_ipv6: bool,
    /// Addresses of this family are on it.
    pub ipv4: bool,
    pub ipv6: bool,
    /// Groups of IPv6 that are listened to here.
    pub groups: BTreeSet<Ipv6Addr>,
}

impl VmacSpec {
    /// That of an instance, if it wants one.
    pub fn of(vrrp: &VrrpConfig) -> Option<VmacSpec> {
        let vmac = vrrp.vmac.as_ref()?;
        let has = |ipv6| {
            let mut here = vrrp.all_vips().filter(|vip| vip.interface == vmac.name);
            here.any(|vip| vip.address.is_ipv6() == ipv6)
        };
        let adverts_ipv6 = vrrp.is_ipv6() && !vmac.xmit_base;
        Some(VmacSpec {
            name: vmac.name.clone(),
            interface: vrrp.interface.clone(),
            mac: vmac.mac,
            adverts_ipv6,
            ipv4: has(false),
            ipv6: has(true) || adverts_ipv6,
            groups: groups::of(vrrp, vmac),
        })
    }
}

/// Why a macvlan cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum VmacError {
    #[error("interface {interface} below vmac {name} does not exist")]
    NoInterface { name: String, interface: String },
    #[error("vmac {name}: there is an interface of this name already, {what}")]
    NameTaken { name: String, what: String },
    #[error("vmac {name}: {interface} below has the MAC address {mac} itself")]
    SameMac {
        name: String,
        interface: String,
        mac: MacAddr,
    },
    #[error("vmac {name} on {interface}: {step}: {source}")]
    Refused {
        name: String,
        interface: String,
        step: &'static str,
        source: Box<rtnetlink::Error>,
    },
    #[error("vmac {name}: {interface} below cannot join its groups: {source}")]
    Groups {
        name: String,
        interface: String,
        source: io::Error,
    },
    #[error("vmac {name}: {path}: {source}")]
    Setting {
        name: String,
        path: String,
        source: io::Error,
    },
    #[error("interfaces cannot be listed: {0}")]
    List(Box<rtnetlink::Error>),
    #[error("refused: {0}")]
    Remove(Box<rtnetlink::Error>),
    #[error("no netlink socket: {0}")]
    Open(io::Error),
    #[error("no answer from the kernel within {} ms", ANSWER_MAX.as_millis())]
    Late,
}

/// The macvlans of this node's virtual routers.
#[derive(Default)]
pub struct Vmacs {
    specs: Vec<VmacSpec>,
    /// None when there is nothing to look after.
    links: Option<Links>,
    /// What interfaces below were like before, by name.
    below: BTreeMap<String, Below>,
    /// Names of those that go with this daemon.
    ours: Vec<String>,
    /// Names of those with all their settings.
    made: BTreeSet<String>,
    /// Names of those that are not up yet.
    waiting: BTreeSet<String>,
    /// That they are looked after; see [`removal`].
    _holds: Vec<Hold>,
    /// By the name of the macvlan.
    memberships: BTreeMap<String, Membership>,
}

impl Vmacs {
    /// Makes them or takes them over, all or none, and removes others that an earlier life left.
    /// [`Vmacs::tend`] brings them up.
    ///
    /// # Errors
    /// See [`VmacError`]; what was made is gone again then.
    pub async fn start(specs: Vec<VmacSpec>) -> Result<Vmacs, VmacError> {
        let links = Links::open().map_err(VmacError::Open)?;
        if let Err(error) = removal::remove_orphans(&links, &specs).await {
            warn!(%error, "what earlier configurations left of macvlans is not looked for");
        }
        let hold = |spec: &VmacSpec| {
            let held = removal::hold(&spec.name);
            held.inspect_err(|error| debug!(vmac = spec.name, %error, "the name is not held"))
                .ok()
        };
        let mut vmacs = Vmacs {
            links: (!specs.is_empty()).then_some(links),
            _holds: specs.iter().filter_map(hold).collect(),
            specs: specs.clone(),
            ..Vmacs::default()
        };
        for spec in &specs {
            if let Err(error) = vmacs.make(spec).await {
                vmacs.stop().await;
                return Err(error);
            }
        }
        Ok(vmacs)
    }

    /// Brings up those that the programs are attached to: the host has things to say as soon as an
    /// interface is up, and the guard must be there by then. Makes those again that went with the
    /// interface below, and gives IPv6 ones its link-local address. Gives back what cannot be had, by
    /// name.
    pub async fn tend(&mut self, network: &NetworkState, attached: &[Attachment]) -> Vec<String> {
        self.tend_while(network, attached, || true).await
    }

    /// Looks before each of them whether to go on. A kernel that does not answer is asked no more this
    /// time.
    async fn tend_while(
        &mut self,
        network: &NetworkState,
        attached: &[Attachment],
        goes_on: impl Fn() -> bool,
    ) -> Vec<String> {
        let mut wanting = Vec::new();
        for spec in self.specs.clone() {
            if !goes_on() {
                break;
            }
            let Err(error) = self.tend_one(&spec, network, attached).await else {
                continue;
            };
            wanting.push(error.to_string());
            if matches!(error, VmacError::Late) {
                break;
            }
        }
        wanting
    }

    async fn tend_one(
        &mut self,
        spec: &VmacSpec,
        network: &NetworkState,
        attached: &[Attachment],
    ) -> Result<(), VmacError> {
        // One that nothing can lie on is reported as such.
        let Some(below) = network.links.get(&spec.interface) else {
            return Ok(());
        };
        let own = network.links.get(&spec.name);
        let own = own.filter(|link| link.mac == Some(spec.mac));
        // One may be there half made, when the kernel was too slow.
        if own.is_none() || !self.made.contains(&spec.name) {
            self.make(spec).await?;
        }
        let Some(own) = own else {
            info!(vmac = spec.name, "made again");
            return Ok(());
        };
        let at = |at: &Attachment| at.interface == spec.name && at.ifindex == own.ifindex;
        let is_attached = attached.iter().any(at);
        self.add_link_local(spec, below.ifindex, network).await?;
        // One that somebody set down is brought up again, as an address that somebody removed is
        // restored.
        let is_down = own.state == LinkState::Down && self.ours.contains(&spec.name);
        if is_attached && (is_down || self.waiting.contains(&spec.name)) {
            self.bring_up(spec).await?;
        }
        self.join_groups(spec, below.ifindex).await
    }

    /// Has the interface below report the groups of the macvlan, also one that has come as another
    /// device.
    async fn join_groups(&mut self, spec: &VmacSpec, below: u32) -> Result<(), VmacError> {
        let known = self.memberships.get(&spec.name);
        let is_member = known.is_some_and(|known| known.index == below);
        if spec.groups.is_empty() || is_member {
            return Ok(());
        }
        let joined = groups::join(spec.groups.clone(), below).await;
        let joined = joined.map_err(|source| VmacError::Groups {
            name: spec.name.clone(),
            interface: spec.interface.clone(),
            source,
        })?;
        self.memberships.insert(spec.name.clone(), joined);
        Ok(())
    }

    /// Makes a picture from before [`Vmacs::tend`] brought them up show them as they are now.
    pub fn show(&self, network: &mut NetworkState) {
        for spec in &self.specs {
            let below = network.links.get(&spec.interface).map(|below| below.state);
            if let Some(own) = network.links.get_mut(&spec.name)
                && let Some(state) = below
                && !self.waiting.contains(&spec.name)
            {
                own.state = state;
            }
        }
    }

    /// Removes what is ours, and puts the interfaces below back as they were.
    pub async fn stop(&mut self) {
        self.memberships.clear();
        let Some(links) = &self.links else {
            return;
        };
        let ours = std::mem::take(&mut self.ours);
        if ours.is_empty() && self.below.is_empty() {
            return;
        }
        let all = match links.list().await {
            Ok(mut all) => {
                removal::remove(links, &ours, &mut all).await;
                all
            }
            Err(error) => {
                warn!(?ours, %error, "not removed");
                BTreeMap::new()
            }
        };
        for (name, below) in std::mem::take(&mut self.below) {
            removal::restore(&name, &below, &all);
        }
    }

    async fn bring_up(&mut self, spec: &VmacSpec) -> Result<(), VmacError> {
        let Some(links) = &self.links else {
            return Ok(());
        };
        let up = links.up(&spec.name).await?;
        up.map_err(|source| VmacError::Refused {
            name: spec.name.clone(),
            interface: spec.interface.clone(),
            step: "bring up",
            source: Box::new(source),
        })?;
        self.waiting.remove(&spec.name);
        Ok(())
    }

    /// Has a macvlan be there, as it should be.
    async fn make(&mut self, spec: &VmacSpec) -> Result<(), VmacError> {
        let Vmacs {
            links: Some(links),
            below: known,
            ours,
            made,
            waiting,
            ..
        } = self
        else {
            return Ok(());
        };
        made.remove(&spec.name);
        let all = links.list().await?;
        let Some(below) = all.get(&spec.interface) else {
            return Err(VmacError::NoInterface {
                name: spec.name.clone(),
                interface: spec.interface.clone(),
            });
        };
        let refused = |step| {
            move |source| VmacError::Refused {
                name: spec.name.clone(),
                interface: spec.interface.clone(),
                step,
                source: Box::new(source),
            }
        };
        if below.mac == Some(spec.mac) {
            return Err(VmacError::SameMac {
                name: spec.name.clone(),
                interface: spec.interface.clone(),
                mac: spec.mac,
            });
        }
        let found = all.get(&spec.name);
        if let Some(found) = found.filter(|found| !found.is(spec, below.index)) {
            return Err(VmacError::NameTaken {
                name: spec.name.clone(),
                what: found.describe(&all),
            });
        }
        let left = found.and_then(|found| found.alias.as_deref());
        remember(known, spec, below.index, &all)?;
        let is_new = found.is_none();
        // Before the kernel is asked for it: one that it makes without an answer in time is ours, too.
        if (is_new || left.is_some_and(settings::is_ours)) && !ours.contains(&spec.name) {
            ours.push(spec.name.clone());
        }
        if is_new && let Err(source) = links.create(spec, below.index).await? {
            ours.retain(|name| *name != spec.name);
            return Err(refused("create")(source));
        }
        if let Some(below) = known.get(&spec.interface)
            && ours.contains(&spec.name)
        {
            let alias = below.to_alias();
            let named = links.set_alias(&spec.name, &alias).await?;
            named.map_err(refused("set the alias"))?;
        }
        set(spec).await?;
        made.insert(spec.name.clone());
        waiting.insert(spec.name.clone());
        info!(
            vmac = spec.name,
            interface = spec.interface,
            mac = %spec.mac,
            made = is_new,
            "virtual MAC address"
        );
        Ok(())
    }

    /// An IPv6 advert comes from the link-local address of the interface below, and the kernel sends
    /// from no address that is not on the interface.
    async fn add_link_local(
        &self,
        spec: &VmacSpec,
        below: u32,
        network: &NetworkState,
    ) -> Result<(), VmacError> {
        let (Some(links), Some(own)) = (&self.links, network.links.get(&spec.name)) else {
            return Ok(());
        };
        if !spec.adverts_ipv6 {
            return Ok(());
        }
        for address in link_locals(network, below) {
            if network.addresses.contains(&(address.into(), own.ifindex)) {
                continue;
            }
            let added = links.add_link_local(own.ifindex, address).await?;
            added.map_err(|source| VmacError::Refused {
                name: spec.name.clone(),
                interface: spec.interface.clone(),
                step: "add its link-local address",
                source: Box::new(source),
            })?;
        }
        Ok(())
    }
}

/// Settings of the macvlan and of the interface below. Not in the caller's thread: the lock of network
/// configuration, which some wait for, is held for long when interfaces come and go.
async fn set(spec: &VmacSpec) -> Result<(), VmacError> {
    let (name, spec) = (spec.name.clone(), spec.clone());
    let set = spawn_blocking(move || {
        settings::prepare(&spec)?;
        settings::prepare_below(&spec)
    });
    let set = timeout(SETTINGS_MAX, set).await;
    set.map_err(|_| VmacError::Late)?.unwrap_or_else(|error| {
        Err(VmacError::Setting {
            name,
            path: "settings".to_owned(),
            source: io::Error::other(error),
        })
    })
}

/// Notes what the interface below was like before anything was changed: as an earlier life noted it on
/// the macvlans it left there, whichever of them this is about, else as it is now.
fn remember(
    known: &mut BTreeMap<String, Below>,
    spec: &VmacSpec,
    index: u32,
    all: &BTreeMap<String, Found>,
) -> Result<(), VmacError> {
    let is_known = known.get(&spec.interface);
    if is_known.is_some_and(|known| known.index == index) {
        return Ok(());
    }
    let here = all.values().filter(|found| found.below == Some(index));
    let noted = here.filter_map(|found| Below::from_alias(index, found.alias.as_deref()?));
    let below = match noted.reduce(Below::or) {
        Some(below) => below,
        None => Below::read(index, spec)?,
    };
    known.insert(spec.interface.clone(), below);
    Ok(())
}

fn link_locals(network: &NetworkState, ifindex: u32) -> impl Iterator<Item = Ipv6Addr> {
    let here = network.addresses.iter();
    here.filter_map(move |(address, at)| match address {
        IpAddr::V6(address) if *at == ifindex && address.is_unicast_link_local() => Some(*address),
        IpAddr::V6(_) | IpAddr::V4(_) => None,
    })
}

#[cfg(test)]
mod tests;
