//! The rules of the documents, checked from outside: events, advertisements and states in, the
//! first violation out. Section numbers are of RFC 5798.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::{Config, Effect, Event, Heard, Priority, VrrpState};

use crate::lan::{Snapshot, Step};
use crate::times;

#[path = "member.rs"]
mod member;

use member::Seen;

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
    hears: [[bool; 3]; 3],
    delay_max: Duration,
    /// Since when two nodes are both masters and hear each other.
    together: [[Option<Duration>; 3]; 3],
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
            hears: [[true; 3]; 3],
            delay_max: Duration::ZERO,
            together: [[None; 3]; 3],
            violation: None,
            is_lenient: false,
        }
    }

    /// From now on packets arrive as said.
    pub(crate) fn links_are(&mut self, hears: [[bool; 3]; 3], delay_max: Duration) {
        self.hears = hears;
        self.delay_max = delay_max;
        self.together = [[None; 3]; 3];
    }

    pub(crate) fn started(&mut self, node: usize) {
        self.nodes[node].is_on = true;
    }

    pub(crate) fn crashed(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.is_on = false;
        node.is_frozen = false;
        for member in &mut node.members {
            *member = Seen::new(&member.config, member.address);
        }
    }

    pub(crate) fn froze(&mut self, node: usize) {
        self.nodes[node].is_frozen = true;
    }

    pub(crate) fn thawed(&mut self, node: usize, now: Duration) {
        if std::mem::take(&mut self.nodes[node].is_frozen) {
            self.nodes[node].thawed_at = now;
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
        let wait = if is_new && answers {
            // The new one has said so; if it is the lesser one, it is answered.
            members().map(|m| times::answer(&m.config)).max()
        } else {
            // Each says it at its next advertisement.
            members().map(|m| m.config.interval().duration()).max()
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
        let node = &mut self.nodes[index];
        for (number, member) in node.members.iter_mut().enumerate() {
            let event = (number == step.member || !is_single(step.event)).then_some(step.event);
            member.learn(step, number, event);
        }
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

/// One member at one step.
struct Judge<'a> {
    member: &'a Seen,
    step: &'a Step<'a>,
    is_own: bool,
    is_lone: bool,
    before: Snapshot,
    after: Snapshot,
    effects: &'a [Effect],
    found: &'a mut Vec<(&'static str, String)>,
}

impl Judge<'_> {
    fn say(&mut self, rule: &'static str, what: &str) {
        self.found.push((rule, what.to_owned()));
    }

    fn sent(&self) -> impl Iterator<Item = Priority> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::SendAdvert { priority } => Some(*priority),
            Effect::Became(_)
            | Effect::AnnounceAgain
            | Effect::LowerPriorityHeard
            | Effect::YieldFailed => None,
        })
    }

    fn has_lapsed(&self) -> bool {
        self.member.has_lapsed(self.before, self.step.now)
    }

    fn what_it_says(&mut self) {
        let sent: Vec<_> = self.sent().collect();
        let is_master = |snapshot: Snapshot| snapshot.state == VrrpState::Master;
        for priority in sent {
            if !is_master(self.before) && !is_master(self.after) {
                self.say(SILENCE, "it spoke");
            }
            if self.has_lapsed() {
                self.say(STOOD_STILL, "it spoke as master");
            }
            let has_failed = self.effects.contains(&Effect::YieldFailed);
            let is_yielding = self.before.is_yielding || self.after.is_yielding;
            if priority != Priority::RESIGNED {
                if is_yielding && !has_failed {
                    self.say(YIELDING, "it advertised");
                }
                if ![self.before.priority, self.after.priority].contains(&priority) {
                    self.say(OWN_PRIORITY, "it said another");
                }
            }
        }
        if self.after.priority
            != self
                .member
                .priority_after(self.step, self.is_own, self.before)
        {
            self.say(OWN_PRIORITY, "it has another");
        }
    }

    fn farewell(&mut self) {
        let zeros = self.sent().filter(|p| *p == Priority::RESIGNED).count();
        let leaves = self.before.state == VrrpState::Master
            && matches!(self.after.state, VrrpState::Fault | VrrpState::Initialize);
        let gives = self.step.event == Event::Yield && !self.before.is_yielding;
        let gives = gives && self.before.state == VrrpState::Master;
        let loses = self.step.event == Event::VipLost && self.before.state == VrrpState::Master;
        let expected = match () {
            () if self.has_lapsed() => 0,
            () if leaves || gives => 2,
            () if loses => 1,
            () => 0,
        };
        if zeros < expected {
            self.say(FAREWELL, "it did not, or not often enough");
        }
        if zeros > expected && !self.has_lapsed() {
            self.say(NO_FAREWELL, "it did");
        }
    }

    fn becomes_master(&mut self) {
        let member = self.member;
        let is_owner = self.before.priority == Priority::OWNER
            || (self.is_own
                && self.step.event == Event::Startup
                && member.config.priority() == Priority::OWNER);
        let begins = matches!(self.before.state, VrrpState::Initialize | VrrpState::Fault);
        let now = self.step.now;
        match (self.before.state, self.after.state) {
            (VrrpState::Backup, VrrpState::Master) => {
                if !self.is_lone && is_owner {
                    // It wanted to be from its start on.
                    return;
                }
                let (earliest, rule) = member.earliest_take_over();
                if now + times::ROUNDING < earliest {
                    self.say(rule, &format!("not before {earliest:?}"));
                }
            }
            (_, VrrpState::Master) if begins && !is_owner => {
                self.say(TOO_EARLY, "it is no owner");
            }
            (_, VrrpState::Backup) if begins && is_owner && self.is_lone => {
                self.say(OWNER, "it is backup");
            }
            _ => {}
        }
    }

    fn ends_its_reign(&mut self) {
        let is_end =
            self.before.state == VrrpState::Master && self.after.state == VrrpState::Backup;
        if !is_end || !self.is_lone || self.has_lapsed() {
            return;
        }
        let is_allowed = match self.step.event {
            Event::Advert(heard) => self.is_better(heard) || self.has_yielded_long_ago(),
            Event::VipLost => true,
            _ => self.before.is_yielding,
        };
        if !is_allowed {
            self.say(ABDICATION, "it did not hear one");
        }
    }

    /// It stood still while it yielded, until somebody must have taken the role.
    fn has_yielded_long_ago(&self) -> bool {
        let config = &self.member.config;
        let wait = times::patience(config) + times::lapse(config);
        let since = self.member.yielding_since;
        since.is_some_and(|since| self.step.now + times::ROUNDING >= since + wait)
    }

    fn is_better(&self, heard: Heard) -> bool {
        let own = (self.before.priority, self.member.address);
        let are_owners = (heard.priority, own.0) == (Priority::OWNER, Priority::OWNER);
        let ends_yield = self.before.is_yielding && heard.priority != Priority::RESIGNED;
        (heard.priority, heard.source) > own || are_owners || ends_yield
    }
}
