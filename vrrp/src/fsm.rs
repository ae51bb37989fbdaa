//! The machine of a virtual router, without clock and sockets.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::config::{Config, Interval, Priority};
use crate::effect::Effect;

/// Intervals of the master without an advertisement before it counts as gone (RFC 5798 §6.1).
const DOWN_INTERVALS: u32 = 3;

/// The highest priority a backup can have: the first one to take over.
const BEST_BACKUP: Priority = Priority(254);

/// An answer to another master's advertisement follows the last one after this part of an interval
/// at the earliest, so that a stream of them cannot make this router flood the LAN.
const ANSWERS_PER_INTERVAL: u32 = 64;

/// Where a virtual router stands.
///
/// RFC 5798 §6.4, and `Fault`, which keepalived added: something is amiss here, so that this router
/// takes no part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VrrpState {
    Initialize,
    Backup,
    Master,
    Fault,
}

impl VrrpState {
    pub const ALL: [VrrpState; 4] = [
        VrrpState::Initialize,
        VrrpState::Backup,
        VrrpState::Master,
        VrrpState::Fault,
    ];
}

/// What happens to a virtual router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Begin to take part.
    Startup,
    /// Take no part any more; a master says so.
    Shutdown,
    /// Something this router needs is bad; the owner knows what.
    Fault,
    /// Nothing is bad any more.
    Healthy,
    /// An advertisement that was accepted by all checks of the wire.
    Advert(Heard),
    /// Time has passed. Early ones change nothing, so that nobody has to be exact.
    Timer,
}

/// What the machine needs of an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Source address of the packet.
    pub source: Ipv4Addr,
    pub priority: Priority,
    /// Interval of the sender.
    pub interval: Interval,
}

/// Advertisements by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Started a backup's timer anew.
    pub accepted: u64,
    /// Of a lower priority, left alone by a backup that may preempt.
    pub lower_priority: u64,
    /// A master that gave up.
    pub resigned: u64,
    /// Of another router while this one was master: two masters for a moment.
    pub other_master: u64,
    /// Of this router's own priority and address while it was master: an address used twice, or an
    /// echo.
    pub same_address: u64,
    /// Of an owner while this router is one: only one of them can be right.
    pub other_owner: u64,
    /// Times this router stood still as master for so long that another may have taken over. Not
    /// an advertisement, but the want of this router's own.
    pub lapsed: u64,
}

/// A virtual router (RFC 5798 §6.4).
///
/// ```text
///                Fault                       Fault: priority 0 twice
///       +-------------------------+     +-----------------------------+
///       |                         v     v                             |
///  +------------+ Fault         +---------+  Healthy (owner)     +--------+
///  | Initialize |-------------->|  Fault  |--------------------->| Master |
///  +------------+               +---------+                      +--------+
///    |  ^     |                   |    ^                          ^  |  |  ^
///    |  |     | Startup   Healthy |    | Fault                    |  |  |  | timer: advertise
///    |  |     |                   v    |                          |  |  +--+ priority 0 or worse:
///    |  |     |                 +---------+   timer: advertise    |  |         answer, announce
///    |  |     +---------------->| Backup  |-----------------------+  |
///    |  |                       |         |<-------------------------+
///    |  |                       +---------+   better advertisement
///    |  |                         |     ^ |
///    |  +-------------------------+     +-+ accepted advertisement: timer anew
///    |        Shutdown (from every          priority 0: timer at most the skew
///    |        state; Master: priority 0 twice)
///    +--> Master at once: Startup of an owner
/// ```
///
/// *Better* is a higher priority, or the same from a numerically higher address. A backup accepts
/// an advertisement that is at least as good as itself in priority, and any when it may not
/// preempt; others it ignores, so that its timer ends and it takes over.
///
/// A master that was not served for so long that another may have taken over (the process stood
/// still, or the machine did) is Backup from then on, whatever it is handed next: it neither sends
/// nor hears anything as master first. This differs from RFC 5798 and from keepalived, whose master
/// goes on where it stopped.
///
/// Timers (RFC 5798 §6.1), exact in microseconds:
///
/// ```text
///  skew        = (256 - priority) * interval of the master / 256
///  master down = 3 * interval of the master + skew
///  lapsed      = 3 * own interval + skew of priority 254, since the last own advertisement
/// ```
///
/// Inputs are [`handle`](Self::handle), which takes the time as a length since any fixed moment, not
/// decreasing; then [`poll_effect`](Self::poll_effect) until it gives nothing; then wait until
/// [`next_deadline`](Self::next_deadline) and hand in [`Event::Timer`].
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    config: Config,
    /// This router's own address on the LAN, the source of what it sends.
    primary: Ipv4Addr,
    state: VrrpState,
    /// When a backup takes over, or a master advertises next.
    deadline: Option<Duration>,
    /// What the master was last heard to use; this router's own until then.
    master_interval: Interval,
    /// Who is master, for a backup that knows.
    master: Option<(Ipv4Addr, Priority)>,
    /// When the last advertisement was sent.
    sent_at: Duration,
    /// When [`Effect::AnnounceAgain`] was last given.
    announced_at: Option<Duration>,
    effects: VecDeque<Effect>,
    tally: Tally,
}

impl VirtualRouter {
    /// A router in [`VrrpState::Initialize`]. `primary` is the address its advertisements come from.
    pub fn new(config: Config, primary: Ipv4Addr) -> VirtualRouter {
        VirtualRouter {
            master_interval: config.interval(),
            config,
            primary,
            state: VrrpState::Initialize,
            deadline: None,
            master: None,
            sent_at: Duration::ZERO,
            announced_at: None,
            effects: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    pub fn state(&self) -> VrrpState {
        self.state
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The priority that timers and advertisements use.
    pub fn effective_priority(&self) -> Priority {
        self.config.priority()
    }

    /// Who is master, as far as this router has heard; nobody while it is master itself.
    pub fn master(&self) -> Option<(Ipv4Addr, Priority)> {
        self.master
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The address that ties are decided by has changed.
    pub fn set_primary(&mut self, primary: Ipv4Addr) {
        self.primary = primary;
    }

    /// When [`Event::Timer`] is wanted next; never in `Initialize` and `Fault`.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What a lower priority costs: the best backup's timer ends first.
    pub fn skew(&self) -> Duration {
        skew(self.effective_priority(), self.master_interval)
    }

    /// How long a backup waits for the next advertisement.
    pub fn master_down(&self) -> Duration {
        let intervals = self.master_interval.duration();
        intervals
            .saturating_mul(DOWN_INTERVALS)
            .saturating_add(self.skew())
    }

    /// Takes one event at time `now`.
    pub fn handle(&mut self, event: Event, now: Duration) {
        if self.has_lapsed(now) {
            self.tally.lapsed = self.tally.lapsed.saturating_add(1);
            self.become_backup(None, now);
        }
        match (self.state, event) {
            (VrrpState::Initialize, Event::Startup) | (VrrpState::Fault, Event::Healthy) => {
                self.begin(now);
            }
            (VrrpState::Initialize | VrrpState::Backup, Event::Fault) => {
                self.leave(VrrpState::Fault);
            }
            (VrrpState::Backup | VrrpState::Fault, Event::Shutdown) => {
                self.leave(VrrpState::Initialize);
            }
            (VrrpState::Backup, Event::Advert(heard)) => self.backup_hears(heard, now),
            (VrrpState::Backup, Event::Timer) => {
                if self.is_due(now) {
                    self.become_master(now);
                }
            }
            (VrrpState::Master, Event::Advert(heard)) => self.master_hears(heard, now),
            (VrrpState::Master, Event::Timer) => {
                if self.is_due(now) {
                    self.advertise_on_time(now);
                }
            }
            (VrrpState::Master, Event::Fault) => self.resign(VrrpState::Fault, now),
            (VrrpState::Master, Event::Shutdown) => self.resign(VrrpState::Initialize, now),
            // Takes part already, or not at all, or has nothing to hear with.
            (
                VrrpState::Initialize,
                Event::Shutdown | Event::Healthy | Event::Advert(_) | Event::Timer,
            )
            | (VrrpState::Backup | VrrpState::Master, Event::Startup | Event::Healthy)
            | (VrrpState::Fault, Event::Startup | Event::Fault | Event::Advert(_) | Event::Timer) =>
                {}
        }
    }

    /// Begins to take part: an owner as master, everybody else by listening first.
    fn begin(&mut self, now: Duration) {
        self.master_interval = self.config.interval();
        if self.effective_priority() == Priority::OWNER {
            self.become_master(now);
        } else {
            self.become_backup(None, now);
        }
    }

    fn backup_hears(&mut self, heard: Heard, now: Duration) {
        if heard.priority == Priority::RESIGNED {
            self.tally.resigned = self.tally.resigned.saturating_add(1);
            self.master = None;
            // Never later than it was, so that whoever repeats it cannot put the take-over off.
            let soon = now.saturating_add(self.skew());
            self.deadline = Some(self.deadline.map_or(soon, |deadline| deadline.min(soon)));
        } else if heard.priority >= self.effective_priority() || !self.config.preempt() {
            self.tally.accepted = self.tally.accepted.saturating_add(1);
            self.listen_to(Some(heard), now);
        } else {
            self.tally.lower_priority = self.tally.lower_priority.saturating_add(1);
        }
    }

    fn master_hears(&mut self, heard: Heard, now: Duration) {
        let own = (self.effective_priority(), self.primary);
        if heard.priority == Priority::RESIGNED {
            self.tally.resigned = self.tally.resigned.saturating_add(1);
            self.answer(now);
            return;
        }
        if heard.priority == Priority::OWNER && own.0 == Priority::OWNER {
            self.tally.other_owner = self.tally.other_owner.saturating_add(1);
        }
        match (heard.priority, heard.source).cmp(&own) {
            std::cmp::Ordering::Equal => {
                self.tally.same_address = self.tally.same_address.saturating_add(1);
            }
            std::cmp::Ordering::Greater => {
                self.tally.other_master = self.tally.other_master.saturating_add(1);
                if self.config.higher_prio_send_advert() {
                    self.send(now);
                }
                self.become_backup(Some(heard), now);
            }
            std::cmp::Ordering::Less => {
                self.tally.other_master = self.tally.other_master.saturating_add(1);
                if !self.config.lower_prio_no_advert() {
                    self.answer(now);
                }
                self.announce_again(now);
            }
        }
    }

    /// Advertises at once, or as soon as answers may follow each other.
    fn answer(&mut self, now: Duration) {
        let allowed = self.sent_at.saturating_add(self.answer_gap());
        if now >= allowed {
            self.send(now);
            self.deadline = Some(now.saturating_add(self.config.interval().duration()));
        } else {
            self.deadline = self.deadline.map(|deadline| deadline.min(allowed));
        }
    }

    fn announce_again(&mut self, now: Duration) {
        let gap = self.answer_gap();
        let allowed = |at: Duration| now >= at.saturating_add(gap);
        if self.announced_at.is_none_or(allowed) {
            self.announced_at = Some(now);
            self.effects.push_back(Effect::AnnounceAgain);
        }
    }

    fn answer_gap(&self) -> Duration {
        self.config
            .interval()
            .duration()
            .checked_div(ANSWERS_PER_INTERVAL)
            .unwrap_or_default()
    }

    /// Keeps to the beat however late the timer was, unless a whole interval was missed.
    fn advertise_on_time(&mut self, now: Duration) {
        self.send(now);
        let interval = self.config.interval().duration();
        let next = self
            .deadline
            .map(|deadline| deadline.saturating_add(interval))
            .filter(|next| *next > now);
        self.deadline = Some(next.unwrap_or_else(|| now.saturating_add(interval)));
    }

    fn become_master(&mut self, now: Duration) {
        self.master = None;
        self.announced_at = None;
        // The advertisement comes first: other backups' timers are running.
        self.send(now);
        self.enter(VrrpState::Master);
        self.deadline = Some(now.saturating_add(self.config.interval().duration()));
    }

    /// Whether this master's last advertisement is so old that the best of backups, which has heard
    /// it, takes over.
    fn has_lapsed(&self, now: Duration) -> bool {
        let interval = self.config.interval();
        let down = interval.duration().saturating_mul(DOWN_INTERVALS);
        let down = down.saturating_add(skew(BEST_BACKUP, interval));
        self.state == VrrpState::Master && now >= self.sent_at.saturating_add(down)
    }

    fn become_backup(&mut self, heard: Option<Heard>, now: Duration) {
        self.master_interval = self.config.interval();
        self.enter(VrrpState::Backup);
        self.listen_to(heard, now);
    }

    /// Starts the master's time anew, on the word of a master or for want of one.
    fn listen_to(&mut self, heard: Option<Heard>, now: Duration) {
        if let Some(heard) = heard {
            self.master_interval = heard.interval;
        }
        self.master = heard.map(|heard| (heard.source, heard.priority));
        self.deadline = Some(now.saturating_add(self.master_down()));
    }

    /// A master gives up. It says so twice, as one may be lost and the others would then wait for
    /// the whole master-down time.
    fn resign(&mut self, to: VrrpState, now: Duration) {
        for _ in 0..2 {
            let priority = Priority::RESIGNED;
            self.effects.push_back(Effect::SendAdvert { priority });
        }
        self.sent_at = now;
        self.leave(to);
    }

    /// Takes no part any more.
    fn leave(&mut self, to: VrrpState) {
        self.master = None;
        self.deadline = None;
        self.enter(to);
    }

    fn enter(&mut self, state: VrrpState) {
        self.state = state;
        self.effects.push_back(Effect::Became(state));
    }

    fn send(&mut self, now: Duration) {
        let priority = self.effective_priority();
        self.effects.push_back(Effect::SendAdvert { priority });
        self.sent_at = now;
    }

    fn is_due(&self, now: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

/// (256 - priority) / 256 of an interval, in whole microseconds.
///
/// A centisecond has 10000 microseconds, and 10000 / 256 is 625 / 16.
fn skew(priority: Priority, interval: Interval) -> Duration {
    let steps = 256_u64.saturating_sub(u64::from(priority.0));
    let micros = steps
        .saturating_mul(u64::from(interval.centis()))
        .saturating_mul(625);
    Duration::from_micros(micros / 16)
}

#[cfg(test)]
mod tests;
