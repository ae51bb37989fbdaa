//! The lab of the built program: it comes up, carries traffic, goes away, and leaves nothing behind
//! even when its owner is killed. Needs root; says so and counts as skipped otherwise.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn a_lab_carries_traffic_and_goes_away_when_told() -> Result<()> {
    let Some(bed) = Bed::new("traffic")? else {
        return Ok(());
    };
    bed.succeeds(&["lab", "up", "balance", "--bare"])?;
    let second = bed.run(&["lab", "up", "balance", "--bare"])?;
    ensure!(
        !second.status.success(),
        "a second lab came up beside the first"
    );

    // The director's host forwards by itself here, so clients reach the servers' own addresses.
    let order = r#"{"protocol":"tcp","address":"10.0.0.11:8080","kind":"connections","count":20,
        "parallel":2,"interval_ms":0,"up":70000,"down":70000,"patience_ms":10000,"seed":1}"#;
    let said = bed.succeeds(&["lab", "exec", "client", TESTBED, "__load", order])?;
    let last = said.lines().last().context("the client said nothing")?;
    let message: serde_json::Value = serde_json::from_str(last)?;
    let outcome = &message["outcome"];
    ensure!(
        outcome["rounds"] == 20 && outcome["wrong_bytes"] == 0,
        "{outcome}"
    );
    ensure!(outcome["by_server"]["nat1"] == 20, "{outcome}");

    let (_, processes) = bed.only_run()?;
    bed.succeeds(&["lab", "down"])?;
    ensure!(
        bed.runs()?.is_empty(),
        "the directory of the run is still there"
    );
    ensure!(
        processes.iter().all(|process| !process.is_alive()),
        "processes are left"
    );
    Ok(())
}

#[test]
fn a_lab_with_two_directors_joins_them_on_all_three_segments() -> Result<()> {
    let Some(bed) = Bed::new("pair")? else {
        return Ok(());
    };
    bed.succeeds(&["lab", "up", "failover", "--bare"])?;
    for (link, peer) in [
        ("eth0", "192.0.2.2"),
        ("eth1", "10.0.0.2"),
        ("eth2", "10.9.9.2"),
        ("eth0", "2001:db8:2::2"),
        ("eth1", "2001:db8:10::2"),
    ] {
        let knock = format!("echo > /dev/udp/{peer}/9");
        wait_until(&format!("{peer} answers on {link}"), || {
            bed.succeeds(&["lab", "exec", "director1", "bash", "-c", &knock])?;
            let show = [
                "lab",
                "exec",
                "director1",
                "ip",
                "neigh",
                "show",
                "to",
                peer,
            ];
            let known = bed.succeeds(&show)?;
            Ok(known.contains(link) && known.contains("lladdr"))
        })?;
    }
    let gateway = bed.succeeds(&["lab", "exec", "nat1", "ip", "route", "show", "default"])?;
    ensure!(gateway.contains("via 10.0.0.254"), "{gateway}");
    let client = bed.succeeds(&["lab", "exec", "client", "ip", "route"])?;
    ensure!(!client.contains("default"), "{client}");
    bed.succeeds(&["lab", "down"])?;
    Ok(())
}

#[test]
fn a_killed_owner_takes_its_namespaces_along_and_the_next_command_clears_the_rest() -> Result<()> {
    let Some(bed) = Bed::new("killed")? else {
        return Ok(());
    };
    bed.succeeds(&["lab", "up", "balance", "--bare"])?;
    let (dir, processes) = bed.only_run()?;
    ensure!(
        processes.len() > 4,
        "too few processes are recorded: {processes:?}"
    );
    let namespaces = namespaces_of(&dir)?;
    ensure!(
        !namespaces.contains(&fs::read_link("/proc/self/ns/net")?),
        "a host is not isolated"
    );

    kill(
        Pid::from_raw(Process::read(&dir.join("owner"))?.pid),
        Signal::SIGKILL,
    )?;
    wait_until("every process of the lab ends", || {
        Ok(processes.iter().all(|process| !process.is_alive()))
    })?;
    ensure!(dir.exists(), "nobody was there to remove the directory");
    bed.succeeds(&["list"])?;
    ensure!(!dir.exists(), "the next command has not reaped the run");
    Ok(())
}

#[test]
fn a_command_in_no_lab_says_so() -> Result<()> {
    let Some(bed) = Bed::new("none")? else {
        return Ok(());
    };
    let output = bed.run(&["lab", "exec", "client", "true"])?;
    ensure!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        said.lines().count() == 1 && said.contains("no lab stands"),
        "{said}"
    );
    Ok(())
}

const TESTBED: &str = env!("CARGO_BIN_EXE_testbed");

/// A testbed with a directory of runs of its own; whatever stands in it ends with it.
struct Bed {
    runs: PathBuf,
}

impl Bed {
    /// None when the test cannot run here.
    #[expect(
        clippy::print_stdout,
        reason = "what a test prints is how the suite counts it"
    )]
    fn new(name: &str) -> Result<Option<Bed>> {
        if !geteuid().is_root() {
            println!("skipped: the lab needs root");
            return Ok(None);
        }
        let runs = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("runs-{name}"));
        fs::create_dir_all(&runs)?;
        let bed = Bed { runs };
        // Of an earlier test run that was killed.
        bed.run(&["lab", "down"])?;
        Ok(Some(bed))
    }

    fn run(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(TESTBED);
        command.args(args).env("TANDEM_TESTBED_RUNS", &self.runs);
        command
            .env("TANDEM_TESTBED_PREPARED", "1")
            .stdin(Stdio::null());
        Ok(command.output()?)
    }

    fn succeeds(&self, args: &[&str]) -> Result<String> {
        let output = self.run(args)?;
        if !output.status.success() {
            bail!("{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn runs(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.runs)?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// The one run there is, and its recorded processes.
    fn only_run(&self) -> Result<(PathBuf, Vec<Process>)> {
        let runs = self.runs()?;
        let [dir] = runs.as_slice() else {
            bail!("not one run but {runs:?}");
        };
        let entries = fs::read_dir(dir.join("processes"))?;
        let processes: Result<_> = entries.map(|entry| Process::read(&entry?.path())).collect();
        Ok((dir.clone(), processes?))
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if self.run(&["lab", "down"]).is_ok() {
            let _ = fs::remove_dir_all(&self.runs);
        }
    }
}

#[derive(Debug)]
struct Process {
    pid: i32,
    start_ticks: String,
}

impl Process {
    fn read(file: &Path) -> Result<Process> {
        let text = fs::read_to_string(file)?;
        let (pid, start_ticks) = text.trim_end().split_once(' ').context(text.clone())?;
        Ok(Process {
            pid: pid.parse()?,
            start_ticks: start_ticks.to_owned(),
        })
    }

    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or("")
            .split_whitespace()
            .collect();
        let alive = fields.first().is_some_and(|state| *state != "Z");
        alive && fields.get(19) == Some(&self.start_ticks.as_str())
    }
}

fn namespaces_of(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string(dir.join("hosts.json"))?;
    let hosts: BTreeMap<String, i32> = serde_json::from_str(&text)?;
    hosts
        .values()
        .map(|pid| Ok(fs::read_link(format!("/proc/{pid}/ns/net"))?))
        .collect()
}

fn wait_until(what: &str, condition: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{what}: not in time");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
