//! The thread that looks at processes and files, since `/proc` may be long and a file far away.
//!
//! Processes are counted every interval. Files are read when their directory says that one of them
//! was written, moved or deleted, and every [`REREAD`] in any case: what inotify does not see, such
//! as the target of a symbolic link or a directory that comes later, is late but not lost.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::mpsc;
use tracing::warn;

use super::files::{self, Found};
use super::{Reading, processes};
use crate::config::{TrackFile, TrackProcess};
use crate::privileges;

/// Files are read this often without any event.
const REREAD: Duration = Duration::from_secs(1);
/// Between two looks at events: a busy directory costs no more than this.
const PAUSE: Duration = Duration::from_millis(10);

/// Starts the thread if there is something to watch. It ends when the pipe is closed.
pub(super) fn start(
    processes: Vec<TrackProcess>,
    files: Vec<TrackFile>,
    to: mpsc::Sender<Reading>,
) -> io::Result<Option<PipeWriter>> {
    if processes.is_empty() && files.is_empty() {
        return Ok(None);
    }
    let (stopped, stop) = io::pipe()?;
    let watch = Watch::new(processes, files, to)?;
    thread::Builder::new()
        .name("tracking".to_owned())
        .spawn(move || {
            if let Err(error) = privileges::drop_all() {
                warn!(%error, "the tracking thread keeps its privileges");
            }
            watch.run(&stopped);
        })?;
    Ok(Some(stop))
}

struct Watch {
    processes: Vec<Process>,
    files: Vec<File>,
    read_files: Instant,
    inotify: Inotify,
    /// Events are left alone until then.
    quiet: Instant,
    names: BTreeSet<OsString>,
    to: mpsc::Sender<Reading>,
}

struct Process {
    wanted: TrackProcess,
    due: Instant,
    told: Option<Result<u32, String>>,
}

struct File {
    path: PathBuf,
    told: Option<Found>,
    /// It was empty when it was read last.
    empty: bool,
}

/// The owner is gone.
struct Gone;

impl Watch {
    fn new(
        processes: Vec<TrackProcess>,
        files: Vec<TrackFile>,
        to: mpsc::Sender<Reading>,
    ) -> io::Result<Watch> {
        let now = Instant::now();
        let names = files.iter().filter_map(|file| file.path.file_name());
        Ok(Watch {
            names: names.map(OsString::from).collect(),
            processes: processes
                .into_iter()
                .map(|wanted| Process {
                    wanted,
                    due: now,
                    told: None,
                })
                .collect(),
            files: files
                .into_iter()
                .map(|file| File {
                    path: file.path,
                    told: None,
                    empty: false,
                })
                .collect(),
            read_files: now,
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            quiet: now,
            to,
        })
    }

    fn run(mut self, stopped: &PipeReader) {
        while self.look(Instant::now()).is_ok() {
            match self.wait(stopped) {
                Ok(false) => {}
                Ok(true) => return,
                Err(error) => {
                    warn!(%error, "processes and files are not tracked any more");
                    return;
                }
            }
        }
    }

    /// Waits for what is due next. Gives back whether it is over.
    fn wait(&mut self, stopped: &PipeReader) -> nix::Result<bool> {
        let now = Instant::now();
        let is_quiet = self.quiet > now;
        let due = self.processes.iter().map(|process| process.due);
        let due = due.chain((!self.files.is_empty()).then_some(self.read_files));
        let due = due.chain(is_quiet.then_some(self.quiet)).min();
        let left = due.map(|due| due.saturating_duration_since(now));
        // Rounded up, so that what is due is due afterwards.
        let left = left.map(|left| left + Duration::from_millis(1));
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        let mut open = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
        if !is_quiet {
            open.push(PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut open, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let is_ready = |place: usize| {
            let found: Option<&PollFd<'_>> = open.get(place);
            found.and_then(PollFd::any).unwrap_or(false)
        };
        let (is_over, has_events) = (is_ready(0), is_ready(1));
        drop(open);
        if has_events && self.concerns_us() {
            // What is there now is meant: whoever wrote it is done.
            for place in 0..self.files.len() {
                if self.read_file(place, true).is_err() {
                    return Ok(true);
                }
            }
        }
        Ok(is_over)
    }

    /// Takes what events there are. Which they were does not matter, only whether any could be
    /// about our files.
    fn concerns_us(&mut self) -> bool {
        self.quiet = Instant::now() + PAUSE;
        let Ok(events) = self.inotify.read_events() else {
            return true;
        };
        let is_ours =
            |name: &Option<OsString>| name.as_ref().is_none_or(|name| self.names.contains(name));
        events.iter().any(|event| is_ours(&event.name))
    }

    /// Does what is due.
    fn look(&mut self, now: Instant) -> Result<(), Gone> {
        if !self.files.is_empty() && self.read_files <= now {
            self.read_files = now + REREAD;
            self.watch_directories();
            for place in 0..self.files.len() {
                self.read_file(place, false)?;
            }
        }
        let mut due: Vec<(usize, &mut Process)> = self.processes.iter_mut().enumerate().collect();
        due.retain(|(_, process)| process.due <= now);
        if due.is_empty() {
            return Ok(());
        }
        let wanted: Vec<&TrackProcess> = due.iter().map(|(_, process)| &process.wanted).collect();
        let counted = processes::count(Path::new("/proc"), &wanted);
        let counted = counted.map_err(|error| format!("/proc: {error}"));
        for (at, (index, process)) in due.into_iter().enumerate() {
            let count = counted.clone();
            let count = count.map(|counts| counts.get(at).copied().unwrap_or_default());
            process.due = (process.due + process.wanted.interval).max(now);
            if process.told.as_ref() != Some(&count) {
                process.told = Some(count.clone());
                let told = self.to.blocking_send(Reading::Process { index, count });
                told.map_err(|_| Gone)?;
            }
        }
        Ok(())
    }

    /// The kernel takes a watch that is there already for the same one.
    fn watch_directories(&self) {
        let what = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ATTRIB;
        for file in &self.files {
            if let Some(directory) = file.path.parent() {
                // One that does not exist may do so later.
                let _ = self.inotify.add_watch(directory, what);
            }
        }
    }

    /// A file that is empty counts as that only when its writer is done, or has left it so.
    fn read_file(&mut self, index: usize, is_settled: bool) -> Result<(), Gone> {
        let Some(file) = self.files.get_mut(index) else {
            return Ok(());
        };
        let found = files::read(&file.path);
        let was_empty = std::mem::replace(&mut file.empty, found == Found::Empty);
        let may_be_written = file.empty && !was_empty && !is_settled && file.told.is_some();
        if may_be_written || file.told.as_ref() == Some(&found) {
            return Ok(());
        }
        file.told = Some(found.clone());
        let told = self.to.blocking_send(Reading::File { index, found });
        told.map_err(|_| Gone)
    }
}
