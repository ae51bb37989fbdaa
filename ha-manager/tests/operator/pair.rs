//! A node of a pair, and what operators get wrong about one: each mistake is one line in the log
//! and one in the status, and nothing else stops working.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, sendto};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use vrrp::net::socket::AdvertSocket;
use vrrp::wire::v3::{Advert, Identification};
use vrrp::{Interval, Priority};

use crate::host::{Daemon, Host, NOBODY, Neighbour, ended, ip, signal, wait_for};

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
    let order = [
        "was not renewed in time",
        "this node is standby",
        "this node is active",
    ];
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
    assert_eq!(host.status()["directing"], "replies-only");
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

#[test]
fn an_interface_with_virtual_addresses_alone_is_refused() {
    let host = Host::new();
    ip("addr flush dev lan0");
    ip("addr add 10.77.0.200/24 dev lan0");
    let line = "directord: interface lan0 has no address of its own beside the virtual ones \
                (10.77.0.200)";
    host.run(&pair(&host, "")).failed(2, line);
    host.is_untouched();
    assert!(has_address("lan0"));
    ip("addr add 10.77.0.1/24 dev lan0");
    drop(host.start(&pair(&host, "")));
}

#[test]
fn a_name_that_a_stranger_took_keeps_no_director_from_starting() {
    let host = Host::new();
    let taken = thread::spawn(|| {
        // SAFETY: changes the calling thread's own user and nothing else.
        let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, NOBODY, -1) };
        assert_eq!(changed, 0);
        let name = SocketAddr::from_abstract_name("tandem/vrrp/lan0/51").unwrap();
        UnixListener::bind_addr(&name).unwrap()
    });
    let taken = taken.join().unwrap();
    let daemon = host.start(&pair(&host, ""));
    daemon.logs(&["WARN", "tandem/vrrp/lan0/51", "uid", &NOBODY.to_string()]);
    becomes(&host, "active");
    drop(taken);
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
    let deaf = neighbour.run(move || thread::spawn(move || advertise(50, &stopped)));
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
    let interfaces = "interfaces = [\"lan0\", \"lo\"]\n";
    let daemon = host.start(&host.config(&format!("{interfaces}{SYNC}{election}")));
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
    let listed = "interfaces = [\"lan0\", \"eth9\"]\n";
    for (more, section) in [
        (SYNC.replace("lan0", "eth9") + ELECTION, "[sync]"),
        (
            format!("{listed}{SYNC}{}", ELECTION.replace("lan0", "eth9")),
            "[[vrrp]]",
        ),
        (
            format!(
                "{listed}{SYNC}{}",
                ELECTION.replace(MOVED, "10.77.0.200 dev eth9")
            ),
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

/// Stops a director's first thread, and no other, for a while.
fn stand_still(daemon: &Daemon, length: Duration) {
    let pid = daemon.child.id().cast_signed();
    let order = |request| {
        // SAFETY: these requests read and write no memory of either process.
        let done = unsafe { libc::ptrace(request, pid, 0, 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    order(libc::PTRACE_SEIZE);
    order(libc::PTRACE_INTERRUPT);
    let mut status = 0;
    // SAFETY: `status` is written before the call returns.
    let stopped = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert!(stopped == pid && libc::WIFSTOPPED(status), "{status:#x}");
    let begun = Instant::now();
    wait_for("its time", || begun.elapsed() >= length);
    order(libc::PTRACE_DETACH);
}

/// A router at the other end that hears nobody, until it is stopped.
#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn advertise(priority: u8, stopped: &mpsc::Receiver<()>) {
    let socket = AdvertSocket::open("lan1", 51).unwrap();
    let advert = Advert {
        vrid: 51,
        priority: Priority(priority),
        interval: Interval::from_centis(5).unwrap(),
        addresses: &[MOVED.parse().unwrap()],
    };
    let packet = advert.to_packet(socket.source(), Identification::FIRST);
    let pause = Duration::from_millis(50);
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        socket.send(&packet).unwrap();
    }
}

/// The ARP of the other end of the link.
struct Wire {
    socket: Arc<Socket>,
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
impl Wire {
    fn open(neighbour: &Neighbour) -> Wire {
        let socket = neighbour.run(|| {
            let kind = Type::RAW.nonblocking().cloexec();
            let protocol = Protocol::from(i32::from(0x0806_u16.to_be()));
            Socket::new(Domain::PACKET, kind, Some(protocol)).unwrap()
        });
        Wire {
            socket: Arc::new(socket),
        }
    }

    /// Asks who has the address that moves, as a host 10.77.0.3.
    fn ask(&self, neighbour: &Neighbour) {
        let socket = Arc::clone(&self.socket);
        neighbour.run(move || {
            let own = [2, 0, 0, 0, 0x77, 3];
            let address: Ipv4Addr = MOVED.parse().unwrap();
            let frame = [
                &[0xff; 6][..],
                &own,
                &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
                &own,
                &[10, 77, 0, 3],
                &[0; 6],
                &address.octets(),
            ]
            .concat();
            let lan1 = getifaddrs().unwrap().find_map(|found| {
                let address = found.address?.as_link_addr().copied();
                address.filter(|_| found.interface_name == "lan1")
            });
            let fd = socket.as_raw_fd();
            sendto(fd, &frame, &lan1.unwrap(), MsgFlags::MSG_DONTWAIT).unwrap();
        });
    }

    /// Frames since the last call in which `lan0` says that the address is its own.
    fn answers(&self) -> usize {
        let address: Ipv4Addr = MOVED.parse().unwrap();
        let mut count = 0;
        let mut frame = [0; 64];
        while let Ok(length) = (&*self.socket).read(&mut frame) {
            let frame = &frame[..length];
            let from_lan0 = frame.get(6..12) == Some(&[2, 0, 0, 0, 0x77, 1]);
            let claims = frame.get(28..32) == Some(&address.octets());
            count += usize::from(from_lan0 && claims);
        }
        count
    }
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
