//! Two and three routers on a LAN that loses, delays, repeats and divides, and that fail, stand
//! still, are restarted, tracked and handed over; where there is an authentication header somebody
//! records packets and sends them again. Then it is left in peace. Checkers that know the documents
//! but not the machine look on ([`rules`]).
//!
//! `TANDEM_SEEDS=N` runs so many seeds (20000 by default), `TANDEM_SEED=N` runs that one and, with
//! `--nocapture`, tells what happened.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "a checker names what it looks for"
)]
#![allow(clippy::print_stdout, reason = "the number of seeds is said")]

use std::collections::BTreeSet;

use sabotage::Sabotage;
use trial::Trial;

mod lan;
#[path = "simulation/nodes.rs"]
mod nodes;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/rules.rs"]
mod rules;
#[path = "simulation/sabotage.rs"]
mod sabotage;
#[path = "simulation/times.rs"]
mod times;
#[path = "simulation/trial.rs"]
mod trial;
#[path = "simulation/weather.rs"]
mod weather;

const DEFAULT_SEEDS: u64 = 20_000;
/// Seeds within which a broken router is found out.
const SABOTAGE_SEEDS: u64 = 2_000;

#[test]
fn the_rules_hold_whatever_happens() {
    if let Some(seed) = number("TANDEM_SEED") {
        let outcome = Trial::new(seed, None).told().run();
        assert_eq!(outcome, Ok(()));
        return;
    }
    let seeds = number("TANDEM_SEEDS").unwrap_or(DEFAULT_SEEDS);
    println!("{seeds} seeds");
    for seed in 0..seeds {
        if let Err(violation) = Trial::new(seed, None).run() {
            panic!(
                "{violation}\nTANDEM_SEED={seed} cargo test --release -p vrrp --test simulation \
                 the_rules -- --nocapture"
            );
        }
    }
}

/// Each checker finds what it is there for.
#[test]
fn a_router_that_breaks_a_rule_is_found_out() {
    for sabotage in Sabotage::ALL {
        let trial = |seed| Trial::new(seed, Some(sabotage));
        is_found(sabotage, sabotage.breaks(), trial);
    }
    for (sabotage, rule) in Sabotage::AT_LAST {
        let trial = |seed| Trial::new(seed, Some(sabotage)).lenient();
        is_found(sabotage, rule, trial);
    }
}

fn is_found(sabotage: Sabotage, rule: &str, trial: impl Fn(u64) -> Trial) {
    let mut others = BTreeSet::new();
    for seed in 0..SABOTAGE_SEEDS {
        match trial(seed).run() {
            Err(violation) if violation.starts_with(rule) => return,
            Err(violation) => {
                others.insert(violation.split(':').next().unwrap().to_owned());
            }
            Ok(()) => {}
        }
    }
    panic!("{sabotage:?} does not break \"{rule}\", but {others:?}");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
