//! `directord handover`: a role given to the other director on purpose.

use std::time::{Duration, Instant};

use crate::host::{Daemon, Host, ended, wait_for};
use crate::lan::{Lan, SERVICES, VIPS, configs, daemons, has_first, instance, states};
use crate::node::{becomes, pair};

/// Both directors run, the first active, and know each other and their services.
struct Pair {
    host: Host,
    lan: Lan,
    first: Daemon,
    second: Daemon,
    other: std::path::PathBuf,
}

impl Pair {
    fn new() -> Pair {
        let host = Host::new();
        let lan = Lan::new();
        let (own, others, other) = configs(&host, [&instance(0, 100), &instance(0, 90)]);
        let first = host.start(&own);
        becomes(&host, "active");
        let second = host.start_at(&lan.second, &others);
        for line in SERVICES {
            host.admin(line);
            host.admin_at(&other, line);
        }
        let pair = Pair {
            host,
            lan,
            first,
            second,
            other,
        };
        pair.are("active", "standby");
        pair
    }

    #[track_caller]
    fn are(&self, first: &str, second: &str) {
        wait_for(&format!("{first} and {second}"), || {
            let (one, other) = (self.host.status(), self.host.status_at(&self.other));
            let knows = |status: &serde_json::Value| {
                status["role"] == "active" || !status["vrrp"][0]["master"].is_null()
            };
            one["role"] == first && other["role"] == second && knows(&one) && knows(&other)
        });
    }
}

#[test]
fn a_role_is_handed_over_under_a_live_connection_and_reclaimed() {
    let pair = Pair::new();
    let (host, other) = (&pair.host, &pair.other);
    let conversation = pair.lan.connect(VIPS[0]);
    let told = ended(host.command("directord").arg("handover")).succeeded();
    println!("{told}");
    assert!(
        told.starts_with("VI_1 handed over: connections told in ") && told.lines().count() == 1,
        "{told}"
    );
    // The answer comes when it is done.
    let status = host.status();
    assert_eq!((&status["role"], has_first()), (&"standby".into(), false));
    assert_eq!(status["vrrp"][0]["yields"], "yielded");
    assert_eq!(daemons(&status), ["backup/role"]);
    pair.are("standby", "active");
    conversation.goes_on();
    // Neither met another master: the first had given up before.
    for status in [host.status(), host.status_at(other)] {
        assert_eq!(status["vrrp"][0]["counters"]["other_master"], 0);
    }
    // It is the better one, and yet it stays standby: for longer than it waits for a master.
    let begun = Instant::now();
    wait_for("half a second", || {
        assert_eq!(host.status()["role"], "standby");
        begun.elapsed() > Duration::from_millis(500)
    });
    let again = ended(host.command("directord").args(["handover", "VI_1"]));
    again.failed(1, "directord: VI_1 is not active on this node");

    let told = ended(host.command("directord").args(["handover", "--reclaim"])).succeeded();
    assert_eq!(told, "VI_1 preempts again\n");
    pair.are("active", "standby");
    assert_eq!(host.status()["vrrp"][0]["yields"], "no");
    conversation.goes_on();
    let again = ended(host.command("directord").args(["handover", "--reclaim"]));
    again.failed(1, "directord: nothing has been handed over");

    let longest = conversation.end();
    println!("longest exchange {longest:?}");
    // No more than a retransmission or two.
    assert!(longest < Duration::from_millis(700), "{longest:?}");
    pair.first.logs(&["handover", "begun by an operator"]);
    drop(pair.second);
}

/// Connections that had too few packets to be told go over as well.
#[test]
fn what_the_peer_was_never_told_of_is_told_before() {
    let pair = Pair::new();
    // One packet each: below every threshold.
    pair.host.admin("-A -u 10.77.0.200:53 -s rr");
    pair.host.admin("-a -u 10.77.0.200:53 -r 10.77.0.10:53 -g");
    pair.lan.hub.run(|| {
        for port in 4000..4020 {
            let socket = std::net::UdpSocket::bind(("10.77.0.9", port)).unwrap();
            socket.send_to(b"once", "10.77.0.200:53").unwrap();
        }
    });
    let listed = |list: String| {
        let is_one = |line: &&str| line.contains("10.77.0.9:40") && line.contains("UDP");
        list.lines().filter(is_one).count()
    };
    wait_for("connections", || listed(pair.host.admin("-L -n -c")) == 20);
    assert_eq!(listed(pair.host.admin_at(&pair.other, "-L -n -c")), 0);
    ended(pair.host.command("directord").arg("handover")).succeeded();
    wait_for("the other has them", || {
        listed(pair.host.admin_at(&pair.other, "-L -n -c")) == 20
    });
}

#[test]
fn a_role_that_nobody_takes_is_kept() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    let before = host.status();
    let refused = ended(host.command("directord").arg("handover"));
    refused.failed(
        1,
        "directord: VI_1: nobody took over, this node keeps the role",
    );
    let status = host.status();
    assert_eq!((&status["role"], has_first()), (&"active".into(), true));
    let instance = &status["vrrp"][0];
    assert_eq!(instance["yields"], "no");
    assert_eq!(instance["yield_failed"], 1);
    // It was active all the time.
    assert_eq!(status["lease"]["epoch"], before["lease"]["epoch"]);
    assert_eq!(instance["transitions"], before["vrrp"][0]["transitions"]);
    assert_eq!(states(&status), ["master"]);
    let unknown = ended(host.command("directord").args(["handover", "VI_9"]));
    unknown.failed(1, "directord: there is no [[vrrp]] \"VI_9\"");
    daemon.logs(&["WARN", "nobody took over"]);
}

#[test]
fn a_director_without_an_election_has_nothing_to_hand_over() {
    let host = Host::new();
    let config = host.config("");
    let daemon = host.start(&config);
    let refused = ended(host.command("directord").arg("handover"));
    let reason = "directord: there is no [[vrrp]] section: nothing can be handed over";
    refused.failed(1, reason);
    drop(daemon);
}
