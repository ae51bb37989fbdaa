//! The number in a file.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

/// Unit: bytes. A number is not longer.
const NUMBER_MAX: u64 = 64;

/// What a look at a file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Number(i64),
    /// Somebody may be about to write it.
    Empty,
    Missing,
    Unusable(String),
}

impl Found {
    /// A file without a number counts as 0.
    pub(super) const fn value(&self) -> i64 {
        match self {
            Found::Number(value) => *value,
            Found::Empty | Found::Missing | Found::Unusable(_) => 0,
        }
    }
}

/// Reads the first word of a regular file; of anything else nothing, since it may block.
pub(super) fn read(path: &Path) -> Found {
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Found::Missing,
        Err(error) => return Found::Unusable(error.to_string()),
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return Found::Unusable("not a regular file".to_owned());
    }
    let mut text = Vec::new();
    if let Err(error) = file.take(NUMBER_MAX).read_to_end(&mut text) {
        return Found::Unusable(error.to_string());
    }
    let text = String::from_utf8_lossy(&text);
    match text.split_whitespace().next().map(str::parse) {
        None => Found::Empty,
        Some(Ok(value)) => Found::Number(value),
        Some(Err(_)) => Found::Unusable("does not begin with a number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_file_holds_a_number_or_counts_as_0() {
        let dir = std::env::temp_dir().join(format!("track-file-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("weight");
        assert_eq!(read(&path), Found::Missing);
        for (text, found) in [
            ("12\n", Found::Number(12)),
            (" -254 and more", Found::Number(-254)),
            ("", Found::Empty),
            ("\n", Found::Empty),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path), found, "{text:?}");
        }
        for nonsense in ["up", "1x", "99999999999999999999"] {
            fs::write(&path, nonsense).unwrap();
            let found = read(&path);
            assert!(matches!(found, Found::Unusable(_)), "{nonsense}: {found:?}");
            assert_eq!(found.value(), 0);
        }
        fs::write(&path, vec![b'1'; 1 << 20]).unwrap();
        assert!(matches!(read(&path), Found::Unusable(_)));
        let fifo = dir.join("fifo");
        mkfifo(&fifo, Mode::S_IRUSR).unwrap();
        assert!(matches!(read(&fifo), Found::Unusable(_)));
        assert!(matches!(read(&dir), Found::Unusable(_)));
        fs::remove_dir_all(&dir).unwrap();
    }
}
