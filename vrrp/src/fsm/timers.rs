//! How long things take (RFC 5798 §6.1, RFC 3768 §6.1), exact in microseconds.

use std::time::Duration;

use crate::config::{Config, Interval, Priority, Version};

/// The highest priority a backup can have: the first one to take over.
const BEST_BACKUP: Priority = Priority(254);
/// The lowest: the last one.
const WORST_BACKUP: Priority = Priority(1);

/// What a take-over may need beyond the protocol's own times, on both sides, before a yielding
/// master takes its role back.
const YIELD_SLACK: Duration = Duration::from_millis(100);

/// An answer to another master's advertisement follows the last one after this part of an interval
/// at the earliest, so that a stream of them cannot make this router flood the LAN.
const ANSWERS_PER_INTERVAL: u32 = 64;

/// (256 - priority) / 256 of an interval in version 3, of a second in version 2.
///
/// A centisecond has 10000 microseconds, and 10000 / 256 is 625 / 16.
pub(super) fn skew(version: Version, priority: Priority, interval: Interval) -> Duration {
    let steps = 256_u64.saturating_sub(u64::from(priority.0));
    let interval = match version {
        Version::V2 => Interval::DEFAULT,
        Version::V3 => interval,
    };
    let micros = steps
        .saturating_mul(u64::from(interval.centis()))
        .saturating_mul(625);
    Duration::from_micros(micros / 16)
}

/// How long a backup of this priority waits for the next advertisement of a master that sends one
/// each `interval`.
pub(super) fn master_down(config: &Config, priority: Priority, interval: Interval) -> Duration {
    interval
        .duration()
        .saturating_mul(u32::from(config.down_timer_adverts()))
        .saturating_add(skew(config.version(), priority, interval))
}

/// A master is not taken to have stood still before it has missed so many of its own intervals. With
/// fewer, each beat that is late by the skew of the best backup would end its mastership, and where
/// nobody has taken over, for nothing; where somebody has, advertisements settle it.
const LAPSE_INTERVALS: u8 = 2;

/// After how long without an advertisement of its own a master may have been replaced: the best of
/// backups, with the same configuration, waits no longer, except with [`LAPSE_INTERVALS`].
pub(super) fn lapse(config: &Config) -> Duration {
    let intervals = config.down_timer_adverts().max(LAPSE_INTERVALS);
    let skew = skew(config.version(), BEST_BACKUP, config.interval());
    let whole = config.interval().duration();
    whole
        .saturating_mul(u32::from(intervals))
        .saturating_add(skew)
}

/// How long a yielding master waits to hear another.
pub(super) fn yield_patience(config: &Config) -> Duration {
    skew(config.version(), WORST_BACKUP, config.interval())
        .saturating_add(config.interval().duration())
        .saturating_add(YIELD_SLACK)
}

/// The least time between two answers.
pub(super) fn answer_gap(config: &Config) -> Duration {
    config
        .interval()
        .duration()
        .checked_div(ANSWERS_PER_INTERVAL)
        .unwrap_or_default()
}
