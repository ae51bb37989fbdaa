//! `directord sysctl`: what is shown, what is refused, and how long a change lasts.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use crate::host::{Ended, Host, NOBODY, Neighbour, ended};
use crate::node::{advertise, becomes, pair};

#[test]
fn everything_is_listed_as_the_kernel_lists_it() {
    let host = Host::new();
    let _daemon = host.start(&host.config("[sysctl]\nsync_threshold = \"2 5\"\nsync_ports = 128"));
    let all = host.directord(&["sysctl", "-a"]).succeeded();
    let mut lines: Vec<&str> = all.lines().collect();
    assert!(lines.is_sorted(), "{all}");
    // Those of the host.
    lines.retain(|line| !line.contains("est_cpulist"));
    let expected = "am_droprate = 10, amemthresh = 1024, backup_only = 0, cache_bypass = 0, \
        conn_lfactor = -4, conn_max = 1073741824, conn_reuse_mode = 1, conntrack = 0, \
        debug_level = 0, drop_entry = 0, drop_packet = 0, est_nice = 0, expire_nodest_conn = 0, \
        expire_quiescent_template = 0, ignore_tunneled = 0, lblc_expiration = 86400, \
        lblcr_expiration = 86400, nat_icmp_send = 0, pmtu_disc = 1, run_estimation = 1, \
        schedule_icmp = 0, secure_tcp = 0, sloppy_sctp = 0, sloppy_tcp = 0, snat_reroute = 1, \
        svc_lfactor = -3, sync_persist_mode = 0, sync_ports = 128, sync_qlen_max = 4096, \
        sync_refresh_period = 0, sync_retries = 0, sync_sock_size = 0, sync_threshold = 2\t5, \
        sync_version = 1";
    let expected: Vec<String> = expected
        .split(", ")
        .map(|line| format!("net.ipv4.vs.{}", line.trim_start()))
        .collect();
    assert_eq!(lines, expected);
    let some = ["sysctl", "net/ipv4/vs/sync_threshold", "sync_ports"];
    assert_eq!(
        host.directord(&some).succeeded(),
        "net.ipv4.vs.sync_threshold = 2\t5\nnet.ipv4.vs.sync_ports = 128\n"
    );
    let value = host.directord(&["sysctl", "-n", "net.ipv4.vs.sync_threshold"]);
    assert_eq!(value.succeeded(), "2\t5\n");
}

#[test]
fn each_mistake_is_a_line_and_changes_nothing() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    let before = host.directord(&["sysctl", "-a"]).succeeded();
    for (words, complaint) in [
        (
            &["colour"][..],
            "cannot stat net.ipv4.vs.colour: no such tunable",
        ),
        (
            &["-w", "net.ipv4.ip_forward=1"],
            "cannot stat net.ipv4.ip_forward: no such tunable",
        ),
        (
            &["-w", "sync_threshold=50 50"],
            "setting key \"net.ipv4.vs.sync_threshold\": \"50 50\" needs a threshold below the \
             period, or a period of 0",
        ),
        (
            &["-w", "net.ipv4.vs.sync_ports=3"],
            "setting key \"net.ipv4.vs.sync_ports\": 3 is not a power of two",
        ),
        (
            &["-w", "pmtu_disc=0"],
            "setting key \"net.ipv4.vs.pmtu_disc\": 0 is not supported by this director yet, it \
             has only the default 1: tunnels",
        ),
        (&["-w", "sync_ports"], "sync_ports: -w needs NAME=VALUE"),
        (
            &["-p", "/nonexistent"],
            "cannot open /nonexistent: No such file or directory (os error 2)",
        ),
    ] {
        let ran = sysctl(&host, words);
        ran.failed(1, &format!("directord: {complaint}"));
        let after = host.directord(&["sysctl", "-a"]).succeeded();
        assert_eq!(after, before, "{words:?}");
    }
    // The others of the command line are carried out.
    let ran = sysctl(
        &host,
        &["-w", "sync_retries=9", "sync_retries=2", "colour=1"],
    );
    assert_eq!(ran.status, Some(1));
    assert_eq!(ran.out, "net.ipv4.vs.sync_retries = 2\n");
    assert_eq!(
        ran.err,
        "directord: setting key \"net.ipv4.vs.sync_retries\": 9 is not between 0 and 3\n\
         directord: cannot stat net.ipv4.vs.colour: no such tunable\n"
    );
    assert_eq!(value(&host, "sync_retries"), "2");
    assert_eq!(sysctl(&host, &[]).status, Some(2));
    daemon.is_undisturbed(&host);
}

#[test]
fn a_file_is_taken_line_by_line() {
    let host = Host::new();
    let _daemon = host.start(&host.config(""));
    let text = "# of this pair\n; and a comment\n\nnet.ipv4.vs.sync_threshold = 2 5\n\
                net/ipv4/vs/sync_retries=1\n-net.ipv4.vs.sync_version = 7\n-colour = 1\n\
                 sync_ports\t=  3\nsync_qlen_max = 0x10\nbackup_only\nnet.ipv4.ip_forward = 1\n";
    let file = host.file("vs.conf", text.as_bytes());
    let path = file.to_str().unwrap();
    let ran = sysctl(&host, &["-p", path]);
    assert_eq!(
        ran.out,
        "net.ipv4.vs.sync_threshold = 2 5\nnet.ipv4.vs.sync_retries = 1\n\
         net.ipv4.vs.sync_qlen_max = 0x10\n"
    );
    assert_eq!(
        ran.err,
        format!(
            "directord: {path}:8: setting key \"net.ipv4.vs.sync_ports\": 3 is not a power of two\n\
             directord: {path}:10: backup_only: not NAME = VALUE\n\
             directord: {path}:11: cannot stat net.ipv4.ip_forward: no such tunable\n"
        )
    );
    assert_eq!(ran.status, Some(1));
    assert_eq!(value(&host, "sync_qlen_max"), "16");
    // What was listed is such a file too.
    let all = host.directord(&["sysctl", "-a"]).succeeded();
    let mut command = host.command("directord");
    command.args(["sysctl", "-q", "-p", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(all.as_bytes()).unwrap();
    drop(input);
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success() && done.stdout.is_empty(), "{done:?}");
    assert_eq!(host.directord(&["sysctl", "-a"]).succeeded(), all);
}

#[test]
fn only_the_owner_of_a_running_director_reads_and_sets() {
    let host = Host::new();
    let line = format!(
        "directord: no director answers at {}: No such file or directory (os error 2); start \
         directord, or set TANDEM_CONTROL to its control socket",
        host.socket().display()
    );
    for words in [&["-a"][..], &["sync_ports"], &["-w", "sync_ports=2"]] {
        sysctl(&host, words).failed(2, &line);
    }
    let mut daemon = host.start(&host.config(""));
    let line = format!(
        "directord: the control socket {} is its owner's alone: Permission denied (you must be \
         root)",
        host.socket().display()
    );
    for words in [&["-a"][..], &["sync_ports"], &["-w", "sync_ports=2"]] {
        let mut command = host.command("directord");
        command.arg("sysctl").args(words).uid(NOBODY).gid(NOBODY);
        ended(&mut command).failed(2, &line);
    }
    assert_eq!(value(&host, "sync_ports"), "1");
    daemon.is_undisturbed(&host);
}

#[test]
fn a_change_is_logged_and_lasts_until_the_director_ends() {
    let host = Host::new();
    let config = host.config("[sysctl]\nsync_threshold = \"2 5\"\nconn_reuse_mode = 0");
    let daemon = host.start(&config);
    set(&host, "sync_threshold=7 9");
    set(&host, "conn_reuse_mode=3");
    set(&host, "conn_reuse_mode=3");
    let (_, log) = daemon.stop();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("tunable"))
        .collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, words) in lines.iter().zip([
        [
            "INFO",
            "name=\"sync_threshold\"",
            "before=\"2\\t5\"",
            "now=\"7\\t9\"",
        ],
        [
            "INFO",
            "name=\"conn_reuse_mode\"",
            "before=\"0\"",
            "now=\"3\"",
        ],
    ]) {
        for word in words {
            assert!(line.contains(word), "{line}: {word}");
        }
    }
    // The tables are adopted, their settings are not.
    let daemon = host.start(&config);
    assert!(daemon.ready.contains("adopted"), "{}", daemon.ready);
    assert_eq!(value(&host, "sync_threshold"), "2\t5");
    set(&host, "sync_threshold=7 9");
    daemon.kill();
    let _daemon = host.start(&config);
    assert_eq!(value(&host, "sync_threshold"), "2\t5");
    assert_eq!(value(&host, "conn_reuse_mode"), "0");
}

#[test]
fn a_change_outlasts_a_change_of_role() {
    let host = Host::new();
    let neighbour = Neighbour::new();
    let (stop, stopped) = mpsc::channel::<()>();
    let master = neighbour.run(move || thread::spawn(move || advertise(200, &stopped)));
    let _daemon = host.start(&pair(&host, ""));
    becomes(&host, "standby");
    set(&host, "sync_threshold=2 5");
    set(&host, "backup_only=0");
    set(&host, "sync_qlen_max=77");
    drop(stop);
    master.join().unwrap();
    becomes(&host, "active");
    let (stop, stopped) = mpsc::channel::<()>();
    let master = neighbour.run(move || thread::spawn(move || advertise(200, &stopped)));
    becomes(&host, "standby");
    assert_eq!(value(&host, "sync_threshold"), "2\t5");
    assert_eq!(value(&host, "backup_only"), "0");
    assert_eq!(value(&host, "sync_qlen_max"), "77");
    drop(stop);
    master.join().unwrap();
}

fn sysctl(host: &Host, words: &[&str]) -> Ended {
    let mut command = host.command("directord");
    ended(command.arg("sysctl").args(words))
}

#[track_caller]
pub(crate) fn set(host: &Host, assignment: &str) {
    let (name, value) = assignment.split_once('=').unwrap();
    let printed = sysctl(host, &["-w", assignment]).succeeded();
    assert_eq!(printed, format!("net.ipv4.vs.{name} = {value}\n"));
}

#[track_caller]
pub(crate) fn value(host: &Host, name: &str) -> String {
    let value = sysctl(host, &["-n", name]).succeeded();
    value.trim_end().to_owned()
}
