//! Packets that a kernel's master was fed with, fed to the master here: the sync datagrams hold the
//! same entries. The captures are those of `syncproto/tests/golden/sync`.
//!
//! Packets come at the times they came at then, as periods of refreshing are times; so many
//! scenarios run side by side, each on a data plane of its own. `GOLDEN_MASTER=NAME` runs one alone.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

#[path = "../sync/golden.rs"]
mod golden;
#[path = "../../../dataplane/tests/lab/mod.rs"]
mod lab;
mod master;
mod scenario;
#[path = "../sync/workers.rs"]
mod workers;

use std::cmp::Reverse;
use std::time::Duration;

use golden::recordings;
use master::Master;
use scenario::Scenario;
use workers::on_each;

/// Captures of what the director does not have yet.
const NOT_YET: [(&str, &str); 7] = [
    ("v0_ftp", "FTP"),
    ("v1_ftp_active", "FTP"),
    ("v1_ftp_passive", "FTP"),
    ("v1_localnode", "a real server that is the director"),
    ("v1_sip_pe", "SIP"),
    ("v1_sip_pe_ops", "SIP"),
    ("v1_tcp_tun", "tunnels"),
];

/// Data planes. They wait most of the time.
const DIRECTORS: usize = 7;

#[test]
fn packets_make_the_entries_that_the_kernels_master_sent() {
    let (later, now): (Vec<_>, Vec<_>) = recordings("sync")
        .into_iter()
        .partition(|capture| NOT_YET.iter().any(|(name, _)| *name == capture.name));
    assert_eq!(later.len(), NOT_YET.len());
    for (name, what) in NOT_YET {
        println!("not yet: {name}: {what}");
    }
    let mut scenarios: Vec<Scenario> = now.iter().map(Scenario::new).collect();
    if let Ok(only) = std::env::var("GOLDEN_MASTER") {
        println!("only {only}");
        scenarios.retain(|scenario| scenario.name == only);
    } else {
        assert_eq!(scenarios.len(), 35);
    }
    println!("{} scenarios, {} not yet", scenarios.len(), NOT_YET.len());
    scenarios.sort_by_key(|scenario| Reverse(scenario.length()));
    let total: Duration = scenarios.iter().map(Scenario::length).sum();
    let planes = DIRECTORS.min(scenarios.len());
    println!("{:.0} s of packets on {planes} planes", total.as_secs_f64());
    let wrong = on_each(planes, scenarios, Master::new, |master, scenario| {
        master.run(&scenario)
    });
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
