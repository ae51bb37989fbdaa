//! Two and three routers on a LAN that loses, delays and divides; then it is left in peace.
//!
//! `TANDEM_SEEDS=N` runs so many seeds (20000 by default), `TANDEM_SEED=N` runs that one.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::net::Ipv4Addr;
use std::time::Duration;

use lan::{Lan, Link};
use vrrp::{Config, Event, Parameters, VirtualRouter, VrrpState};

mod lan;

const DEFAULT_SEEDS: u64 = 20_000;
/// Answers to another master may be held back by this part of an interval.
const ANSWERS_PER_INTERVAL: u32 = 64;

#[test]
fn one_master_remains_whatever_happened_before() {
    if let Some(seed) = number("TANDEM_SEED") {
        return Trial::new(seed).run();
    }
    for seed in 0..number("TANDEM_SEEDS").unwrap_or(DEFAULT_SEEDS) {
        Trial::new(seed).run();
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// A LAN under stress: each direction between two routers may be cut.
struct Weather {
    random: Random,
    /// In percent.
    loss: u64,
    delay_max: Duration,
    cut: [[bool; 3]; 3],
    /// When the last packet arrives in each direction; a healthy LAN does not reorder.
    arrival: [[Duration; 3]; 3],
    keeps_order: bool,
}

impl Link for Weather {
    fn delay(&mut self, from: usize, to: usize, now: Duration) -> Option<Duration> {
        let is_lost = self.cut[from][to] || self.random.below(100) < self.loss;
        let mut at = now + self.random.up_to(self.delay_max);
        if self.keeps_order {
            at = at.max(self.arrival[from][to]);
            self.arrival[from][to] = at;
        }
        (!is_lost).then_some(at - now)
    }
}

struct Trial {
    seed: u64,
    random: Random,
    lan: Lan<Weather>,
    /// The longest interval of all.
    interval: Duration,
    /// How long two masters may overlap when all is well: a take-over is heard, and answered.
    overlap_max: Duration,
    overlap_since: Option<Duration>,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut random = Random(seed);
        let count = 2 + random.below(2);
        let advert_ms = random.one_of(&[10, 50, 100, 1000]);
        let is_mixed = random.below(5) == 0;
        let may_not_preempt = random.below(3) == 0;
        let mut routers = Vec::new();
        for index in 0..count {
            let priority = random.one_of(&[1, 50, 99, 100, 100, 150, 254, 255]);
            let parameters = Parameters {
                vrid: 51,
                priority,
                preempt: priority == 255 || !(may_not_preempt && random.below(2) == 0),
                advert_ms: if is_mixed {
                    random.one_of(&[10, 100, 300, 1000])
                } else {
                    advert_ms
                },
                addresses: vec![Ipv4Addr::new(192, 0, 2, 100)],
                ..Parameters::default()
            };
            let last = u8::try_from(index).unwrap() + 1;
            let address = Ipv4Addr::new(192, 0, 2, last);
            routers.push((Config::new(parameters).unwrap(), address));
        }
        let intervals = routers
            .iter()
            .map(|(config, _)| config.interval().duration());
        let (shortest, longest) = (intervals.clone().min(), intervals.max());
        let (shortest, longest) = (shortest.unwrap(), longest.unwrap());
        let weather = Weather {
            random: Random(seed ^ 0x5eed),
            loss: 0,
            delay_max: shortest / 10,
            cut: [[false; 3]; 3],
            arrival: [[Duration::ZERO; 3]; 3],
            keeps_order: false,
        };
        Trial {
            seed,
            random,
            lan: Lan::new(routers, weather),
            interval: longest,
            overlap_max: shortest / 10 * 2 + longest / ANSWERS_PER_INTERVAL,
            overlap_since: None,
        }
    }

    fn run(mut self) {
        for index in 0..self.lan.nodes.len() {
            if self.random.below(4) > 0 {
                self.lan.start(index);
            }
        }
        for _ in 0..10 + self.random.below(30) {
            let pause = self.random.up_to(self.interval * 4);
            self.lan.run_until(self.lan.now + pause);
            self.disturb();
        }
        self.calm_down();
        self.settle();
        self.watch(self.interval * 8);
        self.is_resolved();
        self.lose_the_master();
    }

    /// One thing goes wrong, or right again.
    fn disturb(&mut self) {
        let count = self.lan.nodes.len() as u64;
        let index = usize::try_from(self.random.below(count)).unwrap();
        match self.random.below(10) {
            0 => self.lan.crash(index),
            1 => self.lan.stop(index),
            2 => self.lan.start(index),
            3 => self.lan.handle(index, Event::Fault),
            4 => self.lan.handle(index, Event::Healthy),
            5 => self.lan.link.cut = [[false; 3]; 3],
            6 => {
                // Nobody hears one router, or it hears nobody.
                for other in 0..3 {
                    self.lan.link.cut[index][other] = true;
                }
            }
            7 => {
                for other in 0..3 {
                    self.lan.link.cut[other][index] = true;
                }
            }
            8 => self.lan.link.loss = self.random.below(60),
            _ => {
                let longest = self.interval / 2;
                self.lan.link.delay_max = self.random.up_to(longest);
            }
        }
    }

    /// The network is well again, and one router at least takes part.
    fn calm_down(&mut self) {
        if self.running().is_empty() {
            self.lan.start(0);
        }
        // Stragglers of the bad time arrive first.
        self.lan.run_until(self.lan.now + self.interval / 2);
        let weather = &mut self.lan.link;
        weather.loss = 0;
        weather.cut = [[false; 3]; 3];
        weather.keeps_order = true;
        let nodes = self.lan.nodes.iter();
        let shortest = nodes.map(|node| node.config.interval().duration()).min();
        weather.delay_max = shortest.unwrap() / 10;
    }

    /// All hear each other for a master-down time.
    fn settle(&mut self) {
        // Four intervals are longer than three and any skew.
        let settled = self.lan.now + self.interval * 4 + self.overlap_max;
        self.lan.run_until(settled);
    }

    /// From now on two masters overlap no longer than a take-over takes to be heard.
    fn watch(&mut self, how_long: Duration) {
        let end = self.lan.now + how_long;
        self.overlap_since = None;
        loop {
            if self.lan.masters().len() > 1 {
                let since = *self.overlap_since.get_or_insert(self.lan.now);
                let overlap = self.lan.now - since;
                let masters = self.lan.masters();
                assert!(
                    overlap <= self.overlap_max,
                    "{}: {masters:?} are masters together for {overlap:?}",
                    self.replay()
                );
            } else {
                self.overlap_since = None;
            }
            if !self.lan.step(end) {
                return;
            }
        }
    }

    fn is_resolved(&self) {
        let masters = self.lan.masters();
        let [master] = masters[..] else {
            panic!("{}: masters {masters:?}", self.replay());
        };
        let running = self.running();
        let config = |index: usize| &self.lan.nodes[index].config;
        if running.iter().all(|index| config(*index).preempt()) {
            let best = running.iter().map(|index| config(*index).priority()).max();
            let priority = config(master).priority();
            assert_eq!(Some(priority), best, "{}: not the best", self.replay());
        }
    }

    /// The master goes, with or without a word, and the next one is there in time.
    fn lose_the_master(&mut self) {
        let master = self.lan.masters()[0];
        let is_clean = self.random.below(2) == 0;
        let interval = self.lan.nodes[master].config.interval().duration();
        let others: Vec<_> = self
            .running()
            .into_iter()
            .filter(|i| *i != master)
            .collect();
        let has_heard = |index: &usize| {
            let machine = self.lan.nodes[*index].machine.as_ref();
            machine.is_some_and(|machine| machine.master().is_some())
        };
        assert!(
            others.iter().all(has_heard),
            "{}: a deaf backup",
            self.replay()
        );
        let gone_at = self.lan.now;
        let bound = if is_clean {
            self.lan.stop(master);
            interval
        } else {
            self.lan.crash(master);
            interval * 4
        };
        self.lan.run_until(gone_at + bound + self.overlap_max);
        let expected = usize::from(!others.is_empty());
        let masters = self.lan.masters();
        assert_eq!(masters.len(), expected, "{}: {masters:?}", self.replay());
    }

    /// The routers that take part.
    fn running(&self) -> Vec<usize> {
        let takes_part = |machine: &VirtualRouter| match machine.state() {
            VrrpState::Backup | VrrpState::Master => true,
            VrrpState::Initialize | VrrpState::Fault => false,
        };
        let nodes = self.lan.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.machine.as_ref().is_some_and(takes_part))
            .map(|(index, _)| index)
            .collect()
    }

    fn replay(&self) -> String {
        format!(
            "TANDEM_SEED={} cargo test --release -p vrrp --test simulation",
            self.seed
        )
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let micros = u64::try_from(longest.as_micros()).unwrap();
        Duration::from_micros(self.below(micros + 1))
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[usize::try_from(self.below(values.len() as u64)).unwrap()]
    }
}
