//! The LAN under stress, with the checkers looking on.

use std::time::Duration;

use vrrp::{Effect, Event, Priority, VrrpState};

use crate::lan::{Link, Snapshot, Step, Watch};
use crate::random::Random;
use crate::rules::Rules;
use crate::sabotage::Sabotage;

/// Each direction between two routers may be cut.
pub(crate) struct Weather {
    pub(crate) random: Random,
    /// In percent.
    pub(crate) loss: u64,
    pub(crate) copies: u64,
    pub(crate) delay_max: Duration,
    pub(crate) cut: [[bool; 3]; 3],
    /// When the last packet arrives in each direction; a healthy LAN does not reorder.
    arrival: [[Duration; 3]; 3],
    pub(crate) keeps_order: bool,
    pub(crate) rules: Rules,
    pub(crate) sabotage: Option<Sabotage>,
    /// Print each step.
    pub(crate) is_told: bool,
}

impl Weather {
    pub(crate) fn new(seed: u64, delay_max: Duration, rules: Rules) -> Weather {
        Weather {
            random: Random(seed ^ 0x5eed),
            loss: 0,
            copies: 0,
            delay_max,
            cut: [[false; 3]; 3],
            arrival: [[Duration::ZERO; 3]; 3],
            keeps_order: false,
            rules,
            sabotage: None,
            is_told: false,
        }
    }

    fn delay(&mut self, from: usize, to: usize, now: Duration) -> Duration {
        let mut at = now + self.random.up_to(self.delay_max);
        if self.keeps_order {
            at = at.max(self.arrival[from][to]);
            self.arrival[from][to] = at;
        }
        at - now
    }

    /// Tells the checkers how well each hears each.
    pub(crate) fn report(&mut self) {
        let mut hears = [[false; 3]; 3];
        for (from, row) in hears.iter_mut().enumerate() {
            for (to, hears) in row.iter_mut().enumerate() {
                *hears = !self.cut[from][to] && self.loss == 0;
            }
        }
        self.rules.links_are(hears, self.delay_max);
    }
}

impl Link for Weather {
    fn delays(&mut self, from: usize, to: usize, now: Duration) -> [Option<Duration>; 2] {
        if self.cut[from][to] || self.random.below(100) < self.loss {
            return [None; 2];
        }
        let first = self.delay(from, to, now);
        let is_copied = self.random.below(100) < self.copies;
        [Some(first), is_copied.then(|| self.delay(from, to, now))]
    }
}

impl Watch for Weather {
    fn handled(&mut self, step: &Step<'_>) {
        if self.is_told && (step.before != step.after || !step.effects.is_empty()) {
            let (node, member, event) = (step.node, step.member, step.event);
            println!(
                "{:?} {node}.{member} {event:?} {:?}",
                step.now, step.effects
            );
        } else if self.is_told && step.event != Event::Timer {
            println!(
                "{:?} {}.{} {:?}",
                step.now, step.node, step.member, step.event
            );
        }
        self.rules.handled(step);
    }

    fn heard(&mut self, node: usize, member: usize, bytes: &[u8], now: Duration) {
        self.rules.heard(node, member, bytes, now);
    }

    fn forgets(&mut self, _node: usize) -> bool {
        self.sabotage == Some(Sabotage::Forgets)
    }

    fn tamper(&mut self, _node: usize, event: Event, before: &[Snapshot]) -> Option<Event> {
        let is = |state| before.iter().any(|member| member.state == state);
        let Event::Advert(heard) = event else {
            let is_ignored = matches!(event, Event::Priority(_));
            let is_ignored = is_ignored && self.sabotage == Some(Sabotage::Untracked);
            return (!is_ignored).then_some(event);
        };
        let is_zero = heard.priority == Priority::RESIGNED;
        match self.sabotage {
            Some(Sabotage::DeafMaster) => (!is(VrrpState::Master)).then_some(event),
            Some(Sabotage::DeafBackup) => (is_zero || !is(VrrpState::Backup)).then_some(event),
            Some(Sabotage::DeafToResignation) => (!is_zero).then_some(event),
            Some(Sabotage::Reclaims) if before.iter().any(|member| member.has_yielded) => {
                Some(Event::Reclaim)
            }
            Some(Sabotage::Meek) if is(VrrpState::Master) && !is_zero => {
                let mut heard = heard;
                heard.priority = Priority::OWNER;
                Some(Event::Advert(heard))
            }
            _ => Some(event),
        }
    }

    fn tamper_effects(
        &mut self,
        event: Event,
        effects: &mut Vec<(usize, Effect)>,
        after: &mut [Snapshot],
    ) {
        let is_sent = |effect: &Effect, wanted: fn(Priority) -> bool| match effect {
            Effect::SendAdvert { priority } => wanted(*priority),
            _ => false,
        };
        let own = |priority| Effect::SendAdvert { priority };
        match self.sabotage {
            Some(Sabotage::TalksInFault) => {
                for (member, snapshot) in after.iter().enumerate() {
                    if snapshot.state == VrrpState::Fault {
                        effects.push((member, own(snapshot.priority)));
                    }
                }
            }
            Some(Sabotage::TalksInYield) => {
                for (member, snapshot) in after.iter().enumerate() {
                    if snapshot.is_yielding {
                        effects.push((member, own(snapshot.priority)));
                    }
                }
            }
            Some(Sabotage::NeverAnnounces) => effects.retain(|(_, effect)| {
                !matches!(
                    effect,
                    Effect::AnnounceAgain
                        | Effect::LowerPriorityHeard
                        | Effect::LowerPriorityInGroup
                )
            }),
            Some(Sabotage::LeavesUnheard)
                if matches!(event, Event::Advert(_))
                    && effects
                        .iter()
                        .any(|(_, e)| *e == Effect::Became(VrrpState::Backup)) =>
            {
                effects.retain(|(_, effect)| !is_sent(effect, |p| p != Priority::RESIGNED));
            }
            Some(Sabotage::NeverResigns) => {
                effects.retain(|(_, effect)| !is_sent(effect, |p| p == Priority::RESIGNED));
            }
            Some(Sabotage::NeverAnswers) if matches!(event, Event::Advert(_)) => {
                effects.retain(|(_, effect)| !is_sent(effect, |p| p != Priority::RESIGNED));
            }
            Some(Sabotage::SkipsBeats) if event == Event::Timer => {
                effects.retain(|(_, effect)| !is_sent(effect, |p| p != Priority::RESIGNED));
            }
            Some(Sabotage::Modest) if matches!(event, Event::Startup | Event::Healthy) => {
                let masters = after.iter_mut().filter(|m| m.state == VrrpState::Master);
                masters.for_each(|member| member.state = VrrpState::Backup);
                effects.clear();
            }
            Some(Sabotage::YieldsForEver)
                if effects.iter().any(|(_, e)| *e == Effect::YieldFailed) =>
            {
                effects.clear();
                after
                    .iter_mut()
                    .for_each(|member| member.is_yielding = true);
            }
            Some(Sabotage::ResignsAlways) => {
                let ends = effects
                    .iter()
                    .filter(|(_, e)| *e == Effect::Became(VrrpState::Backup));
                let ends: Vec<_> = ends.map(|(member, _)| *member).collect();
                effects.extend(
                    ends.into_iter()
                        .map(|member| (member, own(Priority::RESIGNED))),
                );
            }
            Some(Sabotage::BreaksRanks) => {
                if let [_, second] = after {
                    second.state = VrrpState::Backup;
                }
            }
            _ => {}
        }
    }
}
