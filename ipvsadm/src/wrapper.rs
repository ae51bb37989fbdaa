//! `ipvsadm-save` and `ipvsadm-restore`, which Debian's package has as scripts: here the program is
//! one of them when it is started under that name, by a link.
//!
//! Source: the observed behaviour of the scripts of ipvsadm 1.31.

use std::path::Path;

use crate::report;
use crate::restore::{World, run};

/// The one option of a save: numbers instead of names.
const NUMERIC: &str = "-n";

/// Which program this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Ipvsadm,
    /// `ipvsadm -S`, with `-n` if given.
    Save,
    /// `ipvsadm -C`, then `ipvsadm -R`.
    Restore,
}

impl Program {
    /// By the name it was started under, whatever the directory.
    pub fn from_name(name: &str) -> Program {
        let file = Path::new(name).file_name().and_then(|file| file.to_str());
        match file {
            Some("ipvsadm-save") => Program::Save,
            Some("ipvsadm-restore") => Program::Restore,
            Some(_) | None => Program::Ipvsadm,
        }
    }
}

/// Runs a command line without the program's name and returns the exit status.
///
/// DIFFERS: a restore ends when the table cannot be cleared; the script goes on.
pub fn run_as(program: Program, line: &[String], world: &mut World<'_>) -> u8 {
    let words =
        |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).into()).collect() };
    match (program, line) {
        (Program::Ipvsadm, line) => run(line, world),
        (Program::Save, []) => run(&words(&["-S"]), world),
        (Program::Save, [option]) if option == NUMERIC => run(&words(&["-S", NUMERIC]), world),
        (Program::Save, _) => usage(
            "Usage: ipvsadm-save [-n]\n       -n  numbers instead of names\n",
            world,
        ),
        (Program::Restore, []) => match run(&words(&["-C"]), world) {
            report::SUCCESS => run(&words(&["-R"]), world),
            failed => failed,
        },
        (Program::Restore, _) => usage(
            "Usage: ipvsadm-restore < FILE\n       FILE as ipvsadm-save writes it\n",
            world,
        ),
    }
}

fn usage(text: &str, world: &mut World<'_>) -> u8 {
    // There is nobody left to tell if the stream is closed.
    let _ = world.err.write_all(text.as_bytes());
    report::LISTING_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_alone_decides() {
        for (name, program) in [
            ("ipvsadm", Program::Ipvsadm),
            ("/sbin/ipvsadm", Program::Ipvsadm),
            ("/sbin/ipvsadm-save", Program::Save),
            ("ipvsadm-save", Program::Save),
            ("./ipvsadm-restore", Program::Restore),
            ("/ipvsadm-restore/ipvsadm", Program::Ipvsadm),
            ("", Program::Ipvsadm),
        ] {
            assert_eq!(Program::from_name(name), program, "{name}");
        }
    }
}
