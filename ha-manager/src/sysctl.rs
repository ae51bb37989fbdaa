//! The command `directord sysctl`: what sysctl(8) does for the kernel's tunables, done for those of a
//! running director.
//!
//! Every key is on its own: one that fails is one line of complaint, and the others go on. What is set
//! lasts until the director ends; `[sysctl]` of its configuration is in force again after that.

mod file;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use ipvs_control::{ClientError, Reply, Request, SysctlError};

use crate::config::{SYSCTL_PREFIX, short_tunable_name};
use file::{Assignment, Line};

/// Unit: characters of a name in a complaint.
const NAME_SHOWN_MAX: usize = 96;

#[derive(Args, Clone, Debug)]
pub struct SysctlArgs {
    /// Show every tunable
    #[arg(short, long)]
    all: bool,
    /// Set: every argument is NAME=VALUE. Lasts until the director ends, [sysctl] of the
    /// configuration is for good
    #[arg(short, long)]
    write: bool,
    /// Set what files in sysctl.d syntax say; - is standard input
    #[arg(short = 'p', long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["all", "write", "words"])]
    load: Vec<PathBuf>,
    /// Say nothing of names that are no tunables
    #[arg(short = 'e', long)]
    ignore: bool,
    /// Print values alone
    #[arg(short = 'n', long, conflicts_with = "names")]
    values: bool,
    /// Print names alone
    #[arg(short = 'N', long)]
    names: bool,
    /// Do not print what was set
    #[arg(short, long)]
    quiet: bool,
    /// A tunable, with or without net.ipv4.vs.; with a value to set it
    #[arg(value_name = "NAME[=VALUE]", required_unless_present_any = ["all", "load"], conflicts_with = "all")]
    words: Vec<String>,
}

/// Why the command ended early.
#[derive(Debug)]
pub enum SysctlCommandError {
    Client(ClientError),
    /// The director's answer is of another kind.
    Reply(Reply),
    Output(io::Error),
}

impl From<ClientError> for SysctlCommandError {
    fn from(error: ClientError) -> SysctlCommandError {
        SysctlCommandError::Client(error)
    }
}

impl From<io::Error> for SysctlCommandError {
    fn from(error: io::Error) -> SysctlCommandError {
        SysctlCommandError::Output(error)
    }
}

/// The director at the other end, where the lines go, and how many complaints there were.
struct Session<'a> {
    args: &'a SysctlArgs,
    call: &'a mut dyn FnMut(&Request) -> Result<Reply, ClientError>,
    out: &'a mut dyn Write,
    complain: &'a mut dyn FnMut(&str),
    failed: bool,
}

/// Carries the command out; `call` asks the director, `complain` is told of each failure. True when
/// there was none.
///
/// # Errors
/// See [`SysctlCommandError`]: the rest was not tried.
pub fn run(
    args: &SysctlArgs,
    call: &mut dyn FnMut(&Request) -> Result<Reply, ClientError>,
    out: &mut dyn Write,
    complain: &mut dyn FnMut(&str),
) -> Result<bool, SysctlCommandError> {
    let mut session = Session {
        args,
        call,
        out,
        complain,
        failed: false,
    };
    if args.all {
        session.show_all()?;
    }
    for word in &args.words {
        match Assignment::parse(word) {
            Some(assignment) => session.set(&assignment, "")?,
            None if args.write => {
                session.fail(&format!("{}: -w needs NAME=VALUE", printable(word)))
            }
            None => session.show(word)?,
        }
    }
    for path in &args.load {
        session.load(path)?;
    }
    session.out.flush()?;
    Ok(!session.failed)
}

impl Session<'_> {
    fn show_all(&mut self) -> Result<(), SysctlCommandError> {
        for (name, value) in self.list()? {
            self.print(&name, &value)?;
        }
        Ok(())
    }

    fn show(&mut self, word: &str) -> Result<(), SysctlCommandError> {
        let wanted = short_tunable_name(word);
        let found = self.list()?.into_iter().find(|(name, _)| *name == wanted);
        match found {
            Some((name, value)) => self.print(&name, &value)?,
            None => self.fail_unknown(word, ""),
        }
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<(), SysctlCommandError> {
        let text = match file::read(path) {
            Ok(text) => text,
            Err(error) => {
                self.fail(&format!("cannot open {}: {error}", path.display()));
                return Ok(());
            }
        };
        for (index, line) in text.lines().enumerate() {
            let place = format!("{}:{}: ", path.display(), index + 1);
            match Line::parse(line) {
                Line::Nothing => {}
                Line::Assignment(assignment) => self.set(&assignment, &place)?,
                Line::Nonsense => {
                    self.fail(&format!("{place}{}: not NAME = VALUE", printable(line)));
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, assignment: &Assignment<'_>, place: &str) -> Result<(), SysctlCommandError> {
        let Assignment {
            name,
            value,
            may_fail,
        } = *assignment;
        let request = Request::SetSysctl {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let reply = (self.call)(&request)?;
        if reply == Reply::Done {
            if !self.args.quiet {
                self.print(&short_tunable_name(name), value)?;
            }
        } else if let Reply::SysctlRefused(error) = reply {
            if !may_fail {
                self.fail_set(name, error, place);
            }
        } else {
            return Err(SysctlCommandError::Reply(reply));
        }
        Ok(())
    }

    fn fail_set(&mut self, name: &str, error: SysctlError, place: &str) {
        match error {
            SysctlError::Unknown(_) => self.fail_unknown(name, place),
            SysctlError::Refused {
                name,
                value,
                reason,
            } => self.fail(&format!(
                "{place}setting key \"{SYSCTL_PREFIX}{name}\": {value} {reason}"
            )),
        }
    }

    fn list(&mut self) -> Result<Vec<(String, String)>, SysctlCommandError> {
        let reply = (self.call)(&Request::ListSysctl)?;
        let Reply::Sysctl(all) = reply else {
            return Err(SysctlCommandError::Reply(reply));
        };
        Ok(all)
    }

    fn print(&mut self, name: &str, value: &str) -> io::Result<()> {
        if self.args.values {
            writeln!(self.out, "{value}")
        } else if self.args.names {
            writeln!(self.out, "{SYSCTL_PREFIX}{name}")
        } else {
            writeln!(self.out, "{SYSCTL_PREFIX}{name} = {value}")
        }
    }

    fn fail_unknown(&mut self, name: &str, place: &str) {
        if self.args.ignore {
            return;
        }
        // A name of its own is one that was typed without the prefix.
        let prefix = if name.contains(['.', '/']) {
            ""
        } else {
            SYSCTL_PREFIX
        };
        let name = printable(name);
        self.fail(&format!(
            "{place}cannot stat {prefix}{name}: no such tunable"
        ));
    }

    fn fail(&mut self, complaint: &str) {
        self.failed = true;
        (self.complain)(complaint);
    }
}

/// What somebody typed, fit for one line on a terminal.
fn printable(text: &str) -> String {
    let mut short: String = text.trim().chars().take(NAME_SHOWN_MAX).collect();
    if short.len() < text.trim().len() {
        short.push_str("...");
    }
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests;
