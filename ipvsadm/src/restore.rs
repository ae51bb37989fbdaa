//! Runs one command line, or the many of `-R`.

use std::io::{BufRead, Write};
use std::path::Path;

use crate::args::{Origin, Stop};
use crate::command::Command;
use crate::exec::{Director, Trouble, execute};
use crate::format::{USAGE, VERSION};
use crate::names::Names;
use crate::report::{self, Context, Ending, ending, try_help};

/// What a run reads and writes, and where its director is.
pub struct World<'a> {
    /// Name of the program in messages.
    pub program: &'a str,
    pub socket: &'a Path,
    pub names: &'a dyn Names,
    pub input: &'a mut dyn BufRead,
    pub out: &'a mut dyn Write,
    pub err: &'a mut dyn Write,
}

/// Runs a command line without the program's name and returns the exit status.
pub fn run(line: &[String], world: &mut World<'_>) -> u8 {
    let list = [String::from("-L")];
    let line = if line.is_empty() { &list } else { line };
    let mut director = Director::new(world.socket);
    let mut last = run_line(line, Origin::Shell, &mut director, world);
    if let Some(ending) = flush(world)
        && last.status == report::SUCCESS
    {
        last = ending;
    }
    last.status
}

fn run_line(
    line: &[String],
    origin: Origin,
    director: &mut Director<'_>,
    world: &mut World<'_>,
) -> Ending {
    let command = match Command::from_line(line, world.names, origin) {
        Ok(Command::Restore) => return restore(director, world),
        Ok(command) => command,
        Err(stop) => return stopped(stop, world),
    };
    let context = Context {
        listing: command.is_listing(),
        server: command.is_about_server(),
    };
    match execute(&command, director, world.names, world.out) {
        Ok(()) => Ending {
            message: String::new(),
            status: report::SUCCESS,
            fatal: false,
        },
        Err(trouble) => tell(ending(&trouble, context), world),
    }
}

/// Executes the lines of standard input; the exit status is that of the last one.
///
/// An option that does not exist or a refusal does not end it, every other mistake does.
/// DIFFERS: lines that begin with '#' are comments, as `ipvsadm-restore` has them.
fn restore(director: &mut Director<'_>, world: &mut World<'_>) -> Ending {
    let mut last = Ending {
        message: String::new(),
        status: report::SUCCESS,
        fatal: false,
    };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match world.input.read_until(b'\n', &mut bytes) {
            Ok(0) => return last,
            Ok(_) => {}
            Err(error) => {
                let context = Context {
                    listing: false,
                    server: false,
                };
                return tell(ending(&Trouble::Io(error), context), world);
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        let words: Vec<String> = text
            .split([' ', '\t', '\r', '\n'])
            .filter(|word| !word.is_empty() && *word != "ipvsadm")
            .map(String::from)
            .collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        last = run_line(&words, Origin::Restore, director, world);
        if last.fatal {
            return last;
        }
    }
}

fn stopped(stop: Stop, world: &mut World<'_>) -> Ending {
    let (message, status, fatal) = match stop {
        Stop::Help => return print(&[VERSION, USAGE], world),
        Stop::Version => return print(&[VERSION], world),
        Stop::TryHelp => (try_help(world.program), report::REFUSED, true),
        Stop::BadOption(text) => (text + "\n", report::REFUSED, false),
        Stop::Fail(text) => (text + "\n", report::USAGE, true),
    };
    tell(
        Ending {
            message,
            status,
            fatal,
        },
        world,
    )
}

fn print(texts: &[&str], world: &mut World<'_>) -> Ending {
    let written = texts
        .iter()
        .try_for_each(|text| world.out.write_all(text.as_bytes()));
    match written {
        Ok(()) => Ending {
            message: String::new(),
            status: report::SUCCESS,
            fatal: true,
        },
        Err(error) => {
            let context = Context {
                listing: true,
                server: false,
            };
            tell(ending(&Trouble::Io(error), context), world)
        }
    }
}

fn flush(world: &mut World<'_>) -> Option<Ending> {
    let error = world.out.flush().err()?;
    let context = Context {
        listing: true,
        server: false,
    };
    Some(tell(ending(&Trouble::Io(error), context), world))
}

/// Prints the message after what was listed before it.
fn tell(ending: Ending, world: &mut World<'_>) -> Ending {
    if !ending.message.is_empty() {
        // If either stream is closed there is nobody left to tell.
        let _ = world.out.flush();
        let _ = world.err.write_all(ending.message.as_bytes());
    }
    ending
}
