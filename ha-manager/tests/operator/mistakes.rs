//! What operators get wrong about a pair: each mistake is one line in the log and one in the status, and
//! nothing else stops working.

use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::mpsc::{self};
use std::thread;

use nix::libc;

use crate::host::{Host, NOBODY, Neighbour, ended, ip, wait_for};
use crate::node::*;

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
    // No longer than the peer waits: there is nothing to remark.
    let more = format!("lease_ms = 150\n{SYNC}{ELECTION}");
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
    // Whichever hears the other first gives in, and says so.
    let problem = "VI_1: another router with priority 255 is heard on";
    wait_for(problem, || {
        let statuses = [host.status(), host.status_at(&other_socket)];
        statuses.iter().any(|status| {
            let problems = status["problems"].as_array().unwrap().iter();
            let texts = problems.filter_map(serde_json::Value::as_str);
            texts.into_iter().any(|text| text.starts_with(problem))
        })
    });
    drop((daemon, second));
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
    let problem = "VI_1: another master (10.77.0.2, priority 50) is heard on lan0 all the time \
                   while this node is master; two masters by configuration?";
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
    // The election has said so before the last step is done.
    wait_for("no address and the sync backup", || {
        !has_address("lan0") && host.status()["sync"][0]["role"] == "backup"
    });
    let status = host.status();
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
    wait_for("the role's alone", || {
        let sync = &host.status()["sync"];
        sync.as_array().unwrap().len() == 1
            && (&sync[0]["role"], &sync[0]["by"]) == (&"master".into(), &"role".into())
            && sync[0]["sync_id"] == 51
    });
}
