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
    /// Times another took the role that this router was told to hand over.
    Yielded = "handed_over",
    /// Times nobody did.
    YieldFailed = "handover_failed",
    /// Times this router became master.
    BecameMaster = "became_master",
    /// Advertisements that could not be sent.
    SendError = "send_errors",
    /// Errors of the sockets other than those.
    ReceiveError = "receive_errors",
    /// Looks at the interface that failed for a reason that says nothing about it, as when there is no
    /// memory for them.
    LookError = "look_errors",
    /// Times new sockets were asked for, whether or not they could be had: ten a second while the
    /// interface has no address.
    Reopened = "sockets_reopened",
    /// What looked like an advertisement of this router and found the queue full.
    LostElection = "lost_election",
    /// Other packets of the protocol that found the queue full.
    LostOther = "lost_other",
}

/// Upper bounds of the classes of [`Lateness`] but the last, which has none. Unit: microseconds.
pub const LATENESS_BOUNDS_US: [u64; 9] = [50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000];

/// How much later than planned the advertisements of a master went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lateness {
    /// Advertisements at most as late as the bound of [`LATENESS_BOUNDS_US`] and later than the one
    /// before; the last class has the rest.
    pub counts: [u64; LATENESS_BOUNDS_US.len() + 1],
    /// Of all of them. Unit: microseconds.
    pub sum_us: u64,
}

impl Lateness {
    /// Advertisements measured.
    pub fn count(&self) -> u64 {
        self.counts
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }
}

/// Written by the thread, read by anybody.
#[derive(Debug)]
pub(super) struct Counters {
    named: [AtomicU64; NAMES.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    lateness: [AtomicU64; LATENESS_BOUNDS_US.len() + 1],
    lateness_sum_us: AtomicU64,
    lateness_max_us: AtomicU64,
    since_us: AtomicU64,
    effective_priority: AtomicU8,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            named: array::from_fn(|_| AtomicU64::new(0)),
            refused: array::from_fn(|_| AtomicU64::new(0)),
            lateness: array::from_fn(|_| AtomicU64::new(0)),
            lateness_sum_us: AtomicU64::new(0),
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

    /// Sets a counter that somebody else keeps; what it was before.
    pub(super) fn set(&self, counter: Counter, count: u64) -> u64 {
        let counter = self.named.get(counter as usize);
        counter.map_or(count, |counter| counter.swap(count, Ordering::Relaxed))
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        if let Some(counter) = self.refused.get(refusal as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn late(&self, lateness: Duration) {
        let lateness = u64::try_from(lateness.as_micros()).unwrap_or(u64::MAX);
        self.lateness_max_us.fetch_max(lateness, Ordering::Relaxed);
        self.lateness_sum_us.fetch_add(lateness, Ordering::Relaxed);
        let class = LATENESS_BOUNDS_US.partition_point(|bound| lateness > *bound);
        if let Some(count) = self.lateness.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn lateness(&self) -> Lateness {
        Lateness {
            counts: array::from_fn(|class| {
                let count = self.lateness.get(class);
                count.map_or(0, |count| count.load(Ordering::Relaxed))
            }),
            sum_us: self.lateness_sum_us.load(Ordering::Relaxed),
        }
    }

    pub(super) fn lateness_max_us(&self) -> u64 {
        self.lateness_max_us.load(Ordering::Relaxed)
    }

    /// The role has changed at this time of CLOCK_BOOTTIME.
    pub(super) fn changed(&self, now: Duration) {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.since_us.store(now, Ordering::Relaxed);
    }

    pub(super) fn set_effective_priority(&self, priority: u8) {
        self.effective_priority.store(priority, Ordering::Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advert_is_counted_in_the_first_class_that_is_late_enough() {
        let counters = Counters::default();
        for micros in [0, 50, 51, 1000, 50_000, 50_001, 9_000_000] {
            counters.late(Duration::from_micros(micros));
        }
        let lateness = counters.lateness();
        assert_eq!(lateness.counts, [2, 1, 0, 0, 1, 0, 0, 0, 1, 2]);
        assert_eq!((lateness.count(), lateness.sum_us), (7, 9_101_102));
        assert_eq!(counters.lateness_max_us(), 9_000_000);
    }
}
