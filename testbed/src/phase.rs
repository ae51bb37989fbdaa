//! What happened to the directors of a pair, and when exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::capture::wall_clock;
use crate::step::Fault;
use crate::wait::monotonic_ns;

/// A part of a drill that begins with a fault, or with the return of a director.
#[derive(Clone, Debug)]
pub(crate) struct Phase {
    /// Of its figures.
    pub(crate) prefix: String,
    pub(crate) begun: Moment,
    pub(crate) director: String,
    /// None when it begins with a return.
    pub(crate) fault: Option<Fault>,
    /// When nothing of what was to end was alive any more; none while the director is still at it.
    pub(crate) dead: Option<Moment>,
    /// When another director had taken over, by its own status, and announced it.
    pub(crate) taken_over_ns: Option<u64>,
    /// When the director was brought back.
    pub(crate) returned: Option<Moment>,
    /// Client ports of each load with unacknowledged data both ways when the phase began.
    pub(crate) in_flight: BTreeMap<String, BTreeSet<u16>>,
    /// For how long no flow of a load had had an answer. Unit: milliseconds.
    pub(crate) quiet_ms: BTreeMap<String, f64>,
    /// Client ports of the TCP flows that the director in charge had been told of.
    pub(crate) covered: Option<BTreeSet<u16>>,
}

/// One moment on two clocks: that of the processes, and that of captures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) monotonic_ns: u64,
    pub(crate) wall: Duration,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        Moment {
            monotonic_ns: monotonic_ns(),
            wall: wall_clock(),
        }
    }

    /// Unit: milliseconds.
    pub(crate) fn elapsed_ms(self) -> f64 {
        let ns = monotonic_ns().saturating_sub(self.monotonic_ns);
        Duration::from_nanos(ns).as_secs_f64() * 1000.0
    }
}

impl Phase {
    pub(crate) fn begin(name: &str, director: &str, fault: Option<Fault>) -> Phase {
        let prefix = if name.is_empty() {
            String::new()
        } else {
            format!("{name}.")
        };
        Phase {
            prefix,
            begun: Moment::now(),
            director: director.to_owned(),
            fault,
            dead: None,
            taken_over_ns: None,
            returned: None,
            in_flight: BTreeMap::new(),
            quiet_ms: BTreeMap::new(),
            covered: None,
        }
    }
}
