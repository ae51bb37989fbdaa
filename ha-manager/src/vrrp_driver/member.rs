//! One virtual router in the thread, apart from its machine: its sockets, what is wrong with them,
//! and what it tells.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::libc::{EADDRNOTAVAIL, ENETDOWN, ENETUNREACH, ENODEV, ENXIO};
use vrrp::codec::{Accepted, AdvertCodec};
use vrrp::net::socket::{AdvertSocket, BUFFER_LEN, Queue, Received};
use vrrp::{Family, Priority, VirtualRouter, VrrpState};

use super::counters::{Counter, Counters};
use super::opener::{Request, Site};
use super::teller::{NOTES_MAX, Note};
use super::view::{ElectionView, Yielding};
use super::{ElectionError, NOT_YET_READY, Orders, RouterSpec};

/// How often a usable interface is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How often sending is tried again that failed for [`UNSENT_INTERVALS`].
const SEND_AGAIN: Duration = Duration::from_secs(1);
/// A master that could send nothing for so many intervals is none: the others have taken over.
const UNSENT_INTERVALS: u32 = 3;
/// How often one that is not, so that it is missed no longer than needed.
const CHECK_AGAIN: Duration = Duration::from_millis(100);

/// So many routers of one thread are looked at at different times.
const SPREAD: usize = 64;

/// A virtual router with its sockets.
#[derive(Debug)]
pub(super) struct Member {
    /// Among all routers of the thread.
    pub(super) index: usize,
    spec: RouterSpec,
    pub(super) counters: Arc<Counters>,
    site: Site,
    socket: Option<AdvertSocket>,
    /// New sockets are wanted and have not been asked for.
    request: Option<Request>,
    /// New sockets have been asked for.
    is_opening: bool,
    /// The sockets are to be opened again, whatever they look like.
    must_reopen: bool,
    codec: AdvertCodec,
    /// What the owner wants.
    orders: Orders,
    /// What this thread found bad.
    fault_of_interface: Option<String>,
    /// Why no router takes part at the moment: the owner's silence, or the delay at the start.
    fault_of_node: Option<String>,
    /// Why no advertisement could be sent, and when that is tried again.
    fault_of_sending: Option<(String, Duration)>,
    /// Which other router of the group is in FAULT, and why.
    fault_of_group: Option<String>,
    /// Since when every send of this mastership has failed.
    unsent_since: Option<Duration>,
    /// Nothing has been sent since the last such fault: the first failure is another.
    is_mute: bool,
    /// The owner's question that has been heard.
    answered: u64,
    /// When the interface is looked at next.
    check_at: Duration,
    /// How much longer than others this router waits until it is looked at again. Unit: 1/1024 of the
    /// pause.
    spread: u32,
    /// Losses of each queue since its socket was opened, as the kernel last told.
    lost: [u32; 2],
    transitions: u64,
    pub(super) announce: u64,
    pub(super) announce_lower: u64,
    pub(super) rx_lower: u64,
    pub(super) yield_failed: u64,
    /// What has not been told to the log.
    notes: Vec<Note>,
    buffer: Box<[u8; BUFFER_LEN]>,
}

impl Member {
    /// Opens the sockets; an interface that cannot be used is a fault, not an error.
    pub(super) fn open(
        index: usize,
        spec: &RouterSpec,
        counters: &Arc<Counters>,
        neighbours: Vec<u8>,
    ) -> Result<Member, ElectionError> {
        let orders = Orders {
            fault: Some(NOT_YET_READY.to_owned()),
            ..Orders::default()
        };
        let mut member = Member {
            index,
            spec: spec.clone(),
            counters: Arc::clone(counters),
            site: Site::new(spec, neighbours),
            socket: None,
            request: None,
            is_opening: false,
            must_reopen: false,
            codec: AdvertCodec::new(&spec.config),
            orders,
            fault_of_interface: None,
            fault_of_node: None,
            fault_of_sending: None,
            fault_of_group: None,
            unsent_since: None,
            is_mute: false,
            answered: 0,
            check_at: Duration::ZERO,
            spread: u32::try_from(index % SPREAD).unwrap_or(0),
            lost: [0; 2],
            transitions: 0,
            announce: 0,
            announce_lower: 0,
            rx_lower: 0,
            yield_failed: 0,
            notes: Vec::new(),
            buffer: Box::new([0; BUFFER_LEN]),
        };
        match member.site.open() {
            Ok(socket) => member.socket = Some(socket),
            Err(error) => {
                let reason = member.unusable(&error);
                let (name, interface) = (spec.name.clone(), spec.interface.clone());
                let Some(reason) = reason else {
                    return Err(ElectionError::Socket {
                        name,
                        interface,
                        source: error,
                    });
                };
                member.fault_of_interface = Some(reason);
            }
        }
        Ok(member)
    }

    pub(super) fn view(&self, machine: &VirtualRouter) -> ElectionView {
        ElectionView {
            role: machine.state().into(),
            transitions: self.transitions,
            announce: self.announce,
            announce_lower: self.announce_lower,
            rx_lower: self.rx_lower,
            master: machine.master().map(plain),
            rival: machine.rival().map(plain),
            source: self.socket.as_ref().map(AdvertSocket::source),
            effective_priority: machine.effective_priority().0,
            fault: self.fault().or(self.fault_of_group.as_ref()).cloned(),
            yields: match (machine.is_yielding(), machine.has_yielded()) {
                (true, _) => Yielding::Asked,
                (false, true) => Yielding::Yielded,
                (false, false) => Yielding::No,
            },
            yield_failed: self.yield_failed,
            answered: self.answered,
        }
    }

    /// New sockets that are wanted, for whoever opens them.
    pub(super) fn take_request(&mut self) -> Option<Request> {
        self.request.take()
    }

    /// Takes the sockets that were asked for.
    pub(super) fn take_sockets(&mut self, opened: io::Result<AdvertSocket>, now: Duration) {
        self.is_opening = false;
        self.lost = [0; 2];
        let usable = opened.map(|socket| {
            self.socket = Some(socket);
            // They are what sending is to be tried again with.
            self.fault_of_sending = None;
            self.must_reopen = false;
        });
        self.conclude(usable, now);
    }

    /// Whether this router hears the others where it should, as of now. One that does not is at fault
    /// until it has sockets there. Takes some tens of microseconds.
    pub(super) fn can_hear(&mut self, now: Duration) -> bool {
        self.check(now);
        if self.socket.is_none() && self.fault_of_interface.is_none() {
            let interface = &self.spec.interface;
            self.fault_of_interface = Some(format!("no socket on interface {interface} yet"));
        }
        self.fault_of_interface.is_none()
    }

    /// What is to be told to the log.
    pub(super) fn take_notes(&mut self) -> impl Iterator<Item = (usize, Note)> {
        let index = self.index;
        self.notes.drain(..).map(move |note| (index, note))
    }

    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    pub(super) fn socket(&self) -> Option<&AdvertSocket> {
        self.socket.as_ref()
    }

    /// When this router wants to be served next, apart from its machine.
    pub(super) fn next_deadline(&self) -> Duration {
        let again = self.fault_of_sending.as_ref().map(|(_, again)| *again);
        again.map_or(self.check_at, |again| again.min(self.check_at))
    }

    /// Takes what the owner wants; what it wanted before.
    pub(super) fn obey(&mut self, orders: Orders, asked: u64, now: Duration) -> Orders {
        if self.orders.fault.is_some() && orders.fault.is_none() {
            // The interface may have been exchanged while it was bad.
            self.check_at = now;
        }
        // The next views answer the question: whatever became of this router is seen by then.
        self.answered = asked;
        std::mem::replace(&mut self.orders, orders)
    }

    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Looks at the interface when it is time to; whether it did.
    pub(super) fn look(&mut self, now: Duration) -> bool {
        let is_time = now >= self.check_at;
        if is_time {
            self.check(now);
        }
        is_time
    }

    /// Looks at the interface when it is time to and this router takes no part, or has lost its
    /// socket; `of_node` is why none takes part.
    pub(super) fn serve_faults(
        &mut self,
        of_node: Option<String>,
        takes_part: bool,
        now: Duration,
    ) {
        self.fault_of_node = of_node;
        let is_over = self.fault_of_sending.take_if(|(_, again)| now >= *again);
        if is_over.is_some() {
            self.must_reopen = true;
            self.check_at = now;
        }
        if !takes_part || self.socket.is_none() {
            self.look(now);
        }
    }

    /// What is bad with this router itself.
    pub(super) fn fault(&self) -> Option<&String> {
        let faults = [
            &self.orders.fault,
            &self.fault_of_interface,
            &self.fault_of_node,
        ];
        let of_sending = self.fault_of_sending.as_ref().map(|(reason, _)| reason);
        faults.into_iter().find_map(Option::as_ref).or(of_sending)
    }

    pub(super) fn cannot_send(&self) -> bool {
        self.fault_of_sending.is_some()
    }

    /// What is bad with another of its group.
    pub(super) fn set_fault_of_group(&mut self, fault: Option<String>) {
        self.fault_of_group = fault;
    }

    /// Takes a datagram from a queue.
    ///
    /// # Errors
    /// What the socket reports; it is looked at soon.
    pub(super) fn receive(&mut self, queue: Queue, now: Duration) -> io::Result<Option<Received>> {
        let Some(socket) = &self.socket else {
            return Ok(None);
        };
        let received = socket.receive(queue, self.buffer.as_mut_slice());
        match &received {
            Ok(Some(received)) => self.count_losses(queue, received.lost),
            Ok(None) => {}
            Err(_) => {
                self.counters.add(Counter::ReceiveError, 1);
                self.check_soon(now);
            }
        }
        received
    }

    /// What the datagram says that was received last, if it may be listened to.
    pub(super) fn judge(&mut self, received: &Received, state: VrrpState) -> Option<Accepted> {
        let primary = self.socket.as_ref()?.source();
        let running = match state {
            VrrpState::Backup | VrrpState::Master => true,
            VrrpState::Initialize | VrrpState::Fault => false,
        };
        let datagram = received.datagram(self.buffer.as_slice());
        match self.codec.decode(&datagram, primary, running) {
            Ok(accepted) => {
                self.counters.add(Counter::Received, 1);
                if accepted.old_form_seen_first_time {
                    self.note(Note::OldForm(accepted.heard.source));
                }
                Some(accepted)
            }
            Err(refusal) => {
                self.counters.refuse(refusal);
                None
            }
        }
    }

    /// A master has heard a router that is worse: its sequence number is the one to go on from.
    pub(super) fn heard_lower(&mut self, accepted: &Accepted) {
        self.codec.heard_lower(&accepted.heard);
    }

    pub(super) fn send(&mut self, priority: Priority, now: Duration) {
        let sent = match &self.socket {
            Some(socket) => send_all(socket, &mut self.codec, priority),
            None => Err(io::Error::from_raw_os_error(ENODEV)),
        };
        if let Err(error) = sent {
            self.counters.add(Counter::SendError, 1);
            self.check_soon(now);
            self.judge_unsent(&error, now);
            return;
        }
        self.unsent_since = None;
        self.is_mute = false;
        self.counters.add(Counter::Sent, 1);
        if priority == Priority::RESIGNED {
            self.counters.add(Counter::PriorityZeroSent, 1);
        }
    }

    pub(super) fn became(&mut self, state: VrrpState, now: Duration) {
        self.transitions = self.transitions.saturating_add(1);
        if state == VrrpState::Master {
            self.codec.became_master();
            self.counters.add(Counter::BecameMaster, 1);
        } else {
            self.unsent_since = None;
        }
        self.counters.changed(now);
        let fault = self.fault().or(self.fault_of_group.as_ref());
        let fault = fault.filter(|_| state == VrrpState::Fault).cloned();
        self.note(Note::Became(state, fault));
    }

    /// Keeps something for the log; of too much at once the rest is not worth a line.
    pub(super) fn note(&mut self, note: Note) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        }
    }

    /// Looks at the interface, and has the sockets opened again when it is another one.
    fn check(&mut self, now: Duration) {
        if self.is_opening {
            // The answer says more.
            self.check_at = now.saturating_add(CHECK_AGAIN);
            return;
        }
        let current = match &self.socket {
            Some(socket) if !self.must_reopen => self.site.is_current(socket),
            Some(_) | None => Ok(false),
        };
        match current {
            Ok(true) => self.conclude(Ok(()), now),
            Ok(false) => self.ask_for_sockets(now),
            Err(error) => self.conclude(Err(error), now),
        }
    }

    /// The answer may take as long as the kernel is busy with interfaces.
    fn ask_for_sockets(&mut self, now: Duration) {
        self.counters.add(Counter::Reopened, 1);
        self.must_reopen = false;
        self.is_opening = true;
        self.request = Some(Request {
            router: self.index,
            site: self.site.clone(),
            old: self.socket.take(),
        });
        self.check_at = now.saturating_add(CHECK_AGAIN);
    }

    /// What has been found out about the interface. An error that says nothing about it, as when the
    /// node is out of memory or of descriptors, changes nothing as long as there are sockets.
    pub(super) fn conclude(&mut self, usable: io::Result<()>, now: Duration) {
        match usable {
            Ok(()) => self.fault_of_interface = self.borrowed_source(),
            Err(error) if self.may_be_down(&error) && self.socket.is_some() => {
                self.fault_of_interface = None;
            }
            Err(error) => match self.unusable(&error) {
                None if self.socket.is_some() => self.counters.add(Counter::LookError, 1),
                None => {
                    let interface = &self.spec.interface;
                    let reason = format!("no socket on interface {interface}: {error}");
                    self.fault_of_interface = Some(reason);
                }
                fault => self.fault_of_interface = fault,
            },
        }
        let pause = match self.fault_of_interface {
            Some(_) => CHECK_AGAIN,
            None => CHECK_EVERY,
        };
        // Routers that were looked at together are not the next time.
        let spread = pause.saturating_mul(self.spread) / 1024;
        self.check_at = now.saturating_add(pause).saturating_add(spread);
    }

    /// Whether an error says no more than that an interface is down which may be.
    fn may_be_down(&self, error: &io::Error) -> bool {
        !self.spec.track_interface && matches!(error.raw_os_error(), Some(ENETDOWN | ENETUNREACH))
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

    fn check_soon(&mut self, now: Duration) {
        self.check_at = self.check_at.min(now.saturating_add(CHECK_AGAIN));
    }

    fn count_losses(&mut self, queue: Queue, total: u32) {
        let [of_election, of_other] = &mut self.lost;
        let (lost, counter) = match queue {
            Queue::Election => (of_election, Counter::LostElection),
            Queue::Other => (of_other, Counter::LostOther),
        };
        let more = total.wrapping_sub(*lost);
        *lost = total;
        self.counters.add(counter, u64::from(more));
    }

    /// What is wrong with the interface says more than a failing send does. While new sockets are
    /// waited for it is a fault as well: the others have taken over.
    fn judge_unsent(&mut self, error: &io::Error, now: Duration) {
        if self.may_be_down(error) {
            return;
        }
        let since = *self.unsent_since.get_or_insert(now);
        let span = self.spec.config.interval().duration();
        let is_over = now.saturating_sub(since) >= span.saturating_mul(UNSENT_INTERVALS);
        if !(is_over || self.is_mute) || self.fault_of_sending.is_some() {
            return;
        }
        self.check(now);
        if self.fault_of_interface.is_none() {
            let reason = format!("adverts cannot be sent on {}: {error}", self.spec.interface);
            self.fault_of_sending = Some((reason, now.saturating_add(SEND_AGAIN)));
            self.is_mute = true;
        }
    }

    /// What is wrong with an interface, if that is what an error is about.
    fn unusable(&self, error: &io::Error) -> Option<String> {
        let interface = &self.spec.interface;
        let config = &self.spec.config;
        Some(match error.raw_os_error()? {
            ENODEV | ENXIO => match &self.spec.send_on {
                Some(device) => format!("interface {interface} or {device} is gone"),
                None => format!("interface {interface} is gone"),
            },
            ENETDOWN | ENETUNREACH => format!("interface {interface} is down"),
            EADDRNOTAVAIL => match (self.spec.source, config.family(), config.is_unicast()) {
                (Some(source), _, _) => format!("the source address {source} is not here"),
                (None, Family::V4, _) => format!("interface {interface} has no IPv4 address"),
                (None, Family::V6, true) => format!("interface {interface} has no IPv6 address"),
                (None, Family::V6, false) => {
                    format!("interface {interface} has no IPv6 link-local address")
                }
            },
            _ => return None,
        })
    }
}

fn plain((address, priority): (IpAddr, Priority)) -> (IpAddr, u8) {
    (address, priority.0)
}

/// One advertisement to everybody it is for. It is sent when one of them can be reached.
fn send_all(socket: &AdvertSocket, codec: &mut AdvertCodec, priority: Priority) -> io::Result<()> {
    let mut result = Ok(());
    let mut is_sent = false;
    for outgoing in codec.encode(priority, socket.source()) {
        match socket.send(&outgoing) {
            Ok(()) => is_sent = true,
            Err(error) => result = Err(error),
        }
    }
    if is_sent { Ok(()) } else { result }
}
