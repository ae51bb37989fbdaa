//! A directory of scripts, and looks at processes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ha_manager::config::Config;
use ha_manager::script_runner::{Runner, Wanted};

/// The shipped program.
pub(crate) fn directord() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_directord"))
}

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A new directory that everybody may read and write, as `/tmp`.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Dir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("scripts-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        Dir(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// An executable shell script; `@` stands for the directory.
    pub(crate) fn script(&self, name: &str, body: &str) -> String {
        let path = self.path(name);
        let body = body.replace('@', &self.0.display().to_string());
        // A program that is open for writing somewhere, as in a child of another test, cannot be run.
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o755)).unwrap();
        let copied = std::process::Command::new("cp")
            .arg("-p")
            .args([&new, &path])
            .status();
        assert!(copied.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    /// What a script has written; nothing if it has not yet.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// The numbers a script has written, once there are `count` of them.
    pub(crate) fn pids(&self, name: &str, count: usize) -> Vec<u32> {
        let read = || -> Vec<u32> {
            let text = self.read(name);
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole
                .lines()
                .filter_map(|line| line.trim().parse().ok())
                .collect()
        };
        until("processes that tell their numbers", || {
            read().len() >= count
        });
        read()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// As [`until`], while the runtime goes on.
pub(crate) async fn until_async(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process runs: a zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    !matches!(field(pid, "State:").chars().next(), None | Some('Z' | 'X'))
}

/// A line of `/proc/PID/status`; empty if there is no such process.
pub(crate) fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    value(&status, name)
}

pub(crate) fn value(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_default().trim().to_owned()
}

/// Processes whose parent this one is, zombies included.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// The script runner that this thread has started last: each test has one, and a thread.
pub(crate) fn runner_pid() -> u32 {
    let task = fs::read_link("/proc/thread-self").unwrap();
    let text = fs::read_to_string(Path::new("/proc").join(task).join("children")).unwrap();
    let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    let mut runners = pids.filter(|pid| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == "directord\0script-runner\0"
    });
    runners.next_back().unwrap()
}

/// As the default user.
pub(crate) fn wanted(argv: &[&str]) -> Wanted {
    Wanted {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        user: None,
    }
}

pub(crate) fn start(wanted: Vec<Wanted>) -> Runner {
    Runner::start(directord(), wanted).unwrap()
}

/// A director with these sections, and the runner of its scripts.
pub(crate) fn configured(sections: &str) -> (Config, Option<Runner>) {
    let text = format!("[director]\ninterfaces = [\"lo\"]\n{sections}");
    let config = Config::parse(&text, Path::new("d.toml"), "host").unwrap();
    let runner = Runner::with_program(directord(), &config).unwrap();
    (config, runner)
}

/// The section of an instance with these keys.
pub(crate) fn instance(name: &str, vrid: u8, lines: &str) -> String {
    format!(
        "[[vrrp]]\nname = \"{name}\"\ninterface = \"lo\"\nvrid = {vrid}\n\
         vips = [\"192.0.2.{vrid}\"]\n{lines}\n"
    )
}
