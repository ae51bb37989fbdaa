//! Elections: states, adverts, split brains, and what is watched.

use super::{Figure, seconds};
use crate::failover::split::SeenBy;
use crate::metrics::text::{Kind, Text};
use crate::status::{LatenessStatus, Status, VrrpState, VrrpStatus, Yields};
use crate::tracking::TrackStatus;

pub(super) fn elections(text: &mut Text, routers: &[VrrpStatus]) {
    let state = |router: &VrrpStatus| match router.state {
        VrrpState::Init => 0,
        VrrpState::Backup => 1,
        VrrpState::Master => 2,
        VrrpState::Fault => 3,
    };
    each(
        text,
        Kind::Gauge,
        (
            "tandem_vrrp_state",
            "State: 0 INIT, 1 BACKUP, 2 MASTER, 3 FAULT.",
        ),
        routers,
        |router| state(router),
    );
    each(
        text,
        Kind::Gauge,
        ("tandem_vrrp_priority", "Priority as configured."),
        routers,
        |router| u64::from(router.priority),
    );
    each(
        text,
        Kind::Gauge,
        (
            "tandem_vrrp_effective_priority",
            "Priority as advertised; 0 in FAULT.",
        ),
        routers,
        |router| u64::from(router.effective_priority),
    );
    let mut family = text.family(
        Kind::Gauge,
        "tandem_vrrp_state_age_seconds",
        "How long it has been in its state.",
    );
    for router in routers {
        family.sample(
            &[("instance", &router.name)],
            seconds(router.since_ms, 1000),
        );
    }
    each(
        text,
        Kind::Counter,
        ("tandem_vrrp_transitions_total", "Changes of the state."),
        routers,
        |router| router.transitions,
    );
    each(
        text,
        Kind::Gauge,
        (
            "tandem_vrrp_serving",
            "Whether its addresses are here and announced.",
        ),
        routers,
        |router| u64::from(router.is_serving),
    );
    each(
        text,
        Kind::Gauge,
        (
            "tandem_vrrp_handed_over",
            "Whether another is master by a planned handover, and is not preempted.",
        ),
        routers,
        |router| u64::from(router.yields == Yields::Yielded),
    );
    each(
        text,
        Kind::Counter,
        (
            "tandem_vrrp_handovers_failed_total",
            "Planned handovers that nobody took.",
        ),
        routers,
        |router| router.yield_failed,
    );
    let mut family = text.family(
        Kind::Gauge,
        "tandem_vrrp_tracking_weight",
        "What tracking adds to the priority.",
    );
    for router in routers {
        family.sample(&[("instance", &router.name)], router.weights);
    }
    adverts(text, routers);
    lateness(text, routers);
    addresses(text, routers);
}

fn lateness(text: &mut Text, routers: &[VrrpStatus]) {
    const MICROSECONDS: u32 = 1_000_000;
    let mut family = text.family(
        Kind::Histogram,
        "tandem_vrrp_advert_lateness_seconds",
        "How much later than planned a master's adverts were sent.",
    );
    for router in routers {
        let LatenessStatus {
            buckets, sum_us, ..
        } = &router.lateness;
        let buckets: Vec<(Option<f64>, u64)> = buckets
            .iter()
            .map(|(bound, count)| (bound.map(|us| seconds(us, MICROSECONDS)), *count))
            .collect();
        let labels = [("instance", router.name.as_str())];
        family.histogram(&labels, &buckets, seconds(*sum_us, MICROSECONDS));
    }
}

pub(super) fn split_brain(text: &mut Text, status: &Status) {
    let mut family = text.family(
        Kind::Gauge,
        "tandem_split_brain",
        "Virtual routers that another node serves too, by how that is seen; 0 is as it should be.",
    );
    for seen_by in SeenBy::ALL {
        let seen = status.split_brain.iter();
        let count = seen.filter(|split| split.seen_by == seen_by).count();
        family.sample(&[("seen_by", seen_by.name())], count);
    }
    let mut family = text.family(
        Kind::Counter,
        "tandem_split_brains_total",
        "How often that was seen.",
    );
    for (seen_by, count) in &status.split_brains {
        family.sample(&[("seen_by", seen_by)], *count);
    }
    if let Some(election) = &status.election {
        let labels = [
            (
                "memory_locked",
                if election.memory_locked { "yes" } else { "no" },
            ),
            ("scheduling", election.scheduling.as_str()),
        ];
        text.family(
            Kind::Gauge,
            "tandem_election_info",
            "Always 1: how the thread of the elections runs.",
        )
        .sample(&labels, 1);
    }
}

/// What elections watch, apart from interfaces.
pub(super) fn watched(text: &mut Text, status: &Status) {
    if status.tracked.is_empty() {
        return;
    }
    let mut family = text.family(
        Kind::Gauge,
        "tandem_track_good",
        "Whether a script or a process is good; not there before the first result.",
    );
    for tracked in &status.tracked {
        if let Some(good) = tracked.good {
            let labels = [("kind", tracked.kind), ("name", tracked.name.as_str())];
            family.sample(&labels, u8::from(good));
        }
    }
    let figures: [Figure<TrackStatus, u64>; 2] = [
        (
            "tandem_track_runs_total",
            "Results: runs of a script, changes of the others.",
            |tracked| tracked.runs,
        ),
        (
            "tandem_track_bad_total",
            "Results that were bad.",
            |tracked| tracked.bad,
        ),
    ];
    for (name, help, figure) in figures {
        let mut family = text.family(Kind::Counter, name, help);
        for tracked in &status.tracked {
            let labels = [("kind", tracked.kind), ("name", tracked.name.as_str())];
            family.sample(&labels, figure(tracked));
        }
    }
}

/// One sample of each instance.
fn each(
    text: &mut Text,
    kind: Kind,
    (name, help): (&'static str, &str),
    routers: &[VrrpStatus],
    figure: impl Fn(&VrrpStatus) -> u64,
) {
    let mut family = text.family(kind, name, help);
    for router in routers {
        family.sample(&[("instance", &router.name)], figure(router));
    }
}

fn adverts(text: &mut Text, routers: &[VrrpStatus]) {
    let value = |router: &VrrpStatus, wanted: &str| {
        let mut counters = router.counters.iter();
        let found = counters.find(|(name, _)| *name == wanted);
        found.map_or(0, |(_, count)| *count)
    };
    each(
        text,
        Kind::Counter,
        (
            "tandem_vrrp_adverts_sent_total",
            "Adverts sent, of any priority.",
        ),
        routers,
        |router| value(router, SENT),
    );
    each(
        text,
        Kind::Counter,
        (
            "tandem_vrrp_adverts_received_total",
            "Adverts that passed all checks.",
        ),
        routers,
        |router| value(router, RECEIVED),
    );
    let mut family = text.family(
        Kind::Counter,
        "tandem_vrrp_refused_total",
        "Adverts refused, by the check they did not pass.",
    );
    for router in routers {
        for (name, count) in &router.counters {
            if let Some(reason) = name.strip_prefix(REFUSED) {
                let labels = [("instance", router.name.as_str()), ("reason", reason)];
                family.sample(&labels, *count);
            }
        }
    }
    let mut family = text.family(
        Kind::Counter,
        "tandem_vrrp_events_total",
        "What else an election counts.",
    );
    for router in routers {
        for (name, count) in &router.counters {
            let is_told = [SENT, RECEIVED].contains(name) || name.starts_with(REFUSED);
            if !is_told && !name.ends_with("_max") {
                let labels = [("event", *name), ("instance", router.name.as_str())];
                family.sample(&labels, *count);
            }
        }
    }
}

const SENT: &str = "adverts_sent";
const RECEIVED: &str = "adverts_received";
const REFUSED: &str = "refused_";

fn addresses(text: &mut Text, routers: &[VrrpStatus]) {
    let mut family = text.family(
        Kind::Gauge,
        "tandem_vip_present",
        "Whether a virtual address is on its interface.",
    );
    for router in routers {
        for vip in &router.vips {
            let labels = [
                ("address", vip.address.as_str()),
                ("instance", &router.name),
                ("interface", &vip.interface),
            ];
            family.sample(&labels, u8::from(vip.present));
        }
    }
}
