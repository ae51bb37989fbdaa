//! Directors that end, in order or not, and those that come after them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;

use crate::host::{Host, VIP, collect, end_of, signal, wait_for};

#[test]
fn a_director_says_that_it_is_ready() {
    let host = Host::new();
    let manager = host.dir.join("notify");
    let heard = UnixDatagram::bind(&manager).unwrap();
    let config = host.config("log_level = \"error\"");
    let mut command = host.command("directord");
    command.arg("run").arg("--config").arg(&config);
    command.env("NOTIFY_SOCKET", &manager);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut word = [0; 64];
    let length = heard.recv(&mut word).unwrap();
    assert_eq!(&word[..length], b"READY=1");
    signal(&child, Signal::SIGTERM);
    assert!(end_of(&mut child).success());
    assert_eq!(
        collect(child.stdout.take().unwrap()).all(),
        format!(
            "directord: ready: lb1 on lan0, fresh tables, control socket {}\n",
            host.socket().display()
        )
    );
    assert_eq!(collect(child.stderr.take().unwrap()).all(), "");
}

/// The pins; each start has one jump table of its own, `programs-N`, and takes away the one before.
fn pins(host: &Host) -> Vec<String> {
    let pins = host.pins().into_iter();
    pins.map(|name| match name.strip_prefix("programs-") {
        Some(_) => "programs-N".to_owned(),
        None => name,
    })
    .collect()
}

#[test]
fn after_a_kill_the_next_start_takes_everything_over() {
    let host = Host::new();
    let client = host.client();
    let config = host.config("");
    let daemon = host.start(&config);
    host.admin(&format!("-A -u {VIP} -s rr"));
    host.admin(&format!("-a -u {VIP} -r 10.77.0.3:53 -m -w 3"));
    // The daemon has heard of the interface's state a moment after it came up.
    wait_for("a connection", || {
        client.send(VIP, 1);
        host.admin("-L -n -c").contains("10.77.0.2:4000")
    });
    let before = (host.admin("-S -n"), pins(&host));
    let (connections, packets) = counted(&host);
    assert!(connections == 1 && packets > 0);
    daemon.kill();
    assert!(host.socket().exists(), "a stale socket is what is tested");
    // Packets flow and are counted while nobody is there.
    client.send(VIP, 2);

    let daemon = host.start(&config);
    assert_eq!(
        daemon.ready,
        format!(
            "directord: ready: lb1 on lan0, adopted 1 services, control socket {}",
            host.socket().display()
        )
    );
    assert_eq!((host.admin("-S -n"), pins(&host)), before);
    assert_eq!(host.programs("lan0").len(), 1);
    assert_eq!(counted(&host), (connections, packets + 2));
    assert!(host.admin("-L -n -c").contains("10.77.0.2:4000"));
    client.send(VIP, 3);
    assert_eq!(counted(&host), (connections, packets + 5));
}

#[test]
fn at_sigterm_programs_stay_attached_and_the_log_says_so() {
    let host = Host::new();
    let config = host.config("");
    let daemon = host.start(&config);
    host.admin(&format!("-A -u {VIP} -s rr"));
    let before = (host.pins(), host.programs("lan0"));
    let (status, log) = daemon.stop();
    assert!(status.success());
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains(
            "stopped; programs stay attached and keep forwarding; `directord detach` removes them"
        ),
        "{log}"
    );
    assert_eq!((host.pins(), host.programs("lan0")), before);
    assert!(!host.socket().exists());

    let detached = host.directord(&["detach", "--config", config.to_str().unwrap()]);
    let removed = detached.succeeded();
    for name in before.0 {
        assert!(removed.contains(&format!("removed {name}\n")), "{removed}");
    }
    host.is_untouched();
}

#[test]
fn with_a_lease_the_log_says_when_forwarding_ends() {
    let host = Host::new();
    let daemon = host.start(&host.config("lease_ms = 500"));
    let (status, log) = daemon.stop();
    assert!(status.success());
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains(
            "stopped; programs stay attached and drop service traffic once the lease has lapsed; \
             `directord detach` removes them"
        ),
        "{log}"
    );
    assert!(last.contains("lease_ms=500"), "{log}");
}

#[test]
fn a_director_that_runs_is_not_detached() {
    let host = Host::new();
    let config = host.config("");
    let mut daemon = host.start(&config);
    let before = (host.pins(), host.programs("lan0"));
    let line = format!(
        "directord: a running director uses the pin directory {}; stop it first",
        host.pin_dir().display()
    );
    host.directord(&["detach", "--config", config.to_str().unwrap()])
        .failed(1, &line);
    assert_eq!((host.pins(), host.programs("lan0")), before);
    daemon.is_undisturbed(&host);
}

#[test]
fn detach_outside_a_bpffs_removes_nothing() {
    let host = Host::new();
    let kept = host.file("LAYOUT", b"data");
    let dir = host.dir.to_str().unwrap();
    host.directord(&["detach", "--pin-dir", dir]).failed(
        2,
        &format!(
            "directord: {dir} is not in a bpffs; mount one with: mount -t bpf bpf {}",
            host.dir.parent().unwrap().display()
        ),
    );
    assert!(kept.exists());
}

#[test]
fn a_client_that_sends_garbage_disturbs_nobody() {
    let host = Host::new();
    let mut daemon = host.start(&host.config(""));
    host.admin(&format!("-A -u {VIP} -s rr"));
    let before = host.admin("-S -n");
    let mut patient = UnixStream::connect(host.socket()).unwrap();
    patient.write_all(&[4, 0]).unwrap();
    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        &[0xff; 4096],
        &[0, 0, 0, 0],
        &[1, 0, 0, 0, 250],
    ] {
        let mut stream = UnixStream::connect(host.socket()).unwrap();
        // The director may have hung up before it has read all of it.
        let _ = stream.write_all(garbage);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 1024);
        daemon.logs(&["WARN", "control client sent no request"]);
        assert_eq!(host.admin("-S -n"), before);
    }
    // One that is in the middle of a request holds nobody up.
    daemon.is_undisturbed(&host);
    drop(patient);
}

#[test]
fn a_client_of_a_director_that_starts_is_answered_when_it_is_ready() {
    let host = Host::new();
    let mut child = host.spawn(&host.config(""));
    let asking = ask_while_it_starts(&host, &child);
    signal(&child, Signal::SIGCONT);
    let (status, out, err) = answer_to(asking);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("IP Virtual Server version 1.2.1 (size=512)\n"));
    signal(&child, Signal::SIGTERM);
    assert!(end_of(&mut child).success());
}

#[test]
fn a_director_that_does_not_come_up_leaves_its_clients_a_sentence() {
    let host = Host::new();
    let config = host.config("");
    let mut child = host.spawn(&config);
    let asking = ask_while_it_starts(&host, &child);
    signal(&child, Signal::SIGKILL);
    child.wait().unwrap();
    let sentence = "ipvsadm: the director ended before it answered, whether the command was \
                    carried out is not known; see the log of directord, and start it again\n";
    let answer = answer_to(asking);
    assert_eq!(answer, (Some(2), String::new(), sentence.to_owned()));

    // What it left is whole and taken over, or it is refused by name until it is detached.
    let detached = host.directord(&["detach", "--config", config.to_str().unwrap()]);
    assert_eq!((detached.status, detached.err.as_str()), (Some(0), ""));
    drop(host.start(&config));
}

/// Connections and packets of the one service.
#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn counted(host: &Host) -> (u64, u64) {
    let listing = host.admin("-L -n --stats --exact");
    let service = listing
        .lines()
        .find(|line| line.starts_with("UDP"))
        .unwrap();
    let numbers: Vec<u64> = service
        .split_whitespace()
        .skip(2)
        .map(|word| word.parse().unwrap())
        .collect();
    (numbers[0], numbers[1])
}

/// Suspends a director that has its socket but does not answer yet, and lets `ipvsadm` ask.
#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn ask_while_it_starts(host: &Host, director: &Child) -> Child {
    wait_for("the socket", || host.socket().exists());
    signal(director, Signal::SIGSTOP);
    let mut command = host.command("ipvsadm");
    command
        .arg("-L")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let asking = command.spawn().unwrap();
    let name = host.socket().display().to_string();
    wait_for("a client", || {
        let sockets = fs::read_to_string("/proc/thread-self/net/unix").unwrap();
        // The one that listens, and the one for the client.
        sockets.lines().filter(|line| line.contains(&name)).count() == 2
    });
    asking
}

#[expect(clippy::unwrap_used, reason = "a test ends there")]
fn answer_to(mut asking: Child) -> (Option<i32>, String, String) {
    let status = end_of(&mut asking).code();
    let out = collect(asking.stdout.take().unwrap()).all();
    let err = collect(asking.stderr.take().unwrap()).all();
    (status, out, err)
}
