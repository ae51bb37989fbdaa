//! Virtual routers that change together, and their machine. Most are alone.

use std::sync::Arc;
use std::time::Duration;

use vrrp::net::socket::{Queue, Received};
use vrrp::{Effect, Event, Group, Priority, VirtualRouter, VrrpState, tracking};

use super::counters::{Counter, Counters};
use super::member::Member;
use super::opener::{Answer, Request};
use super::teller::Note;
use super::view::ElectionView;
use super::{ElectionError, Handover, Inbox, RouterSpec};

/// Packets taken from one queue in one turn.
const QUEUE_BUDGET: usize = 32;
/// Advertisements read before a take-over: more than the queue of a socket holds by default.
const TAKEOVER_BUDGET: usize = 512;

/// A sync group in the thread.
#[derive(Debug)]
pub(super) struct Party {
    group: Group,
    members: Vec<Member>,
    /// The priority each machine was told.
    weighed: Vec<Option<Priority>>,
    has_resigned: bool,
    /// Something has happened to the machines since their counters were told.
    is_uncounted: bool,
    /// A master could not send, for so long that it is none.
    is_mute: bool,
    #[cfg(test)]
    events: u64,
}

/// The groups as given, and one for each router that is in none.
pub(super) fn complete(
    mut groups: Vec<Vec<usize>>,
    routers: usize,
) -> Result<Vec<Vec<usize>>, ElectionError> {
    let mut grouped = vec![false; routers];
    for router in groups.iter().flatten().copied() {
        match grouped.get_mut(router) {
            Some(known) if !*known => *known = true,
            Some(_) | None => return Err(ElectionError::Group(router)),
        }
    }
    let alone = (0..).zip(grouped).filter(|(_, known)| !known);
    groups.extend(alone.map(|(router, _)| vec![router]));
    groups.retain(|group| !group.is_empty());
    Ok(groups)
}

impl Party {
    /// Opens the sockets of some of the routers.
    pub(super) fn open(
        group: &[usize],
        routers: &[(RouterSpec, Arc<Counters>)],
    ) -> Result<Party, ElectionError> {
        let (mut machines, mut members) = (Vec::new(), Vec::new());
        for &index in group {
            let (spec, counters) = routers.get(index).ok_or(ElectionError::Group(index))?;
            let others = routers.iter().map(|(other, _)| other);
            let neighbours = others.filter(|other| is_neighbour(other, spec));
            let neighbours = neighbours.map(|other| other.config.vrid()).collect();
            let member = Member::open(index, spec, counters, neighbours)?;
            let unknown = match spec.config.family() {
                vrrp::Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
                vrrp::Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let primary = member.socket().map_or(unknown, |socket| socket.source());
            machines.push(VirtualRouter::new(spec.config.clone(), primary));
            members.push(member);
        }
        Ok(Party {
            group: Group::new(machines),
            weighed: vec![None; members.len()],
            members,
            has_resigned: false,
            is_uncounted: true,
            is_mute: false,
            #[cfg(test)]
            events: 0,
        })
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// The views of its routers with their numbers.
    pub(super) fn views(&self) -> impl Iterator<Item = (usize, ElectionView)> {
        let machines = self.group.members().iter();
        let members = self.members.iter().zip(machines);
        members.map(|(member, machine)| (member.index, member.view(machine)))
    }

    /// When this group wants to be served next, for whatever reason.
    pub(super) fn next_deadline(&self) -> Duration {
        let members = self.members.iter().map(Member::next_deadline);
        members
            .chain(self.group.next_deadline())
            .min()
            .unwrap_or(Duration::MAX)
    }

    /// What the owner wants.
    pub(super) fn obey(&mut self, inbox: &Inbox, now: Duration) {
        let mut events = Vec::new();
        for (number, member) in self.members.iter_mut().enumerate() {
            let Some(orders) = inbox.orders.get(member.index) else {
                continue;
            };
            let before = member.obey(orders.clone(), inbox.asked, now);
            if before.vips_lost != orders.vips_lost {
                events.push((number, Event::VipLost));
            }
            if before.handovers != orders.handovers {
                let event = match orders.handover {
                    Handover::Yield => Event::Yield,
                    Handover::Reclaim => Event::Reclaim,
                };
                events.push((number, event));
            }
        }
        for (number, event) in events {
            self.handle(number, event, now);
        }
        if inbox.resign {
            self.resign(now);
        }
        self.count();
    }

    /// Gives up for good.
    pub(super) fn resign(&mut self, now: Duration) {
        self.has_resigned = true;
        // What one does all do.
        self.handle(0, Event::Shutdown, now);
        self.count();
    }

    /// Looks at the interfaces of routers that take part, when it is time to, as long as there is
    /// some budget left; whether it did. Comes after their timers, since it takes longer than
    /// anything else here.
    pub(super) fn look(&mut self, budget: &mut usize, now: Duration) -> bool {
        let mut has_looked = false;
        for (member, machine) in self.members.iter_mut().zip(self.group.members()) {
            if *budget > 0 && takes_part(machine) && member.look(now) {
                *budget = budget.saturating_sub(1);
                has_looked = true;
            }
        }
        has_looked
    }

    /// Looks at the interfaces of routers that take no part, when it is time to, and tells the machine
    /// when anything has become bad or good, and what tracking says. `of_node` is why no router of
    /// this node takes part.
    ///
    /// This is done in every turn of the thread, so nothing here is done for each member of all the
    /// others when there is no news.
    pub(super) fn serve_faults(&mut self, of_node: Option<&String>, now: Duration) {
        for (member, machine) in self.members.iter_mut().zip(self.group.members()) {
            member.serve_faults(of_node.cloned(), takes_part(machine), now);
        }
        self.take_sources();
        self.share_faults();
        if self.has_resigned {
            return;
        }
        // Whatever comes next, a master that stood still is none.
        self.group.note_time(now);
        self.carry_out(now);
        for number in 0..self.members.len() {
            self.weigh(number, now);
        }
        // Those that are bad first: the others of the group shall not begin for a moment.
        for is_bad in [true, false] {
            for number in 0..self.members.len() {
                if let Some(event) = self.news_of(number, is_bad) {
                    self.handle(number, event, now);
                }
            }
        }
        self.count();
    }

    /// What the machine has to be told of a member that is bad or good, if it does not know.
    fn news_of(&self, number: usize, is_bad: bool) -> Option<Event> {
        let (member, machine) = self.both(number)?;
        if member.fault().is_some() != is_bad {
            return None;
        }
        let is_known = self.group.is_bad(number) == is_bad;
        match machine.state() {
            _ if is_bad => (!is_known).then_some(Event::Fault),
            // It begins when it can hear.
            VrrpState::Initialize | VrrpState::Fault if member.socket().is_none() => None,
            VrrpState::Initialize => Some(Event::Startup),
            VrrpState::Backup | VrrpState::Master | VrrpState::Fault => {
                (!is_known).then_some(Event::Healthy)
            }
        }
    }

    /// Tells a machine what tracking makes of its priority, when that has changed.
    fn weigh(&mut self, number: usize, now: Duration) {
        let Some((member, machine)) = self.both(number) else {
            return;
        };
        let base = machine.config().priority();
        let priority = tracking::effective(base, member.orders().weights);
        if let Some(told) = self.weighed.get_mut(number)
            && told.replace(priority).unwrap_or(base) != priority
        {
            self.handle(number, Event::Priority(priority), now);
        }
    }

    /// Takes packets from a queue of each router, as long as there is some budget left; whether
    /// there may be more.
    pub(super) fn serve_queues(&mut self, queue: Queue, budget: &mut usize, now: Duration) -> bool {
        let mut is_more = false;
        for number in 0..self.members.len() {
            is_more |= self.serve_queue(number, queue, budget, now);
        }
        self.count();
        is_more
    }

    fn serve_queue(
        &mut self,
        number: usize,
        queue: Queue,
        budget: &mut usize,
        now: Duration,
    ) -> bool {
        for _ in 0..QUEUE_BUDGET.min(*budget) {
            let Some(member) = self.members.get_mut(number) else {
                return false;
            };
            match member.receive(queue, now) {
                Ok(None) => return false,
                Ok(Some(received)) => self.take(number, &received, now),
                Err(_) => return true,
            }
            *budget = budget.saturating_sub(1);
        }
        true
    }

    /// Hands each machine its timer when that is due. A backup first reads what is queued: the thread
    /// may have been late, and the master alive. If that changes nothing, it looks whether it could
    /// have heard a master at all; one that could not is at fault.
    pub(super) fn serve_timers(&mut self, now: Duration) {
        for number in 0..self.members.len() {
            let Some((member, machine)) = self.both(number) else {
                continue;
            };
            let Some(deadline) = machine.next_deadline().filter(|at| now >= *at) else {
                continue;
            };
            match machine.state() {
                VrrpState::Backup => {
                    self.read_all(number, now);
                    if self.is_deaf(number, now) {
                        self.share_faults();
                        self.handle(number, Event::Fault, now);
                        continue;
                    }
                }
                VrrpState::Master => member.counters.late(now.saturating_sub(deadline)),
                VrrpState::Initialize | VrrpState::Fault => {}
            }
            self.handle(number, Event::Timer, now);
        }
        self.count();
    }

    /// Whether a backup is about to take over that could not have heard a master.
    fn is_deaf(&mut self, number: usize, now: Duration) -> bool {
        let machine = self.group.members().get(number);
        let Some((member, machine)) = self.members.get_mut(number).zip(machine) else {
            return false;
        };
        let takes_over = machine.state() == VrrpState::Backup
            && machine.next_deadline().is_some_and(|at| now >= at);
        takes_over && !member.can_hear(now)
    }

    /// Up to [`TAKEOVER_BUDGET`] packets, so that no flood keeps it from ending.
    fn read_all(&mut self, number: usize, now: Duration) {
        let mut left = TAKEOVER_BUDGET;
        while left > 0 {
            let mut budget = QUEUE_BUDGET;
            if !self.serve_queue(number, Queue::Election, &mut budget, now) {
                return;
            }
            left = left.saturating_sub(QUEUE_BUDGET);
        }
    }

    /// What is to be told to the log.
    pub(super) fn take_notes(&mut self) -> impl Iterator<Item = (usize, Note)> {
        self.members.iter_mut().flat_map(Member::take_notes)
    }

    /// New sockets that are wanted.
    pub(super) fn take_requests(&mut self) -> impl Iterator<Item = Request> {
        self.members.iter_mut().filter_map(Member::take_request)
    }

    /// Gives a router the sockets that were asked for, if it is one of these; else gives them back.
    pub(super) fn take_answer(&mut self, answer: Answer, now: Duration) -> Option<Answer> {
        let mut members = self.members.iter_mut();
        let Some(member) = members.find(|member| member.index == answer.router) else {
            return Some(answer);
        };
        member.take_sockets(answer.opened, now);
        None
    }

    fn both(&self, number: usize) -> Option<(&Member, &VirtualRouter)> {
        self.members
            .get(number)
            .zip(self.group.members().get(number))
    }

    fn take(&mut self, number: usize, received: &Received, now: Duration) {
        let machine = self.group.members().get(number);
        let Some((member, machine)) = self.members.get_mut(number).zip(machine) else {
            return;
        };
        let Some(accepted) = member.judge(received, machine.state()) else {
            return;
        };
        if machine.state() == VrrpState::Master && machine.outranks(&accepted.heard) {
            member.heard_lower(&accepted);
        }
        self.handle(number, Event::Advert(accepted.heard), now);
    }

    /// Hands the machine an event and does what it asks for. A master that cannot send is none.
    fn handle(&mut self, number: usize, event: Event, now: Duration) {
        self.step(number, event, now);
        if !std::mem::take(&mut self.is_mute) {
            return;
        }
        for number in 0..self.members.len() {
            let is_mute = |(member, machine): (&Member, &VirtualRouter)| {
                member.cannot_send() && machine.state() == VrrpState::Master
            };
            if self.both(number).is_some_and(is_mute) {
                self.step(number, Event::Fault, now);
            }
        }
    }

    fn step(&mut self, number: usize, event: Event, now: Duration) {
        #[cfg(test)]
        {
            self.events += 1;
        }
        self.group.handle(number, event, now);
        self.is_uncounted = true;
        self.carry_out(now);
    }

    /// What the machine asks for.
    fn carry_out(&mut self, now: Duration) {
        while let Some((number, effect)) = self.group.poll_effect() {
            let Some(member) = self.members.get_mut(number) else {
                continue;
            };
            let grown = |count: u64| count.saturating_add(1);
            match effect {
                Effect::SendAdvert { priority } => {
                    member.send(priority, now);
                    self.is_mute |= member.cannot_send();
                }
                Effect::Became(state) => member.became(state, now),
                Effect::AnnounceAgain => member.announce = grown(member.announce),
                Effect::LowerPriorityHeard => {
                    member.rx_lower = grown(member.rx_lower);
                    member.announce_lower = grown(member.announce_lower);
                }
                Effect::LowerPriorityInGroup => {
                    member.announce_lower = grown(member.announce_lower);
                }
                Effect::YieldFailed => member.yield_failed = grown(member.yield_failed),
            }
            self.is_uncounted = true;
        }
    }

    /// Tells the counters what became of the machines, once for all that happened.
    fn count(&mut self) {
        if !std::mem::take(&mut self.is_uncounted) {
            return;
        }
        for (member, machine) in self.members.iter_mut().zip(self.group.members()) {
            let tally = machine.tally();
            if member.counters.set(Counter::Lapsed, tally.lapsed) != tally.lapsed {
                member.note(Note::Lapsed);
            }
            let counters = &member.counters;
            counters.set(Counter::PriorityZeroReceived, tally.resigned);
            counters.set(Counter::LowerPriority, tally.lower_priority);
            counters.set(Counter::OtherMaster, tally.other_master);
            counters.set(Counter::SameAddress, tally.same_address);
            counters.set(Counter::OtherOwner, tally.other_owner);
            counters.set(Counter::Yielded, tally.yielded);
            counters.set(Counter::YieldFailed, tally.yield_failed);
            counters.set_effective_priority(machine.effective_priority().0);
        }
    }

    /// Ties are decided by the address that is sent from.
    fn take_sources(&mut self) {
        for (number, member) in self.members.iter().enumerate() {
            if let Some(socket) = member.socket() {
                self.group.set_primary(number, socket.source());
            }
        }
    }

    /// What is bad with one router of a group keeps the others from taking part, too.
    fn share_faults(&mut self) {
        if self.members.len() < 2 {
            return;
        }
        let bad = self.members.iter().find_map(|member| {
            let reason = member.fault()?;
            Some((
                member.index,
                format!("{} of its group: {reason}", member.name()),
            ))
        });
        for member in &mut self.members {
            let of_other = bad.as_ref().filter(|(index, _)| *index != member.index);
            member.set_fault_of_group(of_other.map(|(_, reason)| reason.clone()));
        }
    }
}

/// Whether anything of it can be late.
fn takes_part(machine: &VirtualRouter) -> bool {
    match machine.state() {
        VrrpState::Backup | VrrpState::Master => true,
        VrrpState::Initialize | VrrpState::Fault => false,
    }
}

/// Whether two routers hear the same packets.
fn is_neighbour(other: &RouterSpec, one: &RouterSpec) -> bool {
    let place = |spec: &RouterSpec| spec.send_on.clone().unwrap_or(spec.interface.clone());
    let kind = |spec: &RouterSpec| (spec.config.family(), spec.config.protocol());
    place(other) == place(one)
        && kind(other) == kind(one)
        && other.config.vrid() != one.config.vrid()
}

#[cfg(test)]
mod tests;
