//! How a script is run, and how it ends.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, Instant};

use ha_manager::script_runner::{Outcome, Runner, Wanted};

use crate::support::{
    Dir, children, field, runner_pid, runs, start, until, until_async, value, wanted,
};

const LONG: Duration = Duration::from_secs(20);
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

async fn run(runner: &Runner, command: u32) -> Outcome {
    runner.run(command, Vec::new(), LONG).await
}

/// The hard one of a line of `/proc/PID/limits`.
fn limit(limits: &str, name: &str) -> String {
    let line = value(limits, name);
    line.split_whitespace().nth(1).unwrap().to_owned()
}

fn as_root(argv: &[&str]) -> Wanted {
    Wanted {
        user: Some("root".to_owned()),
        ..wanted(argv)
    }
}

#[tokio::test]
async fn a_script_runs_as_its_user_with_nothing_of_the_directors() {
    let dir = Dir::new();
    let body = "cat /proc/self/status > @/status
tr '\\0' '\\n' < /proc/$$/environ > @/environ
ls -l /proc/self/fd > @/fds
cut -d' ' -f5,6 /proc/$$/stat > @/session
pwd > @/pwd
umask > @/umask
ulimit -c > @/core
id -G > @/groups
cat /proc/self/limits > @/limits
echo \"$#:$*\" > @/args
echo $$ > @/pid";
    let script = dir.script("look", body);
    // A descriptor without close-on-exec, and a variable: neither gets there.
    let leak = fs::File::open("/dev/zero").unwrap();
    nix::fcntl::fcntl(
        &leak,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let runner = start(vec![wanted(&[&script, "own word", "*"])]);
    let args = ["INSTANCE", "VI_1", "MASTER", "150"].map(str::to_owned);
    let outcome = runner.run(0, args.to_vec(), LONG).await;
    assert_eq!(outcome, Outcome::Exited(0));

    let status = dir.read("status");
    let nobody = nix::unistd::User::from_name("keepalived_script").unwrap();
    let nobody = nobody
        .or_else(|| nix::unistd::User::from_name("nobody").unwrap())
        .unwrap();
    assert_eq!(
        value(&status, "Uid:"),
        [0; 4].map(|_| nobody.uid.to_string()).join("\t")
    );
    assert_eq!(
        value(&status, "Gid:"),
        [0; 4].map(|_| nobody.gid.to_string()).join("\t")
    );
    let limits = dir.read("limits");
    assert_eq!(limit(&limits, "Max processes"), "1024");
    assert_eq!(limit(&limits, "Max file size"), (1 << 30).to_string());
    assert_eq!(dir.read("groups").trim(), nobody.gid.to_string());
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(value(&status, set), "0000000000000000", "{set}");
    }
    assert_eq!(value(&status, "NoNewPrivs:"), "1");
    let environ = dir.read("environ");
    let names: BTreeSet<&str> = environ
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, BTreeSet::from(["HOME", "PATH", "USER"]));
    let fds = dir.read("fds");
    // Those of ls: what the shell gave it, and the directory it lists.
    assert!(
        fds.contains("0 -> /dev/null") && fds.contains("2 -> /dev/null"),
        "{fds}"
    );
    let foreign = ["zero", "socket", "pipe", "4 -> "];
    assert!(!foreign.iter().any(|what| fds.contains(what)), "{fds}");
    let pid = dir.read("pid");
    assert_eq!(dir.read("session").trim(), [pid.trim(); 2].join(" "));
    assert_eq!(dir.read("pwd"), "/\n");
    assert_eq!(dir.read("umask"), "0022\n");
    assert_eq!(dir.read("core"), "0\n");
    assert_eq!(dir.read("args"), "6:own word * INSTANCE VI_1 MASTER 150\n");

    // The runner keeps what it needs to do that, and leads a session of its own.
    let runner_pid = runner_pid();
    // CAP_KILL 5, CAP_SETGID 6, CAP_SETUID 7.
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(runner_pid, set), "00000000000000e0", "{set}");
    }
    assert_eq!(field(runner_pid, "NoNewPrivs:"), "1");
    assert_eq!(field(runner_pid, "NSsid:"), runner_pid.to_string());
    assert_eq!(field(runner_pid, "Threads:"), "1");
    drop(leak);
}

#[tokio::test]
async fn a_script_is_root_only_where_that_is_said_and_nobody_else_can_write_it() {
    let dir = Dir::new();
    let script = dir.script(
        "root",
        "cat /proc/self/status > @/status; cat /proc/self/limits > @/limits",
    );
    let open = dir.script("open", "echo > @/never");
    fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let given = dir.script("given", "echo > @/never");
    chown(&given, Some(65534), None).unwrap();
    let commands = vec![
        as_root(&[&script]),
        as_root(&[&open]),
        as_root(&[&given]),
        wanted(&[&open]),
    ];
    let runner = start(commands);
    assert_eq!(run(&runner, 0).await, Outcome::Exited(0));
    let status = dir.read("status");
    assert_eq!(value(&status, "Uid:"), "0\t0\t0\t0");
    assert_eq!(
        value(&status, "CapEff:"),
        field(std::process::id(), "CapEff:")
    );
    let ours = fs::read_to_string("/proc/self/limits").unwrap();
    for name in ["Max processes", "Max file size"] {
        assert_eq!(limit(&dir.read("limits"), name), limit(&ours, name));
    }
    // Not the runner: it only leaves it to such scripts.
    assert_eq!(field(runner_pid(), "CapEff:"), "00000000000000e0");
    for (command, path, why) in [
        (1, &open, "is writable by everyone"),
        (2, &given, "does not belong to root"),
    ] {
        let text = format!("{path} is not run as root: {path} {why}");
        assert_eq!(run(&runner, command).await, Outcome::Refused(text));
    }
    assert!(!dir.path("never").exists());
    // As somebody else it is nobody's business.
    assert_eq!(run(&runner, 3).await, Outcome::Exited(0));
    // What was fine at the start is looked at again.
    chown(&script, Some(65534), None).unwrap();
    assert!(matches!(run(&runner, 0).await, Outcome::Refused(_)));
}

#[tokio::test]
async fn what_cannot_be_run_is_told_by_name() {
    let dir = Dir::new();
    let missing = dir.path("missing").to_str().unwrap().to_owned();
    let plain = dir.script("plain", "exit 0");
    fs::set_permissions(&plain, Permissions::from_mode(0o644)).unwrap();
    let secret = dir.script("secret", "exit 0");
    fs::set_permissions(&secret, Permissions::from_mode(0o700)).unwrap();
    let folder = dir.path("").to_str().unwrap().to_owned();
    let bad = [&missing, &plain, &secret, &folder];
    let runner = start(bad.iter().map(|path| wanted(&[path])).collect());
    for (path, why) in bad.iter().zip([
        "No such file",
        "Permission denied",
        "Permission denied",
        "Permission denied",
    ]) {
        let command = runner.find(&[path.to_string()], None).unwrap();
        let Outcome::Refused(reason) = run(&runner, command).await else {
            panic!("{path} was run");
        };
        assert!(reason.starts_with(&format!("{path}: {why}")), "{reason}");
    }
    let none = run(&runner, 99).await;
    assert_eq!(none, Outcome::Refused("no such command".to_owned()));
    let relative = start(vec![wanted(&["true"])]);
    let refused = run(&relative, 0).await;
    assert_eq!(
        refused,
        Outcome::Refused("true is not an absolute path".to_owned())
    );
    let nobody = Wanted {
        user: Some("no-such-user-here".to_owned()),
        ..wanted(&["/bin/true"])
    };
    let error = Runner::start(crate::support::directord(), vec![nobody]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "scripts: there is no user no-such-user-here"
    );
}

#[tokio::test]
async fn the_end_of_a_script_is_told_as_it_was() {
    let dir = Dir::new();
    let status = dir.script("status", "exit $1");
    let signal = dir.script("signal", "kill -9 $$");
    let runner = start(vec![wanted(&[&status]), wanted(&[&signal])]);
    for code in [0, 1, 127] {
        let outcome = runner.run(0, vec![code.to_string()], LONG).await;
        assert_eq!(outcome, Outcome::Exited(code));
    }
    assert_eq!(run(&runner, 1).await, Outcome::Signalled(9));
}

#[tokio::test]
async fn a_script_that_ignores_the_end_of_its_time_is_told_at_once_and_killed_with_all_it_started()
{
    let dir = Dir::new();
    // The grandchild ignores SIGTERM as well, and so does what it has started.
    let body = "trap '' TERM
sh -c 'sleep 1000 & echo $! >> @/pids; echo $$ >> @/pids; wait' &
echo $$ >> @/pids
wait; wait";
    let runner = start(vec![wanted(&[&dir.script("stubborn", body)])]);
    let begun = Instant::now();
    let outcome = runner.run(0, Vec::new(), Duration::from_millis(300)).await;
    assert_eq!(outcome, Outcome::TimedOut);
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
    let pids = dir.pids("pids", 3);
    assert!(pids.iter().all(|pid| runs(*pid)));
    until_async("all to be gone", || !pids.iter().any(|pid| runs(*pid))).await;
    assert!(begun.elapsed() >= GRACE, "{:?}", begun.elapsed());
    // It has been answered, and is no problem any more.
    assert_eq!(runner.problems(), []);
}

#[tokio::test]
async fn when_a_late_script_ends_what_it_started_is_killed_at_once() {
    let dir = Dir::new();
    let body = "sh -c 'trap \"\" TERM; echo $$ >> @/pids; while :; do sleep 0.1; done' &
echo $$ >> @/pids
exec sleep 1000";
    let runner = start(vec![wanted(&[&dir.script("polite", body)])]);
    let begun = Instant::now();
    let outcome = runner.run(0, Vec::new(), Duration::from_millis(300)).await;
    assert_eq!(outcome, Outcome::TimedOut);
    let pids = dir.pids("pids", 2);
    until("all to be gone", || !pids.iter().any(|pid| runs(*pid)));
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
}

/// Starts a process with a session of its own, whose parent is gone, and which ignores SIGTERM.
const DAEMON: &str = "(setsid sh -c 'trap \"\" TERM; echo $$ >> @/daemons
while :; do sleep 0.1; done' &)
until [ -s @/daemons ]; do sleep 0.05; done
";

#[tokio::test]
async fn a_daemon_of_a_late_script_is_killed_and_one_of_another_is_not() {
    let (late, fine) = (Dir::new(), Dir::new());
    let hang = late.script("hang", &format!("{DAEMON}exec sleep 1000"));
    let starter = fine.script("starter", DAEMON);
    let runner = start(vec![wanted(&[&hang]), wanted(&[&starter])]);
    assert_eq!(run(&runner, 1).await, Outcome::Exited(0));
    let other = fine.pids("daemons", 1)[0];
    let waiting = runner.clone();
    let time = Duration::from_secs(2);
    let waiting = tokio::spawn(async move { waiting.run(0, Vec::new(), time).await });
    until_async("the daemon", || !late.read("daemons").is_empty()).await;
    let daemon = late.pids("daemons", 1)[0];
    let runner_pid = runner_pid().to_string();
    until_async("its parent to end", || field(daemon, "PPid:") == runner_pid).await;
    assert_eq!(waiting.await.unwrap(), Outcome::TimedOut);
    until_async("the daemon to be killed", || {
        field(daemon, "State:").is_empty()
    })
    .await;
    assert!(runs(other));
    let other_pid = nix::unistd::Pid::from_raw(i32::try_from(other).unwrap());
    nix::sys::signal::kill(other_pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // The runner is its parent, and leaves no zombie.
    until_async("it to be reaped", || field(other, "State:").is_empty()).await;
}

#[tokio::test]
async fn what_a_script_leaves_in_the_background_goes_on() {
    let dir = Dir::new();
    let body = "sleep 1000 & echo $! > @/pids";
    let runner = start(vec![wanted(&[&dir.script("starter", body)])]);
    assert_eq!(run(&runner, 0).await, Outcome::Exited(0));
    let left = dir.pids("pids", 1)[0];
    assert!(runs(left));
    let left = nix::unistd::Pid::from_raw(i32::try_from(left).unwrap());
    nix::sys::signal::kill(left, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_flood_of_output_goes_nowhere() {
    let dir = Dir::new();
    let body = "head -c 200000000 /dev/zero; head -c 200000000 /dev/zero >&2";
    let runner = start(vec![wanted(&[&dir.script("flood", body)])]);
    assert_eq!(run(&runner, 0).await, Outcome::Exited(0));
}

#[tokio::test]
async fn many_scripts_at_once_are_all_answered_and_leave_no_zombie() {
    let dir = Dir::new();
    let runner = start(vec![wanted(&[&dir.script("short", "exit $1")])]);
    let runs = (0..250).map(|number: u32| {
        let runner = runner.clone();
        let code = number % 100;
        tokio::spawn(async move { (code, runner.run(0, vec![code.to_string()], LONG).await) })
    });
    for run in runs.collect::<Vec<_>>() {
        let (code, outcome) = run.await.unwrap();
        assert_eq!(outcome, Outcome::Exited(i32::try_from(code).unwrap()));
    }
    let pid = runner_pid();
    assert_eq!(children(pid), Vec::<u32>::new());
    // With the last handle the process goes too.
    drop(runner);
    until_async("the runner to end", || field(pid, "State:").is_empty()).await;
}

#[tokio::test]
async fn more_than_can_wait_is_refused_and_nothing_hangs() {
    let dir = Dir::new();
    let runner = start(vec![wanted(&[&dir.script("slow", "sleep 1000")])]);
    let short = Duration::from_millis(100);
    // Nothing is handed over before this task waits, so the queue takes its bound.
    let runs: Vec<_> = (0..600)
        .map(|_| {
            let runner = runner.clone();
            tokio::spawn(async move { runner.run(0, Vec::new(), short).await })
        })
        .collect();
    let (mut timed_out, mut refused) = (0, 0);
    for run in runs {
        match run.await.unwrap() {
            Outcome::TimedOut => timed_out += 1,
            Outcome::Refused(reason) => {
                assert_eq!(reason, "too many scripts wait for their turn");
                refused += 1;
            }
            other @ (Outcome::Exited(_)
            | Outcome::Signalled(_)
            | Outcome::Lost
            | Outcome::Silent) => {
                panic!("{other}")
            }
        }
    }
    assert_eq!(timed_out + refused, 600);
    assert!(timed_out >= 256 && refused > 0, "{timed_out} {refused}");
}
