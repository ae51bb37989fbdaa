//! One seed: a bad time, then a good one, then the master goes.

use std::net::IpAddr;
use std::time::Duration;

use vrrp::{Config, Event, Parameters, Priority, VrrpState};

use crate::lan::{Lan, RECORDED_MAX, Snapshot};
use crate::nodes::{address, parameters};
use crate::random::Random;
use crate::rules::Rules;
use crate::sabotage::Sabotage;
use crate::weather::Weather;

pub(crate) const ONE_MASTER: &str = "one master remains when all hear each other";
pub(crate) const BEST: &str = "the best remains if all may preempt";
pub(crate) const SUCCESSION: &str = "a master that goes is followed in time";

pub(crate) struct Trial {
    random: Random,
    lan: Lan<Weather>,
    /// What the checkers believe each node to have.
    configs: Vec<Vec<Config>>,
    /// The longest interval of all, and the shortest.
    interval: Duration,
    shortest: Duration,
    sabotage: Option<Sabotage>,
}

type Outcome = Result<(), String>;

impl Trial {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Trial {
        let mut random = Random(seed);
        let parameters = parameters(&mut random);
        let configured = |change: &dyn Fn(&mut Parameters)| -> Vec<Vec<(Config, IpAddr)>> {
            let member = |index: usize, parameters: &Parameters| {
                let mut parameters = parameters.clone();
                let is_v6 = parameters.addresses.iter().any(IpAddr::is_ipv6);
                change(&mut parameters);
                (Config::new(parameters).unwrap(), address(index, is_v6))
            };
            let nodes = parameters.iter().enumerate();
            let node = |(index, members): (usize, &Vec<Parameters>)| {
                let members = members.iter();
                members
                    .map(|parameters| member(index, parameters))
                    .collect()
            };
            nodes.map(node).collect()
        };
        let believed = configured(&|_| {});
        let real = configured(&|parameters| {
            if let Some(sabotage) = sabotage {
                sabotage.change(parameters);
            }
        });
        let members = || believed.iter().flatten();
        let intervals = || members().map(|(config, _)| config.interval().duration());
        let shortest = intervals().min().unwrap();
        let rules = Rules::new(&believed);
        let mut weather = Weather::new(seed, shortest / 10, rules);
        weather.sabotage = sabotage;
        let configs = |node: &Vec<(Config, IpAddr)>| {
            let members = node.iter();
            members.map(|(config, _)| config.clone()).collect()
        };
        let has_header = |(config, _): &(Config, IpAddr)| config.authentication().is_header();
        let has_headers = members().any(has_header);
        let mut lan = Lan::new(real, weather);
        // Without a header nothing keeps a recorded one from being heard again.
        lan.records = has_headers;
        Trial {
            configs: believed.iter().map(configs).collect(),
            interval: intervals().max().unwrap(),
            shortest,
            random,
            lan,
            sabotage,
        }
    }

    /// Prints everything that happens.
    pub(crate) fn told(mut self) -> Trial {
        self.lan.link.is_told = true;
        self
    }

    /// Only judges the end.
    pub(crate) fn lenient(mut self) -> Trial {
        self.lan.link.rules.is_lenient = true;
        self
    }

    /// # Errors
    /// The first rule that was broken, and how.
    pub(crate) fn run(mut self) -> Outcome {
        if self.lan.link.is_told {
            println!("{:#?}", self.configs);
        }
        self.lan.link.report();
        for index in 0..self.lan.nodes.len() {
            if !self.random.is_one_in(4) {
                self.start(index);
            }
        }
        for _ in 0..10 + self.random.below(50) {
            let pause = self.interval * 4;
            let pause = self.random.up_to(pause);
            self.run_for(pause)?;
            self.disturb();
        }
        self.calm_down()?;
        self.settle()?;
        self.is_resolved()?;
        self.lose_the_master()
    }

    fn run_for(&mut self, length: Duration) -> Outcome {
        let end = self.lan.now + length;
        loop {
            let goes_on = self.lan.step(end);
            if !goes_on {
                self.lan.link.rules.passed(end);
            }
            if let Some(violation) = self.lan.link.rules.violation.take() {
                return Err(violation);
            }
            if !goes_on {
                return Ok(());
            }
        }
    }

    fn start(&mut self, index: usize) {
        if self.lan.nodes[index].group.is_none() {
            self.lan.link.rules.crashed(index);
            self.lan.link.rules.started(index);
            self.lan.start(index);
        }
    }

    fn crash(&mut self, index: usize) {
        self.lan.crash(index);
        self.lan.link.rules.crashed(index);
    }

    fn stop(&mut self, index: usize) {
        if self.lan.nodes[index].is_frozen {
            self.crash(index);
        }
        self.lan.stop(index);
        self.lan.link.rules.crashed(index);
    }

    fn thaw(&mut self, index: usize) {
        let now = self.lan.now;
        self.lan.link.rules.thawed(index, now);
        let timers_first = self.random.is_one_in(2);
        self.lan.thaw(index, timers_first);
    }

    /// An event of one member, or its whole group; a node that stands still gets none.
    fn tell(&mut self, index: usize, event: Event) {
        let node = &self.lan.nodes[index];
        if node.is_frozen {
            return;
        }
        let member = self.random.index(node.members.len());
        self.lan.handle(index, member, event);
    }

    /// One thing goes wrong, or right again.
    fn disturb(&mut self) {
        let index = self.random.index(self.lan.nodes.len());
        let other = self.random.index(self.lan.nodes.len());
        let what = self.random.below(if self.lan.records { 26 } else { 22 });
        let link = &mut self.lan.link;
        if link.is_told {
            println!(
                "{:?} disturbance {what} of {index} and {other}",
                self.lan.now
            );
        }
        match what {
            0 => self.crash(index),
            1 => self.stop(index),
            2 | 3 => self.start(index),
            4 => self.tell(index, Event::Fault),
            5 | 6 => self.lan_is_healthy(index),
            7 | 8 => link.cut = [[false; 3]; 3],
            // Nobody hears one router, or it hears nobody, or two do not hear each other.
            9 => link.cut[index] = [true; 3],
            10 => link.cut.iter_mut().for_each(|row| row[index] = true),
            11 => (link.cut[index][other], link.cut[other][index]) = (true, true),
            12 => link.loss = self.random.below(60),
            13 => link.loss = 0,
            14 => link.copies = self.random.below(60),
            15 => link.delay_max = self.random.up_to(self.interval / 2),
            16 | 17 => {
                let priority = self.random.one_of(&[1, 60, 100, 101, 200, 254]);
                let event = Event::Priority(Priority(priority));
                if self.random.is_one_in(4) {
                    self.tell(index, event);
                } else if !self.lan.nodes[index].is_frozen {
                    self.lan.handle_all(index, event);
                }
            }
            18 => self.tell(index, Event::Yield),
            19 => {
                let event = self.random.one_of(&[Event::Reclaim, Event::VipLost]);
                self.tell(index, event);
            }
            20 => {
                self.lan.nodes[index].is_frozen = self.lan.nodes[index].group.is_some();
                if self.lan.nodes[index].is_frozen && self.sabotage != Some(Sabotage::StandsStill) {
                    self.lan.link.rules.froze(index);
                }
            }
            21 => self.thaw(index),
            _ => {
                let place = self.random.index(RECORDED_MAX);
                self.lan.replay(place, index);
            }
        }
        self.lan.link.report();
    }

    /// Every member of a node is good again.
    fn lan_is_healthy(&mut self, index: usize) {
        if !self.lan.nodes[index].is_frozen {
            self.lan.handle_all(index, Event::Healthy);
        }
    }

    /// The network is well again, and one router at least takes part.
    fn calm_down(&mut self) -> Outcome {
        for index in 0..self.lan.nodes.len() {
            self.thaw(index);
        }
        if self.running().is_empty() {
            self.stop(0);
            self.start(0);
        }
        if self.random.is_one_in(2) {
            for index in 0..self.lan.nodes.len() {
                self.lan.handle_all(index, Event::Reclaim);
            }
        }
        // Stragglers of the bad time arrive first.
        self.run_for(self.interval / 2)?;
        let weather = &mut self.lan.link;
        weather.loss = 0;
        weather.copies = 0;
        weather.cut = [[false; 3]; 3];
        weather.keeps_order = true;
        // Where one advertisement is enough, it may not be later than the best backup's skew.
        let adverts = self.configs[0][0].down_timer_adverts();
        weather.delay_max = self.shortest / if adverts == 1 { 1000 } else { 10 };
        weather.report();
        Ok(())
    }

    /// All hear each other for as long as the slowest rule takes, which is preempting after the
    /// delay, in a group whose members waited for each other.
    fn settle(&mut self) -> Outcome {
        let configs = || self.configs.iter().flatten();
        let adverts = configs().map(Config::down_timer_adverts).max().unwrap();
        let delay = configs().map(Config::preempt_delay).max().unwrap();
        let yields = Duration::from_millis(400);
        self.run_for(self.interval * (u32::from(adverts) + 2) * 2 + delay * 2 + yields)
    }

    fn is_resolved(&self) -> Outcome {
        if !self.is_even() {
            return Ok(());
        }
        let [master] = self.masters()[..] else {
            return Err(format!("{ONE_MASTER}: {:?}", self.masters()));
        };
        let running = self.running();
        let preempts = |index: &usize| {
            let snapshots = self.lan.nodes[*index].snapshots();
            let may = |config: &Config| config.preempt();
            self.configs[*index].iter().all(may) && !snapshots.iter().any(|s| s.has_yielded)
        };
        let priority = |index: usize| self.lan.nodes[index].snapshots()[0].priority;
        let best = running.iter().map(|index| priority(*index)).max();
        if running.iter().all(preempts) && Some(priority(master)) != best {
            return Err(format!("{BEST}: {master} of {running:?}"));
        }
        Ok(())
    }

    /// Whether the members of each group have the same priority. Otherwise a group can be kept from
    /// being master by one member, and keep the other group from it by another, again and again
    /// (keepalived too, which therefore does not let tracking weigh on members of a group).
    fn is_even(&self) -> bool {
        let is_even = |index: &usize| {
            let snapshots = self.lan.nodes[*index].snapshots();
            snapshots
                .windows(2)
                .all(|pair| pair[0].priority == pair[1].priority)
        };
        self.running().iter().all(is_even)
    }

    /// The master goes, with or without a word, and the next one is there in time.
    fn lose_the_master(&mut self) -> Outcome {
        let [master] = self.masters()[..] else {
            return Ok(());
        };
        let was_even = self.is_even();
        let others = self.running().len() - 1;
        let adverts = self.configs[0][0].down_timer_adverts();
        let bound = if self.random.is_one_in(2) {
            self.stop(master);
            self.interval
        } else {
            self.crash(master);
            self.interval * (u32::from(adverts) + 1)
        };
        self.run_for(bound + self.shortest / 5)?;
        let is_followed = self.masters().is_empty() == (others == 0);
        if was_even && self.is_even() && !is_followed {
            return Err(format!("{SUCCESSION}: {:?} of {others}", self.masters()));
        }
        Ok(())
    }

    fn masters(&self) -> Vec<usize> {
        self.in_state(|snapshot| snapshot.state == VrrpState::Master)
    }

    /// The routers that take part.
    fn running(&self) -> Vec<usize> {
        self.in_state(|s| matches!(s.state, VrrpState::Backup | VrrpState::Master))
    }

    fn in_state(&self, is_meant: impl Fn(&Snapshot) -> bool) -> Vec<usize> {
        let nodes = self.lan.nodes.iter().enumerate();
        let of = |(index, node): (usize, &crate::lan::Node)| {
            node.snapshots().iter().any(&is_meant).then_some(index)
        };
        nodes.filter_map(of).collect()
    }
}
