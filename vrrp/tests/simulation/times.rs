//! The lengths of time in the documents, worked out apart from the machine.

use std::time::Duration;

use vrrp::{Config, Interval, Priority, Version};

/// The machine has whole microseconds.
pub(crate) const ROUNDING: Duration = Duration::from_micros(1);

/// (256 - priority) / 256 of an interval, or of a second in version 2.
pub(crate) fn skew(config: &Config, priority: Priority, interval: Interval) -> Duration {
    let whole = match config.version() {
        Version::V2 => Duration::from_secs(1),
        Version::V3 => interval.duration(),
    };
    whole * (256 - u32::from(priority.0)) / 256
}

pub(crate) fn down(config: &Config, priority: Priority, interval: Interval) -> Duration {
    interval.duration() * u32::from(config.down_timer_adverts()) + skew(config, priority, interval)
}

/// After this long without an own advertisement a master may have been replaced; it is given two
/// intervals at least.
pub(crate) fn lapse(config: &Config) -> Duration {
    let interval = config.interval();
    let intervals = u32::from(config.down_timer_adverts()).max(2);
    interval.duration() * intervals + skew(config, Priority(254), interval)
}

/// Answers may be held back by this.
pub(crate) fn answer(config: &Config) -> Duration {
    config.interval().duration() / 64
}

/// How long a yield may last.
pub(crate) fn patience(config: &Config) -> Duration {
    let interval = config.interval();
    skew(config, Priority(1), interval) + interval.duration() + Duration::from_millis(100)
}
