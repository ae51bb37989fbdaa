//! What the state of all objects makes of one virtual router.

use super::objects::File;
use crate::config::{Config, Track, TrackRef};
use crate::netlink::NetworkState;
use crate::status::LinkState;
use vrrp::tracking::{Verdict, judge, judge_file};

/// What is to be made of a virtual router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Why it must not take part.
    pub fault: Option<String>,
    /// To be added to its priority.
    pub weights: i32,
    /// Whether every condition has been looked at once.
    pub ready: bool,
}

/// What one instance watches.
#[derive(Debug)]
pub(super) struct Watched {
    /// Unless it is not tracked.
    pub(super) own_interface: Option<String>,
    /// Its own, and that of its group.
    pub(super) tracks: Vec<Track>,
}

/// What each instance watches. In a group that does not let weights count they are all 0, and what
/// the group watches is watched by each of its members.
pub(super) fn watched(config: &Config) -> Vec<Watched> {
    let instances = config.vrrp.iter().enumerate();
    instances
        .map(|(index, vrrp)| {
            let mut tracks = vec![vrrp.track.clone()];
            for group in &config.vrrp_groups {
                if group.members.contains(&index) {
                    tracks.push(group.track.clone());
                    if !group.tracking_weight {
                        tracks.iter_mut().for_each(without_weights);
                    }
                }
            }
            Watched {
                own_interface: vrrp.track.own_interface.then(|| vrrp.interface.clone()),
                tracks,
            }
        })
        .collect()
}

fn without_weights(track: &mut Track) {
    let Track {
        interfaces,
        scripts,
        processes,
        files,
        own_interface: _,
    } = track;
    for interface in interfaces {
        interface.weight = 0;
    }
    for object in scripts.iter_mut().chain(processes).chain(files) {
        object.weight = 0;
    }
}

/// What has been said of one instance.
pub(super) struct Sum {
    faults: Vec<String>,
    weights: i32,
    ready: bool,
}

impl Sum {
    pub(super) const fn new() -> Sum {
        Sum {
            faults: Vec::new(),
            weights: 0,
            ready: true,
        }
    }

    pub(super) fn interface(
        &mut self,
        name: &str,
        weight: i16,
        reverse: bool,
        network: &NetworkState,
    ) {
        let link = network.links.get(name);
        let link = link.map_or(LinkState::Gone, |link| link.state);
        let verdict = judge(link == LinkState::Up, weight, reverse);
        self.add(verdict, || {
            let state = match link {
                LinkState::Up => "is up",
                LinkState::NoCarrier => "has no carrier",
                LinkState::Down => "is down",
                LinkState::Gone => "does not exist",
            };
            format!("interface {name} {state}")
        });
    }

    /// What is not known yet says nothing.
    pub(super) fn object(
        &mut self,
        good: Option<bool>,
        at: TrackRef,
        says: impl FnOnce() -> String,
    ) {
        match good {
            Some(good) => self.add(judge(good, at.weight, at.reverse), says),
            None => self.ready &= at.weight != 0,
        }
    }

    pub(super) fn file(&mut self, file: &File, at: TrackRef) {
        match &file.seen.last {
            Some(found) => {
                let verdict = judge_file(found.value(), at.weight, at.reverse);
                self.add(verdict, || file.says());
            }
            // Any file may turn out to be a fault.
            None => self.ready = false,
        }
    }

    fn add(&mut self, verdict: Verdict, says: impl FnOnce() -> String) {
        match verdict {
            Verdict::Weight(weight) => self.weights = self.weights.saturating_add(weight),
            Verdict::Fault => self.faults.push(says()),
        }
    }

    pub(super) fn standing(self) -> Standing {
        // The same thing may be watched by an instance and by its group.
        let mut faults: Vec<String> = Vec::new();
        for fault in self.faults {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
        }
        Standing {
            fault: (!faults.is_empty()).then(|| faults.join("; ")),
            weights: self.weights,
            ready: self.ready,
        }
    }
}
