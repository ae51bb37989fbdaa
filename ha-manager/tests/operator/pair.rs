//! A node of a pair, and what operators get wrong about one: each mistake is one line in the log
//! and one in the status, and nothing else stops working.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use vrrp::net::socket::AdvertSocket;
use vrrp::wire::v3::{Advert, Identification};
use vrrp::{Interval, Priority};

use crate::host::{Daemon, Host, Neighbour, ended, ip, signal, wait_for};

/// The address that moves. Others have to stay where they are.
const MOVED: &str = "10.77.0.200";
const ELECTION: &str = "[[vrrp]]\nname = \"VI_1\"\ninterface = \"lan0\"\nvrid = 51\nadvert_ms = 50\n\
     garp_delay_ms = 200\nvips = [\"10.77.0.200\"]\n";
const SYNC: &str = "[sync]\ninterface = \"lan0\"\n";

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
    assert_eq!(status["sync"].as_array().unwrap().len(), 1);
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
    // Where an address of this node is does not matter, nor with which length.
    ip("addr add 10.77.0.200/28 dev lo");
    let daemon = host.start(&config);
    becomes(&host, "active");
    let (_, log) = daemon.stop();
    let removed = log
        .find("removing virtual addresses that were left behind")
        .unwrap();
    assert!(removed < log.find("ready version").unwrap(), "{log}");
    assert_eq!(["lan0", "lo"].map(has_address), [false; 2], "{log}");
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

#[test]
fn an_address_somebody_deletes_is_restored() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    ip("addr del 10.77.0.200/32 dev lan0");
    wait_for("the address", || has_address("lan0"));
    daemon.logs(&["removed by somebody else, and restored", MOVED]);
    assert_eq!(host.status()["role"], "active");
}

#[test]
fn an_address_that_another_host_has_is_a_problem() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    neighbour.ip("addr add 10.77.0.200/32 dev lan1");
    neighbour.ip("link set lan1 address 02:00:00:00:77:99");
    let daemon = host.start(&pair(&host, ""));
    let problem = "VI_1: another host answers for 10.77.0.200 (02:00:00:00:77:99)";
    is_a_problem(&host, daemon, problem);
}

#[test]
fn a_second_director_for_the_same_virtual_router_is_refused() {
    let host = Host::new();
    let mut first = host.start(&pair(&host, ""));
    becomes(&host, "active");
    let pins = host.dir.join("bpf/second");
    let socket = host.dir.join("run/second.sock");
    let more = format!("{SYNC}{ELECTION}");
    let config = host.config_of("second.toml", &pins, &socket, &more);
    host.run(&config).failed(
        1,
        "directord: another directord of this host takes part in vrid 51 on lan0",
    );
    assert!(!socket.exists());
    assert!(has_address("lan0"));
    first.is_undisturbed(&host);
}

#[test]
fn a_sync_interface_without_an_address_is_a_problem_until_it_has_one() {
    let host = Host::new();
    ip("link add sync0 type veth peer name sync1");
    ip("link set sync0 up");
    ip("link set sync1 up");
    let config = host.config(&format!("[sync]\ninterface = \"sync0\"\n{ELECTION}"));
    let daemon = host.start(&config);
    // The service is there all the same.
    becomes(&host, "active");
    let problem = "sync: interface sync0 has no IPv4 address, connections are not copied";
    wait_for(problem, || problems(&host).contains(&problem.to_owned()));
    daemon.logs(&["WARN", problem]);
    ip("addr add 10.78.0.1/24 dev sync0");
    wait_for("a master daemon and no problem", || {
        host.status()["sync"][0]["role"] == "master" && problems(&host).is_empty()
    });
    ip("link del sync0");
    let problem = "sync: interface sync0 is gone, connections are not copied";
    wait_for(problem, || problems(&host).contains(&problem.to_owned()));
    assert_eq!(host.status()["role"], "active");
}

#[test]
fn messages_with_another_sync_id_are_a_problem() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    // An owner of the addresses keeps this node standby, so that its backup listens.
    let (config, _) = other(&host, "syncid = 7\n", "priority = 200\n");
    let other = host.start_at(&neighbour, &config);
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "standby");
    neighbour.run(|| {
        let socket = UdpSocket::bind("10.77.0.2:0").unwrap();
        // No connections, sync id 7, 8 bytes, version 1.
        let message = [0, 7, 0, 8, 0, 1, 0, 0];
        socket.send_to(&message, "224.0.0.81:8848").unwrap();
    });
    let problem = "sync: messages with other sync ids arrive on lan0 (ours: 51)";
    is_a_problem(&host, daemon, problem);
    drop(other);
}

#[test]
fn two_owners_of_the_addresses_are_a_problem() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (config, other_socket) = other(&host, "", "priority = 255\n");
    let second = host.start_at(&neighbour, &config);
    wait_for("the other is active", || {
        host.status_at(&other_socket)["role"] == "active"
    });
    let config = pair(&host, "priority = 255\n");
    let daemon = host.start(&config);
    let problem = "VI_1: another router with priority 255 is heard on lan0; two masters by \
                   configuration";
    is_a_problem(&host, daemon, problem);
    drop(second);
}

#[test]
fn a_master_that_never_yields_is_a_problem() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    // A router of lesser priority that hears nobody.
    let (stop, stopped) = mpsc::channel::<()>();
    let deaf = neighbour.run(move || {
        thread::spawn(move || {
            let socket = AdvertSocket::open("lan1", 51).unwrap();
            let advert = Advert {
                vrid: 51,
                priority: Priority(50),
                interval: Interval::from_centis(5).unwrap(),
                addresses: &[MOVED.parse().unwrap()],
            };
            let packet = advert.to_packet(socket.source(), Identification::FIRST);
            let pause = Duration::from_millis(50);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                socket.send(&packet).unwrap();
            }
        })
    });
    let problem = "VI_1: another master is heard on lan0 all the time while this node is master; \
                   two masters by configuration?";
    is_a_problem(&host, daemon, problem);
    drop(stop);
    deaf.join().unwrap();
}

#[test]
fn two_nodes_with_different_addresses_are_a_problem() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (config, _) = other(&host, "", "");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("10.77.0.200", "10.77.0.201")).unwrap();
    let second = host.start_at(&neighbour, &config);
    let daemon = host.start(&pair(&host, ""));
    let problem = "VI_1: adverts of another router are refused on lan0 (address_list): is it \
                   configured alike?";
    is_a_problem(&host, daemon, problem);
    drop(second);
}

#[test]
fn an_interface_that_disappears_is_a_fault_until_it_is_back() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    ip("link set lan1 down");
    becomes(&host, "fault");
    let problem = "VI_1: interface lan0 has no carrier, this node cannot be active";
    assert!(
        problems(&host).contains(&problem.to_owned()),
        "{:?}",
        problems(&host)
    );
    daemon.logs(&["WARN", problem]);
    assert!(!has_address("lan0"));
    ip("link set lan1 up");
    becomes(&host, "active");
    assert_eq!(problems(&host), [""; 0]);

    ip("link del lan0");
    becomes(&host, "fault");
    daemon.logs(&["VI_1: interface lan0 is gone, this node cannot be active"]);
    let words = ended(host.command("directord").arg("status")).succeeded();
    assert!(
        words.contains("FAULT") && words.contains("lan0 is gone"),
        "{words}"
    );
    ip("link add lan0 type veth peer name lan1");
    ip("addr add 10.77.0.1/24 dev lan0");
    ip("link set lan1 up");
    ip("link set lan0 up");
    becomes(&host, "active");
    wait_for("the address", || has_address("lan0"));
    assert_eq!(host.programs("lan0").len(), 1);
}

#[test]
fn an_interface_that_is_exchanged_is_served_like_the_one_before() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    ip("link del lan0");
    ip("link add lan0 type veth peer name lan1");
    ip("addr add 10.77.0.1/24 dev lan0");
    ip("link set lan1 up");
    ip("link set lan0 up");
    wait_for("the address on the new device", || {
        has_address("lan0") && host.status()["role"] == "active"
    });
    wait_for("no problem", || problems(&host).is_empty());
    let status = host.status();
    assert_eq!(status["vrrp"][0]["vips"][0]["present"], true);
    assert_eq!(status["sync"][0]["role"], "master");
    assert_eq!(host.programs("lan0").len(), 1);
    drop(daemon);
}

#[test]
fn a_promotion_that_cannot_be_finished_is_a_fault_and_no_half_role() {
    let host = Host::new();
    // IPv4 ends on an interface that cannot carry its smallest datagram.
    ip("link set lo mtu 60");
    let election = ELECTION.replace(
        "[\"10.77.0.200\"]",
        "[\"10.77.0.200\", \"10.77.0.201 dev lo\"]",
    );
    let daemon = host.start(&host.config(&format!("{SYNC}{election}")));
    let problem = "VI_1: adding the addresses failed, this node cannot be active";
    wait_for(problem, || problems(&host).contains(&problem.to_owned()));
    becomes(&host, "fault");
    daemon.logs(&["WARN", problem]);
    assert!(!has_address("lan0"));
    let status = host.status();
    assert_eq!(status["sync"][0]["role"], "backup");
    // The peer has been told, as keepalived tells it: twice.
    assert_eq!(status["vrrp"][0]["counters"]["priority_zero_sent"], 2);
    // It is tried again after a while.
    ip("link set lo mtu 65536");
    becomes(&host, "active");
    assert!(has_address("lan0"));
    assert_eq!(problems(&host), [""; 0]);
}

#[test]
fn an_interface_that_is_not_there_at_the_start_is_named() {
    let host = Host::new();
    for (more, section) in [
        (SYNC.replace("lan0", "eth9") + ELECTION, "[sync]"),
        (
            SYNC.to_owned() + &ELECTION.replace("lan0", "eth9"),
            "[[vrrp]]",
        ),
        (
            SYNC.to_owned() + &ELECTION.replace(MOVED, "10.77.0.200 dev eth9"),
            "[[vrrp]]",
        ),
    ] {
        let line = format!("directord: interface eth9 of {section} does not exist");
        host.run(&host.config(&more)).failed(2, &line);
        host.is_untouched();
    }
}

#[test]
fn a_hand_in_the_sync_daemons_is_shown_and_lasts_until_the_role_changes() {
    let host = Host::new();
    let daemon = host.start(&pair(&host, ""));
    becomes(&host, "active");
    host.admin("--stop-daemon master");
    daemon.logs(&["stopped by hand", "master"]);
    host.admin("--start-daemon backup --mcast-interface lan0 --syncid 9");
    let status = host.status();
    let sync = &status["sync"];
    assert_eq!(sync.as_array().unwrap().len(), 1);
    assert_eq!(
        (&sync[0]["role"], &sync[0]["by"]),
        (&"backup".into(), &"manual".into())
    );
    // `backup_only` holds for a daemon started by hand as well.
    assert_eq!(status["directing"], "replies-only");
    ip("link set lan1 down");
    becomes(&host, "fault");
    ip("link set lan1 up");
    becomes(&host, "active");
    let sync = &host.status()["sync"];
    assert_eq!(sync.as_array().unwrap().len(), 1);
    assert_eq!(
        (&sync[0]["role"], &sync[0]["by"]),
        (&"master".into(), &"role".into())
    );
    assert_eq!(sync[0]["sync_id"], 51);
}

/// A node of a pair; `more` goes into its `[[vrrp]]` section.
fn pair(host: &Host, more: &str) -> PathBuf {
    host.config(&format!(
        "[sysctl]\nbackup_only = 1\n{SYNC}{ELECTION}{more}"
    ))
}

/// The other node, at the other end of the link; also its control socket.
fn other(host: &Host, sync: &str, vrrp: &str) -> (PathBuf, PathBuf) {
    let (pins, socket) = (host.dir.join("bpf/other"), host.dir.join("run/other.sock"));
    let more =
        format!("interfaces = [\"lan1\"]\n[sysctl]\nbackup_only = 1\n{SYNC}{sync}{ELECTION}{vrrp}");
    let more = more.replace("lan0", "lan1");
    let config = host.config_of("other.toml", &pins, &socket, &more);
    (config, socket)
}

#[track_caller]
fn becomes(host: &Host, role: &str) {
    wait_for(role, || host.status()["role"] == role);
}

/// That the status has this problem, and the log has it in one line.
#[track_caller]
fn is_a_problem(host: &Host, daemon: Daemon, problem: &str) {
    wait_for(problem, || problems(host).contains(&problem.to_owned()));
    let words = ended(host.command("directord").arg("status")).succeeded();
    assert!(
        words.contains(&format!("PROBLEM      {problem}\n")),
        "{words}"
    );
    let (_, log) = daemon.stop();
    let lines = log
        .lines()
        .filter(|line| line.contains("WARN") && line.contains(problem));
    assert_eq!(lines.count(), 1, "{log}");
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn problems(host: &Host) -> Vec<String> {
    let status = host.status();
    let problems = status["problems"].as_array().unwrap().iter();
    problems
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

/// Whether the address that moves is on this host's interface.
fn has_address(interface: &str) -> bool {
    let mut command = Command::new("ip");
    let listed = ended(command.args(["-4", "-o", "addr", "show", "dev", interface]));
    listed.out.contains(MOVED)
}
