//! The testbed: a lab of network namespaces, drills on the shipped binaries with a report, and the
//! two commands of the README, which set up what is missing first.

mod announced;
mod capture;
mod client;
mod directing;
mod director;
mod drill;
mod duplex;
mod failover_times;
mod false_takeovers;
mod fault;
mod flood;
mod frame;
mod kernel_sync;
mod lab;
mod line;
mod listing;
mod load;
mod matrix;
mod meter;
mod netns;
mod node;
mod order;
mod outage;
mod pair;
mod persist_cost;
mod phase;
mod plan;
mod probe;
mod puppets;
mod real_server;
mod report;
mod role_counts;
mod roles;
mod routers;
mod run;
mod scenario;
mod setup;
mod shared;
mod sockets;
mod standstill;
mod starts;
mod status;
mod step;
mod suite;
mod sync_rate;
mod table;
mod topology;
mod traffic;
mod verdict;
mod wait;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::scenario::{PLAYGROUND, STANDARD, Scenario, Set};
use crate::step::Fault;

#[derive(Parser)]
#[command(
    name = "testbed",
    version,
    about = "Namespaces lab, drills and tests of Tandem"
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Names the drills that come with the program.
    List,
    /// Runs a drill and prints its report; exit status 0 only when every bound held.
    Drill {
        /// A name from `testbed list`, or a scenario file.
        #[arg(default_value = STANDARD)]
        scenario: String,
        /// Writes the report as JSON too.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Keeps captures and logs.
        #[arg(long)]
        keep: bool,
        /// Runs a drill of a pair with synchronisation off: the proof that it can fail.
        #[arg(long)]
        without_sync: bool,
        /// Runs the drill for one of its faults only.
        #[arg(long, value_name = "FAULT")]
        fault: Option<String>,
        /// Trials of each event and program, of a drill that has trials.
        #[arg(long, value_name = "NUMBER")]
        trials: Option<usize>,
        /// Runs a drill that has several intervals of adverts with this one only.
        #[arg(long, value_name = "MS")]
        advert_ms: Option<u64>,
    },
    /// A standing lab to play in.
    Lab {
        #[command(subcommand)]
        command: LabTask,
    },
    /// Runs every test.
    Test {
        /// The slow set too.
        #[arg(long)]
        extra: bool,
    },
    /// Keeps the namespaces of one host.
    #[command(name = netns::HOLD, hide = true)]
    Hold {
        #[arg(long)]
        parent: i32,
        #[arg(long)]
        bpffs: Option<PathBuf>,
    },
    /// Loads a virtual service.
    #[command(name = client::LOAD, hide = true)]
    Load { order: String },
    /// Serves as a real server.
    #[command(name = real_server::SERVE, hide = true)]
    Serve {
        #[arg(long)]
        name: String,
        listen: Vec<String>,
    },
    /// Keeps a processor busy.
    #[command(name = false_takeovers::BURN, hide = true)]
    Burn {
        processor: usize,
        #[arg(long)]
        parent: i32,
    },
    /// Sends nonsense for a time.
    #[command(name = flood::FLOOD, hide = true)]
    Flood { ms: u64, seed: u64 },
    /// Owns a standing lab.
    #[command(name = lab::STAND, hide = true)]
    Stand {
        scenario: String,
        #[arg(long)]
        bare: bool,
    },
}

#[derive(Subcommand)]
enum LabTask {
    /// Makes the lab of a drill, with its directors and services, and leaves it standing.
    Up {
        #[arg(default_value = PLAYGROUND)]
        scenario: String,
        /// Hosts and real servers only, no director.
        #[arg(long)]
        bare: bool,
    },
    /// Runs a command inside a host of the standing lab.
    Exec {
        host: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Ends the standing lab.
    Down,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match netns::remember_executable().and_then(|()| carry_out(arguments.command)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&format!("testbed: {error:#}"));
            let missing = error.downcast_ref::<setup::Missing>().is_some();
            ExitCode::from(if missing { 2 } else { 1 })
        }
    }
}

/// Removes what runs that died have left; whatever the task, and never a reason to refuse it.
fn clear_dead_runs() {
    if let Err(error) = run::reap(&run::runs_dir()) {
        complain(&format!("testbed: dead runs: {error:#}"));
    }
}

/// Carries out a task; false when something that was looked at did not hold.
fn carry_out(task: Task) -> Result<bool> {
    if matches!(
        task,
        Task::List | Task::Drill { .. } | Task::Lab { .. } | Task::Test { .. }
    ) {
        clear_dead_runs();
    }
    match task {
        Task::List => list()?,
        Task::Drill {
            scenario,
            json,
            keep,
            without_sync,
            fault,
            trials,
            advert_ms,
        } => {
            let mut scenario = Scenario::load(&scenario)?;
            if without_sync {
                scenario.switch_sync_off()?;
            }
            if let Some(fault) = fault {
                scenario.keep_fault(Fault::parse(&fault)?)?;
            }
            scenario.narrow(trials, advert_ms)?;
            drill::require(&scenario)?;
            setup::prepare()?;
            wait::catch_signals()?;
            return drill::run(
                &scenario,
                drill::Options {
                    json: json.as_deref(),
                    keep,
                },
            );
        }
        Task::Test { extra } => {
            setup::prepare()?;
            setup::prepare_tests();
            return suite::run(extra);
        }
        Task::Lab { command } => match command {
            LabTask::Up { scenario, bare } => {
                setup::prepare()?;
                lab::up(&scenario, bare)?;
            }
            LabTask::Exec { host, command } => lab::exec(&host, &command)?,
            LabTask::Down => lab::down()?,
        },
        Task::Hold { parent, bpffs } => netns::hold(parent, bpffs.as_deref())?,
        Task::Load { order } => client::load(&serde_json::from_str(&order)?)?,
        Task::Serve { name, listen } => real_server::serve(&name, &listen)?,
        Task::Burn { processor, parent } => false_takeovers::burn(processor, parent)?,
        Task::Flood { ms, seed } => flood::send(ms, seed)?,
        Task::Stand { scenario, bare } => lab::stand(&scenario, bare)?,
    }
    Ok(true)
}

fn list() -> Result<()> {
    for scenario in Scenario::shipped()? {
        let set = if scenario.set == Set::Slow {
            " (slow set)"
        } else {
            ""
        };
        say(&format!("{:20} {}{set}", scenario.name, scenario.title));
    }
    say(&format!(
        "\n`cargo drill` runs {STANDARD}. `cargo lab up NAME` makes the lab of a drill to play in: that of \
         {STANDARD}\nhas a pair of directors, director1 and director2; that of {PLAYGROUND}, which is \
         made without a name,\nhas one, director."
    ));
    Ok(())
}

/// Prints a line; a reader that has gone is no error.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints a line on standard error.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
