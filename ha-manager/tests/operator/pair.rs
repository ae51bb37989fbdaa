//! A node of a pair: how it takes a role, leaves it, and comes back.

use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::host::{Host, Neighbour, ip, signal, wait_for};
use crate::node::*;

#[test]
fn a_node_that_hears_nobody_becomes_active_and_leaves_in_order() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    let status = host.status();
    assert_eq!(status["mode"], "vrrp");
    let instance = &status["vrrp"][0];
    assert_eq!(
        (&instance["state"], &instance["fault"]),
        (&"master".into(), &Value::Null)
    );
    let vip = &instance["vips"][0];
    assert_eq!(
        (&vip["address"], &vip["present"]),
        (&"10.77.0.200/32".into(), &true.into())
    );
    assert!(has_address("lan0"));
    let sync = &status["sync"][0];
    assert_eq!(
        (&sync["role"], &sync["by"]),
        (&"master".into(), &"role".into())
    );
    wait_for(
        "the backup that listened for a master before has ended",
        || host.status()["sync"].as_array().unwrap().len() == 1,
    );
    assert_eq!(status["problems"], Value::Array(Vec::new()));
    // One higher than at the start.
    assert_eq!(status["lease"]["epoch"], 2);
    assert_eq!(status["lease"]["length_ms"], 250);

    let (ended, log) = daemon.stop();
    assert!(ended.success());
    assert!(!has_address("lan0"));
    let (_, last_words) = log.split_once("stopping").unwrap();
    let order = [
        "sync daemon stopped",
        "takes no part",
        "stopped; programs stay",
    ];
    let places = order.map(|words| {
        last_words
            .find(words)
            .unwrap_or_else(|| panic!("{words}\n{log}"))
    });
    assert!(places.is_sorted(), "{log}");
}

#[test]
fn what_a_killed_node_left_behind_goes_before_it_directs_again() {
    let host = Host::new();
    let config = pair(&host, "");
    let daemon = host.start(&config);
    becomes(&host, "active");
    daemon.kill();
    assert!(has_address("lan0"));
    // The length does not matter. Elsewhere it is not the election's.
    ip("addr add 10.77.0.200/28 dev lan0");
    ip("addr add 10.77.0.200/32 dev lo");
    let daemon = host.start(&config);
    becomes(&host, "active");
    let (_, log) = daemon.stop();
    let removed = log
        .find("removing virtual addresses that were left behind")
        .unwrap();
    assert!(removed < log.find("ready version").unwrap(), "{log}");
    assert_eq!(["lan0", "lo"].map(has_address), [false, true], "{log}");
}

#[test]
fn two_nodes_agree_and_the_standby_takes_over() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (config, other_socket) = other(&host, "", "priority = 90\n");
    let first = host.start(&pair(&host, ""));
    let second = host.start_at(&neighbour, &config);
    becomes(&host, "active");
    let other = || host.status_at(&other_socket);
    wait_for("the other is standby", || {
        let status = other();
        status["role"] == "standby" && status["vrrp"][0]["master"]["address"] == "10.77.0.1"
    });
    let status = other();
    assert_eq!(status["vrrp"][0]["master"]["priority"], 100);
    assert_eq!(status["sync"][0]["role"], "backup");
    assert_eq!(status["directing"], "replies-only");

    // An address somebody adds there is not the standby's to have.
    neighbour.ip("addr add 10.77.0.200/32 dev lan1");
    second.logs(&["added by somebody else", "and removed", MOVED]);

    first.kill();
    wait_for("the other is active", || other()["role"] == "active");
    let status = other();
    assert_eq!(status["vrrp"][0]["vips"][0]["present"], true);
    assert_eq!(status["sync"][0]["role"], "master");
    assert_eq!(status["directing"], "yes");
    drop(second);
}

#[test]
fn a_node_that_stood_still_does_not_take_the_other_for_an_intruder() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (config, other_socket) = other(&host, "", "priority = 90\n");
    let first = host.start(&pair(&host, ""));
    let second = host.start_at(&neighbour, &config);
    becomes(&host, "active");
    // Until its former master would count as an intruder.
    wait_for("the one is settled", || {
        host.status()["vrrp"][0]["since_ms"].as_u64() > Some(2000)
    });
    signal(&first.child, Signal::SIGSTOP);
    wait_for("the other is active", || {
        host.status_at(&other_socket)["role"] == "active"
    });
    // Longer than a turn of the loop can take.
    let stopped = Instant::now();
    wait_for("a second", || {
        stopped.elapsed() > Duration::from_millis(1200)
    });
    signal(&first.child, Signal::SIGCONT);
    wait_for("the other is standby", || {
        host.status_at(&other_socket)["role"] == "standby"
    });
    becomes(&host, "active");
    // Both have been asked who has the address by then.
    let resumed = Instant::now();
    wait_for("the probe", || {
        resumed.elapsed() > Duration::from_millis(2500)
    });
    assert_eq!(problems(&host), [""; 0]);
    drop((first, second));
}

/// Stopped for longer than the peer waits, but not so long that the election takes it for hung.
#[test]
fn a_master_that_stood_still_does_not_come_back_as_master() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let timing = "preempt = false\n";
    let slower = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, text.replace("advert_ms = 50", "advert_ms = 100")).unwrap();
    };
    let (config, other_socket) = other(&host, "", &format!("{timing}priority = 90\n"));
    let own = pair(&host, timing);
    slower(&config);
    slower(&own);
    let first = host.start(&own);
    becomes(&host, "active");
    let second = host.start_at(&neighbour, &config);
    let other = || host.status_at(&other_socket);
    wait_for("the other knows its master", || {
        other()["vrrp"][0]["master"]["priority"] == 100
    });
    let epoch = host.status()["lease"]["epoch"].clone();
    let wire = Wire::open(&neighbour);
    wait_for("an answer for the address", || {
        wire.ask(&neighbour);
        wire.answers() > 0
    });

    signal(&first.child, Signal::SIGSTOP);
    let stopped = Instant::now();
    wait_for("the other is active", || other()["role"] == "active");
    wait_for("0.7 s", || stopped.elapsed() > Duration::from_millis(700));
    // What came while the lease held.
    wire.answers();
    signal(&first.child, Signal::SIGCONT);
    let mut answers = 0;
    let mut role = Value::Null;
    wait_for("the thawed one is standby", || {
        for _ in 0..20 {
            wire.ask(&neighbour);
        }
        role = host.status()["role"].clone();
        answers += wire.answers();
        role == "standby" && !has_address("lan0")
    });
    first.logs(&["WARN", "stood still for longer than others wait"]);
    first.logs(&["this node is standby"]);
    // Longer than it would wait for a master.
    let resumed = Instant::now();
    wait_for("a second", || {
        wire.ask(&neighbour);
        answers += wire.answers();
        resumed.elapsed() > Duration::from_secs(1)
    });
    assert_eq!(answers, 0);
    let (thawed, other) = (host.status(), other());
    assert_eq!(
        (&thawed["role"], &other["role"]),
        (&"standby".into(), &"active".into())
    );
    assert_eq!(thawed["vrrp"][0]["master"]["priority"], 90);
    // It has not been active again for however short a time, nor did it say anything.
    assert_eq!(thawed["lease"]["epoch"], epoch);
    let counters = &thawed["vrrp"][0]["counters"];
    assert_eq!(
        (&counters["mastership_lapsed"], &counters["became_master"]),
        (&1.into(), &1.into())
    );
    assert_eq!(counters["priority_zero_sent"], 0);
    assert_eq!(other["vrrp"][0]["counters"]["other_master"], 0);
    drop((first, second));
}

/// The owner of the data plane alone stood still; the election did not, and nobody took over.
#[test]
fn a_lease_that_lapsed_is_renewed_only_after_the_role_was_given_up() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    let before = host.status();
    // For longer than the lease, and shorter than it takes to be hung.
    stand_still(&daemon, Duration::from_millis(400));
    daemon.logs(&["WARN", "the lease was not renewed in time", "given up"]);
    wait_for("the role under another epoch", || {
        let status = host.status();
        status["role"] == "active"
            && status["lease"]["epoch"].as_u64() > before["lease"]["epoch"].as_u64()
    });
    assert!(has_address("lan0"));
    // The election has had no part in it, and told the peer nothing.
    let (before, after) = (&before["vrrp"][0], &host.status()["vrrp"][0]);
    assert_eq!(before["transitions"], after["transitions"]);
    assert_eq!(after["counters"]["priority_zero_sent"], 0);
    let (_, log) = daemon.stop();
    // It is not taken and given up again and again.
    assert_eq!(log.matches("was not renewed in time").count(), 1, "{log}");
    let order = ["was not renewed in time", "this node is active"];
    let (_, lapse) = log.split_at(log.find(order[0]).unwrap());
    let places = order.map(|words| {
        lapse
            .find(words)
            .unwrap_or_else(|| panic!("{words}\n{log}"))
    });
    assert!(places.is_sorted(), "{log}");
}

#[test]
fn half_a_request_holds_up_no_resignation() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (config, other_socket) = other(&host, "", "priority = 90\n");
    let mut first = host.start(&pair(&host, ""));
    becomes(&host, "active");
    let second = host.start_at(&neighbour, &config);
    wait_for("the other knows its master", || {
        host.status_at(&other_socket)["vrrp"][0]["master"]["priority"] == 100
    });
    let mut client = UnixStream::connect(host.socket()).unwrap();
    client.write_all(&[0]).unwrap();
    // It has been accepted when a later one has been answered.
    host.status();
    signal(&first.child, Signal::SIGTERM);
    wait_for("the other is active", || {
        host.status_at(&other_socket)["role"] == "active"
    });
    // It waits for the client.
    assert_eq!(first.child.try_wait().unwrap(), None);
    let (ended, log) = first.stop();
    assert!(ended.success());
    let order = [
        "stopping",
        "takes no part",
        "clients did not take their answers",
        "stopped; programs stay",
    ];
    let places = order.map(|words| log.find(words).unwrap_or_else(|| panic!("{words}\n{log}")));
    assert!(places.is_sorted(), "{log}");
    drop((client, second));
}

/// Direct routing with one of the directors as server: while it is standby, what the active node
/// sends it goes to its own stack, by the address on `lo`.
#[test]
fn a_standby_that_is_a_server_too_keeps_the_address_on_lo() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    ip("addr add 10.77.0.200/32 dev lo");
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    assert_eq!(["lan0", "lo"].map(has_address), [true; 2]);
    assert_eq!(host.status()["vrrp"][0]["vips"][0]["present"], true);
    host.admin("-A -u 10.77.0.200:53 -s rr");
    host.admin("-a -u 10.77.0.200:53 -r 10.77.0.9:53 -g");

    // A better master that does not have the address, so that it can be a client.
    let (stop, stopped) = mpsc::channel::<()>();
    let master = neighbour.run(move || thread::spawn(move || advertise(200, &stopped)));
    becomes(&host, "standby");
    wait_for("the address on lo alone", || {
        ["lan0", "lo"].map(has_address) == [false, true]
    });
    assert_eq!(host.status()["vrrp"][0]["vips"][0]["present"], false);
    wait_for("the end of what still comes for the address", || {
        host.status()["directing"] == "replies-only"
    });
    let server = UdpSocket::bind("10.77.0.200:53").unwrap();
    server.set_nonblocking(true).unwrap();
    neighbour.ip("neigh replace 10.77.0.200 lladdr 02:00:00:00:77:01 nud permanent dev lan1");
    let client = neighbour.run(|| UdpSocket::bind("10.77.0.2:4000").unwrap());
    wait_for("a packet for the server on this node", || {
        client.send_to(b"question", "10.77.0.200:53").unwrap();
        server.recv(&mut [0; 16]).is_ok()
    });
    drop(stop);
    master.join().unwrap();
    becomes(&host, "active");
    assert_eq!(["lan0", "lo"].map(has_address), [true; 2]);
    let (_, log) = daemon.stop();
    assert!(!log.contains("added by somebody else"), "{log}");
    assert_eq!(["lan0", "lo"].map(has_address), [false, true]);
}
