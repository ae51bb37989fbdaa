//! What is watched, as it changes.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use ha_manager::netlink::NetworkState;
use ha_manager::tracking::{Standing, Tracking};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::timeout;

use crate::support::{Dir, PATIENCE, configured, instance, runner_pid};

/// Files are read this often even if nothing says that they changed.
const REREAD: Duration = Duration::from_secs(1);

fn tracking(sections: &str) -> Tracking {
    let (config, runner) = configured(sections);
    Tracking::start(&config, runner).unwrap()
}

fn of(tracking: &Tracking) -> Standing {
    tracking.of(0, &NetworkState::default())
}

/// Waits until the instance stands so.
async fn until_stands(tracking: &mut Tracking, what: &str, is: impl Fn(&Standing) -> bool) {
    let begun = Instant::now();
    while !is(&of(tracking)) {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let changed = timeout(left, tracking.changed()).await;
        assert!(changed.is_ok(), "waited for {what}: {:?}", of(tracking));
    }
}

#[tokio::test]
async fn a_script_decides_by_its_exit_status_after_rise_and_fall() {
    let dir = Dir::new();
    let script = dir.script("check", "echo >> @/runs; test ! -e @/bad");
    let section = format!(
        "[[track_script]]\nname = \"check\"\nscript = [\"{script}\"]\ninterval_ms = 20\n\
         timeout_ms = 5000\nrise = 2\nfall = 3\n"
    );
    let lines = "track_scripts = [\"check weight -40\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section + &instance("a", 1, lines)));
    assert!(of(&tracking).ready);
    tracking.changed().await;
    assert_eq!(tracking.status()[0].good, Some(true));
    fs::write(dir.path("bad"), "").unwrap();
    let runs = tracking.status()[0].runs;
    until_stands(&mut tracking, "a bad script", |standing| {
        standing.weights == -40
    })
    .await;
    let status = &tracking.status()[0];
    assert_eq!((status.bad, status.last.as_str()), (3, "exit status 1"));
    assert!(status.runs >= runs + 3);
    fs::remove_file(dir.path("bad")).unwrap();
    until_stands(&mut tracking, "a good script", |standing| {
        standing.weights == 0
    })
    .await;
    assert!(tracking.problems().is_empty());
}

#[tokio::test]
async fn a_script_that_hangs_or_is_missing_is_bad() {
    let dir = Dir::new();
    let hang = dir.script("hang", "exec sleep 1000");
    let missing = dir.path("missing");
    // Without a timeout a run has to be over when the next is due.
    let section = format!(
        "[[track_script]]\nname = \"hang\"\nscript = [\"{hang}\"]\ninterval_ms = 100\n\
         [[track_script]]\nname = \"missing\"\nscript = [\"{}\"]\ninterval_ms = 50\n",
        missing.display()
    );
    let lines = "track_scripts = [\"hang\", \"missing\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section + &instance("a", 1, lines)));
    assert!(!of(&tracking).ready);
    let both = |standing: &Standing| {
        let fault = standing.fault.as_deref().unwrap_or_default();
        fault.contains("track_script hang: did not end in time")
            && fault.contains("track_script missing: ")
    };
    until_stands(&mut tracking, "both to be bad", both).await;
    let problems: Vec<String> = tracking.problems().into_values().collect();
    let text = format!(
        "track_script missing cannot be run: {}: No such file or directory (os error 2)",
        missing.display()
    );
    assert_eq!(problems, [text]);
    dir.script("missing", "exit 0");
    let one = |standing: &Standing| {
        let fault = standing.fault.as_deref().unwrap_or_default();
        !fault.contains("missing") && fault.contains("hang")
    };
    until_stands(&mut tracking, "the script that came", one).await;
    assert!(tracking.problems().is_empty());
}

#[tokio::test]
async fn a_runner_that_is_killed_is_one_problem_and_all_scripts_are_bad() {
    let section = "[[track_script]]\nname = \"one\"\nscript = [\"/bin/true\"]\ninterval_ms = 50\n\
         [[track_script]]\nname = \"two\"\nscript = [\"/bin/true\", \"2\"]\ninterval_ms = 50\n";
    let lines = "track_scripts = [\"one\", \"two\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section.to_owned() + &instance("a", 1, lines)));
    until_stands(&mut tracking, "good scripts", |standing| standing.ready).await;
    assert_eq!(of(&tracking).fault, None);
    let pid = i32::try_from(runner_pid()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let both = "track_script one: the script runner has ended; \
                track_script two: the script runner has ended";
    let is = |standing: &Standing| standing.fault.as_deref() == Some(both);
    until_stands(&mut tracking, "the runner to be missed", is).await;
    let problems: Vec<String> = tracking.problems().into_values().collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("the script runner has ended: "),
        "{problems:?}"
    );
}

/// The runner answers within this time after a run's own.
const ANSWER_MAX: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_runner_that_is_stopped_is_one_problem_and_its_scripts_are_bad_until_it_goes_on() {
    let section = "[[track_script]]\nname = \"one\"\nscript = [\"/bin/true\"]\ninterval_ms = 100\n\
         timeout_ms = 500\n";
    let lines = "track_scripts = [\"one\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section.to_owned() + &instance("a", 1, lines)));
    until_stands(&mut tracking, "a good script", |standing| standing.ready).await;
    assert_eq!(of(&tracking).fault, None);
    let pid = Pid::from_raw(i32::try_from(runner_pid()).unwrap());
    kill(pid, Signal::SIGSTOP).unwrap();
    let begun = Instant::now();
    let text = "track_script one: the script runner does not answer";
    let is = |standing: &Standing| standing.fault.as_deref() == Some(text);
    until_stands(&mut tracking, "the runner to be missed", is).await;
    // The next run is due within the interval.
    let bound = Duration::from_millis(600) + ANSWER_MAX;
    let taken = begun.elapsed();
    assert!(taken < bound + Duration::from_secs(1), "{taken:?}");
    let problems: Vec<String> = tracking.problems().into_values().collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].starts_with("the script runner does not answer: "),
        "{problems:?}"
    );
    kill(pid, Signal::SIGCONT).unwrap();
    until_stands(&mut tracking, "the runner to go on", |standing| {
        standing.fault.is_none()
    })
    .await;
    assert!(tracking.problems().is_empty());
}

#[tokio::test]
async fn a_script_that_ignores_sigterm_is_bad_when_its_time_is_over() {
    let dir = Dir::new();
    let body = "[ -e @/bad ] || exit 0\ntrap '' TERM; while :; do sleep 0.1; done";
    let script = dir.script("stubborn", body);
    let section =
        format!("[[track_script]]\nname = \"s\"\nscript = [\"{script}\"]\ninterval_ms = 300\n");
    let lines = "track_scripts = [\"s\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section + &instance("a", 1, lines)));
    until_stands(&mut tracking, "a good script", |standing| standing.ready).await;
    fs::write(dir.path("bad"), "").unwrap();
    let begun = Instant::now();
    let text = "track_script s: did not end in time";
    let is = |standing: &Standing| standing.fault.as_deref() == Some(text);
    until_stands(&mut tracking, "a bad script", is).await;
    // SIGKILL would come 2 s later.
    assert!(begun.elapsed() < Duration::from_secs(2));
    fs::remove_file(dir.path("bad")).unwrap();
    until_stands(&mut tracking, "a good script again", |standing| {
        standing.fault.is_none()
    })
    .await;
}

#[tokio::test]
async fn a_file_counts_as_soon_as_it_is_written_moved_or_deleted() {
    let dir = Dir::new();
    let file = dir.path("weight");
    let section = format!(
        "[[track_file]]\nname = \"w\"\nfile = \"{}\"\n",
        file.display()
    );
    let lines = "track_files = [\"w\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section + &instance("a", 1, lines)));
    until_stands(&mut tracking, "a missing file", |standing| standing.ready).await;
    assert_eq!(of(&tracking).weights, 0);
    let mut late = 0;
    for round in 0..5 {
        let steps: [(&str, i32); 4] = [("write", 7), ("move", -9), ("delete", 0), ("write", 30)];
        for (step, value) in steps {
            let begun = Instant::now();
            match step {
                "write" => fs::write(&file, format!("{value}\n")).unwrap(),
                "move" => {
                    fs::write(dir.path("new"), value.to_string()).unwrap();
                    fs::rename(dir.path("new"), &file).unwrap();
                }
                _ => fs::remove_file(&file).unwrap(),
            }
            let what = format!("{step} {value} in round {round}");
            until_stands(&mut tracking, &what, |standing| standing.weights == value).await;
            late += u32::from(begun.elapsed() > REREAD / 2);
        }
    }
    // A busy machine may be late now and then, though not as if nobody had said anything.
    assert!(late <= 3, "{late} of 20");
    fs::write(&file, "-254").unwrap();
    let fault = "track_file w: value -254";
    let is = |standing: &Standing| standing.fault.as_deref() == Some(fault);
    until_stands(&mut tracking, "a fault", is).await;
}

#[tokio::test]
async fn a_file_in_a_directory_that_comes_later_is_found() {
    let dir = Dir::new();
    let file = dir.path("later").join("weight");
    let section = format!(
        "[[track_file]]\nname = \"w\"\nfile = \"{}\"\n",
        file.display()
    );
    let lines = "track_files = [\"w weight 2\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section + &instance("a", 1, lines)));
    until_stands(&mut tracking, "a missing file", |standing| standing.ready).await;
    fs::create_dir(dir.path("later")).unwrap();
    fs::write(&file, "21").unwrap();
    until_stands(&mut tracking, "the file", |standing| standing.weights == 42).await;
}

/// Killed when the test is over.
struct Process(Child);

impl Process {
    fn start(program: &std::path::Path) -> Process {
        Process(Command::new(program).arg("1000").spawn().unwrap())
    }

    fn end(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn processes_are_counted_while_they_run() {
    let dir = Dir::new();
    let name = format!("tt-{}", std::process::id());
    let program = dir.path(&name);
    fs::copy("/bin/sleep", &program).unwrap();
    let section = format!(
        "[[track_process]]\nname = \"p\"\nprocess = \"{name}\"\nquorum = 2\ninterval_ms = 30\n\
         [[track_process]]\nname = \"full\"\nprocess = \"{} 1000\"\nfull_command = true\n\
         interval_ms = 30\n",
        program.display()
    );
    let lines = "track_processes = [\"p weight 0\", \"full weight 10\"]\ndont_track_primary = true";
    let mut tracking = tracking(&(section + &instance("a", 1, lines)));
    let fault =
        |text: &'static str| move |standing: &Standing| standing.fault.as_deref() == Some(text);
    until_stands(&mut tracking, "none", fault("track_process p: 0 of 2")).await;
    let one = Process::start(&program);
    until_stands(&mut tracking, "one", |standing| standing.weights == 10).await;
    until_stands(
        &mut tracking,
        "one of two",
        fault("track_process p: 1 of 2"),
    )
    .await;
    let two = Process::start(&program);
    until_stands(&mut tracking, "both", |standing| standing.fault.is_none()).await;
    two.end();
    until_stands(
        &mut tracking,
        "one to be gone",
        fault("track_process p: 1 of 2"),
    )
    .await;
    one.end();
    until_stands(&mut tracking, "both to be gone", |standing| {
        standing.weights == 0
    })
    .await;
}
