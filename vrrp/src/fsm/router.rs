//! The virtual router: its states, and what leads from one to another.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::{Event, Heard, Tally, VrrpState, timers};
use crate::config::{Config, Interval, Priority};
use crate::effect::Effect;

/// Whether the other members of the sync group are masters or want to be; without a group there
/// are none, and so they are ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Others {
    Ready,
    NotReady,
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
///    |  |                         |     ^ |   VipLost: priority 0, timer is the skew
///    |  +-------------------------+     +-+ accepted advertisement: timer anew
///    |        Shutdown (from every          priority 0: timer at most the skew
///    |        state; Master: priority 0 twice)
///    +--> Master at once: Startup of an owner
///
///  within Master:
///  +-----------+  Yield: priority 0 twice              +----------+  any advertisement
///  | advertises|-------------------------------------->| yielding |---------------------> Backup,
///  |           |<--------------------------------------|          |      and has yielded: accepts
///  +-----------+  timer or Reclaim: advertise,         +----------+      every advertisement until
///                 YieldFailed                                            Master, Initialize or
///                                                                        Reclaim, also after Fault
/// ```
///
/// *Better* is a higher priority, or the same from a numerically higher address. A backup accepts
/// an advertisement that is at least as good as itself in priority, and any when it may not
/// preempt, has yielded, or its preempt delay is not over; others it ignores, so that its timer
/// ends and it takes over. The preempt delay begins with the first of them and ends early with an
/// advertisement as good as itself; without a master there is none.
///
/// Of two masters with priority 255 the one that hears the other lowers itself to 254.
///
/// A master that was not served for so long that another may have taken over (the process stood
/// still, or the machine did) is Backup from then on, whatever it is handed next: it neither sends
/// nor hears anything as master first. This differs from RFC 5798 and from keepalived, whose master
/// goes on where it stopped.
///
/// A master that has heard another announces its addresses again: after a lesser one as the settings
/// for that say ([`Effect::LowerPriorityHeard`]; in strict mode they say never), and, which DIFFERS
/// from keepalived, after one that gives up ([`Effect::AnnounceAgain`]), as hosts may have learnt it.
///
/// In a sync group ([`crate::Group`]) a timer that ends, or an owner's start, leads to Master only
/// when the other members want it too; until then it starts anew.
///
/// Timers (RFC 5798 §6.1; RFC 3768 §6.1), exact in microseconds:
///
/// ```text
///  skew        = (256 - priority) * interval of the master / 256    version 3
///              = (256 - priority) / 256 of a second                 version 2
///  master down = down_timer_adverts * interval of the master + skew
///  lapsed      = down_timer_adverts (at least 2) * own interval + skew of priority 254, since the
///                last own advertisement
///  yielding    = skew of priority 1 + own interval + 100 ms
/// ```
///
/// The interval of the master is its own word in version 3, in version 2 this router's (others are
/// refused). The priority is the one after tracking.
///
/// Inputs are [`handle`](Self::handle), which takes the time as a length since any fixed moment, not
/// decreasing; then [`poll_effect`](Self::poll_effect) until it gives nothing; then wait until
/// [`next_deadline`](Self::next_deadline) and hand in [`Event::Timer`].
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    pub(super) config: Config,
    /// This router's own address on the LAN, the source of what it sends.
    pub(super) primary: IpAddr,
    pub(super) state: VrrpState,
    /// After tracking.
    pub(super) priority: Priority,
    /// When a backup takes over, a master advertises next, or a yielding one goes on.
    pub(super) deadline: Option<Duration>,
    /// What the master was last heard to use; this router's own until then.
    pub(super) master_interval: Interval,
    /// Who is master, for a backup that knows.
    pub(super) master: Option<(IpAddr, Priority)>,
    /// Who else was heard as master, while this router is one.
    pub(super) rival: Option<(IpAddr, Priority)>,
    /// When the last advertisement was sent.
    pub(super) sent_at: Duration,
    /// When another master last led to announcements.
    pub(super) announced_at: AnnouncedAt,
    /// When the preempt delay is over, if it has begun.
    pub(super) preempt_at: Option<Duration>,
    pub(super) role: Role,
    /// It handed its role over, and has not been master since. A fault changes nothing about it.
    pub(super) has_yielded: bool,
    pub(super) effects: VecDeque<Effect>,
    pub(super) tally: Tally,
}

/// When each kind of announcement was last asked for. One does not stand for another: each has its
/// own settings, and one of them is told to others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnnouncedAt {
    pub(super) again: Option<Duration>,
    pub(super) lower: Option<Duration>,
    pub(super) in_group: Option<Duration>,
}

/// What a router is up to within its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Ordinary,
    /// A backup that would be master if the other members of its group wanted it too.
    WantsMaster,
    /// A master that has given up but is still there.
    Yielding,
}

impl VirtualRouter {
    /// A router in [`VrrpState::Initialize`]. `primary` is the address its advertisements come from.
    pub fn new(config: Config, primary: IpAddr) -> VirtualRouter {
        VirtualRouter {
            master_interval: config.interval(),
            priority: config.priority(),
            config,
            primary,
            state: VrrpState::Initialize,
            deadline: None,
            master: None,
            rival: None,
            sent_at: Duration::ZERO,
            announced_at: AnnouncedAt::default(),
            preempt_at: None,
            role: Role::Ordinary,
            has_yielded: false,
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
        self.priority
    }

    /// Who is master, as far as this router has heard; nobody while it is master itself.
    pub fn master(&self) -> Option<(IpAddr, Priority)> {
        self.master
    }

    /// Who else has said to be master, lately, while this router is; nobody while it is not. It
    /// changes no more often than answers may follow each other, however many say so.
    pub fn rival(&self) -> Option<(IpAddr, Priority)> {
        self.rival
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The address that ties are decided by has changed.
    pub fn set_primary(&mut self, primary: IpAddr) {
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
        timers::skew(self.config.version(), self.priority, self.master_interval)
    }

    /// How long a backup waits for the next advertisement.
    pub fn master_down(&self) -> Duration {
        timers::master_down(&self.config, self.priority, self.master_interval)
    }

    /// Whether this is a master that offers its role.
    pub fn is_yielding(&self) -> bool {
        self.role == Role::Yielding
    }

    /// Whether this is a backup, or is at fault, that has handed its role over and does not preempt.
    pub fn has_yielded(&self) -> bool {
        self.has_yielded
    }

    /// Whether this router, as master, is better than one that says to be master: by its priority,
    /// or else by its address. One that gives up is no better and no worse.
    pub fn outranks(&self, heard: &Heard) -> bool {
        heard.priority != Priority::RESIGNED
            && (heard.priority, heard.source) < (self.effective_priority(), self.primary)
    }

    /// Takes one event at time `now`.
    pub fn handle(&mut self, event: Event, now: Duration) {
        self.handle_among(event, now, Others::Ready);
    }

    /// The same for a member of a sync group.
    pub(crate) fn handle_among(&mut self, event: Event, now: Duration, others: Others) {
        self.note_time(now);
        match (self.state, event) {
            (VrrpState::Initialize, Event::Startup) => {
                if self.config.priority() == Priority::OWNER {
                    self.priority = Priority::OWNER;
                }
                self.begin(now, others);
            }
            (VrrpState::Fault, Event::Healthy) => self.begin(now, others),
            (VrrpState::Initialize | VrrpState::Backup, Event::Fault) => {
                self.leave(VrrpState::Fault);
            }
            (VrrpState::Backup | VrrpState::Fault, Event::Shutdown) => {
                self.leave(VrrpState::Initialize);
            }
            (VrrpState::Backup, Event::Advert(heard)) => self.backup_hears(heard, now),
            (VrrpState::Backup, Event::Timer) => {
                if self.is_due(now) {
                    self.take_over(now, others);
                }
            }
            (VrrpState::Backup, Event::Priority(priority)) => self.shift(priority),
            (VrrpState::Backup | VrrpState::Fault, Event::Reclaim) => {
                self.has_yielded = false;
            }
            (VrrpState::Master, Event::Advert(heard)) => self.master_hears(heard, now),
            (VrrpState::Master, Event::Timer) => {
                if self.is_due(now) {
                    self.advertise_on_time(now);
                }
            }
            (VrrpState::Master, Event::Fault) => self.resign(VrrpState::Fault, now),
            (VrrpState::Master, Event::Shutdown) => self.resign(VrrpState::Initialize, now),
            (VrrpState::Master, Event::VipLost) => self.lose_address(now),
            (VrrpState::Master, Event::Yield) => {
                self.begin_yield(now.saturating_add(self.yield_patience()), now);
            }
            (VrrpState::Master, Event::Reclaim) => {
                if self.is_yielding() {
                    self.take_back(now);
                }
            }
            (
                VrrpState::Initialize | VrrpState::Fault | VrrpState::Master,
                Event::Priority(priority),
            ) => self.set_priority(priority),
            // Takes part already, or not at all, or has nothing to hear with, lose or give away.
            (
                VrrpState::Initialize,
                Event::Shutdown
                | Event::Healthy
                | Event::Advert(_)
                | Event::Timer
                | Event::VipLost
                | Event::Yield
                | Event::Reclaim,
            )
            | (
                VrrpState::Backup,
                Event::Startup | Event::Healthy | Event::VipLost | Event::Yield,
            )
            | (VrrpState::Master, Event::Startup | Event::Healthy)
            | (
                VrrpState::Fault,
                Event::Startup
                | Event::Fault
                | Event::Advert(_)
                | Event::Timer
                | Event::VipLost
                | Event::Yield,
            ) => {}
        }
    }

    /// Time has passed: a master that stood still is one no more.
    pub(crate) fn note_time(&mut self, now: Duration) {
        if self.has_lapsed(now) {
            self.tally.lapsed = self.tally.lapsed.saturating_add(1);
            self.become_backup(None, now);
        }
    }

    /// Whether this router is master or would be if its group agreed.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == VrrpState::Master || self.role == Role::WantsMaster
    }

    /// The group has agreed: a member that wants to be master is.
    pub(crate) fn follow_to_master(&mut self, now: Duration) {
        if self.role == Role::WantsMaster {
            self.become_master(now);
        }
    }

    /// Another member is not master any more. Nothing is said (keepalived).
    pub(crate) fn follow_to_backup(&mut self, now: Duration) {
        if self.state == VrrpState::Master {
            self.become_backup(None, now);
        }
    }

    /// Another member of the group has met another master, and announces.
    pub(crate) fn follow_announcement(&mut self, effect: Effect, now: Duration) {
        if self.state == VrrpState::Master {
            self.announce(effect, now);
        }
    }

    pub(crate) fn yield_patience(&self) -> Duration {
        timers::yield_patience(&self.config)
    }

    /// A master gives up but stays until another is heard, or until this time.
    pub(crate) fn begin_yield(&mut self, until: Duration, now: Duration) {
        if self.state != VrrpState::Master || self.is_yielding() {
            return;
        }
        self.give_up(now);
        self.role = Role::Yielding;
        self.deadline = Some(until);
    }
}
