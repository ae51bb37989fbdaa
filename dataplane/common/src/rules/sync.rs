//! When a connection is mentioned to the backup (`ip_vs_sync.c: ip_vs_sync_conn_needed`).

use ipvs_model::protocol::Protocol;

/// Nanoseconds in a tick of `sync_endtime`: a millisecond.
const NS_PER_TICK: u64 = 1_000_000;
/// Ticks in a second.
pub const TICKS_PER_SEC: u64 = 1000;
/// The low bits of `sync_endtime` hold the number of repetitions made.
const RETRY_MASK: u64 = 3;
/// Least refresh limit, in ticks: ten seconds.
const REFRESH_LIMIT_MIN: u64 = 10 * TICKS_PER_SEC;

/// TCP states that are mentioned: ESTABLISHED, FIN_WAIT, TIME_WAIT, CLOSE, CLOSE_WAIT.
const TCP_STATES: u32 = set_of(&[1, 4, 5, 6, 7]);
const TCP_ESTABLISHED: u8 = 1;
/// SCTP states that are mentioned: ESTABLISHED, SHUTDOWN_SENT, SHUTDOWN_RECEIVED,
/// SHUTDOWN_ACK_SENT, CLOSED.
const SCTP_STATES: u32 = set_of(&[8, 9, 10, 11, 13]);
const SCTP_ESTABLISHED: u8 = 8;

/// States as bits of a word.
const fn set_of(states: &[u8]) -> u32 {
    let mut set = 0;
    let mut at = 0;
    while at < states.len() {
        set |= 1 << states[at];
        at += 1;
    }
    set
}

/// The tunables of the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncRules {
    /// Packets before the first mention (first value of `sync_threshold`).
    pub threshold: u32,
    /// Packets between mentions, 0 for none (second value of `sync_threshold`).
    pub period: u32,
    /// Kernel name `sync_refresh_period`, in ticks of a millisecond; 0 is off.
    pub refresh_ticks: u32,
    /// Kernel name `sync_retries`, 0 to 3.
    pub retries: u32,
    /// Kernel name `sync_persist_mode`: connections under a template are left out.
    pub persist_mode: bool,
}

impl Default for SyncRules {
    /// The kernel's defaults.
    fn default() -> SyncRules {
        SyncRules {
            threshold: 3,
            period: 50,
            refresh_ticks: 0,
            retries: 0,
            persist_mode: false,
        }
    }
}

/// What the decision looks at in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncView {
    /// IP protocol number.
    pub protocol: u8,
    pub template: bool,
    /// A template is up its chain of controllers.
    pub under_template: bool,
    pub state: u8,
    /// The state it was mentioned in last.
    pub old_state: u8,
    /// Packets from the client, the one at hand included.
    pub pkts: u32,
    pub timeout_secs: u32,
    /// Kernel name `sync_endtime`: as it was stored last, in ticks; of a connection that was never
    /// mentioned, [`first_endtime`].
    pub endtime: u64,
}

/// `sync_endtime` of a connection that was never mentioned.
pub const fn first_endtime(created_ns: u64) -> u64 {
    (created_ns / NS_PER_TICK) & !RETRY_MASK
}

/// `sync_endtime` of a connection that is mentioned now, and not as a repetition.
pub const fn next_endtime(now_ns: u64, timeout_secs: u32) -> u64 {
    (now_ns / NS_PER_TICK + timeout_secs as u64 * TICKS_PER_SEC) & !RETRY_MASK
}

/// Whether backups hear of a connection in this state at all.
pub const fn is_heard(protocol: u8, template: bool, state: u8) -> bool {
    template || (states_heard(protocol).0 >> (state & 31)) & 1 != 0
}

/// States that are mentioned, and the one of them that is not mentioned at once.
const fn states_heard(protocol: u8) -> (u32, Option<u8>) {
    match protocol {
        TCP => (TCP_STATES, Some(TCP_ESTABLISHED)),
        SCTP => (SCTP_STATES, Some(SCTP_ESTABLISHED)),
        _ => (u32::MAX, None),
    }
}

/// Whether a connection is mentioned, or mentioned again, while a role is being handed over: the peer has
/// not heard of it from here, or not of its state, whatever that is and however few packets it had.
///
/// DIFFERS: a kernel's master says nothing of a connection before it is established and has had
/// `sync_threshold` packets; a peer that takes over on purpose would reset those.
#[inline(always)]
pub const fn is_news(rules: &SyncRules, view: &SyncView, was_told: bool) -> bool {
    let is_left_out = rules.persist_mode && view.under_template && !view.template;
    !is_left_out && (!was_told || view.state != view.old_state)
}

/// What [`is_overdue`] looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// As [`SyncView::endtime`]; 0 when the connection was never mentioned here.
    pub endtime: u64,
    /// Synchronisation brought it here.
    pub from_peer: bool,
    /// Saw a packet here since.
    pub local: bool,
    pub timeout_secs: u32,
    /// When it ends unless another packet comes, in nanoseconds.
    pub deadline_ns: u64,
}

/// Whether the walk mentions a connection that packets alone would not: packets came since it was
/// mentioned, and that is a quarter of its timeout ago.
///
/// DIFFERS: in the kernel the backup's copy of a connection with few packets (a keep-alive a minute;
/// one period is 50 packets) ends before the connection does, and a backup that comes late, or back
/// from the dead, hears of such a connection at its next period alone.
pub const fn is_overdue(copied: &Copied, now_ns: u64) -> bool {
    if copied.endtime == 0 {
        return copied.from_peer && copied.local;
    }
    let deadline = copied.deadline_ns / NS_PER_TICK;
    let timeout = copied.timeout_secs as u64 * TICKS_PER_SEC;
    let quarter_ago = copied.endtime + timeout / 4 <= now_ns / NS_PER_TICK + timeout;
    // A deadline that the peer has moved since is the peer's to tell.
    copied.local && deadline > copied.endtime + TICKS_PER_SEC && quarter_ago
}

/// Whether a connection is mentioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Keep(Reason),
    /// Yes, if `endtime` could be stored over the old value, or if it is `forced`. The state at
    /// hand becomes the old one.
    Send {
        endtime: u64,
        forced: bool,
    },
}

/// Why a connection is not mentioned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `sync_persist_mode`: its template is mentioned instead.
    PersistMode,
    /// Its state is not one that backups hear of.
    State,
    /// Mentioned within the refresh period, and the repetitions are used up.
    RetriesUsed,
    /// The next repetition is not due.
    RetryEarly,
    /// Not the packet of the threshold or a period.
    PacketCount,
}

/// Takes the decision for a packet from the client.
#[inline(always)]
pub const fn decide(rules: &SyncRules, view: &SyncView, now_ns: u64) -> Decision {
    let mut forced = false;
    let mut at_once = false;
    if !view.template {
        if rules.persist_mode && view.under_template {
            return Decision::Keep(Reason::PersistMode);
        }
        if !is_heard(view.protocol, false, view.state) {
            return Decision::Keep(Reason::State);
        }
        if let (_, Some(established)) = states_heard(view.protocol) {
            forced = view.state != view.old_state;
            at_once = forced && view.state != established;
        }
    }
    // The common case first: nothing but the packet count to look at, and it says no.
    let by_count = rules.refresh_ticks == 0 && !at_once;
    if by_count && !counts(rules, view) {
        return Decision::Keep(Reason::PacketCount);
    }
    let now = now_ns / NS_PER_TICK;
    let timeout = view.timeout_secs as u64 * TICKS_PER_SEC;
    let mut endtime = (now + timeout) & !RETRY_MASK;
    if rules.refresh_ticks != 0 && !at_once {
        let refresh = rules.refresh_ticks as u64;
        let half = timeout / 2;
        let longest = if half > REFRESH_LIMIT_MIN {
            half
        } else {
            REFRESH_LIMIT_MIN
        };
        let limit = if refresh < longest { refresh } else { longest };
        if endtime.abs_diff(view.endtime) < limit {
            let made = view.endtime & RETRY_MASK;
            if made >= rules.retries as u64 {
                return Decision::Keep(Reason::RetriesUsed);
            }
            if now + timeout < view.endtime + refresh / 8 {
                return Decision::Keep(Reason::RetryEarly);
            }
            endtime |= made + 1;
        }
        if !counts(rules, view) {
            return Decision::Keep(Reason::PacketCount);
        }
    }
    Decision::Send { endtime, forced }
}

const TCP: u8 = Protocol::Tcp.number();
const SCTP: u8 = Protocol::Sctp.number();

/// Whether the number of packets asks for a mention.
#[inline(always)]
const fn counts(rules: &SyncRules, view: &SyncView) -> bool {
    if rules.period > 0 {
        view.template || view.pkts % rules.period == rules.threshold
    } else {
        rules.refresh_ticks > 0 || view.pkts == rules.threshold
    }
}

#[cfg(test)]
mod tests;
