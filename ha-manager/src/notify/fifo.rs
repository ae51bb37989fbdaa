//! Lines for whoever reads them: a FIFO that is never waited for.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tracing::{info, warn};

/// An open FIFO.
#[derive(Debug)]
pub(super) struct Fifo {
    file: File,
    path: PathBuf,
    dropped: AtomicU64,
    /// The last line found no room.
    is_full: AtomicBool,
}

impl Fifo {
    /// Makes it, for its owner alone, if it is not there. As keepalived it is opened for reading too:
    /// without a reader lines wait in it, and an open never does.
    ///
    /// # Errors
    /// It cannot be made or opened, or is something else.
    pub(super) fn open(path: &Path) -> io::Result<Fifo> {
        match mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
            .open(path)?;
        if !file.metadata()?.file_type().is_fifo() {
            return Err(io::Error::other("there is something else than a FIFO"));
        }
        Ok(Fifo {
            file,
            path: path.into(),
            dropped: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
        })
    }

    /// Writes a line, which is whole or, when there is no room for it, dropped and counted.
    pub(super) fn write(&self, line: &str) {
        match (&self.file).write(line.as_bytes()) {
            // Lines are shorter than `PIPE_BUF`, so they are written whole or not at all.
            Ok(1..) => {
                if self.is_full.swap(false, Ordering::Relaxed) {
                    let (path, dropped) = (self.path.display(), self.dropped());
                    info!(%path, dropped, "the notify FIFO is read again");
                }
            }
            Ok(0) | Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                if !self.is_full.swap(true, Ordering::Relaxed) {
                    let path = self.path.display();
                    warn!(%path, "the notify FIFO is full, lines are dropped");
                }
            }
        }
    }

    /// Lines so far that found no room.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// What is wrong at the moment.
    pub(super) fn problem(&self) -> Option<String> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        is_full.then(|| {
            format!(
                "notify: nobody reads {}, {} lines were dropped",
                self.path.display(),
                self.dropped()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_fifo_is_the_owners_alone_and_never_waited_for() {
        let dir = std::env::temp_dir().join(format!("fifo-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("notify");
        let fifo = Fifo::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let line = "INSTANCE \"VI_1\" MASTER 150\n";
        let mut written = 0;
        while fifo.problem().is_none() {
            fifo.write(line);
            written += 1;
        }
        fifo.write(line);
        assert_eq!(fifo.dropped(), 2);
        let problem = fifo.problem().unwrap();
        assert!(problem.ends_with("2 lines were dropped"), "{problem}");
        let mut reader = OpenOptions::new();
        reader.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
        let mut reader = reader.open(&path).unwrap();
        let mut text = vec![0; 1 << 20];
        let mut read = 0;
        while let Ok(length) = reader.read(&mut text[read..]) {
            read += length;
        }
        // Every line that was taken is whole.
        assert_eq!(text[..read], line.repeat(written - 1).as_bytes()[..]);
        fifo.write(line);
        assert_eq!((fifo.problem(), fifo.dropped()), (None, 2));
        // The next life finds it.
        drop(fifo);
        assert!(Fifo::open(&path).is_ok());
        fs::write(dir.join("file"), "").unwrap();
        assert!(Fifo::open(&dir.join("file")).is_err());
        symlink(&path, dir.join("link")).unwrap();
        assert!(Fifo::open(&dir.join("link")).is_err());
        assert!(Fifo::open(&dir.join("none/fifo")).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
