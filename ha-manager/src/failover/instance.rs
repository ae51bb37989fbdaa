//! One virtual router of this node: its machine, what the election said of it last, and what is known
//! of its addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::time::Instant;

use super::driver::claim::Claim;
use super::driver::health::Health;
use super::driver::patience::Patience;
use super::fsm::{Machine, Office, State};
use super::rival::Rival;
use crate::addresses::Assigned;
use crate::config::{Vip, VrrpConfig};
use crate::netlink::NetworkState;
use crate::notify::NotifyState;
use crate::status::VipStatus;
use crate::vrrp_driver::{ElectionRole, ElectionView};
use vrrp::Family;
use vrrp::announce::Announcements;
use vrrp::wire::MacAddr;

/// A virtual router of this node.
pub(super) struct Instance {
    pub(super) config: VrrpConfig,
    pub(super) machine: Machine,
    /// Held as long as this node takes part.
    pub(super) _claim: Option<Claim>,
    /// What the election said last.
    pub(super) view: ElectionView,
    /// Transitions of the mastership that the machine was told of last; none when it was told otherwise.
    pub(super) told: Option<u64>,
    /// What notify scripts were told last.
    pub(super) notified: Option<NotifyState>,
    /// Who else claims which of its addresses.
    pub(super) claims: BTreeMap<IpAddr, MacAddr>,
    pub(super) announcements: Announcements,
    pub(super) rival: Rival,
    pub(super) health: Health,
    pub(super) patience: Patience,
    /// The step that failed is not tried again before.
    pub(super) retry_at: Option<Instant>,
    /// Its addresses as they were seen, or left, last.
    pub(super) here: Vec<Assigned>,
    /// Those that the data plane has as this host's.
    pub(super) held: BTreeMap<IpAddr, u32>,
    /// When who else has the addresses is asked next.
    pub(super) probe: Option<Instant>,
    /// For so many of them it has been asked in this round.
    pub(super) probed: usize,
    pub(super) active_since: Option<Instant>,
}

impl Instance {
    pub(super) fn new(config: VrrpConfig, claim: Option<Claim>) -> Instance {
        let first = config.vips.first().map(|vip| vip.address);
        let family = first.map_or(Family::V4, Family::of);
        Instance {
            health: Health::new(&config),
            machine: Machine::default(),
            _claim: claim,
            view: ElectionView::default(),
            told: None,
            notified: None,
            claims: BTreeMap::new(),
            announcements: Announcements::new(config.garp, family),
            rival: Rival::default(),
            patience: Patience::default(),
            retry_at: None,
            here: Vec::new(),
            held: BTreeMap::new(),
            probe: None,
            probed: 0,
            active_since: None,
            config,
        }
    }

    /// Whether the mastership that the machine was told of is over, and another one has begun: another
    /// node may have been active meanwhile, so that the role has to be taken anew.
    pub(super) fn has_lost_mastership(&self) -> bool {
        is_another(self.told, &self.view)
    }

    pub(super) fn is_active(&self) -> bool {
        self.machine.state() == State::Active
    }

    /// A step is due, and can be tried.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.machine.step().is_some()
            && !self.machine.is_stuck()
            && self.retry_at.is_none_or(|at| at <= now)
    }

    /// Whether it has been active for so long that a former master answers no more.
    pub(super) fn is_settled(&self) -> bool {
        (self.active_since).is_some_and(|since| since.elapsed() >= super::driver::SETTLE)
    }

    /// Its addresses where they belong.
    pub(super) fn places(&self, network: &NetworkState) -> Result<Vec<Assigned>, String> {
        let place = |vip: &Vip| {
            let link = network.links.get(&vip.interface);
            let ifindex = link
                .map(|link| link.ifindex)
                .ok_or_else(|| format!("interface {} is gone", vip.interface))?;
            Ok(Assigned {
                ifindex,
                address: vip.address,
                prefix_len: vip.prefix_len,
            })
        };
        self.config.all_vips().map(place).collect()
    }

    /// Whether this is one of its addresses on its interface, also one that has another name by now.
    pub(super) fn owns(&self, at: &Assigned, network: &NetworkState) -> bool {
        if self.here.contains(at) {
            return true;
        }
        let is_it = |vip: &Vip| {
            let link = network.links.get(&vip.interface);
            vip.address == at.address && link.is_some_and(|link| link.ifindex == at.ifindex)
        };
        self.config.all_vips().any(is_it)
    }

    pub(super) fn vips(&self, network: &NetworkState) -> Vec<VipStatus> {
        let is_present = |vip: &Vip| {
            let link = network.links.get(&vip.interface);
            let is_it = |at: &Assigned| {
                at.address == vip.address && link.is_some_and(|link| link.ifindex == at.ifindex)
            };
            self.here.iter().any(is_it)
        };
        let vips = self.config.all_vips().map(|vip| VipStatus {
            address: vip.to_string(),
            interface: vip.interface.clone(),
            present: is_present(vip),
        });
        vips.collect()
    }
}

/// `told` counts the transitions of the mastership that the machine was told of last.
fn is_another(told: Option<u64>, view: &ElectionView) -> bool {
    view.role == ElectionRole::Master && told.is_some_and(|told| told != view.transitions)
}

pub(super) const fn office_of(role: ElectionRole) -> Office {
    match role {
        ElectionRole::Init | ElectionRole::Fault => Office::Fault,
        ElectionRole::Backup => Office::Backup,
        ElectionRole::Master => Office::Master,
    }
}

/// After the election's thread has ended without having been told to.
pub(super) fn ended() -> ElectionView {
    ElectionView {
        role: ElectionRole::Fault,
        fault: Some("the election thread has ended, see the log".to_owned()),
        ..ElectionView::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mastership_lost_between_two_looks_is_noticed() {
        use ElectionRole::{Backup, Fault, Master};
        for (told, role, transitions, lost) in [
            (Some(3), Master, 3, false),
            (Some(3), Master, 5, true),
            (Some(3), Backup, 4, false),
            (None, Master, 4, false),
            (None, Fault, 5, false),
        ] {
            let view = ElectionView {
                role,
                transitions,
                // Another announcement alone changes nothing.
                announce: 7,
                ..ElectionView::default()
            };
            assert_eq!(is_another(told, &view), lost, "{told:?} {role:?}");
        }
    }
}
