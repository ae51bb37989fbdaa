//! Users who may not, and directors that are not there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use crate::host::{Daemon, Host, NOBODY, VIP, ended, wait_for};

const MISSING: &str = "directord: missing privileges: CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON; run as \
                       root or grant these capabilities";

#[test]
fn without_privileges_a_director_says_what_is_missing() {
    let host = Host::new();
    let config = host.config("");
    let mut run = host.command("directord");
    run.arg("run").arg("--config").arg(&config);
    ended(run.uid(NOBODY).gid(NOBODY)).failed(2, MISSING);
    let mut detach = host.command("directord");
    detach.arg("detach").arg("--config").arg(&config);
    ended(detach.uid(NOBODY).gid(NOBODY)).failed(2, MISSING);
    fs::set_permissions(&config, Permissions::from_mode(0o600)).unwrap();
    let mut check = host.command("directord");
    check.arg("run").arg("--check").arg("--config").arg(&config);
    let line = format!(
        "directord: {}: Permission denied (os error 13)",
        config.display()
    );
    ended(check.uid(NOBODY).gid(NOBODY)).failed(2, &line);
    host.is_untouched();
}

#[test]
fn the_control_socket_is_its_owners_alone() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    for (line, status) in [("-L", 1), ("-S", 1)] {
        let mut listing = host.command("ipvsadm");
        listing.arg(line).uid(NOBODY).gid(NOBODY);
        ended(&mut listing).failed(status, "Permission denied (you must be root)");
    }
    let mut change = host.command("ipvsadm");
    change.args(["-A", "-u", VIP]).uid(NOBODY).gid(NOBODY);
    ended(&mut change).failed(255, "Permission denied (you must be root)");
    let mut status = host.command("directord");
    status.arg("status").uid(NOBODY).gid(NOBODY);
    ended(&mut status).failed(
        2,
        &format!(
            "directord: the control socket {} is its owner's alone: Permission denied (you must \
             be root)",
            host.socket().display()
        ),
    );
    assert_eq!(host.admin("-S -n"), "");
    daemon.is_undisturbed(&host);
}

#[test]
fn without_a_director_clients_say_so() {
    let host = Host::new();
    let socket = host.socket();
    let none = format!(
        "no director answers at {}: No such file or directory (os error 2); start directord, or \
         set TANDEM_CONTROL to its control socket",
        socket.display()
    );
    for line in ["-L", "-S", "-C", "-A -t 10.77.0.100:80"] {
        host.ipvsadm(line).failed(2, &format!("ipvsadm: {none}"));
    }
    for words in [&["status"][..], &["proc", "ip_vs"], &["proc", "ip_vs_conn"]] {
        host.directord(words)
            .failed(2, &format!("directord: {none}"));
    }
    host.start(&host.config("")).kill();
    let refused = none.replace(
        "No such file or directory (os error 2)",
        "Connection refused (os error 111)",
    );
    host.ipvsadm("-L").failed(2, &format!("ipvsadm: {refused}"));
    host.directord(&["status"])
        .failed(2, &format!("directord: {refused}"));
}

#[test]
fn every_thread_has_given_up_what_it_does_not_need() {
    let host = Host::new();
    let daemon = host.start(&host.config(""));
    // CAP_NET_ADMIN, CAP_PERFMON and CAP_BPF for the one that directs, nothing for those that write the log
    // and follow the network.
    const DIRECTS: u64 = 1 << 12 | 1 << 38 | 1 << 39;
    let expected = [("directord", DIRECTS), ("log", 0), ("netlink", 0)];
    let expected = expected.map(|(name, capabilities)| (name.to_owned(), capabilities));
    assert_eq!(capabilities(&daemon), expected);
    drop(daemon);

    let config = host.config(
        "[sync]\ninterface = \"lan0\"\n[[vrrp]]\ninterface = \"lan0\"\nvrid = 51\n\
         advert_ms = 50\nvips = [\"10.77.0.200\"]",
    );
    let daemon = host.start(&config);
    wait_for("the active role", || host.status()["role"] == "active");
    // The election's sockets are opened again when an interface comes back: CAP_NET_RAW.
    const ELECTS: u64 = 1 << 13;
    // Whoever may have real-time priority may have that, too.
    let election = &host.status()["election"];
    if election["scheduling"]
        .as_str()
        .unwrap()
        .starts_with("SCHED_RR")
    {
        assert_eq!(nice(&daemon), -20);
    } else {
        println!("not tested: the nice value, {election}");
    }
    for (thread, capabilities) in capabilities(&daemon) {
        let expected = match thread.as_str() {
            "directord" => DIRECTS,
            "vrrp" | "vrrp-open" => ELECTS,
            _ => 0,
        };
        assert_eq!(capabilities, expected, "{thread}");
    }
}

/// Of the thread that owns the data plane: field 19 of stat(5).
#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn nice(daemon: &Daemon) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    fields.split(' ').nth(19 - 3).unwrap().parse().unwrap()
}

/// Name and effective capabilities of each thread, by name.
#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn capabilities(daemon: &Daemon) -> Vec<(String, u64)> {
    let tasks = format!("/proc/{}/task", daemon.child.id());
    let mut seen = Vec::new();
    for task in fs::read_dir(tasks).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap().trim().to_owned()
        };
        assert_eq!(field("CapEff:"), field("CapPrm:"));
        assert_eq!(field("NoNewPrivs:"), "1", "{status}");
        let effective = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
        seen.push((field("Name:"), effective));
    }
    seen.sort_unstable();
    seen
}
