//! The real keepalived as the other router, in both roles.

#![allow(clippy::unwrap_used, reason = "a test ends there")]
#![allow(clippy::print_stdout, reason = "what is skipped is said")]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ha_manager::vrrp_driver::ElectionRole;
use host::{Host, SECOND, pair, parameters, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vrrp::Parameters;

#[path = "elections/host.rs"]
mod host;

const KEEPALIVED: &str = "keepalived";
const ADVERT_MS: u32 = 500;
const INTERVAL: Duration = Duration::from_millis(500);
/// Of priorities 100 and 150 at that interval, rounded down.
const SKEW_100: Duration = Duration::from_millis(304);
const SKEW_150: Duration = Duration::from_millis(207);

static NEXT: AtomicU32 = AtomicU32::new(0);

#[test]
fn keepalived_as_master_is_followed_through_crash_return_and_stop() {
    if !is_installed() {
        return;
    }
    let (a, b) = pair();
    let keepalived = Keepalived::start(&b, 150);
    keepalived.has_vip(true);
    let ours = a.elect(parameters(100, ADVERT_MS));
    wait_for("the master", || ours.view().master == Some((SECOND, 150)));
    assert_eq!(ours.view().role, ElectionRole::Backup);

    let crashed_at = Instant::now();
    keepalived.crash();
    let waited = ours.becomes(ElectionRole::Master) - crashed_at;
    // Master-down since the last advertisement, which was up to an interval old.
    assert!(waited >= INTERVAL * 2 + SKEW_100, "{waited:?}");
    assert_eq!(ours.counter("priority_zero_received"), 0);
    assert!(has_vip(&b), "nobody has removed it");

    // It comes back and preempts.
    let keepalived = Keepalived::start(&b, 150);
    ours.becomes(ElectionRole::Backup);
    keepalived.has_vip(true);
    wait_for("the master", || ours.view().master == Some((SECOND, 150)));

    let stopped_at = Instant::now();
    keepalived.stop();
    let waited = ours.becomes(ElectionRole::Master) - stopped_at;
    // The skew, and not the master-down time.
    let bounds = SKEW_100..INTERVAL * 2 + SKEW_100;
    assert!(bounds.contains(&waited), "{waited:?}");
    assert!(ours.counter("priority_zero_received") >= 1);
    assert!(!has_vip(&b));
    nothing_was_refused(&ours);
}

#[test]
fn keepalived_as_backup_takes_over_and_yields() {
    if !is_installed() {
        return;
    }
    let (a, b) = pair();
    let ours = a.elect(parameters(150, ADVERT_MS));
    ours.becomes(ElectionRole::Master);
    let keepalived = Keepalived::start(&b, 100);
    // It would be master by then if it did not hear us.
    let sent = ours.counter("adverts_sent");
    wait_for("ten intervals", || ours.counter("adverts_sent") > sent + 10);
    keepalived.has_vip(false);
    assert_eq!(ours.counter("other_master"), 0);

    let gone_at = Instant::now();
    drop(ours);
    let waited = keepalived.has_vip(true) - gone_at;
    assert!(waited >= INTERVAL * 2 + SKEW_100, "{waited:?}");

    // We come back and preempt.
    let started_at = Instant::now();
    let ours = a.elect(parameters(150, ADVERT_MS));
    let waited = ours.becomes(ElectionRole::Master) - started_at;
    assert!(waited >= INTERVAL * 3 + SKEW_150, "{waited:?}");
    keepalived.has_vip(false);

    let stopped_at = Instant::now();
    nothing_was_refused(&ours);
    ours.elections.stop();
    let waited = keepalived.has_vip(true) - stopped_at;
    let bounds = SKEW_100..INTERVAL * 2 + SKEW_100;
    assert!(bounds.contains(&waited), "{waited:?}");
}

#[test]
fn keepalived_is_left_alone_by_a_better_router_that_may_not_preempt() {
    if !is_installed() {
        return;
    }
    let (a, b) = pair();
    let keepalived = Keepalived::start(&b, 100);
    keepalived.has_vip(true);
    let ours = a.elect(Parameters {
        preempt: false,
        ..parameters(150, ADVERT_MS)
    });
    wait_for("ten intervals", || ours.counter("adverts_received") > 10);
    assert_eq!(ours.view().role, ElectionRole::Backup);
    keepalived.has_vip(true);
    keepalived.stop();
    ours.becomes(ElectionRole::Master);
    nothing_was_refused(&ours);
}

#[test]
fn keepalived_yields_to_our_answer_when_both_are_masters() {
    if !is_installed() {
        return;
    }
    let (a, b) = pair();
    // Each alone at first: the cable is out.
    b.ip("link set dir0 down");
    let ours = a.elect(parameters(150, ADVERT_MS));
    ours.becomes(ElectionRole::Master);
    b.ip("link set dir0 up");
    // It has not heard us yet when its own, much shorter, timer ends.
    let keepalived = Keepalived::start_with(&b, 100, "0.02");
    wait_for("its advertisement", || ours.counter("other_master") >= 1);
    wait_for("a second announcement", || ours.view().announce >= 1);
    keepalived.has_vip(false);
    assert_eq!(ours.view().role, ElectionRole::Master);
    nothing_was_refused(&ours);
}

/// The real thing, in the namespace of a host. What is left of it is killed when dropped.
struct Keepalived<'a> {
    host: &'a Host,
    child: Child,
    dir: PathBuf,
}

impl<'a> Keepalived<'a> {
    fn start(host: &'a Host, priority: u8) -> Keepalived<'a> {
        Keepalived::start_with(host, priority, "0.5")
    }

    fn start_with(host: &'a Host, priority: u8, advert_int: &str) -> Keepalived<'a> {
        let id = NEXT.fetch_add(1, Ordering::SeqCst);
        let name = format!("tandem-keepalived-{}-{id}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        let config = dir.join("keepalived.conf");
        let text = format!(
            "global_defs {{\n  router_id peer\n}}\n\
             vrrp_instance VI_1 {{\n  state BACKUP\n  interface dir0\n  virtual_router_id 51\n  \
             priority {priority}\n  advert_int {advert_int}\n  version 3\n  \
             virtual_ipaddress {{\n    10.78.0.100/32\n  }}\n}}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(KEEPALIVED);
        command.args(["--vrrp", "--dont-fork", "--log-console", "--use-file"]);
        command.arg(&config);
        command.arg("--pid").arg(dir.join("main.pid"));
        command.arg("--vrrp_pid").arg(dir.join("vrrp.pid"));
        let log = fs::File::create(dir.join("log")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let child = host.run(move || command.spawn().unwrap());
        Keepalived { host, child, dir }
    }

    /// Waits until it has or has not the address; when that was.
    #[track_caller]
    fn has_vip(&self, wanted: bool) -> Instant {
        wait_for(&format!("address: {wanted}"), || {
            has_vip(self.host) == wanted
        });
        Instant::now()
    }

    /// As when the power goes: nobody has time to say or remove anything.
    fn crash(mut self) {
        self.kill_all();
    }

    /// As the service manager does.
    fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
    }

    /// The parent is held first: it would start its child again.
    fn kill_all(&mut self) {
        if self.child.try_wait().unwrap().is_some() {
            return;
        }
        let pid = self.pid();
        kill(pid, Signal::SIGSTOP).unwrap();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap().split_whitespace() {
            kill(Pid::from_raw(child.parse().unwrap()), Signal::SIGKILL).unwrap();
        }
        kill(pid, Signal::SIGKILL).unwrap();
        self.child.wait().unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Keepalived<'_> {
    fn drop(&mut self) {
        self.kill_all();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn has_vip(host: &Host) -> bool {
    let output = host.run(|| {
        let words = ["-4", "-o", "addr", "show", "dev", "dir0"];
        Command::new("ip").args(words).output().unwrap()
    });
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .contains(" 10.78.0.100/32 ")
}

#[track_caller]
fn nothing_was_refused(ours: &host::Member) {
    let counters = ours.status().counters.into_iter();
    // Before it took part, and what it heard when it was in FAULT, is no matter.
    let refused = counters.filter(|(name, count)| {
        name.starts_with("refused_") && *name != "refused_not_running" && *count > 0
    });
    assert_eq!(refused.collect::<Vec<_>>(), []);
}

fn is_installed() -> bool {
    let found = Command::new(KEEPALIVED)
        .arg("--version")
        .stderr(Stdio::null())
        .status();
    let is_installed = found.is_ok_and(|status| status.success());
    if !is_installed {
        println!("skipped: keepalived is not installed");
    }
    is_installed
}
