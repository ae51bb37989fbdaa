//! Routers on a LAN with a virtual clock. What they send goes through the bytes of the wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(unreachable_pub, reason = "a module of several test programs")]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use vrrp::announce::{Announcements, Settings};
use vrrp::{
    AdvertCodec, Config, Datagram, Effect, Event, Group, Heard, Priority, V6Info, VirtualRouter,
    VrrpState,
};

/// What lies between two routers.
pub trait Link {
    /// How long a packet takes from one router to another at this time; `None` loses it. The second
    /// is that of a copy.
    fn delays(&mut self, from: usize, to: usize, now: Duration) -> [Option<Duration>; 2];
}

/// Whoever looks on, and may break things to see whether it is noticed.
pub trait Watch {
    /// A node has been handed an event for a member.
    fn handled(&mut self, step: &Step<'_>);

    /// What a node is handed instead of an event; `None` keeps it from the node.
    fn tamper(&mut self, _node: usize, event: Event, _before: &[Snapshot]) -> Option<Event> {
        Some(event)
    }

    /// A node has accepted the bytes of an advertisement for a member.
    fn heard(&mut self, _node: usize, _member: usize, _bytes: &[u8], _now: Duration) {}

    /// Whether a node forgets what it has heard before, and sent.
    fn forgets(&mut self, _node: usize) -> bool {
        false
    }

    /// Changes what a node does, or what it claims to be.
    fn tamper_effects(
        &mut self,
        _event: Event,
        _effects: &mut Vec<(usize, Effect)>,
        _after: &mut [Snapshot],
    ) {
    }
}

/// One event and what came of it.
pub struct Step<'a> {
    pub node: usize,
    pub member: usize,
    pub event: Event,
    pub now: Duration,
    /// All members before and after.
    pub before: &'a [Snapshot],
    pub after: &'a [Snapshot],
    pub effects: &'a [(usize, Effect)],
}

/// What can be seen of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub state: VrrpState,
    pub priority: Priority,
    pub is_yielding: bool,
    pub has_yielded: bool,
}

impl Snapshot {
    pub fn of(router: &VirtualRouter) -> Snapshot {
        Snapshot {
            state: router.state(),
            priority: router.effective_priority(),
            is_yielding: router.is_yielding(),
            has_yielded: router.has_yielded(),
        }
    }
}

/// One member of a node's group.
pub struct Member {
    pub config: Config,
    pub address: IpAddr,
    codec: AdvertCodec,
    announcements: Option<Announcements>,
    /// Every advertisement it has sent: when, and with which priority.
    pub sent: Vec<(Duration, u8)>,
    /// Every announcement: when, and of which address.
    pub announced: Vec<(Duration, usize)>,
}

/// One machine with its routers, which may be switched off or stand still.
pub struct Node {
    pub members: Vec<Member>,
    pub group: Option<Group>,
    /// Whether its process stands still; packets wait in its sockets.
    pub is_frozen: bool,
    inbox: VecDeque<Packet>,
}

impl Node {
    pub fn states(&self) -> Vec<VrrpState> {
        let members = self.group.iter().flat_map(Group::members);
        members.map(VirtualRouter::state).collect()
    }

    pub fn snapshots(&self) -> Vec<Snapshot> {
        let members = self.group.iter().flat_map(Group::members);
        members.map(Snapshot::of).collect()
    }

    /// When something is due here by itself, and whether it is a timer.
    fn next_at(&self) -> Option<Duration> {
        if self.is_frozen {
            return None;
        }
        let timer = self.group.as_ref().and_then(Group::next_deadline);
        let announcements = self.members.iter().filter_map(Member::next_due);
        timer.into_iter().chain(announcements).min()
    }
}

impl Member {
    fn next_due(&self) -> Option<Duration> {
        self.announcements.as_ref()?.next_due()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    from: IpAddr,
    destination: IpAddr,
    member: usize,
    bytes: Vec<u8>,
}

/// A packet: arrival, order of sending, receiver.
type UnderWay = (Duration, u64, usize, Packet);

pub struct Lan<L> {
    pub now: Duration,
    pub nodes: Vec<Node>,
    pub link: L,
    /// The next one to arrive on top.
    under_way: BinaryHeap<Reverse<UnderWay>>,
    packets: u64,
    /// The last ones sent, if they are recorded.
    recorded: VecDeque<Packet>,
    pub records: bool,
}

/// Packets that are kept to be sent once more.
pub const RECORDED_MAX: usize = 32;

impl<L: Link + Watch> Lan<L> {
    /// Nodes by the configurations and addresses of their members.
    pub fn new(nodes: Vec<Vec<(Config, IpAddr)>>, link: L) -> Lan<L> {
        let member = |(config, address): (Config, IpAddr)| Member {
            codec: AdvertCodec::new(&config),
            config,
            address,
            announcements: None,
            sent: Vec::new(),
            announced: Vec::new(),
        };
        let node = |members: Vec<_>| Node {
            members: members.into_iter().map(member).collect(),
            group: None,
            is_frozen: false,
            inbox: VecDeque::new(),
        };
        Lan {
            now: Duration::ZERO,
            nodes: nodes.into_iter().map(node).collect(),
            link,
            under_way: BinaryHeap::new(),
            packets: 0,
            recorded: VecDeque::new(),
            records: false,
        }
    }

    /// Lets a member announce its addresses.
    pub fn announce(&mut self, node: usize, member: usize, settings: Settings) {
        let member = &mut self.nodes[node].members[member];
        let announcements = Announcements::new(settings, member.config.family());
        member.announcements = Some(announcements);
    }

    /// Switches a node on; one that runs goes on.
    pub fn start(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if node.group.is_none() {
            let members = node.members.iter_mut();
            let members = members.map(|member| {
                member.codec = AdvertCodec::new(&member.config);
                VirtualRouter::new(member.config.clone(), member.address)
            });
            node.group = Some(Group::new(members.collect()));
        }
        self.handle_all(index, Event::Startup);
    }

    /// Switches a node off without a word.
    pub fn crash(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.group = None;
        node.is_frozen = false;
        node.inbox.clear();
        for announcements in node.members.iter_mut().flat_map(|m| &mut m.announcements) {
            announcements.stop();
        }
    }

    /// Stops a node as an operator does.
    pub fn stop(&mut self, index: usize) {
        self.handle_all(index, Event::Shutdown);
        self.crash(index);
    }

    /// A node that stood still goes on, with what is in its sockets or with its timers first.
    pub fn thaw(&mut self, index: usize, timers_first: bool) {
        if !std::mem::take(&mut self.nodes[index].is_frozen) {
            return;
        }
        if timers_first {
            self.handle_all(index, Event::Timer);
        }
        while let Some(packet) = self.nodes[index].inbox.pop_front() {
            self.deliver(index, packet);
        }
    }

    pub fn handle_all(&mut self, index: usize, event: Event) {
        for member in 0..self.nodes[index].members.len() {
            self.handle(index, member, event);
        }
    }

    /// Hands a node an event for one of its members, and does what it asks for.
    pub fn handle(&mut self, index: usize, member: usize, event: Event) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let before = node.snapshots();
        let Some(group) = &mut node.group else {
            return;
        };
        if let Some(event) = self.link.tamper(index, event, &before) {
            group.handle(member, event, now);
        }
        let mut effects: Vec<_> = std::iter::from_fn(|| group.poll_effect()).collect();
        let mut after = node.snapshots();
        self.link.tamper_effects(event, &mut effects, &mut after);
        for (member, effect) in &effects {
            self.do_effect(index, *member, *effect);
        }
        self.link.handled(&Step {
            node: index,
            member,
            event,
            now,
            before: &before,
            after: &after,
            effects: &effects,
        });
    }

    fn do_effect(&mut self, index: usize, number: usize, effect: Effect) {
        let now = self.now;
        let member = &mut self.nodes[index].members[number];
        let announcements = member.announcements.as_mut();
        match effect {
            Effect::SendAdvert { priority } => {
                member.sent.push((now, priority.0));
                self.send(index, number, priority);
            }
            Effect::Became(VrrpState::Master) => {
                member.codec.became_master();
                if let Some(announcements) = announcements {
                    announcements.begin(now);
                }
            }
            Effect::Became(_) => {
                if let Some(announcements) = announcements {
                    announcements.stop();
                }
            }
            Effect::AnnounceAgain => {
                if let Some(announcements) = announcements {
                    announcements.again(now);
                }
            }
            Effect::LowerPriorityHeard | Effect::LowerPriorityInGroup => {
                if let Some(announcements) = announcements {
                    announcements.lower_priority(now);
                }
            }
            Effect::YieldFailed => {}
        }
    }

    /// When something happens next by itself.
    pub fn next_at(&self) -> Option<Duration> {
        let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
        let nodes = self.nodes.iter().filter_map(Node::next_at);
        nodes.chain(arrival).min().map(|at| at.max(self.now))
    }

    /// Moves the clock to what happens next, if that is before `end`, and lets it happen.
    pub fn step(&mut self, end: Duration) -> bool {
        let Some(at) = self.next_at().filter(|at| *at < end) else {
            self.now = end;
            return false;
        };
        self.now = at;
        let is_arrival = |Reverse((due, ..)): &Reverse<UnderWay>| *due <= at;
        if self.under_way.peek().is_some_and(is_arrival) {
            if let Some(Reverse((_, _, to, packet))) = self.under_way.pop() {
                self.arrive(to, packet);
            }
            return true;
        }
        let is_due = |node: &Node| node.next_at().is_some_and(|due| due <= at);
        let due: Vec<_> = (0..self.nodes.len())
            .filter(|index| is_due(&self.nodes[*index]))
            .collect();
        for index in due {
            self.handle_all(index, Event::Timer);
            for member in &mut self.nodes[index].members {
                let vips = member.config.addresses().len();
                while let Some(vip) = member
                    .announcements
                    .as_mut()
                    .and_then(|announcements| announcements.poll(at, vips))
                {
                    member.announced.push((at, vip));
                }
            }
        }
        true
    }

    pub fn run_until(&mut self, end: Duration) {
        while self.step(end) {}
    }

    fn send(&mut self, from: usize, number: usize, priority: Priority) {
        let member = &mut self.nodes[from].members[number];
        let (address, group) = (member.address, member.config.family().group());
        for outgoing in member.codec.encode(priority, address) {
            for to in (0..self.nodes.len()).filter(|to| *to != from) {
                let hearer = self.nodes[to].members.get(number);
                let is_hearer = |hearer: &Member| hearer.address == outgoing.destination;
                if outgoing.destination != group && !hearer.is_some_and(is_hearer) {
                    continue;
                }
                for delay in self.link.delays(from, to, self.now).into_iter().flatten() {
                    let packet = Packet {
                        from: address,
                        destination: outgoing.destination,
                        member: number,
                        bytes: outgoing.bytes.clone(),
                    };
                    self.packets += 1;
                    if self.records {
                        self.recorded.truncate(RECORDED_MAX - 1);
                        self.recorded.push_front(packet.clone());
                    }
                    let entry = (self.now + delay, self.packets, to, packet);
                    self.under_way.push(Reverse(entry));
                }
            }
        }
    }

    fn arrive(&mut self, to: usize, packet: Packet) {
        if self.nodes[to].is_frozen {
            self.nodes[to].inbox.push_back(packet);
        } else {
            self.deliver(to, packet);
        }
    }

    fn deliver(&mut self, to: usize, packet: Packet) {
        let node = &mut self.nodes[to];
        let Some(group) = &node.group else {
            return;
        };
        let (Some(machine), Some(member)) = (
            group.members().get(packet.member),
            node.members.get_mut(packet.member),
        ) else {
            return;
        };
        let v6 = match (packet.from, packet.destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => Some(V6Info {
                source,
                destination,
                hop_limit: 255,
            }),
            _ => None,
        };
        let datagram = Datagram {
            bytes: &packet.bytes,
            received_len: packet.bytes.len(),
            v6,
        };
        let is_running = matches!(machine.state(), VrrpState::Backup | VrrpState::Master);
        if self.link.forgets(to) {
            member.codec = AdvertCodec::new(&member.config);
        }
        let decoded = member.codec.decode(&datagram, member.address, is_running);
        if let Ok(accepted) = decoded {
            let heard: Heard = accepted.heard;
            if machine.state() == VrrpState::Master && machine.outranks(&heard) {
                member.codec.heard_lower(&heard);
            }
            self.link.heard(to, packet.member, &packet.bytes, self.now);
            self.handle(to, packet.member, Event::Advert(heard));
        }
    }

    /// Has a recorded packet arrive once more, as whoever listens on the LAN may.
    pub fn replay(&mut self, place: usize, to: usize) {
        if let Some(packet) = self.recorded.get(place).cloned() {
            self.arrive(to, packet);
        }
    }
}
