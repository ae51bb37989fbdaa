//! The machine does at the same times what keepalived 2.2.7 was recorded doing.
//!
//! A case is replayed on a virtual clock: its configurations, what was done to the routers and
//! when. What each router sent is then compared reign by reign, a reign being the advertisements
//! of one router without a gap; and its gratuitous ARPs or neighbour advertisements block by block.
//! A process takes some time to start, which is no rule of the protocol: where a router became
//! master by its own first timer, it is started that much later.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what was compared is said")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use captures::{Case, Instance, case, names, seconds};
use lan::{Lan, Link, Member, Step, Watch};
use serde_json::Value;
use vrrp::tracking::{Verdict, effective, judge};
use vrrp::{Config, Event, Family, Priority, VirtualRouter};

mod captures;
mod lan;

/// A router, its addresses for multicast, and the MAC address announcements come from.
struct Router {
    name: &'static str,
    v4: &'static str,
    link_local: &'static str,
    mac: &'static str,
}

const ROUTERS: [Router; 2] = [
    Router {
        name: "a",
        v4: "192.0.2.1",
        link_local: "fe80::ff:fe00:101",
        mac: "02:00:00:00:01:01",
    },
    Router {
        name: "b",
        v4: "192.0.2.2",
        link_local: "fe80::ff:fe00:201",
        mac: "02:00:00:00:02:01",
    },
];
/// Virtual MAC addresses, only used by the first router.
const VIRTUAL_MAC: &str = "00:00:5e:00:0";
/// keepalived takes this long from its start to its first timer at most, in these captures.
const START_MAX: Duration = Duration::from_millis(500);
/// And this long where it cannot be seen.
const START_USUAL: Duration = Duration::from_millis(20);
/// A veth pair and a bridge.
const DELAY: Duration = Duration::from_micros(100);
/// How far a moment may be from the recorded one.
const TOLERANCE: Duration = Duration::from_millis(40);
/// keepalived's timers run late by this much at each advertisement, and it adds up.
const DRIFT_PER_ADVERT: Duration = Duration::from_millis(3);
/// Announcements this close together are one block.
const BLOCK_GAP: Duration = Duration::from_millis(150);

/// What cannot be reproduced, and why: nothing.
const NOT_YET: [(&str, &str); 0] = [];

/// Blocks of announcements that differ on purpose.
struct Difference {
    case: &'static str,
    router: &'static str,
    /// About when. Unit: milliseconds.
    at: u64,
    recorded: usize,
    ours: usize,
    why: &'static str,
}

const DIFFERENCES: [Difference; 3] = [
    Difference {
        case: "v3-v4-vip-deleted",
        router: "a",
        at: 8425,
        recorded: 5,
        ours: 0,
        why: "keepalived sends the second block of a reign that is over; ours is called off",
    },
    Difference {
        case: "v3-v4-split-heal-garp",
        router: "a",
        at: 7072,
        recorded: 4,
        ours: 2,
        why: "two adverts of the lower master 0.7 ms apart: keepalived announces for each, ours \
              once in a 64th of an interval",
    },
    Difference {
        case: "v3-v4-split-heal-garp",
        router: "a",
        at: 8074,
        recorded: 4,
        ours: 2,
        why: "the second blocks of those",
    },
];

#[test]
fn transitions_and_announcements_happen_when_keepalived_s_did() {
    let all = names();
    for name in &all {
        if NOT_YET.iter().any(|(case, _)| case == name) {
            continue;
        }
        Replay::new(case(name)).run();
    }
    println!(
        "replayed {}, not yet {}",
        all.len() - NOT_YET.len(),
        NOT_YET.len()
    );
    assert_eq!((all.len(), NOT_YET.len()), (35, 0));
    for (case, why) in NOT_YET {
        println!("not yet: {case}: {why}");
    }
}

/// Who hears nothing: reception was blocked by a firewall.
struct Blocks([bool; 2]);

impl Link for Blocks {
    fn delays(&mut self, _from: usize, to: usize, _now: Duration) -> [Option<Duration>; 2] {
        [(!self.0[to]).then_some(DELAY), None]
    }
}

impl Watch for Blocks {
    fn handled(&mut self, _step: &Step<'_>) {}
}

struct Replay {
    case: Case,
    /// The instances of each router. Two of one router are always a sync group here.
    routers: Vec<Vec<Instance>>,
}

/// The advertisements of one router without a gap.
#[derive(Debug)]
struct Reign {
    adverts: Vec<Duration>,
    /// When it gave up, if it did so with priority 0.
    resigned_at: Option<Duration>,
}

/// Announcements without a gap: when the first was, and which addresses in which order.
#[derive(Debug)]
struct Block {
    at: Duration,
    addresses: Vec<usize>,
}

impl Replay {
    fn new(case: Case) -> Replay {
        let routers = ROUTERS.iter().map(|router| case.instances(router.name));
        let routers = routers.filter(|instances| !instances.is_empty()).collect();
        Replay { case, routers }
    }

    fn run(&self) {
        let member = |router: &Router, instance: &Instance| {
            let primary = match instance.config.family() {
                Family::V4 => router.v4,
                Family::V6 => router.link_local,
            };
            let address = instance.source.unwrap_or(primary.parse().unwrap());
            (instance.config.clone(), address)
        };
        let node = |(router, instances): (&Router, &Vec<Instance>)| {
            let members = instances.iter().map(|instance| member(router, instance));
            members.collect::<Vec<(Config, IpAddr)>>()
        };
        let nodes = ROUTERS.iter().zip(&self.routers).map(node).collect();
        let mut lan = Lan::new(nodes, Blocks([false; 2]));
        for (index, instances) in self.routers.iter().enumerate() {
            for (member, instance) in instances.iter().enumerate() {
                lan.announce(index, member, instance.announce);
            }
        }
        let mut plan = self.plan();
        plan.sort_by_key(|(at, ..)| *at);
        for (at, verb, index) in plan {
            lan.run_until(at);
            match verb.as_str() {
                "start" => lan.start(index),
                "stop" => lan.stop(index),
                "kill9" => lan.crash(index),
                "block" => lan.link.0[index] = true,
                "unblock" => lan.link.0[index] = false,
                "dumdown" => lan.handle_all(index, Event::Fault),
                "dumup" => lan.handle_all(index, Event::Healthy),
                "delvip" => lan.handle_all(index, Event::VipLost),
                // The script says whether the file is there.
                "touch" => self.script_says(&mut lan, index, false),
                "rm" => self.script_says(&mut lan, index, true),
                "dummy" | "end" => {}
                other => panic!("{}: {other}", self.case.name),
            }
        }
        for (index, instances) in self.routers.iter().enumerate() {
            for (number, instance) in instances.iter().enumerate() {
                let context = format!("{} {} {}", self.case.name, ROUTERS[index].name, number);
                let member = &lan.nodes[index].members[number];
                let recorded = reigns(&self.recorded(member), &instance.config);
                let ours = reigns(&member.sent, &instance.config);
                self.compare(&context, &recorded, &ours);
                let recorded = blocks(&self.announced(index, &instance.config));
                self.compare_blocks(index, &recorded, &blocks(&member.announced));
            }
        }
    }

    fn script_says(&self, lan: &mut Lan<Blocks>, index: usize, good: bool) {
        for (member, instance) in self.routers[index].iter().enumerate() {
            let weight = instance.script_weight.unwrap();
            let Verdict::Weight(weight) = judge(good, weight, false) else {
                panic!("{}: the script has a weight", self.case.name);
            };
            let priority = effective(instance.config.priority(), weight);
            lan.handle(index, member, Event::Priority(priority));
        }
    }

    /// What is done when, starts moved to where the process was ready.
    fn plan(&self) -> Vec<(Duration, String, usize)> {
        let index_of = |object: &str| ROUTERS.iter().position(|router| router.name == object);
        // What is done to a file is done to the router that has the script.
        let tracks = |instances: &Vec<Instance>| instances[0].script_weight.is_some();
        let tracker = self.routers.iter().position(tracks).unwrap_or(0);
        let actions = self.case.actions().into_iter();
        actions
            .map(|(at, verb, object)| {
                let index = index_of(&object).unwrap_or(tracker);
                if verb == "start" {
                    (self.ready_at(index, at), verb, index)
                } else {
                    (at, verb, index)
                }
            })
            .collect()
    }

    fn ready_at(&self, index: usize, started_at: Duration) -> Duration {
        let config = &self.routers[index][0].config;
        let own = VirtualRouter::new(config.clone(), ROUTERS[index].v4.parse().unwrap());
        let wait = if config.priority() == Priority::OWNER {
            Duration::ZERO
        } else {
            own.master_down()
        };
        let own = |frame: &&Value| frame["kind"] == "vrrp" && sender(frame) == Some(index);
        let first = self.case.frames().iter().filter(own);
        let first = first.map(|frame| seconds(&frame["t"]));
        let first = first.into_iter().find(|at| *at > started_at);
        let ready_at = first.and_then(|first| first.checked_sub(wait));
        ready_at
            .filter(|ready| (started_at..started_at + START_MAX).contains(ready))
            .unwrap_or(started_at + START_USUAL)
    }

    /// What a router sent: when, and with which priority. To several peers it is one.
    fn recorded(&self, member: &Member) -> Vec<(Duration, u8)> {
        let mut sent = Vec::new();
        let mut last_id = None;
        for frame in self.case.frames() {
            let is_own = frame["ip_src"] == member.address.to_string()
                && frame["vrrp"]["vrid"] == member.config.vrid();
            if frame["kind"] != "vrrp" || !is_own {
                continue;
            }
            let id = frame["ip_id"].as_u64();
            if id.is_some() && id == last_id {
                continue;
            }
            last_id = id;
            let priority = frame["vrrp"]["priority"].as_u64().unwrap();
            sent.push((seconds(&frame["t"]), u8::try_from(priority).unwrap()));
        }
        sent
    }

    /// What a router announced of its own accord: when, and which of the addresses.
    fn announced(&self, index: usize, config: &Config) -> Vec<(Duration, usize)> {
        let frames = self.case.frames().iter();
        let own = frames.filter(|frame| sender(frame) == Some(index));
        let announced = own.filter_map(|frame| {
            let address = match frame["kind"].as_str().unwrap() {
                "arp" if frame["op"] == 1 => &frame["spa"],
                "na" if frame["flags_solicited"] == false => &frame["target"],
                _ => return None,
            };
            let address: IpAddr = address.as_str().unwrap().parse().unwrap();
            let number = config.addresses().iter().position(|own| *own == address)?;
            Some((seconds(&frame["t"]), number))
        });
        announced.collect()
    }

    fn compare(&self, context: &str, recorded: &[Reign], ours: &[Reign]) {
        assert_eq!(
            recorded.len(),
            ours.len(),
            "{context}: {recorded:?} {ours:?}"
        );
        for (theirs, ours) in recorded.iter().zip(ours) {
            for (number, (a, b)) in theirs.adverts.iter().zip(&ours.adverts).enumerate() {
                let drift = DRIFT_PER_ADVERT * u32::try_from(number).unwrap();
                assert!(
                    a.abs_diff(*b) <= TOLERANCE + drift,
                    "{context}: {a:?} {b:?}"
                );
            }
            if self.case.is_cut() {
                continue;
            }
            let (a, b) = (theirs.adverts.len(), ours.adverts.len());
            assert!(
                a.abs_diff(b) <= 1 + a / 50,
                "{context}: {a} and {b} adverts"
            );
            match (theirs.resigned_at, ours.resigned_at) {
                (Some(a), Some(b)) => assert!(a.abs_diff(b) <= TOLERANCE, "{context}: {a:?} {b:?}"),
                (None, None) => {}
                (a, b) => panic!("{context}: gave up {a:?} and {b:?}"),
            }
        }
    }

    /// The same blocks at the same times, of the same addresses in the same order.
    fn compare_blocks(&self, index: usize, recorded: &[Block], ours: &[Block]) {
        let name = &self.case.name;
        let context = format!("{name} {}", ROUTERS[index].name);
        let mut recorded: Vec<_> = recorded.iter().collect();
        let mut ours: Vec<_> = ours.iter().collect();
        let own = |d: &&Difference| d.case == name && d.router == ROUTERS[index].name;
        for difference in DIFFERENCES.iter().filter(own) {
            let at = Duration::from_millis(difference.at);
            let taken = |blocks: &mut Vec<&Block>| {
                let is_meant = |block: &&Block| block.at.abs_diff(at) <= TOLERANCE;
                let place = blocks.iter().position(is_meant);
                place.map_or(0, |place| blocks.remove(place).addresses.len())
            };
            let counts = (taken(&mut recorded), taken(&mut ours));
            let expected = (difference.recorded, difference.ours);
            let Difference { at, why, .. } = difference;
            assert_eq!(counts, expected, "{context}: at {at} ms, {why}");
        }
        assert_eq!(
            recorded.len(),
            ours.len(),
            "{context}: {recorded:?} {ours:?}"
        );
        for (theirs, ours) in recorded.iter().zip(&ours) {
            let (a, b) = (theirs.at, ours.at);
            assert!(a.abs_diff(b) <= TOLERANCE, "{context}: {a:?} {b:?}");
            assert_eq!(theirs.addresses, ours.addresses, "{context}: {a:?}");
        }
    }
}

/// Which router a frame comes from.
fn sender(frame: &Value) -> Option<usize> {
    let mac = frame["eth_src"].as_str().unwrap();
    if mac.starts_with(VIRTUAL_MAC) {
        return Some(0);
    }
    ROUTERS.iter().position(|router| router.mac == mac)
}

fn blocks(announced: &[(Duration, usize)]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut last = None;
    for &(at, address) in announced {
        match blocks.last_mut() {
            Some(block) if last.is_some_and(|last| at - last <= BLOCK_GAP) => {
                block.addresses.push(address);
            }
            _ => blocks.push(Block {
                at,
                addresses: vec![address],
            }),
        }
        last = Some(at);
    }
    blocks
}

#[test]
fn a_difference_names_a_case_that_there_is() {
    let cases: BTreeSet<_> = names();
    assert!(DIFFERENCES.iter().all(|d| cases.contains(d.case)));
}

fn reigns(sent: &[(Duration, u8)], config: &Config) -> Vec<Reign> {
    let gap = config.interval().duration() * 5 / 2;
    let mut reigns: Vec<Reign> = Vec::new();
    let mut last = None;
    for &(at, priority) in sent {
        match reigns.last_mut() {
            // Said twice, or once.
            Some(reign) if priority == 0 => {
                reign.resigned_at.get_or_insert(at);
                last = None;
                continue;
            }
            Some(reign) if last.is_some_and(|last| at - last <= gap) => reign.adverts.push(at),
            _ => reigns.push(Reign {
                adverts: vec![at],
                resigned_at: None,
            }),
        }
        last = Some(at);
    }
    reigns
}
