//! The ends of the runner: its own, and its director's.

use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use ha_manager::script_runner::{Outcome, Trouble};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use nix::unistd::Pid;

use crate::support::{Dir, directord, field, runner_pid, runs, start, until, until_async, wanted};

const LONG: Duration = Duration::from_secs(1000);
/// Where the test that is a director of its own finds its directory.
const PARENT: &str = "SCRIPTS_TEST_PARENT";

/// Ignores SIGTERM, as do the others: a script, its child, and that one's.
const STUBBORN: &str = "trap '' TERM
sh -c 'sleep 1000 & echo $! >> @/pids; echo $$ >> @/pids; wait' &
echo $$ >> @/pids
wait; wait";

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

#[tokio::test]
async fn a_runner_that_is_killed_takes_its_scripts_along_and_is_missed() {
    let dir = Dir::new();
    let script = dir.script("long", "echo $$ >> @/pids; exec sleep 1000");
    let runner = start(vec![wanted(&[&script])]);
    let waiting = runner.clone();
    let waiting = tokio::spawn(async move { waiting.run(0, Vec::new(), LONG).await });
    until_async("the script", || !dir.read("pids").is_empty()).await;
    let script = dir.pids("pids", 1)[0];
    assert!(!runner.is_gone());
    let pid = runner_pid();
    signal(pid, Signal::SIGKILL);
    assert_eq!(waiting.await.unwrap(), Outcome::Lost);
    until_async("the script to be killed", || !runs(script)).await;
    assert!(runner.is_gone());
    assert_eq!(runner.run(0, Vec::new(), LONG).await, Outcome::Lost);
    until_async("the runner to be reaped", || {
        field(pid, "State:").is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_runner_that_stands_still_is_silent_and_starts_nothing_that_is_out_of_date() {
    let dir = Dir::new();
    let script = dir.script("tell", "echo $1 >> @/told");
    let runner = start(vec![wanted(&[&script])]);
    let pid = runner_pid();
    let run = |word: &str, time| {
        let (runner, word) = (runner.clone(), word.to_owned());
        async move { runner.run(0, vec![word], time).await }
    };
    assert_eq!(run("before", LONG).await, Outcome::Exited(0));
    signal(pid, Signal::SIGSTOP);
    let begun = std::time::Instant::now();
    let time = Duration::from_millis(200);
    assert_eq!(run("late", time).await, Outcome::Silent);
    let taken = begun.elapsed();
    let least = time + Duration::from_secs(3);
    assert!(
        taken >= least && taken < least + Duration::from_secs(2),
        "{taken:?}"
    );
    assert_eq!(runner.problems(), [Trouble::Silent]);
    // From here on nothing waits for it.
    assert_eq!(run("silent", LONG).await, Outcome::Silent);
    signal(pid, Signal::SIGCONT);
    until_async("it to answer", || runner.problems().is_empty()).await;
    assert_eq!(run("after", LONG).await, Outcome::Exited(0));
    assert_eq!(dir.read("told"), "before\nafter\n");
    // One that stands still at the end is killed.
    signal(pid, Signal::SIGSTOP);
    drop(runner);
    until_async("the runner to be gone", || field(pid, "State:").is_empty()).await;
}

#[tokio::test]
async fn signals_from_a_terminal_or_a_service_manager_do_not_end_a_runner() {
    let dir = Dir::new();
    let runner = start(vec![wanted(&[&dir.script("fine", "exit 0")])]);
    let pid = runner_pid();
    for end in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGTERM,
    ] {
        signal(pid, end);
    }
    let outcome = runner.run(0, Vec::new(), LONG).await;
    assert_eq!(outcome, Outcome::Exited(0));
    assert!(runs(pid));
}

/// Not a test by itself: the director of the next one.
#[tokio::test]
async fn a_director_that_will_be_killed() {
    let Ok(script) = std::env::var(PARENT) else {
        eprintln!("skipped: it is a part of another test");
        return;
    };
    let runner = start(vec![wanted(&[&script])]);
    println!("runner {}", runner_pid());
    std::io::stdout().flush().unwrap();
    runner.run(0, Vec::new(), LONG).await;
}

#[test]
fn when_the_director_is_killed_runner_and_scripts_end_with_all_they_started() {
    let dir = Dir::new();
    let log = dir.path("log");
    let mut director = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "runner_end::a_director_that_will_be_killed",
            "--nocapture",
        ])
        .env(PARENT, dir.script("stubborn", STUBBORN))
        .stdout(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let scripts = dir.pids("pids", 3);
    let text = dir.read("log");
    let runner = text
        .split("runner ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let runner: u32 = runner.unwrap().parse().unwrap();
    let all = || scripts.iter().copied().chain([runner]);
    assert!(all().all(runs));
    director.kill().unwrap();
    director.wait().unwrap();
    until("all to be gone", || !all().any(runs));
}

#[test]
fn a_runner_that_is_told_nonsense_ends() {
    let flags = SockFlag::SOCK_CLOEXEC;
    for nonsense in [
        vec![0xff; 100],
        vec![2, 0, 0, 0, 0],
        vec![1; 20_000],
        vec![0, 253, 255, 255, 255, 255, 255, 255, 255, 127],
    ] {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        let mut runner = Command::new(directord());
        runner
            .arg("script-runner")
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::null());
        let mut runner = runner.spawn().unwrap();
        send(ours.as_raw_fd(), &nonsense, MsgFlags::MSG_NOSIGNAL).unwrap();
        assert_eq!(runner.wait().unwrap().code(), Some(1), "{nonsense:02x?}");
    }
}

#[test]
fn nobody_else_can_use_the_hidden_commands() {
    for (args, text) in [
        (
            &["script-runner"][..],
            "directord: script-runner: is for directord's own use\n",
        ),
        (&["script-exec"], ""),
        (&["script-exec", "1", "0", "0", "7", "", "/bin/true"], ""),
        (&["script-exec", "x", "0", "0", "7", "", "/bin/true"], ""),
    ] {
        let run = Command::new(directord())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!run.status.success(), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&run.stderr), text, "{args:?}");
    }
}
