//! The decision whether a packet has its connection mentioned, held against the same rule written
//! down a second time as a list of guards (`ip_vs_sync.c: ip_vs_sync_conn_needed`).
//!
//! The rows worked out by hand are a table test beside the rule itself.
#![allow(clippy::print_stdout, reason = "says how to have a failure again")]

#[path = "../../syncproto/tests/common/random.rs"]
#[allow(dead_code, reason = "its connections are for the codec")]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod random;

use std::collections::BTreeMap;

use dataplane_common::rules::sync::{Decision, Reason, SyncRules, SyncView, decide};
use random::Random;

const CASES: u32 = 3_000_000;

/// One packet under one set of tunables; times in milliseconds and wide enough for any sum.
struct Case<'a> {
    rules: &'a SyncRules,
    view: &'a SyncView,
    now: u128,
    timeout: u128,
    endtime: u128,
    refresh: u128,
}

/// The first guard that holds decides.
type Guard = (
    &'static str,
    fn(&Case<'_>) -> bool,
    fn(&Case<'_>) -> Decision,
);

const GUARDS: [Guard; 8] = [
    (
        "its template is mentioned in its place",
        |case| !case.view.template && case.rules.persist_mode && case.view.under_template,
        |_| Decision::Keep(Reason::PersistMode),
    ),
    (
        "a state that backups do not hear of",
        |case| !case.view.template && !case.is_heard(),
        |_| Decision::Keep(Reason::State),
    ),
    (
        "another state, and not the established one",
        |case| case.has_changed() && Some(case.view.state) != case.established(),
        |case| case.send(0),
    ),
    (
        "mentioned a moment ago, and no repetition is left",
        |case| case.is_recent() && case.made() >= u128::from(case.rules.retries),
        |_| Decision::Keep(Reason::RetriesUsed),
    ),
    (
        "mentioned a moment ago, and the repetition is not due",
        |case| case.is_recent() && case.now + case.timeout < case.endtime + case.refresh / 8,
        |_| Decision::Keep(Reason::RetryEarly),
    ),
    (
        "with a period: not a packet that begins one",
        |case| {
            let (period, threshold) = (case.rules.period, case.rules.threshold);
            period != 0 && !case.view.template && case.view.pkts % period != threshold
        },
        |_| Decision::Keep(Reason::PacketCount),
    ),
    (
        "without a period or a refresh: not the packet of the threshold",
        |case| {
            let by_count = case.rules.period == 0 && case.refresh == 0;
            by_count && case.view.pkts != case.rules.threshold
        },
        |_| Decision::Keep(Reason::PacketCount),
    ),
    (
        "nothing against it",
        |_| true,
        |case| case.send(if case.is_recent() { case.made() + 1 } else { 0 }),
    ),
];

impl Case<'_> {
    fn heard(&self) -> Option<&'static [u8]> {
        match self.view.protocol {
            6 => Some(&[1, 4, 5, 6, 7]),
            132 => Some(&[8, 9, 10, 11, 13]),
            _ => None,
        }
    }

    fn is_heard(&self) -> bool {
        self.heard()
            .is_none_or(|heard| heard.contains(&self.view.state))
    }

    fn established(&self) -> Option<u8> {
        self.heard().and_then(|heard| heard.first().copied())
    }

    fn has_changed(&self) -> bool {
        let follows_states = !self.view.template && self.heard().is_some();
        follows_states && self.view.state != self.view.old_state
    }

    fn next_endtime(&self) -> u128 {
        (self.now + self.timeout) / 4 * 4
    }

    /// Repetitions made since the last mention.
    fn made(&self) -> u128 {
        self.endtime % 4
    }

    /// Mentioned within the refresh period, as far as the end times tell.
    fn is_recent(&self) -> bool {
        let limit = self.refresh.min((self.timeout / 2).max(10_000));
        self.refresh != 0 && self.next_endtime().abs_diff(self.endtime) < limit
    }

    fn send(&self, repetition: u128) -> Decision {
        Decision::Send {
            endtime: u64::try_from(self.next_endtime() + repetition).expect("within 64 bits"),
            forced: self.has_changed(),
        }
    }
}

#[test]
fn the_decision_is_that_of_the_first_guard_that_holds() {
    let seed = std::env::var("SYNC_DECISION_SEED");
    let seed = seed.ok().map_or(73, |seed| seed.parse().expect("a number"));
    println!(
        "again with: SYNC_DECISION_SEED={seed} cargo test --release -p tests --test sync_decision"
    );
    let mut random = Random::seeded(seed);
    let mut decided: BTreeMap<&str, u32> = BTreeMap::new();
    for number in 0..CASES {
        let (rules, view, now_ms) = case(&mut random);
        let case = Case {
            rules: &rules,
            view: &view,
            now: now_ms.into(),
            timeout: u128::from(view.timeout_secs) * 1000,
            endtime: view.endtime.into(),
            refresh: rules.refresh_ticks.into(),
        };
        let (name, _, decision) = GUARDS
            .iter()
            .find(|(_, holds, _)| holds(&case))
            .expect("the last");
        // Less than a millisecond makes no difference.
        let now_ns = now_ms * 1_000_000 + random.next() % 1_000_000;
        let found = decide(&rules, &view, now_ns);
        assert_eq!(
            found,
            decision(&case),
            "case {number}: {rules:?} {view:?} at {now_ms}: {name}"
        );
        if let Decision::Send { endtime, .. } = found {
            assert!(endtime % 4 <= u64::from(rules.retries), "case {number}");
        }
        *decided.entry(name).or_default() += 1;
    }
    for (name, count) in &decided {
        println!("{count:8} {name}");
        assert!(
            *count > CASES / 200,
            "the cases must reach every guard: {name} {count}"
        );
    }
    assert_eq!(decided.len(), GUARDS.len());
}

/// A packet of any kind, and often one at a boundary of the rule.
fn case(random: &mut Random) -> (SyncRules, SyncView, u64) {
    let near = |random: &mut Random, value: u64| {
        value.saturating_add(random.next() % 17).saturating_sub(8)
    };
    let rules = SyncRules {
        threshold: any(random, &[0, 1, 2, 3, 49, 50, 51]),
        period: any(random, &[0, 0, 1, 2, 50, 100]),
        refresh_ticks: any(
            random,
            &[0, 0, 1, 7, 8, 9, 9_999, 10_000, 10_001, 60_000, 450_000],
        ),
        retries: random.below(4) as u32,
        persist_mode: random.one_in(4),
    };
    let now_ms = match random.below(4) {
        0 => random.next() % 20_000,
        1 => random.next() % (1 << 53) / 1_000_000,
        _ => 1_000_000 + random.next() % 8,
    };
    let timeout_secs = any(random, &[0, 1, 2, 10, 19, 20, 21, 60, 120, 900]);
    let timeout = u64::from(timeout_secs) * 1000;
    let refresh = u64::from(rules.refresh_ticks);
    let limit = refresh.min((timeout / 2).max(10_000));
    // Where the end time must be for a rule to be on edge.
    let endtime = match random.below(7) {
        0 => near(random, now_ms),
        1 => near(random, (now_ms + timeout).saturating_sub(limit)),
        2 => near(random, now_ms + timeout + limit),
        3 => near(random, (now_ms + timeout).saturating_sub(refresh / 8)),
        4 => near(random, now_ms + timeout),
        5 => random.next() % (now_ms + timeout + 1),
        _ => random.next() >> (8 + random.below(56)),
    };
    let states = [
        0, 1, 1, 1, 4, 5, 6, 7, 8, 8, 8, 9, 10, 11, 12, 13, 14, 31, 32, 255,
    ];
    let state = states[random.below(states.len())];
    let old_state = if random.one_in(2) {
        state
    } else {
        states[random.below(states.len())]
    };
    let view = SyncView {
        protocol: [6, 6, 17, 132, 132, 50, 0][random.below(7)],
        template: random.one_in(5),
        under_template: random.one_in(3),
        state,
        old_state,
        pkts: match random.below(4) {
            0 => near(random, rules.threshold.into()) as u32,
            1 => {
                (u64::from(rules.period) * (random.next() % 50) + u64::from(rules.threshold)) as u32
            }
            2 => random.next() as u32,
            _ => random.below(120) as u32,
        },
        timeout_secs,
        endtime,
    };
    (rules, view, now_ms)
}

/// One of these, now and then anything.
fn any(random: &mut Random, usual: &[u32]) -> u32 {
    if random.one_in(12) {
        random.next() as u32 >> random.below(32)
    } else {
        usual[random.below(usual.len())]
    }
}
