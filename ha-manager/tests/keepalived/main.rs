//! The real keepalived as the other router, in both roles.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(
    clippy::print_stdout,
    reason = "what is skipped is said, and what was measured"
)]

use std::time::Duration;

use ha_manager::vrrp_driver::ElectionRole;
use host::{pair, parameters, wait_for};
use peer::{Extra, Keepalived, is_installed};

#[path = "../elections/host.rs"]
mod host;
mod matrix;
mod peer;
mod side;

#[test]
fn every_kind_of_pair_changes_roles_as_the_documents_say() {
    if is_installed() {
        matrix::check();
    }
}

#[test]
fn keepalived_yields_to_our_answer_when_both_are_masters() {
    if !is_installed() {
        return;
    }
    let (a, b) = pair();
    // Each alone at first: the cable is out.
    b.ip("link set dir0 down");
    let ours = a.elect(parameters(150, 500));
    ours.becomes(ElectionRole::Master);
    b.ip("link set dir0 up");
    // It has not heard us yet when its own, much shorter, timer ends.
    let keepalived = Keepalived::start(&b, &parameters(100, 20), &Extra::default());
    wait_for("its advertisement", || ours.counter("other_master") >= 1);
    wait_for("its word", || ours.view().rx_lower >= 1);
    keepalived.has_vip(false);
    assert_eq!(ours.view().role, ElectionRole::Master);
    assert_eq!(keepalived.complaints(), Vec::<String>::new());
}

/// Both ways: the one that is told, or that shall not preempt.
#[test]
fn keepalived_takes_the_role_that_we_hand_over() {
    if !is_installed() {
        return;
    }
    let (a, b) = pair();
    let ours = a.elect(parameters(150, 200));
    ours.becomes(ElectionRole::Master);
    let keepalived = Keepalived::start(&b, &parameters(100, 200), &Extra::default());
    let sent = ours.counter("adverts_sent");
    wait_for("ten intervals", || ours.counter("adverts_sent") > sent + 10);
    let asked_at = std::time::Instant::now();
    ours.elections.yield_role(0);
    let took = keepalived.has_vip(true) - asked_at;
    ours.becomes(ElectionRole::Backup);
    // Its skew, 122 ms.
    let bounds = Duration::from_millis(121)..Duration::from_millis(400);
    assert!(bounds.contains(&took), "{took:?}");
    let heard = ours.counter("adverts_received");
    wait_for("ten intervals", || {
        ours.counter("adverts_received") > heard + 10
    });
    assert_eq!(ours.view().role, ElectionRole::Backup);
    ours.elections.reclaim(0);
    ours.becomes(ElectionRole::Master);
    keepalived.has_vip(false);
}
