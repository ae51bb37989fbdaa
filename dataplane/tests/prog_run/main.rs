//! What the director makes of single packets: `prog_run.table`, run through the real program in both
//! families.
//!
//! Each line of the table is one case on a director of its own set-up. Whatever the case, exactly
//! one verdict moves, every checksum of a packet that is sent holds, statistics of director,
//! service and server agree, only the expected events move, and counters equal a recount.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it covered"
)]
#![allow(unreachable_pub, reason = "modules of one test program")]

mod bench;
mod case;
mod check;
mod frames;
#[path = "../lab/mod.rs"]
mod lab;

use std::collections::BTreeSet;

use bench::Bench;
use case::cases;
use dataplane::TableSizes;
use dataplane::common::verdict::{Event, Verdict};
use lab::Lab;
use lab::recount::{overload_agrees, recount};

/// Verdicts that need another table than these cases have, and the test that shows them.
const ELSEWHERE: [(Verdict, &str); 1] = [(
    Verdict::TableFull,
    "prog_sequences.rs: a_full_table_refuses_new_connections_and_keeps_old_ones",
)];

/// Verdicts that no packet brings about, and why.
const UNREACHED: [(Verdict, &str); 1] = [(
    Verdict::Failed,
    "every header was checked before it is rewritten; a helper fails only for want of memory",
)];

/// Events that single packets do not show, and the test that does.
const EVENTS_ELSEWHERE: [(Event, &str); 9] = [
    (Event::SwapRetry, "hammer/"),
    (Event::SwapGivenUp, "hammer/, when it happens"),
    (
        Event::AllocProbe,
        "prog_sequences.rs: a_full_table_of_expired_connections_serves_without_the_walk",
    ),
    (
        Event::Reclaimed,
        "prog_sequences.rs: a_full_table_of_expired_connections_serves_without_the_walk",
    ),
    (Event::SyncOffered, "offers.rs"),
    (
        Event::SyncRingFull,
        "offers.rs: what_finds_no_room_in_the_ring_is_marked_and_offered_by_the_walk",
    ),
    (
        Event::Postponed,
        "persistence.rs: a_template_outlives_its_timer_while_it_controls_connections",
    ),
    (
        Event::CacheFull,
        "persistence.rs: a_full_cache_still_serves",
    ),
    (Event::HeldBack, "guard.rs"),
];

#[test]
fn every_verdict_has_a_case_in_each_family_that_can_have_it() {
    let all: BTreeSet<&str> = Verdict::ALL.iter().map(|verdict| verdict.name()).collect();
    for family in ["4", "6"] {
        let shown = cases().into_iter();
        let shown = shown.filter(|case| case.families.contains(family));
        let shown: BTreeSet<&str> = shown.map(|case| case.verdict.name()).collect();
        let elsewhere = ELSEWHERE.iter().chain(&UNREACHED);
        let elsewhere = elsewhere.map(|(verdict, _)| verdict.name());
        let other_family: &[Verdict] = if family == "4" {
            &[Verdict::LeaseLapsedNdp, Verdict::ExtensionHeaders]
        } else {
            &[Verdict::Arp, Verdict::LeaseLapsedArp]
        };
        let other_family = other_family.iter().map(|verdict| verdict.name());
        let shown: BTreeSet<&str> = shown
            .into_iter()
            .chain(elsewhere)
            .chain(other_family)
            .collect();
        assert_eq!(shown, all, "IPv{family}");
    }
    println!("{} verdicts in each family", all.len());
    println!("elsewhere: {ELSEWHERE:?}");
    println!("unreached: {UNREACHED:?}");
}

#[test]
fn every_event_has_a_case() {
    let mut shown = BTreeSet::new();
    for case in cases() {
        let moved = case.events().into_iter().filter(|(_, count)| *count > 0);
        shown.extend(moved.map(|(event, _)| event.name()));
    }
    shown.extend(EVENTS_ELSEWHERE.iter().map(|(event, _)| event.name()));
    let all: BTreeSet<&str> = Event::ALL.iter().map(|event| event.name()).collect();
    assert_eq!(shown, all);
    println!("{} events; elsewhere: {EVENTS_ELSEWHERE:?}", all.len());
}

#[test]
fn names_of_cases_are_unique() {
    let mut names = BTreeSet::new();
    let twice: Vec<_> = cases()
        .into_iter()
        .filter(|case| !names.insert(case.name))
        .collect();
    assert!(twice.is_empty(), "{}", twice[0].name);
}

#[test]
fn packets_are_handled_as_the_table_says() {
    let lab = Lab::new();
    let mut options = lab.options(&["lo"]);
    options.sizes = TableSizes {
        connections_v4: 256,
        connections_v6: 256,
        ..options.sizes
    };
    let mut plane = dataplane::DataPlane::open(&options).unwrap();
    let mut wrong = Vec::new();
    let (mut run, mut ports) = ([0, 0], 40_001..);
    for case in cases() {
        for ipv6 in [false, true] {
            if !case.families.contains(if ipv6 { '6' } else { '4' }) {
                continue;
            }
            let port = ports.next().unwrap();
            let mut bench = Bench::new(&mut plane, lab.bpffs.join("director"), ipv6, port);
            bench.reset();
            if let Err(difference) = bench.check(&case) {
                let family = if ipv6 { "IPv6" } else { "IPv4" };
                wrong.push(format!("{}, {family}: {difference}", case.name));
            }
            bench.finish();
            recount(&plane);
            overload_agrees(&plane);
            run[usize::from(ipv6)] += 1;
        }
    }
    println!("{} cases of IPv4, {} of IPv6", run[0], run[1]);
    assert!(
        wrong.is_empty(),
        "{} of {} cases:\n{}",
        wrong.len(),
        run[0] + run[1],
        wrong.join("\n")
    );
}
