//! What the election thread counts for one router.

use std::array;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use vrrp::wire::Refusal;

/// Declares the counters once: variant and name.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted apart from refusals.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Counter {
            $($(#[$doc])* $variant,)*
        }

        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Advertisements sent, of any priority.
    Sent = "adverts_sent",
    /// Advertisements that passed all checks.
    Received = "adverts_received",
    /// Of those sent: giving up.
    PriorityZeroSent = "priority_zero_sent",
    /// Of those received: another one giving up.
    PriorityZeroReceived = "priority_zero_received",
    /// Of those received: worse than this backup, which goes on counting down.
    LowerPriority = "lower_priority",
    /// Of those received: from another master while this router was one.
    OtherMaster = "other_master",
    /// Of those received: this master's own priority and address.
    SameAddress = "same_address",
    /// Of those received: from another owner of the addresses (priority 255).
    OtherOwner = "other_owner",
    /// Times this router stood still as master for so long that another may have taken over.
    Lapsed = "mastership_lapsed",
    /// Times this router became master.
    BecameMaster = "became_master",
    /// Advertisements that could not be sent.
    SendError = "send_errors",
    /// Errors of the sockets other than those.
    ReceiveError = "receive_errors",
    /// Times the sockets were opened again.
    Reopened = "sockets_reopened",
    /// What looked like an advertisement of this router and found the queue full.
    LostElection = "lost_election",
    /// Other packets of the protocol that found the queue full.
    LostOther = "lost_other",
}

/// Written by the thread, read by anybody.
#[derive(Debug)]
pub(super) struct Counters {
    named: [AtomicU64; NAMES.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    lateness_max_us: AtomicU64,
    since_us: AtomicU64,
    effective_priority: AtomicU8,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            named: array::from_fn(|_| AtomicU64::new(0)),
            refused: array::from_fn(|_| AtomicU64::new(0)),
            lateness_max_us: AtomicU64::new(0),
            since_us: AtomicU64::new(0),
            effective_priority: AtomicU8::new(0),
        }
    }
}

impl Counters {
    pub(super) fn add(&self, counter: Counter, count: u64) {
        if let Some(counter) = self.named.get(counter as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Sets a counter that somebody else keeps.
    pub(super) fn set(&self, counter: Counter, count: u64) {
        if let Some(counter) = self.named.get(counter as usize) {
            counter.store(count, Ordering::Relaxed);
        }
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        if let Some(counter) = self.refused.get(refusal as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn late(&self, lateness: Duration) {
        let lateness = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
        self.lateness_max_us.fetch_max(lateness, Ordering::Relaxed);
    }

    pub(super) fn lateness_max_us(&self) -> u64 {
        self.lateness_max_us.load(Ordering::Relaxed)
    }

    /// The role has changed at this time of CLOCK_MONOTONIC.
    pub(super) fn changed(&self, now: Duration, effective_priority: u8) {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.since_us.store(now, Ordering::Relaxed);
        self.effective_priority
            .store(effective_priority, Ordering::Relaxed);
    }

    pub(super) fn since(&self) -> Duration {
        Duration::from_micros(self.since_us.load(Ordering::Relaxed))
    }

    pub(super) fn effective_priority(&self) -> u8 {
        self.effective_priority.load(Ordering::Relaxed)
    }

    /// All of them with their names, in a fixed order.
    pub(super) fn list(&self) -> Vec<(&'static str, u64)> {
        let named = NAMES.iter().copied().zip(&self.named);
        let refused = Refusal::ALL.iter().map(|refusal| refusal.counter());
        named
            .chain(refused.zip(&self.refused))
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
            .collect()
    }
}
