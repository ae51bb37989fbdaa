//! Routers on a LAN with a virtual clock. What they send goes through the bytes of the wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::time::Duration;

use vrrp::wire::v3::{Advert, Expected, Identification, receive};
use vrrp::{Config, Effect, Event, VirtualRouter, VrrpState};

/// How long a packet takes from one router to another at this time; `None` loses it.
pub trait Link {
    fn delay(&mut self, from: usize, to: usize, now: Duration) -> Option<Duration>;
}

/// One router, which may be switched off.
pub struct Node {
    pub config: Config,
    pub address: Ipv4Addr,
    pub machine: Option<VirtualRouter>,
    identification: Identification,
    /// Every advertisement it has sent: when, and with which priority.
    pub sent: Vec<(Duration, u8)>,
}

/// A packet: arrival, order of sending, receiver, bytes.
type UnderWay = (Duration, u64, usize, Vec<u8>);

pub struct Lan<L> {
    pub now: Duration,
    pub nodes: Vec<Node>,
    pub link: L,
    /// The next one to arrive on top.
    under_way: BinaryHeap<Reverse<UnderWay>>,
    packets: u64,
}

impl<L: Link> Lan<L> {
    pub fn new(routers: Vec<(Config, Ipv4Addr)>, link: L) -> Lan<L> {
        let node = |(config, address)| Node {
            config,
            address,
            machine: None,
            identification: Identification::FIRST,
            sent: Vec::new(),
        };
        Lan {
            now: Duration::ZERO,
            nodes: routers.into_iter().map(node).collect(),
            link,
            under_way: BinaryHeap::new(),
            packets: 0,
        }
    }

    /// Switches a router on.
    pub fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.machine = Some(VirtualRouter::new(node.config.clone(), node.address));
        self.handle(index, Event::Startup);
    }

    /// Switches a router off without a word.
    pub fn crash(&mut self, index: usize) {
        self.nodes[index].machine = None;
    }

    /// Stops a router as an operator does.
    pub fn stop(&mut self, index: usize) {
        self.handle(index, Event::Shutdown);
        self.crash(index);
    }

    pub fn handle(&mut self, index: usize, event: Event) {
        let node = &mut self.nodes[index];
        let Some(machine) = &mut node.machine else {
            return;
        };
        machine.handle(event, self.now);
        let mut packets = Vec::new();
        while let Some(effect) = machine.poll_effect() {
            let Effect::SendAdvert { priority } = effect else {
                continue;
            };
            let advert = Advert {
                vrid: node.config.vrid(),
                priority,
                interval: node.config.interval(),
                addresses: node.config.addresses(),
            };
            packets.push(advert.to_packet(node.address, node.identification));
            node.identification = node.identification.next();
            node.sent.push((self.now, priority.0));
        }
        for packet in packets {
            self.send(index, &packet);
        }
    }

    /// When something happens next by itself.
    pub fn next_at(&self) -> Option<Duration> {
        let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
        let machines = self.nodes.iter().filter_map(|node| node.machine.as_ref());
        let timers = machines.filter_map(VirtualRouter::next_deadline);
        timers.chain(arrival).min().map(|at| at.max(self.now))
    }

    /// Moves the clock to what happens next, if that is before `end`, and lets it happen.
    pub fn step(&mut self, end: Duration) -> bool {
        let Some(at) = self.next_at().filter(|at| *at < end) else {
            self.now = end;
            return false;
        };
        self.now = at;
        if self
            .under_way
            .peek()
            .is_some_and(|Reverse((due, ..))| *due <= at)
        {
            if let Some(Reverse((_, _, to, packet))) = self.under_way.pop() {
                self.deliver(to, &packet);
            }
            return true;
        }
        let is_due = |node: &Node| {
            let machine = node.machine.as_ref();
            machine
                .and_then(VirtualRouter::next_deadline)
                .is_some_and(|due| due <= at)
        };
        if let Some(index) = self.nodes.iter().position(is_due) {
            self.handle(index, Event::Timer);
        }
        true
    }

    pub fn run_until(&mut self, end: Duration) {
        while self.step(end) {}
    }

    /// The routers that are master.
    pub fn masters(&self) -> Vec<usize> {
        let is_master = |node: &Node| {
            let machine = node.machine.as_ref();
            machine.is_some_and(|machine| machine.state() == VrrpState::Master)
        };
        (0..self.nodes.len())
            .filter(|index| is_master(&self.nodes[*index]))
            .collect()
    }

    fn send(&mut self, from: usize, packet: &[u8]) {
        for to in (0..self.nodes.len()).filter(|to| *to != from) {
            if let Some(delay) = self.link.delay(from, to, self.now) {
                self.packets += 1;
                let at = self.now + delay;
                let entry = (at, self.packets, to, packet.to_vec());
                self.under_way.push(Reverse(entry));
            }
        }
    }

    fn deliver(&mut self, to: usize, packet: &[u8]) {
        let node = &self.nodes[to];
        let Some(machine) = &node.machine else {
            return;
        };
        let expected = Expected {
            vrid: node.config.vrid(),
            addresses: node.config.addresses(),
            running: matches!(machine.state(), VrrpState::Backup | VrrpState::Master),
        };
        if let Ok(accepted) = receive(packet, packet.len(), &expected) {
            self.handle(to, Event::Advert(accepted.heard));
        }
    }
}
