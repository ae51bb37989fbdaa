//! A planned handover: the operator has this node give its routers to another one.
//!
//! ```text
//!   Telling ------------------> Passing ------------------> over
//!     every connection is         each router is yielded, served on until the other's announcement
//!     offered again, and the      has been seen, and demoted then; or nobody took it, and it
//!     queues drain                stays
//! ```
//!
//! All the while a new connection is offered at its first packet, whatever `sync_threshold` says, and
//! sent at once. So the peer knows all but those of the last moment, and of those it hears while their
//! next packets wait: a node that has just taken a role does not let the stack reset what it does not
//! know. What still comes to the old place is directed for a while after the addresses have left it.
//!
//! No clock, no socket: the driver says what has happened.

use std::net::IpAddr;
use std::time::Duration;

use ipvs_control::Reply;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// The longest that telling the other node may take; then the handover goes on without.
const TELLING_MAX: Duration = Duration::from_secs(10);
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(1);
/// Once another master has been heard, its announcement is waited for so long. Its addresses are there
/// a millisecond after its first advert.
const ANNOUNCEMENT_MAX: Duration = Duration::from_millis(50);
/// Why a router is kept that was not active any more when it was to be yielded.
pub(super) const LOST_BEFORE: &str = "it was lost before anybody took it, see the log";
/// Between two lines of the log that tell of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Where one router stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// Yielded; nobody has answered so far.
    Asked,
    /// Another is master since then; clients may not know.
    Heard(Instant),
    /// Another is master, and clients have been told.
    Announced(Instant),
    /// It is standby here; its addresses went then.
    Left(Instant),
    /// Nobody took it, or it was lost for another reason before anybody could.
    Kept(&'static str),
}

/// A router that is handed over.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) index: usize,
    pub(super) name: String,
    /// Addresses whose new owner has not been seen.
    unseen: Vec<IpAddr>,
    /// How often nobody took it before.
    pub(super) failed_before: u64,
    pub(super) passage: Passage,
    heard: Option<Instant>,
    /// When its addresses had gone.
    let_go: Option<Instant>,
}

/// What the handover is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Telling,
    Passing { since: Instant },
}

/// What of the connections is known by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// A sync master runs here.
    pub(super) is_copied: bool,
    /// The walk has not offered everything again.
    pub(super) is_offering: bool,
    /// Messages that wait for the socket.
    pub(super) backlog: u64,
    /// Age at which a part-filled message is sent.
    pub(super) flush_age: Duration,
}

/// A handover that is under way.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) members: Vec<Member>,
    pub(super) stage: Stage,
    /// The longest that the election may take to say what became of a router.
    patience: Duration,
    begun: Instant,
    tick: Instant,
    logged: Instant,
    /// When the walk was through.
    offered: Option<Instant>,
    told: Option<Duration>,
    is_copied: bool,
    reply: Option<oneshot::Sender<Reply>>,
}

impl Member {
    pub(super) fn new(index: usize, name: String, addresses: Vec<IpAddr>) -> Member {
        Member {
            index,
            name,
            unseen: addresses,
            failed_before: 0,
            passage: Passage::Asked,
            heard: None,
            let_go: None,
        }
    }

    const fn is_over(&self) -> bool {
        matches!(self.passage, Passage::Left(_) | Passage::Kept(_))
    }
}

impl Handover {
    pub(super) fn new(
        members: Vec<Member>,
        patience: Duration,
        reply: oneshot::Sender<Reply>,
        now: Instant,
    ) -> Handover {
        Handover {
            members,
            stage: Stage::Telling,
            patience,
            begun: now,
            tick: now,
            logged: now,
            offered: None,
            told: None,
            is_copied: true,
            reply: Some(reply),
        }
    }

    /// When it is to be looked at next.
    pub(super) fn tick(&self) -> Instant {
        self.tick
    }

    pub(super) fn member(&self, index: usize) -> Option<&Member> {
        self.members.iter().find(|member| member.index == index)
    }

    pub(super) fn member_mut(&mut self, index: usize) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.index == index)
    }

    /// Looked at now. Gives back whether the routers are to be yielded: everything has been told, or
    /// that has taken too long.
    pub(super) fn look(&mut self, progress: Progress, now: Instant) -> bool {
        self.tick = now + TICK;
        if self.stage != Stage::Telling {
            return false;
        }
        self.is_copied = progress.is_copied;
        if !progress.is_offering && self.offered.is_none() {
            self.offered = Some(now);
        }
        // What was offered last is in a message by then, and that is due.
        let settled = progress.flush_age + 5 * TICK;
        let is_sent = self.offered.is_some_and(|at| now >= at + settled) && progress.backlog == 0;
        let is_late = now >= self.begun + TELLING_MAX;
        if progress.is_copied && !is_sent && !is_late {
            if now >= self.logged + PROGRESS_EVERY {
                self.logged = now;
                tracing::info!(
                    waiting = progress.backlog,
                    walking = progress.is_offering,
                    "handover: the peer is told of all connections"
                );
            }
            return false;
        }
        if is_late {
            tracing::warn!("handover: the peer has not been told of all connections in time");
        }
        self.told = Some(now.duration_since(self.begun));
        self.stage = Stage::Passing { since: now };
        true
    }

    /// The election has heard another master of this router.
    pub(super) fn heard(&mut self, index: usize, now: Instant) {
        if let Some(member) = self.member_mut(index)
            && member.passage == Passage::Asked
        {
            member.heard = Some(now);
            member.passage = if member.unseen.is_empty() {
                Passage::Announced(now)
            } else {
                Passage::Heard(now)
            };
            self.tick = now + ANNOUNCEMENT_MAX;
        }
    }

    /// Somebody else has said that an address is theirs.
    pub(super) fn announced(&mut self, address: IpAddr, now: Instant) {
        if self.stage == Stage::Telling {
            return;
        }
        for member in &mut self.members {
            member.unseen.retain(|unseen| *unseen != address);
            if member.unseen.is_empty() && matches!(member.passage, Passage::Heard(_)) {
                member.passage = Passage::Announced(now);
            }
        }
    }

    /// Whether a router that the election has given to another is still served here.
    pub(super) fn keeps_serving(&self, index: usize, now: Instant) -> bool {
        match self.member(index).map(|member| member.passage) {
            Some(Passage::Heard(since)) => now < since + ANNOUNCEMENT_MAX,
            Some(Passage::Asked | Passage::Announced(_) | Passage::Left(_) | Passage::Kept(_))
            | None => false,
        }
    }

    /// The router's addresses have gone.
    pub(super) fn let_go(&mut self, index: usize, now: Instant) {
        if let Some(member) = self.member_mut(index) {
            member.let_go = Some(now);
        }
    }

    /// The router is not active here any more, and all that went with it is done.
    pub(super) fn left(&mut self, index: usize, now: Instant) {
        if let Some(member) = self.member_mut(index) {
            member.passage = match member.passage {
                Passage::Heard(_) | Passage::Announced(_) => {
                    Passage::Left(member.let_go.unwrap_or(now))
                }
                Passage::Asked => Passage::Kept(LOST_BEFORE),
                passage @ (Passage::Left(_) | Passage::Kept(_)) => passage,
            };
        }
    }

    /// Nobody took it, and it is served on.
    pub(super) fn kept(&mut self, index: usize, why: &'static str) {
        if let Some(member) = self.member_mut(index)
            && !member.is_over()
        {
            member.passage = Passage::Kept(why);
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        match self.stage {
            Stage::Telling => false,
            Stage::Passing { since } => {
                self.members.iter().all(Member::is_over) || now >= since + self.patience
            }
        }
    }

    /// Answers the operator.
    pub(super) fn answer(mut self) {
        let reply = self.report();
        if let Reply::Text(text) = &reply {
            for line in text.lines() {
                tracing::info!("handover: {line}");
            }
        } else if let Reply::BadRequest(reason) = &reply {
            tracing::warn!("handover: {reason}");
        }
        if let Some(to) = self.reply.take() {
            // A client that is gone does not need its answer.
            let _ = to.send(reply);
        }
    }

    /// It ends before its time.
    pub(super) fn give_up(mut self, reason: &str) {
        if let Some(to) = self.reply.take() {
            let _ = to.send(Reply::BadRequest(format!("the handover ended: {reason}")));
        }
    }

    fn report(&self) -> Reply {
        let kept: Vec<String> = (self.members.iter())
            .filter_map(|member| match member.passage {
                Passage::Kept(why) => Some(format!("{}: {why}", member.name)),
                Passage::Left(_) => None,
                Passage::Asked | Passage::Heard(_) | Passage::Announced(_) => {
                    Some(format!("{}: the election does not answer", member.name))
                }
            })
            .collect();
        if !kept.is_empty() {
            return Reply::BadRequest(kept.join("; "));
        }
        let told = match self.told {
            Some(told) if self.is_copied => {
                format!("connections told in {}", millis(told))
            }
            Some(_) | None => "connections are not copied: no sync master runs".to_owned(),
        };
        let Stage::Passing { since } = self.stage else {
            return Reply::BadRequest("the handover has not begun".to_owned());
        };
        let lines = self.members.iter().map(|member| {
            let (Some(heard), Passage::Left(left)) = (member.heard, member.passage) else {
                return String::new();
            };
            format!(
                "{} handed over: {told}, taken after {}, let go {} later\n",
                member.name,
                millis(heard.duration_since(since)),
                millis(left.duration_since(heard)),
            )
        });
        Reply::Text(lines.collect())
    }
}

fn millis(span: Duration) -> String {
    let micros = span.as_micros();
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}

#[cfg(test)]
mod tests;
