//! A node with two virtual routers whose owner, or the whole of it, stood still: addresses of both are
//! gone before the data plane is active again, and neither is at fault for the other.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::host::{Daemon, Host, Neighbour, signal, wait_for};
use crate::lan::{Lan, VIPS, configs, daemons, instance, states};
use crate::node::{SYNC, stand_still};
use crate::router::{Master, parameters, section};
use crate::witness::alone;

/// Longer than the lease, shorter than it takes to be hung.
const STOPPED: Duration = Duration::from_millis(400);
/// Removing so many takes longer than the election takes to say again who is master.
const MANY: u8 = 150;

/// The address of the first router, and the many of the second.
const FIRST: &str = "10.77.0.200";

fn many() -> Vec<String> {
    (1..=MANY).map(|last| format!("10.77.1.{last}")).collect()
}

fn start(host: &Host, more: [&str; 2]) -> Daemon {
    let sections = [
        section(51, &[FIRST.to_owned()], more[0]),
        section(52, &many(), more[1]),
    ];
    let sections = sections.concat();
    host.start(&host.config(&format!("log_level = \"debug\"\n{SYNC}{sections}")))
}

fn epoch(status: &Value) -> u64 {
    status["lease"]["epoch"].as_u64().unwrap()
}

/// Addresses of either router on this host.
fn addresses() -> (usize, usize) {
    let mut command = std::process::Command::new("ip");
    let listed = crate::host::ended(command.args(["-4", "-o", "addr", "show", "dev", "lan0"]));
    let of = |prefix: &str| listed.out.matches(prefix).count();
    (of(" 10.77.0.200/"), of(" 10.77.1."))
}

#[test]
fn a_lease_that_lapsed_under_two_roles_is_renewed_after_both_were_given_up() {
    alone(|| {
        let host = Host::new();
        let daemon = start(&host, ["advert_ms = 50"; 2]);
        wait_for("both roles", || states(&host.status()) == ["master"; 2]);
        let before = host.status();
        stand_still(&daemon, STOPPED);
        wait_for("both roles under another epoch", || {
            let status = host.status();
            states(&status) == ["master"; 2] && epoch(&status) > epoch(&before)
        });
        assert_eq!(addresses(), (1, MANY.into()));
        let after = host.status();
        for router in 0..2 {
            let of = |status: &Value| status["vrrp"][router]["transitions"].clone();
            // The elections have had no part in it.
            assert_eq!(of(&before), of(&after));
        }
        assert_eq!(after["directing"], "yes");
        // The backup goes on for a while.
        wait_for("the master alone", || {
            daemons(&host.status()) == ["master/role"]
        });
        ends_well(daemon, 2);
    });
}

/// What was another's before and during the lapse is nobody's business of this node.
#[test]
fn a_lease_that_lapsed_under_one_role_leaves_the_other_router_standby() {
    alone(|| {
        let host = Host::new();
        let neighbour = Neighbour::new();
        let vips = many();
        let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
        // Its word is good for a second, however late it is.
        let master = Master::begin(
            &neighbour,
            parameters(52, 1000, &vips),
            200,
            Duration::from_millis(100),
        );
        let daemon = start(&host, ["advert_ms = 50"; 2]);
        let both = ["master", "backup"];
        let is_settled = |status: &Value| {
            states(status) == both && daemons(status) == ["master/role", "backup/role"]
        };
        wait_for("one role", || is_settled(&host.status()));
        let before = host.status();
        stand_still(&daemon, STOPPED);
        wait_for("the role under another epoch", || {
            let status = host.status();
            is_settled(&status) && epoch(&status) > epoch(&before)
        });
        assert_eq!(addresses(), (1, 0));
        let transitions = |status: &Value| status["vrrp"][1]["transitions"].clone();
        assert_eq!(transitions(&before), transitions(&host.status()));
        drop(master);
        ends_well(daemon, 1);
    });
}

/// The role of the first router comes while the addresses of the second one are still being removed: it
/// waits, and that is no failure.
#[test]
fn a_role_that_comes_while_another_is_cleaned_up_waits_and_is_no_fault() {
    alone(|| {
        let host = Host::new();
        let neighbour = Neighbour::new();
        let master = Master::begin(
            &neighbour,
            parameters(51, 50, &[FIRST]),
            200,
            Duration::from_millis(20),
        );
        let daemon = start(&host, ["advert_ms = 50"; 2]);
        wait_for("one role", || {
            states(&host.status()) == ["backup", "master"]
        });
        let before = host.status();
        drop(master);
        // The election goes on meanwhile, and ends as master of both.
        stand_still(&daemon, STOPPED);
        wait_for("both roles under another epoch", || {
            let status = host.status();
            states(&status) == ["master"; 2] && epoch(&status) > epoch(&before)
        });
        assert_eq!(addresses(), (1, MANY.into()));
        ends_well(daemon, 1);
    });
}

/// `lapses`: roles that were given up when the lease had lapsed.
fn ends_well(daemon: Daemon, lapses: usize) {
    let (ended, log) = daemon.stop();
    assert!(ended.success());
    // It is not taken and given up again and again, and nothing failed.
    assert_eq!(log.matches("was not renewed in time").count(), 1, "{log}");
    for words in [" failed", "at fault", "ERROR"] {
        assert!(!log.contains(words), "{words}\n{log}");
    }
    let (_, since) = log.split_once("was not renewed in time").unwrap();
    let (since, _) = since.split_once(": stopping reason").unwrap();
    let steps = |name: &str| -> Vec<usize> {
        let name = format!("step=\"{name}\"");
        since.match_indices(&name).map(|(at, _)| at).collect()
    };
    let [removed, stood_by, directed] = [
        "removing the addresses",
        "making the data plane standby",
        "making the data plane active",
    ]
    .map(steps);
    assert_eq!((removed.len(), stood_by.len()), (lapses, lapses), "{since}");
    // All addresses are gone before anything is open again.
    let last = stood_by.last().max(removed.last());
    assert!(last < directed.first(), "{since}");
}

/// Both roles have gone to the peer meanwhile, and stay there.
#[test]
fn a_node_that_stood_still_comes_back_as_standby_of_both_its_routers() {
    alone(|| {
        let host = Host::new();
        let lan = Lan::new();
        let sections = |priority| {
            let of = |nth| format!("{}preempt = false\n", instance(nth, priority));
            format!("{}{}", of(0), of(1))
        };
        let (own, others, other) = configs(&host, [&sections(100), &sections(90)]);
        let first = host.start(&own);
        wait_for("both roles", || states(&host.status()) == ["master"; 2]);
        let second = host.start_at(&lan.second, &others);
        let states_of_other = || states(&host.status_at(&other));
        wait_for("the peer knows", || {
            let status = host.status_at(&other);
            states(&status) == ["backup"; 2]
                && (0..2).all(|at| status["vrrp"][at]["master"]["priority"] == 100)
        });
        let before = host.status();
        stops(&first, || states_of_other() == ["master"; 2]);
        wait_for("standby of both", || {
            states(&host.status()) == ["backup"; 2]
        });
        let after = host.status();
        assert_eq!(epoch(&before), epoch(&after));
        assert_eq!(daemons(&after), ["backup/role"]);
        assert_eq!(addresses(), (0, 0));
        second.kill();
        wait_for("both roles again", || {
            states(&host.status()) == ["master"; 2]
        });
        is_well(first);
    });
}

/// Each is the other's backup; the one that stood still gets its own role back, and no other.
#[test]
fn a_node_of_an_active_pair_that_stood_still_gets_back_what_is_its_own() {
    alone(|| {
        let host = Host::new();
        let lan = Lan::new();
        let sections = |one, two| format!("{}{}", instance(0, one), instance(1, two));
        let (own, others, other) = configs(&host, [&sections(100, 90), &sections(90, 100)]);
        let first = host.start(&own);
        let second = host.start_at(&lan.second, &others);
        let one_each = || {
            states(&host.status()) == ["master", "backup"]
                && states(&host.status_at(&other)) == ["backup", "master"]
        };
        wait_for("one each", one_each);
        let conversations = VIPS.map(|vip| {
            for director in [None, Some(&other)] {
                for line in crate::lan::SERVICES {
                    let told = match director {
                        None => host.ipvsadm(line),
                        Some(socket) => {
                            let mut command = host.command("ipvsadm");
                            command.env("TANDEM_CONTROL", socket);
                            crate::host::ended(command.args(line.split_whitespace()))
                        }
                    };
                    // The second time it is there.
                    drop(told);
                }
            }
            lan.connect(vip)
        });
        stops(&first, || states(&host.status_at(&other)) == ["master"; 2]);
        wait_for("one each again", one_each);
        for conversation in conversations {
            conversation.goes_on();
            println!("longest exchange {:?}", conversation.end());
        }
        is_well(first);
        is_well(second);
    });
}

/// The whole process stands still until something holds, and for a while longer.
fn stops(daemon: &Daemon, holds: impl FnMut() -> bool) {
    signal(&daemon.child, Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_for("what comes of it", holds);
    wait_for("0.7 s", || stopped.elapsed() > Duration::from_millis(700));
    signal(&daemon.child, Signal::SIGCONT);
}

fn is_well(daemon: Daemon) {
    let (ended, log) = daemon.stop();
    assert!(ended.success());
    for words in [" failed", "at fault", "ERROR"] {
        assert!(!log.contains(words), "{words}\n{log}");
    }
}
