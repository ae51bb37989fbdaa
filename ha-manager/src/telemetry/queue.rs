//! Log lines on their way to standard error.
//!
//! Whoever reads our standard error may stop reading; a write then blocks for as long as it
//! pleases. So lines are queued, never waited for, and written by a thread that does nothing else.
//! When the queue is full a line is lost and counted.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use crate::privileges::{self, PrivilegeError};

/// Unit: bytes that wait for the writer; as many again may be in its hands.
const QUEUE_MAX: usize = 1 << 20;

/// Takes lines from any thread; clones share one queue.
#[derive(Clone, Debug)]
pub struct LineQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// A line came, or all have been written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The writer has lines in its hands.
    writing: bool,
    lost: u64,
}

impl LineQueue {
    /// A queue that a thread of its own empties into `to`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn to(to: OwnedFd) -> io::Result<LineQueue> {
        let queue = LineQueue(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let (started, start) = std::sync::mpsc::channel();
        let source = queue.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                // Writing takes no privileges, and later the other thread cannot take them away.
                let dropped = privileges::drop_all();
                let usable = dropped.is_ok();
                if started.send(dropped).is_ok() && usable {
                    source.write_out(&mut File::from(to));
                }
            })?;
        let dropped = start.recv().map_err(io::Error::other)?;
        dropped.map_err(|error: PrivilegeError| io::Error::other(error))?;
        Ok(queue)
    }

    /// Lines that found the queue full, or could not be written.
    pub fn lost(&self) -> u64 {
        self.state().lost
    }

    /// Waits until everything has been written, for at most `limit`.
    pub fn flush(&self, limit: Duration) {
        let pending = |state: &mut State| state.writing || !state.lines.is_empty();
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.state(), limit, pending);
        drop(waited);
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.state();
        if state.bytes + line.len() > QUEUE_MAX {
            state.lost = state.lost.saturating_add(1);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.0.changed.notify_all();
    }

    /// Writes lines for the rest of the process's life.
    fn write_out(&self, to: &mut impl Write) {
        loop {
            let lines = self.take();
            let mut lost = 0;
            for line in &lines {
                if to.write_all(line).is_err() {
                    lost += 1;
                }
            }
            let mut state = self.state();
            state.writing = false;
            state.lost = state.lost.saturating_add(lost);
            drop(state);
            self.0.changed.notify_all();
        }
    }

    fn take(&self) -> VecDeque<Vec<u8>> {
        let empty = |state: &mut State| state.lines.is_empty();
        let waited = self.0.changed.wait_while(self.state(), empty);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.writing = true;
        state.bytes = 0;
        std::mem::take(&mut state.lines)
    }

    /// Nothing panics while it holds the lock, and the state is whole at any time.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A whole line at a time, as the formatter hands it over.
impl Write for LineQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = LineQueue;

    fn make_writer(&'a self) -> LineQueue {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn lines_arrive_whole_and_in_order() {
        let (read, write) = io::pipe().unwrap();
        let queue = LineQueue::to(write.into()).unwrap();
        for number in 0..100 {
            queue.push(format!("line {number}\n").as_bytes());
        }
        queue.flush(Duration::from_secs(10));
        let mut text = vec![0; 4096];
        let length = (&read).read(&mut text).unwrap();
        let expected: String = (0..100).map(|number| format!("line {number}\n")).collect();
        assert_eq!(String::from_utf8_lossy(&text[..length]), expected);
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let (read, write) = io::pipe().unwrap();
        let queue = LineQueue::to(write.into()).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..8192 {
            queue.push(&line);
        }
        let lost = queue.lost();
        // The pipe, the queue and the writer's hands together hold less than half of it.
        assert!((4096..8192).contains(&lost), "{lost}");
        queue.flush(Duration::from_millis(10));
        drop(read);
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (read, write) = io::pipe().unwrap();
        let queue = LineQueue::to(write.into()).unwrap();
        drop(read);
        queue.push(b"line\n");
        queue.flush(Duration::from_secs(10));
        assert_eq!(queue.lost(), 1);
    }
}
