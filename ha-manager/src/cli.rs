//! The command line of `directord`.
//!
//! Exit status: 0 done; 2 the command, the configuration or the privileges are not in order, or
//! no director answers; 1 anything else. Every failure is one line on standard error; so is every remark
//! on a configuration that is valid.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dataplane::{DataPlane, OpenError};
use ipvs_control::{Client, ClientError, FrameError, Reply, Request, SOCKET_ENV};

use crate::config::{Config, ConfigError, DEFAULT_CONFIG, DEFAULT_PIN_DIR};
use crate::daemon::{self, DaemonError};
use crate::decode::command::{DecodeArgs, DecodeError};
use crate::decode::{self, live::LiveError};
use crate::privileges::{self, PrivilegeError};
use crate::proc::{ConnFile, ProcError, ProcFile};
use crate::sysctl::{self, SysctlArgs, SysctlCommandError};

const STATUS_FAILED: u8 = 1;
const STATUS_NOT_IN_ORDER: u8 = 2;
/// Unit: characters.
const MESSAGE_MAX: usize = 400;

#[derive(Debug, Parser)]
#[command(
    name = "directord",
    version,
    about = "Load-balancer director with an eBPF data plane"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the director in the foreground
    Run {
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Only validate the configuration; what is doubtful is remarked on standard error
        #[arg(long)]
        check: bool,
    },
    /// Show the state of the running director
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Give virtual routers to another director, without loss
    Handover {
        /// The [[vrrp]] section by its name; without one, all that are active here
        name: Option<String>,
        /// Preempt again after a handover
        #[arg(long)]
        reclaim: bool,
    },
    /// Show or set tunables of the running director, by their names under net.ipv4.vs
    Sysctl(SysctlArgs),
    /// Remove the programs and tables a stopped director left in place
    Detach {
        /// Configuration that names the pin directory
        #[arg(long, value_name = "FILE", conflicts_with = "pin_dir")]
        config: Option<PathBuf>,
        #[arg(long, value_name = "DIR")]
        pin_dir: Option<PathBuf>,
    },
    /// Print what /proc/net/NAME shows on a kernel director: ip_vs, ip_vs_conn, ip_vs_conn_sync,
    /// ip_vs_stats, ip_vs_stats_percpu
    Proc {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Show what directors tell each other: sync datagrams, VRRP, address announcements
    Decode(DecodeArgs),
    /// Print the version
    Version,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Privileges(#[from] PrivilegeError),
    #[error(transparent)]
    Proc(#[from] ProcError),
    #[error("{}", client_message(.0))]
    Client(#[from] ClientError),
    #[error("{0}")]
    Refused(String),
    #[error("a running director uses the pin directory {}; stop it first", .0.display())]
    Running(PathBuf),
    #[error("the director gave an answer of the wrong kind")]
    UnexpectedReply,
    #[error("data plane: {0}")]
    Open(#[from] OpenError),
    #[error(transparent)]
    Decode(DecodeError),
    #[error("standard output: {0}")]
    Output(io::Error),
}

impl From<DecodeError> for CliError {
    fn from(error: DecodeError) -> CliError {
        match error {
            DecodeError::Output(error) => CliError::Output(error),
            DecodeError::Capture { .. } | DecodeError::Live(_) => CliError::Decode(error),
        }
    }
}

impl From<SysctlCommandError> for CliError {
    fn from(error: SysctlCommandError) -> CliError {
        match error {
            SysctlCommandError::Client(error) => CliError::Client(error),
            SysctlCommandError::Output(error) => CliError::Output(error),
            SysctlCommandError::Reply(reply) => refusal_of(reply),
        }
    }
}

impl CliError {
    fn exit_status(&self) -> u8 {
        match self {
            CliError::Config(_)
            | CliError::Privileges(_)
            | CliError::Proc(_)
            | CliError::Client(ClientError::Connect { .. } | ClientError::Closed)
            | CliError::Open(OpenError::NotBpffs(_))
            | CliError::Decode(DecodeError::Live(
                LiveError::NoInterface(_) | LiveError::Privilege,
            ))
            | CliError::Daemon(
                DaemonError::Privileges(_)
                | DaemonError::NoInterface { .. }
                | DaemonError::OnlyVirtual { .. }
                | DaemonError::AdvertTooLong { .. }
                | DaemonError::Open(OpenError::NoInterface(_) | OpenError::NotBpffs(_)),
            ) => STATUS_NOT_IN_ORDER,
            CliError::Client(ClientError::Frame(error)) if is_gone(error) => STATUS_NOT_IN_ORDER,
            CliError::Client(ClientError::Frame(_))
            | CliError::Daemon(_)
            | CliError::Refused(_)
            | CliError::Running(_)
            | CliError::UnexpectedReply
            | CliError::Open(_)
            | CliError::Decode(_)
            | CliError::Output(_) => STATUS_FAILED,
        }
    }
}

/// What a client's failure means, and what to do next.
fn client_message(error: &ClientError) -> String {
    match error {
        ClientError::Connect { path, source }
            if source.kind() == io::ErrorKind::PermissionDenied =>
        {
            let path = path.display();
            format!(
                "the control socket {path} is its owner's alone: Permission denied (you must be root)"
            )
        }
        ClientError::Connect { .. } => {
            format!("{error}; start directord, or set {SOCKET_ENV} to its control socket")
        }
        ClientError::Closed => GONE.to_owned(),
        ClientError::Frame(frame) if is_gone(frame) => GONE.to_owned(),
        ClientError::Frame(FrameError::Io(source)) if is_late(source) => LATE.to_owned(),
        ClientError::Frame(frame) => frame.to_string(),
    }
}

const GONE: &str = "the director ended before it answered; see its log, and start it again";
const LATE: &str = "the director does not answer in time; see its log, it may be suspended";

/// The other end of the control socket is not there any more.
fn is_gone(error: &FrameError) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error, FrameError::Io(error)
        if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof))
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Runs the command that the arguments of this process name.
pub fn run() -> ExitCode {
    match execute(Cli::parse().command) {
        Ok(done) => done,
        // A reader that has seen enough is no error.
        Err(CliError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_status())
        }
    }
}

/// There is nobody left to tell if standard error is closed.
fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "directord: {}", one_line(message));
}

/// The first line of a message, cut where no screen would show the rest.
fn one_line(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let mut line: String = first.chars().take(MESSAGE_MAX).collect();
    if line.len() < message.len() {
        line.push_str(" [...] (all of it with log_level = \"debug\")");
    }
    line
}

fn execute(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Run { config, check } => run_or_check(&config, check)?,
        Command::Status { json } => status(json)?,
        Command::Handover { name, reclaim } => handover(name, reclaim)?,
        Command::Sysctl(args) => return sysctl(&args),
        Command::Detach { config, pin_dir } => detach(config.as_deref(), pin_dir)?,
        Command::Proc { name } => print_proc(&name)?,
        Command::Decode(args) => decode::command::run(&args, &mut io::stdout().lock())?,
        Command::Version => print(&format!("directord {}\n", crate::VERSION))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_or_check(path: &Path, check: bool) -> Result<(), CliError> {
    let config = Config::load(path)?;
    if check {
        for remark in config.remarks() {
            complain(&format!("{}: {remark}", path.display()));
        }
        return print(&format!("{}: valid\n", path.display()));
    }
    Ok(daemon::run(config)?)
}

fn status(json: bool) -> Result<(), CliError> {
    let mut client = Client::connect(&ipvs_control::socket_path())?;
    print(&text_of(client.call(&Request::Status { json })?)?)
}

/// Telling the peer of all connections and its taking over are bounded, and take this long at most.
const HANDOVER_MAX: Duration = Duration::from_secs(900);

fn handover(instance: Option<String>, reclaim: bool) -> Result<(), CliError> {
    let mut client = Client::connect(&ipvs_control::socket_path())?;
    let patience = client.set_patience(HANDOVER_MAX);
    patience.map_err(|error| CliError::Client(FrameError::Io(error).into()))?;
    let reply = client.call(&Request::Handover { instance, reclaim })?;
    print(&text_of(reply)?)
}

/// Each failure is a line of its own, so the exit status is all that is left to tell.
fn sysctl(args: &SysctlArgs) -> Result<ExitCode, CliError> {
    let mut client = Client::connect(&ipvs_control::socket_path())?;
    let mut call = |request: &Request| client.call(request);
    let done = sysctl::run(args, &mut call, &mut io::stdout().lock(), &mut complain)?;
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(STATUS_FAILED)
    })
}

fn print_proc(name: &str) -> Result<(), CliError> {
    let file = ProcFile::from_name(name)?;
    let mut client = Client::connect(&ipvs_control::socket_path())?;
    match file {
        ProcFile::IpVs | ProcFile::Stats | ProcFile::StatsPercpu => {
            print(&text_of(client.call(&Request::Proc {
                name: name.to_owned(),
            })?)?)
        }
        ProcFile::Conns(file) => print_connections(&mut client, file),
    }
}

/// Page by page: a table may be larger than any single answer.
fn print_connections(client: &mut Client, file: ConnFile) -> Result<(), CliError> {
    print(file.header())?;
    let mut cursor = 0;
    loop {
        let reply = client.call(&Request::ListConnections { cursor })?;
        let Reply::Connections(page) = reply else {
            return Err(refusal_of(reply));
        };
        print(&file.rows(&page.entries))?;
        match page.next {
            Some(next) => cursor = next,
            None => return Ok(()),
        }
    }
}

fn detach(config: Option<&Path>, pin_dir: Option<PathBuf>) -> Result<(), CliError> {
    let pin_dir = match (pin_dir, config) {
        (Some(pin_dir), _) => pin_dir,
        (None, Some(path)) => Config::load(path)?.pin_dir,
        (None, None) if Path::new(DEFAULT_CONFIG).exists() => {
            Config::load(Path::new(DEFAULT_CONFIG))?.pin_dir
        }
        (None, None) => DEFAULT_PIN_DIR.into(),
    };
    privileges::check(&pin_dir, false)?;
    let removed = if pin_dir.exists() {
        match DataPlane::detach(&pin_dir) {
            Err(OpenError::Busy(pin_dir)) => return Err(CliError::Running(pin_dir)),
            report => report?.removed,
        }
    } else {
        Vec::new()
    };
    if removed.is_empty() {
        return print(&format!("nothing is pinned in {}\n", pin_dir.display()));
    }
    print(
        &removed
            .iter()
            .map(|what| format!("removed {what}\n"))
            .collect::<String>(),
    )
}

fn text_of(reply: Reply) -> Result<String, CliError> {
    if let Reply::Text(text) = reply {
        Ok(text)
    } else {
        Err(refusal_of(reply))
    }
}

fn refusal_of(reply: Reply) -> CliError {
    match reply {
        Reply::BadRequest(reason) => CliError::Refused(reason),
        Reply::Refused(error) => CliError::Refused(format!("refused: {error:?}")),
        Reply::SyncRefused(error) => CliError::Refused(error.to_string()),
        Reply::SysctlRefused(error) => CliError::Refused(error.to_string()),
        Reply::Done
        | Reply::Timeouts(_)
        | Reply::Info(_)
        | Reply::Services(_)
        | Reply::Connections(_)
        | Reply::SyncDaemons(_)
        | Reply::Sysctl(_)
        | Reply::Text(_) => CliError::UnexpectedReply,
    }
}

fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(CliError::Output)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn only_commands_that_work_are_offered() {
        let command = Cli::command();
        let names: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        assert_eq!(
            names,
            [
                "run", "status", "handover", "sysctl", "detach", "proc", "decode", "version"
            ]
        );
    }

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(one_line("no such file"), "no such file");
        let cut = one_line("refused: 7\n0: r1 = r2\n1: exit\n");
        assert_eq!(
            cut,
            "refused: 7 [...] (all of it with log_level = \"debug\")"
        );
        assert!(one_line(&"x".repeat(100_000)).len() < 500);
    }

    #[test]
    fn detach_takes_a_configuration_or_a_directory() {
        assert!(Cli::try_parse_from(["directord", "detach"]).is_ok());
        let both = ["directord", "detach", "--config", "a", "--pin-dir", "b"];
        assert!(Cli::try_parse_from(both).is_err());
    }

    #[test]
    fn what_the_operator_must_put_in_order_exits_with_2() {
        let refused = Config::parse("", Path::new("d.toml"), "host").unwrap_err();
        assert_eq!(CliError::from(refused).exit_status(), 2);
        let missing = || PrivilegeError::Missing("CAP_BPF".to_owned());
        assert_eq!(CliError::from(missing()).exit_status(), 2);
        assert_eq!(
            CliError::from(DaemonError::from(missing())).exit_status(),
            2
        );
        let none = Client::connect(Path::new("/nonexistent/control.sock")).unwrap_err();
        assert_eq!(CliError::from(none).exit_status(), 2);
        let interface = OpenError::NoInterface("eth9".to_owned());
        assert_eq!(
            CliError::from(DaemonError::from(interface)).exit_status(),
            2
        );
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        for gone in [ClientError::Closed, ClientError::Frame(reset.into())] {
            let gone = CliError::from(gone);
            assert_eq!((gone.exit_status(), gone.to_string()), (2, GONE.to_owned()));
        }
        assert_eq!(CliError::UnexpectedReply.exit_status(), 1);
    }
}
