//! One virtual router of this node: its machine, what the election said of it last, and what is known
//! of its addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tokio::time::Instant;

use super::driver::claim::Claim;
use super::driver::health::Health;
use super::driver::patience::Patience;
use super::fsm::{Machine, Office, State, Step};
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
    /// Words of others that one of them is theirs, so far.
    pub(super) claims_heard: u64,
    /// The same where they do not belong.
    pub(super) claims_elsewhere: u64,
    pub(super) announcements: Announcements,
    pub(super) rival: Rival,
    pub(super) health: Health,
    pub(super) patience: Patience,
    /// The step that failed is not tried again before.
    pub(super) retry_at: Option<Instant>,
    /// Another node has its role: what still comes for its addresses is directed until then.
    pub(super) lingers_until: Option<Instant>,
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
            claims_heard: 0,
            claims_elsewhere: 0,
            announcements: Announcements::new(config.garp, family),
            rival: Rival::default(),
            patience: Patience::default(),
            retry_at: None,
            lingers_until: None,
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
            && self.waits_until().is_none_or(|at| at <= now)
    }

    /// The step that is due is not tried before. One that another node has lingers, unless it is to be
    /// taken again.
    pub(super) fn waits_until(&self) -> Option<Instant> {
        let lingers = self.machine.step() == Some(Step::MakeForeign)
            && self.view.role != ElectionRole::Master;
        self.retry_at.max(self.lingers_until.filter(|_| lingers))
    }

    /// Whether it has been active for so long that a former master answers no more.
    pub(super) fn is_settled(&self) -> bool {
        (self.active_since).is_some_and(|since| since.elapsed() >= super::driver::SETTLE)
    }

    pub(super) fn owns_vip(&self, address: IpAddr) -> bool {
        self.config.all_vips().any(|vip| vip.address == address)
    }

    /// Whether an address of its own belongs on an interface, or on a macvlan on that.
    pub(super) fn lies_at(&self, address: IpAddr, ifindex: u32, network: &NetworkState) -> bool {
        let is = |name: &str| {
            let link = network.links.get(name);
            link.is_some_and(|link| link.ifindex == ifindex)
        };
        let vmac = self.config.vmac.as_ref();
        let mut here = self.config.all_vips().filter(|vip| vip.address == address);
        here.any(|vip| {
            let is_on_vmac = vmac.is_some_and(|vmac| vmac.name == vip.interface);
            is(&vip.interface) || (is_on_vmac && is(&self.config.interface))
        })
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
    use super::super::fsm::Input;
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

    #[test]
    fn an_address_lies_on_its_interface_and_on_that_below_its_macvlan() {
        let link = |(name, ifindex): (&str, u32)| {
            let (state, mac) = (crate::status::LinkState::Up, None);
            let link = crate::netlink::Link {
                ifindex,
                state,
                mac,
            };
            (name.to_owned(), link)
        };
        let mut network = NetworkState::default();
        let links = [("eth0", 2), ("eth1", 3), ("vrrp.51", 4)];
        network.links.extend(links.map(link));
        let vip = |last: u8, interface: &str| Vip {
            address: [192, 0, 2, last].into(),
            prefix_len: 32,
            interface: interface.to_owned(),
        };
        let vips = vec![vip(100, "eth0"), vip(101, "eth1"), vip(102, "gone0")];
        let mut config = VrrpConfig::plain("VI_1", 51, vips);
        let places = |config: &VrrpConfig, last: u8| {
            let instance = Instance::new(config.clone(), None);
            let address = IpAddr::from([192, 0, 2, last]);
            let is_there = |at: &u32| instance.lies_at(address, *at, &network);
            (0..6).filter(is_there).collect::<Vec<_>>()
        };
        assert_eq!(places(&config, 100), [2]);
        assert_eq!(places(&config, 101), [3]);
        assert_eq!(places(&config, 102), [0; 0]);
        assert_eq!(places(&config, 103), [0; 0]);
        config.vmac = Some(crate::config::VmacConfig {
            name: "vrrp.51".to_owned(),
            mac: MacAddr([0, 0, 0x5e, 0, 1, 51]),
            xmit_base: false,
        });
        config.vips[0].interface = "vrrp.51".to_owned();
        assert_eq!(places(&config, 100), [2, 4]);
        assert_eq!(places(&config, 101), [3]);
    }

    #[test]
    fn one_that_another_node_has_lingers_unless_it_is_taken_again() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_millis(50);
        let config = VrrpConfig::plain("VI_1", 51, Vec::new());
        let mut instance = Instance::new(config, None);
        assert_eq!(instance.machine.step(), Some(Step::RemoveAddresses));
        instance.lingers_until = Some(later);
        assert!(instance.is_due(now), "the addresses leave the host at once");
        instance.machine.handle(Input::Done);
        assert!(instance.is_due(now), "and the peer is heard");
        instance.machine.handle(Input::Done);
        assert_eq!(instance.machine.step(), Some(Step::MakeForeign));
        assert!(!instance.is_due(now) && instance.is_due(later));
        instance.view.role = ElectionRole::Master;
        assert!(instance.is_due(now));
    }
}
