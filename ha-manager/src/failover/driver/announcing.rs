//! Sends what [`vrrp::announce`] says is due: gratuitous ARP and unsolicited neighbour advertisements.
//!
//! An announcement that finds the queue full stays due: that is no failure, and the owner of the data
//! plane waits for no device. Blocks go out round by round, so that each address of a promotion is
//! announced once before any of them is announced again.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;
use tracing::{debug, warn};
use vrrp::announce::Announcements;
use vrrp::net::packet::{Announcement, BATCH_MAX, Sent};
use vrrp::wire::MacAddr;

use super::super::fsm::State;
use super::Failover;
use crate::config::Vip;
use crate::director::Director;
use crate::netlink::NetworkState;

/// No round is begun in a turn after so many were sent in it: the rest of the daemon is waiting.
const SENT_MAX: usize = 512;
/// Before a queue that was full is tried again.
const QUEUE_PAUSE: Duration = Duration::from_millis(1);
/// Whether an interface forwards IPv6 is read again after this long.
const ROUTER_KNOWN: Duration = Duration::from_secs(5);

/// Which interfaces forward IPv6, and when that was read.
#[derive(Debug, Default)]
pub(super) struct Routers(BTreeMap<String, (Instant, bool)>);

impl Routers {
    /// What advertisements say of the host behind an interface; one without IPv6 does not forward it.
    fn is_router(&mut self, interface: &str, now: Instant) -> bool {
        if let Some((read, is_router)) = self.0.get(interface)
            && now.duration_since(*read) < ROUTER_KNOWN
        {
            return *is_router;
        }
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
        let is_router = fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
        self.0.insert(interface.to_owned(), (now, is_router));
        is_router
    }
}

/// What became of one round.
#[derive(Debug, Default, PartialEq, Eq)]
struct Round {
    sent: usize,
    /// Which of the addresses nobody was told of, and why.
    refused: Vec<(usize, Errno)>,
    /// The rest of it is due when there is room again.
    is_full: bool,
}

impl Failover {
    /// The first round of a promotion; the others follow when the steps of all routers are through.
    /// Fails if not one address can be announced.
    pub(super) fn begin_announcing(
        &mut self,
        index: usize,
        director: &Director,
    ) -> Result<(), String> {
        let now = self.now();
        if let Some(instance) = self.instances.get_mut(index) {
            instance.announcements.begin(now);
        }
        let (round, refusals) = self.announce(index, director);
        if round.has_failed() {
            if let Some(instance) = self.instances.get_mut(index) {
                instance.announcements.stop();
            }
            return Err(refusals.into_iter().next().unwrap_or_default());
        }
        if let Some(first) = refusals.first() {
            warn!(
                refused = refusals.len(),
                first, "addresses were not announced"
            );
        }
        Ok(())
    }

    /// What is no part of a promotion's step: what it misses the next block makes good.
    pub(super) fn announce_again(&mut self, director: &Director) {
        let mut tried = 0_usize;
        for index in 0..self.instances.len() {
            if let Some(instance) = self.instances.get_mut(index)
                && !matches!(
                    instance.machine.state(),
                    State::Active | State::Promoting(_)
                )
            {
                // A role that was given up before it was whole.
                instance.announcements.stop();
            }
            while tried < SENT_MAX {
                let (round, refusals) = self.announce(index, director);
                // The step, or whoever sees to the interface, has said so.
                if let Some(first) = refusals.first() {
                    debug!(refused = refusals.len(), first, "not announced again");
                }
                tried = tried.saturating_add(round.sent + round.refused.len());
                if round.is_full || round == Round::default() {
                    break;
                }
            }
        }
        if tried > 0 {
            debug!(tried, "addresses announced again");
        }
    }

    /// A router that talks to peers takes part again: where they send to may have another hardware
    /// address now, so it announces the address it sends from, once (keepalived).
    pub(super) fn announce_source(&mut self, index: usize, director: &Director) {
        let Some(instance) = self.instances.get(index) else {
            return;
        };
        let config = &instance.config;
        let Some(source) = instance.view.source.filter(|_| !config.peers.is_empty()) else {
            return;
        };
        let interface = config.sends_on();
        let links = &director.network.links;
        if links.get(interface).and_then(|link| link.mac).is_none() {
            return;
        }
        let own = announcement(source, interface, &director.network, &mut self.routers);
        let Sent { refused, .. } = self.announcer.announce(&[own]);
        debug!(%source, interface, ?refused, "source address announced");
    }

    /// The round of a router that is due, if any, and in words what was refused of it.
    fn announce(&mut self, index: usize, director: &Director) -> (Round, Vec<String>) {
        let now = self.now();
        let Failover {
            instances,
            announcer,
            routers,
            ..
        } = self;
        let Some(instance) = instances.get_mut(index) else {
            return (Round::default(), Vec::new());
        };
        let links = &director.network.links;
        // What is no Ethernet has no neighbours to tell.
        let is_heard = |vip: &&Vip| {
            let link = links.get(&vip.interface);
            link.is_none_or(|link| link.mac.is_some())
        };
        let vips: Vec<&Vip> = instance.config.all_vips().filter(is_heard).collect();
        let round = next_round(&mut instance.announcements, now, vips.len(), |due| {
            let due = due.iter().filter_map(|which| vips.get(*which).copied());
            let all = due
                .map(|vip| announcement(vip.address, &vip.interface, &director.network, routers));
            announcer.announce(&all.collect::<Vec<_>>())
        });
        let text = |(which, errno): &(usize, Errno)| {
            let vip = vips.get(*which)?;
            Some(format!("{vip} on {}: {errno}", vip.interface))
        };
        let refusals = round.refused.iter().filter_map(text).collect();
        (round, refusals)
    }
}

impl Round {
    /// Not one of its announcements has gone out, or ever will.
    const fn has_failed(&self) -> bool {
        self.sent == 0 && !self.is_full && !self.refused.is_empty()
    }
}

/// Hands over what is due now, at most one round; what was not taken stays due.
fn next_round(
    announcements: &mut Announcements,
    now: Duration,
    vips: usize,
    send: impl FnOnce(&[usize]) -> Sent,
) -> Round {
    let before = announcements.clone();
    // Without an address to announce it is asked once: what is due is over by that.
    let due: Vec<usize> = (0..vips.clamp(1, BATCH_MAX))
        .map_while(|_| announcements.poll(now, vips))
        .collect();
    if due.is_empty() {
        return Round::default();
    }
    let Sent { taken, refused } = send(&due);
    let is_full = taken < due.len();
    if is_full {
        *announcements = before;
        for _ in 0..taken {
            announcements.poll(now, vips);
        }
        announcements.put_off(now.saturating_add(QUEUE_PAUSE));
    }
    let which = |(place, errno): (usize, Errno)| Some((*due.get(place)?, errno));
    let refused: Vec<_> = refused.into_iter().filter_map(which).collect();
    Round {
        sent: taken.saturating_sub(refused.len()),
        refused,
        is_full,
    }
}

fn announcement(
    address: IpAddr,
    interface: &str,
    network: &NetworkState,
    routers: &mut Routers,
) -> Announcement {
    let link = network.links.get(interface);
    Announcement {
        // There is none of index 0.
        ifindex: link.map_or(0, |link| link.ifindex),
        mac: link.and_then(|link| link.mac).unwrap_or(MacAddr([0; 6])),
        address,
        is_router: address.is_ipv6() && routers.is_router(interface, Instant::now()),
    }
}

#[cfg(test)]
mod tests {
    use vrrp::Family;
    use vrrp::announce::Settings;

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn begun(repeat: u32) -> Announcements {
        let settings = Settings {
            repeat,
            ..Settings::default()
        };
        let mut announcements = Announcements::new(settings, Family::V4);
        announcements.begin(NOW);
        announcements
    }

    fn all(due: &[usize]) -> Sent {
        Sent {
            taken: due.len(),
            refused: Vec::new(),
        }
    }

    #[test]
    fn a_round_of_all_addresses_is_handed_over_at_once() {
        let mut announcements = begun(2);
        for _ in 0..2 {
            let round = next_round(&mut announcements, NOW, 300, |due| {
                assert_eq!(due, (0..300).collect::<Vec<_>>());
                all(due)
            });
            assert_eq!((round.sent, round.has_failed()), (300, false));
        }
        let none = |_: &[usize]| unreachable!("nothing is due");
        assert_eq!(
            next_round(&mut announcements, NOW, 300, none),
            Round::default()
        );
    }

    /// Whatever room there is each time, all rounds go out whole and in order, and no promotion fails.
    #[test]
    fn what_found_no_room_goes_out_later() {
        for room in 0..=7 {
            let mut announcements = begun(2);
            let (mut now, mut sent, mut tries) = (NOW, Vec::<usize>::new(), 0);
            while announcements.next_due().is_some_and(|due| due <= now) {
                let round = next_round(&mut announcements, now, 5, |due| {
                    // None at all at first.
                    let taken = due.len().min(if tries == 0 { 0 } else { room.max(1) });
                    sent.extend(&due[..taken]);
                    Sent {
                        taken,
                        refused: Vec::new(),
                    }
                });
                assert!(!round.has_failed(), "room for {room}");
                if round.is_full {
                    assert_eq!(announcements.next_due(), Some(now + QUEUE_PAUSE));
                    now += QUEUE_PAUSE;
                }
                tries += 1;
            }
            assert_eq!(sent, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4], "room for {room}");
        }
    }

    /// None of its addresses is on an Ethernet: what stayed due would wake the owner for ever.
    #[test]
    fn what_has_no_address_to_announce_is_over_at_once() {
        let mut announcements = begun(2);
        for _ in 0..3 {
            let none = |_: &[usize]| unreachable!("there is none");
            assert_eq!(
                next_round(&mut announcements, NOW, 0, none),
                Round::default()
            );
            assert!(announcements.next_due().is_none_or(|due| due > NOW));
        }
    }

    #[test]
    fn a_round_has_failed_when_every_address_was_refused() {
        let refuse = |which: &'static [usize]| {
            let mut announcements = begun(1);
            next_round(&mut announcements, NOW, 2, |due| Sent {
                taken: due.len(),
                refused: which.iter().map(|at| (*at, Errno::ENETDOWN)).collect(),
            })
        };
        assert!(!refuse(&[1]).has_failed());
        assert_eq!(refuse(&[1]).refused, [(1, Errno::ENETDOWN)]);
        assert!(refuse(&[0, 1]).has_failed());
    }
}
