//! Files in the syntax of sysctl.d(5): `NAME = VALUE` lines, comments after `#` or `;`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Unit: bytes. A larger file is not a list of tunables.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// `NAME=VALUE`, without the spaces around either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assignment<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    /// A `-` before the name: a failure is not worth a word.
    pub(super) may_fail: bool,
}

impl Assignment<'_> {
    /// `None` without a `=`, or without a name before it.
    pub(super) fn parse(text: &str) -> Option<Assignment<'_>> {
        let (name, value) = text.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        (!name.is_empty()).then_some(Assignment {
            name,
            value,
            may_fail: false,
        })
    }
}

/// One line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Nothing,
    Assignment(Assignment<'a>),
    Nonsense,
}

impl Line<'_> {
    pub(super) fn parse(line: &str) -> Line<'_> {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            return Line::Nothing;
        }
        let (line, may_fail) = match line.strip_prefix('-') {
            Some(rest) => (rest, true),
            None => (line, false),
        };
        match Assignment::parse(line) {
            Some(assignment) => Line::Assignment(Assignment {
                may_fail,
                ..assignment
            }),
            None => Line::Nonsense,
        }
    }
}

/// A whole file, or standard input for `-`.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let bounded = |source: &mut dyn Read| -> io::Result<String> {
        let mut text = String::new();
        source.take(FILE_SIZE_MAX + 1).read_to_string(&mut text)?;
        if text.len() as u64 > FILE_SIZE_MAX {
            let reason = format!("larger than {FILE_SIZE_MAX} bytes");
            return Err(io::Error::other(reason));
        }
        Ok(text)
    };
    if path == Path::new("-") {
        bounded(&mut io::stdin().lock())
    } else {
        bounded(&mut File::open(path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_comments_assignments_or_nonsense() {
        let set = |name, value, may_fail| {
            Line::Assignment(Assignment {
                name,
                value,
                may_fail,
            })
        };
        for (line, expected) in [
            ("", Line::Nothing),
            (" \t", Line::Nothing),
            ("# sync_ports = 4", Line::Nothing),
            ("  ; sync_ports = 4", Line::Nothing),
            ("sync_ports=4", set("sync_ports", "4", false)),
            (
                "\tnet/ipv4/vs/sync_ports \t=\t4 ",
                set("net/ipv4/vs/sync_ports", "4", false),
            ),
            (
                "sync_threshold = 3 50",
                set("sync_threshold", "3 50", false),
            ),
            ("- sync_ports = 4", set("sync_ports", "4", true)),
            ("-sync_ports=4", set("sync_ports", "4", true)),
            ("sync_ports =", set("sync_ports", "", false)),
            ("a = b = c", set("a", "b = c", false)),
            // Only a whole line is a comment.
            ("a = 1 # one", set("a", "1 # one", false)),
            ("sync_ports", Line::Nonsense),
            ("-sync_ports", Line::Nonsense),
            ("= 4", Line::Nonsense),
        ] {
            assert_eq!(Line::parse(line), expected, "{line:?}");
        }
    }
}
