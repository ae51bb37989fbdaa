//! Whoever reads the log may stop reading: the director goes on.

use std::io::Read;
use std::time::{Duration, Instant};

use ipvs_control::{Client, Reply, Request};
use ipvs_model::service::{EditError, ServiceKey};
use nix::sys::signal::Signal;

use crate::host::{Host, collect, end_of, signal, wait_for};

#[test]
fn a_log_that_is_not_read_holds_nothing_up() {
    let host = Host::new();
    let config = host.config("lease_ms = 900\nlog_level = \"trace\"");
    let mut child = host.spawn(&config);
    wait_for("an answer", || {
        host.directord(&["status"]).status == Some(0)
    });

    let mut client = Client::connect(&host.socket()).unwrap();
    fill_log(&host, &mut client);

    // For three times its length the lease never lapses.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(2700) {
        refused_change(&mut client);
        assert_eq!(host.status()["directing"], "yes");
    }

    // Read again, it says what is missing.
    let mut pipe = child.stderr.take().unwrap();
    let mut first = [0; 65_536];
    pipe.read_exact(&mut first).unwrap();
    let log = collect(pipe);
    wait_for("the report", || {
        log.text()
            .contains("log lines were lost, standard error was not read")
    });
    signal(&child, Signal::SIGTERM);
    assert!(end_of(&mut child).success());
    let text = log.all();
    assert!(text.lines().last().unwrap_or_default().contains("stopped;"));
}

#[test]
fn a_log_that_is_not_read_does_not_keep_a_director_from_stopping() {
    let host = Host::new();
    let mut child = host.spawn(&host.config("log_level = \"trace\""));
    wait_for("an answer", || {
        host.directord(&["status"]).status == Some(0)
    });
    let mut client = Client::connect(&host.socket()).unwrap();
    fill_log(&host, &mut client);
    let asked = Instant::now();
    signal(&child, Signal::SIGTERM);
    assert!(end_of(&mut child).success());
    // A second for clients, a second for the log, and time to be scheduled.
    assert!(asked.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_log_that_nobody_reads_any_more_is_no_reason_to_end() {
    let host = Host::new();
    let mut child = host.spawn(&host.config("lease_ms = 900"));
    drop((child.stderr.take(), child.stdout.take()));
    wait_for("an answer", || {
        host.directord(&["status"]).status == Some(0)
    });
    wait_for("lost lines", || host.status()["log_lines_lost"] != 0);
    signal(&child, Signal::SIGTERM);
    assert!(end_of(&mut child).success());
}

/// Each refused change is a line: enough of them fill the pipe and the queue behind it.
fn fill_log(host: &Host, client: &mut Client) {
    wait_for("a lost line", || {
        for _ in 0..1000 {
            refused_change(client);
        }
        host.status()["log_lines_lost"] != 0
    });
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn refused_change(client: &mut Client) {
    let mark = ServiceKey::Fwmark {
        mark: 7,
        ipv6: false,
    };
    let zero = Request::Zero {
        service: Some(mark),
    };
    let reply = client.call(&zero).unwrap();
    assert_eq!(reply, Reply::Refused(EditError::NoSuchService));
}
