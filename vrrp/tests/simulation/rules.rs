//! The rules of the documents, checked from outside: events, advertisements and states in, the
//! first violation out. Section numbers are of RFC 5798.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::{Config, Event, VrrpState};

use crate::lan::Step;
use crate::times;

#[path = "judge.rs"]
mod judge;
#[path = "member.rs"]
mod member;
#[path = "owed.rs"]
mod owed;

use judge::Judge;
use member::Seen;
use owed::Owed;

pub(crate) const TWO_MASTERS: &str = "two masters only while they cannot hear each other";
pub(crate) const TAKE_OVER: &str = "a backup that hears no master takes over in time (6.4.2)";
pub(crate) const RESIGNATION: &str = "after priority 0 a backup waits for its skew alone (6.4.2)";
pub(crate) const TOO_EARLY: &str = "nobody takes over before the master is down (6.4.2)";
pub(crate) const NOPREEMPT: &str = "nopreempt holds (6.1)";
pub(crate) const PREEMPT_DELAY: &str = "the preempt delay holds";
pub(crate) const YIELDED: &str = "a router that has yielded does not preempt";
pub(crate) const SILENCE: &str = "only a master speaks (6.4)";
pub(crate) const OWN_PRIORITY: &str = "a master says its own priority, which tracking set";
pub(crate) const YIELDING: &str = "a yielding master is silent";
pub(crate) const PATIENCE: &str = "a yield ends in time";
pub(crate) const FAREWELL: &str = "who leaves as master says priority 0 (6.4.3)";
pub(crate) const NO_FAREWELL: &str = "only who leaves as master says priority 0 (6.4.3)";
pub(crate) const BEAT: &str = "a master advertises each interval (6.4.3)";
pub(crate) const ANSWER: &str = "a lesser master is answered";
pub(crate) const STOOD_STILL: &str = "a master that stood still is a backup first";
pub(crate) const ABDICATION: &str = "a master gives way to a better one alone (6.4.3)";
pub(crate) const GROUP: &str = "the members of a group agree";
pub(crate) const REPLAY: &str = "behind an authentication header nothing is heard twice, or after what was sent later (RFC 2402 3.4.3)";
pub(crate) const ANNOUNCED: &str = "a master that others have met announces its addresses again";
pub(crate) const OWNER: &str = "an owner is master at once (6.4.1)";

/// What is known of a node.
struct Node {
    members: Vec<Seen>,
    is_on: bool,
    is_frozen: bool,
    thawed_at: Duration,
}

pub(crate) struct Rules {
    nodes: Vec<Node>,
    /// The highest number each node has accepted for each member since its start.
    sequences: [[u32; 2]; 3],
    hears: [[bool; 3]; 3],
    delay_max: Duration,
    /// Since when two nodes are both masters and hear each other.
    together: [[Option<Duration>; 3]; 3],
    owed: Vec<Owed>,
    pub(crate) violation: Option<String>,
    /// Whether violations are left to the end of the trial to find.
    pub(crate) is_lenient: bool,
}

impl Rules {
    pub(crate) fn new(nodes: &[Vec<(Config, IpAddr)>]) -> Rules {
        let node = |members: &Vec<(Config, IpAddr)>| Node {
            members: members
                .iter()
                .map(|(config, address)| Seen::new(config, *address))
                .collect(),
            is_on: false,
            is_frozen: false,
            thawed_at: Duration::ZERO,
        };
        Rules {
            nodes: nodes.iter().map(node).collect(),
            sequences: [[0; 2]; 3],
            hears: [[true; 3]; 3],
            delay_max: Duration::ZERO,
            together: [[None; 3]; 3],
            owed: Vec::new(),
            violation: None,
            is_lenient: false,
        }
    }

    /// From now on packets arrive as said.
    pub(crate) fn links_are(&mut self, hears: [[bool; 3]; 3], delay_max: Duration) {
        self.hears = hears;
        self.delay_max = delay_max;
        self.together = [[None; 3]; 3];
        self.owed.clear();
    }

    pub(crate) fn started(&mut self, node: usize) {
        self.nodes[node].is_on = true;
    }

    pub(crate) fn crashed(&mut self, node: usize) {
        self.owed.retain(|owed| owed.node != node);
        self.sequences[node] = [0; 2];
        let node = &mut self.nodes[node];
        node.is_on = false;
        node.is_frozen = false;
        for member in &mut node.members {
            *member = Seen::new(&member.config, member.address);
        }
    }

    pub(crate) fn froze(&mut self, node: usize) {
        self.owed.retain(|owed| owed.node != node);
        self.nodes[node].is_frozen = true;
    }

    pub(crate) fn thawed(&mut self, node: usize, now: Duration) {
        if std::mem::take(&mut self.nodes[node].is_frozen) {
            self.nodes[node].thawed_at = now;
        }
    }

    /// A node has accepted these bytes.
    pub(crate) fn heard(&mut self, node: usize, member: usize, bytes: &[u8], now: Duration) {
        let config = &self.nodes[node].members[member].config;
        if !config.authentication().is_header() {
            return;
        }
        // Twenty bytes of IP header, and the third word of what follows.
        let sequence = u32::from_be_bytes(bytes[28..32].try_into().unwrap());
        let last = std::mem::replace(&mut self.sequences[node][member], sequence);
        if sequence <= last {
            self.violated(REPLAY, node, now, &format!("{sequence} after {last}"));
        }
    }

    /// The first violation counts.
    fn violated(&mut self, rule: &str, node: usize, now: Duration, what: &str) {
        if self.violation.is_none() && !self.is_lenient {
            self.violation = Some(format!("{rule}: node {node} at {now:?}: {what}"));
        }
    }

    /// Time has passed without anything before this: what had to happen by now?
    pub(crate) fn passed(&mut self, now: Duration) {
        for index in 0..self.nodes.len() {
            let node = &self.nodes[index];
            if !node.is_on || node.is_frozen {
                continue;
            }
            // What came due while it stood still it does first of all.
            let late = |at: Duration| now > at.max(node.thawed_at) + times::ROUNDING;
            let members = &node.members;
            let mut found = Vec::new();
            if members.iter().all(|m| m.state == VrrpState::Backup) {
                let due = members.iter().map(Seen::take_over_at).max();
                if let Some((at, rule)) = due.filter(|(at, _)| late(*at)) {
                    found.push((rule, format!("is backup, and was to be master by {at:?}")));
                }
            }
            for member in members.iter().filter(|m| m.state == VrrpState::Master) {
                if let Some(since) = member.yielding_since {
                    let patience = members.iter().map(|m| times::patience(&m.config)).max();
                    let end = since + patience.unwrap_or_default();
                    if late(end) {
                        found.push((PATIENCE, format!("since {since:?}")));
                    }
                    continue;
                }
                if late(member.sent_at + member.config.interval().duration()) {
                    found.push((BEAT, format!("the last was at {:?}", member.sent_at)));
                }
                if let Some(by) = member.answer_by.filter(|by| late(*by)) {
                    found.push((ANSWER, format!("it had to be by {by:?}")));
                }
            }
            for (rule, what) in found {
                self.violated(rule, index, now, &what);
            }
        }
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.check_together(a, b, now);
            }
        }
        let is_late = |owed: &&Owed| now > owed.by + times::ROUNDING;
        if let Some(owed) = self.owed.iter().find(is_late).copied() {
            let what = format!("it did not after another gave way, by {:?}", owed.by);
            self.violated(ANNOUNCED, owed.node, now, &what);
        }
    }

    fn check_together(&mut self, a: usize, b: usize, now: Duration) {
        let is_awake = |node: &Node| node.is_on && !node.is_frozen;
        let (first, second) = (&self.nodes[a], &self.nodes[b]);
        let hear_each_other = self.hears[a][b] && self.hears[b][a];
        let are_masters = |(x, y): (&Seen, &Seen)| {
            let speaks = x.yielding_since.is_none() || y.yielding_since.is_none();
            x.state == VrrpState::Master && y.state == VrrpState::Master && speaks
        };
        let mut pairs = first.members.iter().zip(&second.members);
        let is_two =
            hear_each_other && is_awake(first) && is_awake(second) && pairs.any(are_masters);
        if !is_two {
            self.together[a][b] = None;
            return;
        }
        let members = || first.members.iter().chain(&second.members);
        let since = *self.together[a][b].get_or_insert(now);
        // A change of priority decides anew who has to go.
        let changed_at = members().map(|m| m.changed_at).max().unwrap_or_default();
        let answers = members().all(|m| !m.config.lower_prio_no_advert());
        let is_new = members().any(|m| m.entered_at == since) && changed_at < since;
        let counts = members().any(|m| m.config.authentication().is_header());
        let interval = members().map(|m| m.config.interval().duration()).max();
        let wait = if counts {
            // The better one may count from less, so that its word is none until it has heard the other.
            interval.map(|interval| interval * 2)
        } else if is_new && answers {
            // The new one has said so; if it is the lesser one, it is answered.
            members().map(|m| times::answer(&m.config)).max()
        } else {
            // Each says it at its next advertisement.
            interval
        };
        let bound = wait.unwrap_or_default() + self.delay_max * 2;
        let since = since.max(changed_at);
        if now > since + bound + times::ROUNDING {
            let what = format!("and node {b} since {since:?}");
            self.violated(TWO_MASTERS, a, now, &what);
        }
    }

    pub(crate) fn handled(&mut self, step: &Step<'_>) {
        self.passed(step.now);
        let (index, now) = (step.node, step.now);
        for (rule, what) in self.judge(step) {
            let what = format!("{:?}: {what}", step.event);
            self.violated(rule, index, now, &what);
        }
        let owed = self.owed_for(step);
        let node = &mut self.nodes[index];
        for (number, member) in node.members.iter_mut().enumerate() {
            let event = (number == step.member || !is_single(step.event)).then_some(step.event);
            member.learn(step, number, event);
        }
        self.pay(step);
        self.owed.extend(owed);
    }

    fn lapsed_before(&self, step: &Step<'_>) -> bool {
        let member = &self.nodes[step.node].members[step.member];
        member.has_lapsed(step.before[step.member], step.now)
    }

    fn judge(&self, step: &Step<'_>) -> Vec<(&'static str, String)> {
        let node = &self.nodes[step.node];
        let mut found = Vec::new();
        let masters = step.after.iter().filter(|m| m.state == VrrpState::Master);
        let count = masters.count();
        if count != 0 && count != step.after.len() {
            found.push((GROUP, format!("{:?}", step.after)));
        }
        for (number, member) in node.members.iter().enumerate() {
            let (before, after) = (step.before[number], step.after[number]);
            let own = step.effects.iter().filter(|(whose, _)| *whose == number);
            let effects: Vec<_> = own.map(|(_, effect)| *effect).collect();
            let mut judge = Judge {
                member,
                step,
                is_own: number == step.member,
                is_lone: node.members.len() == 1,
                before,
                after,
                effects: &effects,
                found: &mut found,
            };
            judge.what_it_says();
            judge.farewell();
            judge.becomes_master();
            judge.ends_its_reign();
            judge.announces();
        }
        found
    }
}

/// Whether an event is of one member alone.
fn is_single(event: Event) -> bool {
    matches!(
        event,
        Event::Advert(_) | Event::Timer | Event::Priority(_) | Event::Startup
    )
}
