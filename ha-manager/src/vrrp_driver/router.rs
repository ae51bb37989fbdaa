//! One virtual router in the thread: its machine, its sockets, and what is wrong with them.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use nix::libc::{EADDRNOTAVAIL, ENETDOWN, ENETUNREACH, ENODEV, ENXIO};
use vrrp::net::socket::{AdvertSocket, BUFFER_LEN, Queue, Received};
use vrrp::wire::v3::{Advert, Expected, Identification, receive};
use vrrp::{Effect, Event, Priority, VirtualRouter, VrrpState};

use super::counters::{Counter, Counters};
use super::{ElectionError, ElectionView, NOT_YET_READY, RouterSpec};

/// How often a usable interface is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often sending is tried again that failed for [`UNSENT_INTERVALS`].
const SEND_AGAIN: Duration = Duration::from_secs(1);
/// A master that could send nothing for so many intervals is none: the others have taken over.
const UNSENT_INTERVALS: u32 = 3;
/// How often one that is not, so that it is missed no longer than needed.
const CHECK_AGAIN: Duration = Duration::from_millis(100);

/// A virtual router with its sockets.
#[derive(Debug)]
pub(super) struct Router {
    spec: RouterSpec,
    machine: VirtualRouter,
    socket: Option<AdvertSocket>,
    identification: Identification,
    /// What the owner says is bad.
    fault_of_owner: Option<String>,
    /// What this thread found bad.
    fault_of_interface: Option<String>,
    /// What the owner's silence says.
    fault_of_pulse: Option<String>,
    /// Why no advertisement could be sent, and when that is tried again.
    fault_of_sending: Option<(String, Duration)>,
    /// Since when every send of this mastership has failed.
    unsent_since: Option<Duration>,
    /// Nothing has been sent since the last such fault: the first failure is another.
    is_mute: bool,
    /// The owner's question that has been heard.
    answered: u64,
    has_resigned: bool,
    /// When the interface is looked at next.
    check_at: Duration,
    /// Losses of each queue since its socket was opened, as the kernel last told.
    lost: [u32; 2],
    transitions: u64,
    announce: u64,
    buffer: Box<[u8; BUFFER_LEN]>,
}

impl Router {
    /// Opens the sockets; an interface that cannot be used is a fault, not an error.
    pub(super) fn open(spec: &RouterSpec) -> Result<Router, ElectionError> {
        let machine = VirtualRouter::new(spec.config.clone(), Ipv4Addr::UNSPECIFIED);
        let mut router = Router {
            spec: spec.clone(),
            machine,
            socket: None,
            identification: Identification::FIRST,
            fault_of_owner: Some(NOT_YET_READY.to_owned()),
            fault_of_interface: None,
            fault_of_pulse: None,
            fault_of_sending: None,
            unsent_since: None,
            is_mute: false,
            answered: 0,
            has_resigned: false,
            check_at: Duration::ZERO,
            lost: [0; 2],
            transitions: 0,
            announce: 0,
            buffer: Box::new([0; BUFFER_LEN]),
        };
        match router.open_socket() {
            Ok(()) => {}
            Err(error) => {
                let reason = unusable(&spec.interface, &error);
                let (name, interface) = (spec.name.clone(), spec.interface.clone());
                let Some(reason) = reason else {
                    return Err(ElectionError::Socket {
                        name,
                        interface,
                        source: error,
                    });
                };
                router.fault_of_interface = Some(reason);
            }
        }
        Ok(router)
    }

    pub(super) fn view(&self) -> ElectionView {
        ElectionView {
            role: self.machine.state().into(),
            transitions: self.transitions,
            announce: self.announce,
            master: self
                .machine
                .master()
                .map(|(address, priority)| (address, priority.0)),
            fault: self.fault().cloned(),
            answered: self.answered,
        }
    }

    pub(super) fn socket(&self) -> Option<&AdvertSocket> {
        self.socket.as_ref()
    }

    /// When this router wants to be served next, for whatever reason.
    pub(super) fn next_deadline(&self) -> Duration {
        let again = self.fault_of_sending.as_ref().map(|(_, again)| *again);
        let deadlines = [self.machine.next_deadline(), again];
        deadlines
            .into_iter()
            .flatten()
            .fold(self.check_at, Duration::min)
    }

    /// Takes what the owner says is bad here.
    pub(super) fn set_fault(&mut self, fault: Option<String>, now: Duration) {
        if self.fault_of_owner.is_some() && fault.is_none() {
            // The interface may have been exchanged while it was bad.
            self.check_at = now;
        }
        self.fault_of_owner = fault;
    }

    /// The next views answer this question: whatever became of this router has been seen by then.
    pub(super) fn asked(&mut self, question: u64) {
        self.answered = question;
    }

    /// Gives up for good.
    pub(super) fn resign(&mut self, now: Duration, counters: &Counters) {
        self.has_resigned = true;
        self.handle(Event::Shutdown, now, counters);
    }

    /// Looks at the interface when it is time to, and tells the machine whether anything is bad.
    pub(super) fn serve_faults(
        &mut self,
        pulse: Option<String>,
        now: Duration,
        counters: &Counters,
    ) {
        self.fault_of_pulse = pulse;
        if self
            .fault_of_sending
            .take_if(|(_, again)| now >= *again)
            .is_some()
        {
            self.socket = None;
            self.check_at = now;
        }
        if now >= self.check_at {
            self.check(now, counters);
        }
        if self.has_resigned {
            return;
        }
        let event = match (self.fault(), self.machine.state()) {
            (Some(_), _) => Event::Fault,
            (None, VrrpState::Initialize) => Event::Startup,
            (None, VrrpState::Backup | VrrpState::Master | VrrpState::Fault) => Event::Healthy,
        };
        self.handle(event, now, counters);
    }

    /// Takes at most `budget` packets from a queue; whether there may be more.
    pub(super) fn serve_queue(
        &mut self,
        queue: Queue,
        budget: usize,
        now: Duration,
        counters: &Counters,
    ) -> bool {
        for _ in 0..budget {
            let Some(socket) = &self.socket else {
                return false;
            };
            match socket.receive(queue, self.buffer.as_mut_slice()) {
                Ok(None) => return false,
                Ok(Some(received)) => self.take(queue, received, now, counters),
                Err(_) => {
                    counters.add(Counter::ReceiveError, 1);
                    self.check_soon(now);
                    return true;
                }
            }
        }
        true
    }

    /// Hands the machine its timer when that is due. A backup first reads what is queued, up to
    /// `budget` packets: the thread may have been late, and the master alive.
    pub(super) fn serve_timer(&mut self, budget: usize, now: Duration, counters: &Counters) {
        let Some(deadline) = self.machine.next_deadline().filter(|at| now >= *at) else {
            return;
        };
        match self.machine.state() {
            VrrpState::Backup => {
                self.serve_queue(Queue::Election, budget, now, counters);
            }
            VrrpState::Master => counters.late(now.saturating_sub(deadline)),
            VrrpState::Initialize | VrrpState::Fault => {}
        }
        self.handle(Event::Timer, now, counters);
    }

    fn fault(&self) -> Option<&String> {
        let faults = [
            &self.fault_of_owner,
            &self.fault_of_interface,
            &self.fault_of_pulse,
        ];
        let of_sending = self.fault_of_sending.as_ref().map(|(reason, _)| reason);
        faults.into_iter().find_map(Option::as_ref).or(of_sending)
    }

    /// Looks at the interface, and opens the sockets again when it is another one.
    fn check(&mut self, now: Duration, counters: &Counters) {
        let current = match &self.socket {
            Some(socket) => socket.is_current(&self.spec.interface),
            None => Ok(false),
        };
        let usable = match current {
            Ok(true) => Ok(()),
            Ok(false) => {
                counters.add(Counter::Reopened, 1);
                self.open_socket()
            }
            Err(error) => Err(error),
        };
        self.fault_of_interface = match usable {
            Ok(()) => self.borrowed_source(),
            Err(error) => {
                let interface = &self.spec.interface;
                let other = || format!("no socket on interface {interface}: {error}");
                Some(unusable(interface, &error).unwrap_or_else(other))
            }
        };
        let pause = match self.fault_of_interface {
            Some(_) => CHECK_AGAIN,
            None => CHECK_EVERY,
        };
        self.check_at = now.saturating_add(pause);
    }

    /// A source address that is a virtual one would be gone with it.
    fn borrowed_source(&self) -> Option<String> {
        let source = self.socket.as_ref()?.source();
        let config = &self.spec.config;
        let is_borrowed =
            config.priority() != Priority::OWNER && config.addresses().contains(&source);
        let interface = &self.spec.interface;
        is_borrowed.then(|| format!("interface {interface} has no address but the virtual ones"))
    }

    fn open_socket(&mut self) -> io::Result<()> {
        // The old ones first: two would both receive.
        self.socket = None;
        self.lost = [0; 2];
        let socket = AdvertSocket::open(&self.spec.interface, self.spec.config.vrid())?;
        self.machine.set_primary(socket.source());
        self.socket = Some(socket);
        Ok(())
    }

    fn check_soon(&mut self, now: Duration) {
        self.check_at = self.check_at.min(now.saturating_add(CHECK_AGAIN));
    }

    fn take(&mut self, queue: Queue, received: Received, now: Duration, counters: &Counters) {
        let [of_election, of_other] = &mut self.lost;
        let (lost, counter) = match queue {
            Queue::Election => (of_election, Counter::LostElection),
            Queue::Other => (of_other, Counter::LostOther),
        };
        let more = received.lost.wrapping_sub(*lost);
        *lost = received.lost;
        counters.add(counter, u64::from(more));
        let expected = Expected {
            vrid: self.spec.config.vrid(),
            addresses: self.spec.config.addresses(),
            running: match self.machine.state() {
                VrrpState::Backup | VrrpState::Master => true,
                VrrpState::Initialize | VrrpState::Fault => false,
            },
        };
        let packet = self.buffer.get(..received.len).unwrap_or(&*self.buffer);
        match receive(packet, received.len, &expected) {
            Ok(accepted) => {
                counters.add(Counter::Received, 1);
                self.handle(Event::Advert(accepted.heard), now, counters);
            }
            Err(refusal) => counters.refuse(refusal),
        }
    }

    /// Hands the machine an event and does what it asks for. A master that cannot send is none.
    fn handle(&mut self, event: Event, now: Duration, counters: &Counters) {
        self.step(event, now, counters);
        if self.fault_of_sending.is_some() && self.machine.state() == VrrpState::Master {
            self.step(Event::Fault, now, counters);
        }
    }

    fn step(&mut self, event: Event, now: Duration, counters: &Counters) {
        let lapsed = self.machine.tally().lapsed;
        self.machine.handle(event, now);
        if self.machine.tally().lapsed != lapsed {
            let (name, vrid) = (&self.spec.name, self.spec.config.vrid());
            tracing::warn!(
                %name,
                vrid,
                "this node stood still for longer than others wait for a master, and is none any more"
            );
        }
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::SendAdvert { priority } => self.send(priority, now, counters),
                Effect::Became(state) => self.became(state, now, counters),
                Effect::AnnounceAgain => self.announce = self.announce.saturating_add(1),
            }
        }
        let tally = self.machine.tally();
        counters.set(Counter::PriorityZeroReceived, tally.resigned);
        counters.set(Counter::LowerPriority, tally.lower_priority);
        counters.set(Counter::OtherMaster, tally.other_master);
        counters.set(Counter::SameAddress, tally.same_address);
        counters.set(Counter::OtherOwner, tally.other_owner);
        counters.set(Counter::Lapsed, tally.lapsed);
    }

    fn send(&mut self, priority: Priority, now: Duration, counters: &Counters) {
        let config = &self.spec.config;
        let advert = Advert {
            vrid: config.vrid(),
            priority,
            interval: config.interval(),
            addresses: config.addresses(),
        };
        let sent = match &self.socket {
            Some(socket) => {
                let packet = advert.to_packet(socket.source(), self.identification);
                socket.send(&packet)
            }
            None => Err(io::Error::from_raw_os_error(ENODEV)),
        };
        self.identification = self.identification.next();
        if let Err(error) = sent {
            counters.add(Counter::SendError, 1);
            self.check_soon(now);
            self.judge_unsent(&error, now, counters);
            return;
        }
        self.unsent_since = None;
        self.is_mute = false;
        counters.add(Counter::Sent, 1);
        if priority == Priority::RESIGNED {
            counters.add(Counter::PriorityZeroSent, 1);
        }
    }

    /// What is wrong with the interface says more than a failing send does.
    fn judge_unsent(&mut self, error: &io::Error, now: Duration, counters: &Counters) {
        let since = *self.unsent_since.get_or_insert(now);
        let span = self.spec.config.interval().duration();
        let is_over = now.saturating_sub(since) >= span.saturating_mul(UNSENT_INTERVALS);
        if !(is_over || self.is_mute) || self.fault_of_sending.is_some() {
            return;
        }
        self.check(now, counters);
        if self.fault_of_interface.is_none() {
            let reason = format!("adverts cannot be sent on {}: {error}", self.spec.interface);
            self.fault_of_sending = Some((reason, now.saturating_add(SEND_AGAIN)));
            self.is_mute = true;
        }
    }

    fn became(&mut self, state: VrrpState, now: Duration, counters: &Counters) {
        self.transitions = self.transitions.saturating_add(1);
        if state != VrrpState::Master {
            self.unsent_since = None;
        }
        counters.changed(now, self.machine.effective_priority().0);
        let (name, vrid) = (&self.spec.name, self.spec.config.vrid());
        match state {
            VrrpState::Master => {
                counters.add(Counter::BecameMaster, 1);
                tracing::info!(%name, vrid, "master");
            }
            VrrpState::Backup => tracing::info!(%name, vrid, "backup"),
            VrrpState::Fault => match self.fault().map(String::as_str).unwrap_or_default() {
                NOT_YET_READY => tracing::debug!(%name, vrid, "waits until this node is ready"),
                reason => tracing::warn!(%name, vrid, reason, "fault"),
            },
            VrrpState::Initialize => tracing::info!(%name, vrid, "takes no part any more"),
        }
    }
}

/// What is wrong with an interface, if that is what an error is about.
fn unusable(interface: &str, error: &io::Error) -> Option<String> {
    let what = match error.raw_os_error()? {
        ENODEV | ENXIO => "is gone",
        ENETDOWN | ENETUNREACH => "is down",
        EADDRNOTAVAIL => "has no IPv4 address",
        _ => return None,
    };
    Some(format!("interface {interface} {what}"))
}

#[cfg(test)]
mod tests;
