//! The clock of the thread and of its owner's pulse is that of leases.

use std::cell::Cell;
use std::env;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use dataplane::boottime_ns;
use ha_manager::vrrp_driver::ElectionRole;
use nix::time::{ClockId, clock_gettime};

use crate::host::{pair, parameters, wait_for};

/// Set in a time namespace whose CLOCK_BOOTTIME is an hour ahead, as if the node had been suspended.
const IS_APART: &str = "TANDEM_CLOCKS_APART";
const NAME: &str = "clock::an_owner_is_judged_by_the_clock_that_goes_on_in_a_suspend";

#[test]
fn an_owner_is_judged_by_the_clock_that_goes_on_in_a_suspend() {
    if env::var_os(IS_APART).is_none() {
        let mut apart = Command::new("unshare");
        apart.args(["--time", "--boottime", "3600", "--fork"]);
        apart.arg(env::current_exe().unwrap());
        apart
            .args(["--exact", NAME, "--nocapture"])
            .env(IS_APART, "");
        let status = apart.status().unwrap();
        assert!(status.success(), "{status}");
        return;
    }
    let boottime_ms = || boottime_ns() / 1_000_000;
    let monotonic = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let ahead = Duration::from_millis(boottime_ms()) - monotonic;
    assert!(ahead >= Duration::from_secs(3599), "{ahead:?}");
    let (a, _b) = pair();
    let member = a.elect(parameters(255, 100));
    let beat = || member.pulse.store(boottime_ms(), Ordering::Relaxed);
    wait_for("its role", || {
        beat();
        member.view().role == ElectionRole::Master
    });
    // At its own pace: a wait for another clock would end at once, or in an hour.
    let (begun, sent) = (boottime_ms(), member.counter("adverts_sent"));
    let last = Cell::new(sent);
    wait_for("ten adverts", || {
        beat();
        last.set(member.counter("adverts_sent"));
        last.get() >= sent + 10
    });
    assert!(boottime_ms() - begun >= 900);
    assert_eq!(member.view().role, ElectionRole::Master);
    member.fails_with("the owner of the data plane gives no sign of life");
}
