//! Values that several sections have: command lines, users, names of things.

use std::path::{Path, PathBuf};

use toml::Spanned;

use super::{NAME_MAX, Offence};

/// Words of a command line. Our own bound.
const WORDS_MAX: usize = 64;
/// Unit: bytes, of all words together.
const COMMAND_MAX: usize = 4096;
/// Unit: bytes. The longest name `useradd` takes.
const USER_MAX: usize = 32;
/// Unit: bytes. The kernel's `PATH_MAX` without the terminating zero.
const PATH_MAX: usize = 4095;

/// A command line as typed: a list of words, of which the first is the program.
pub(super) type RawCommand = Option<Spanned<Vec<String>>>;

/// A command line that is run without a shell; none, or an empty list, is `None`.
pub(super) fn resolve_command(
    key: &str,
    command: RawCommand,
) -> Result<Option<Vec<String>>, Offence> {
    let Some(command) = command else {
        return Ok(None);
    };
    let words = command.get_ref();
    let Some(program) = words.first() else {
        return Ok(None);
    };
    let bytes: usize = words.iter().map(String::len).sum();
    let reason = if !Path::new(program).is_absolute() {
        format!("{key}: {program:?} is not an absolute path; no shell looks it up")
    } else if words.len() > WORDS_MAX {
        format!("{key}: {} words are more than {WORDS_MAX}", words.len())
    } else if bytes > COMMAND_MAX {
        format!("{key}: {bytes} bytes are more than {COMMAND_MAX}")
    } else if words.iter().any(|word| word.contains('\0')) {
        format!("{key}: a word contains a zero byte")
    } else {
        return Ok(Some(command.into_inner()));
    };
    Err(Offence::new(&command, reason))
}

/// The name of a user, who is looked up when the director starts.
pub(super) fn resolve_user(user: Option<Spanned<String>>) -> Result<Option<String>, Offence> {
    let Some(user) = user else {
        return Ok(None);
    };
    let text = user.get_ref();
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/';
    if text.is_empty() || text.len() > USER_MAX || text.chars().any(is_odd) {
        let reason = format!("user {text:?} is not a user's name");
        return Err(Offence::new(&user, reason));
    }
    Ok(Some(user.into_inner()))
}

/// The name of something that others refer to: one word.
pub(super) fn resolve_word(name: Spanned<String>) -> Result<String, Offence> {
    let text = name.get_ref();
    let is_word = !text.is_empty()
        && text.len() <= NAME_MAX
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if is_word {
        return Ok(name.into_inner());
    }
    let reason = format!("name {text:?} is not one word of 1 to {NAME_MAX} bytes");
    Err(Offence::new(&name, reason))
}

/// An absolute path of a file.
pub(super) fn resolve_path(key: &str, path: Spanned<PathBuf>) -> Result<PathBuf, Offence> {
    let text = path.get_ref();
    let reason = if !text.is_absolute() {
        "is not an absolute path"
    } else if text.file_name().is_none() {
        "names no file"
    } else if text.as_os_str().len() > PATH_MAX {
        "is longer than a path can be"
    } else if text.as_os_str().as_encoded_bytes().contains(&0) {
        "contains a zero byte"
    } else {
        return Ok(path.into_inner());
    };
    Err(Offence::new(&path, format!("{key} {reason}")))
}
