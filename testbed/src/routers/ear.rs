//! Hears adverts and announcements on the third port, with the kernel's times.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Which;
use crate::capture::{Taken, Taking, open_socket, take_frame};
use crate::frame::{Content, describe};
use crate::netns::Namespaces;
use crate::wait::check_interrupt;

/// Longest time until an ear that is to stop, or somebody who waits, looks up.
const STOP_POLL_MS: u8 = 50;
/// Adverts and announcements are short.
const FRAME_MAX: usize = 256;
/// More than an hour of adverts of 10 ms by both.
const HEARD_MAX: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Since the epoch, by the kernel's clock.
    pub(crate) at: Duration,
    /// Whose Ethernet address the frame has.
    pub(crate) by: Which,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Advert {
        priority: u8,
    },
    /// Gratuitous ARP.
    Announcement,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    failed: AtomicBool,
    heard: Mutex<Vec<Heard>>,
    news: Condvar,
}

/// Listens until dropped.
#[derive(Debug)]
pub(crate) struct Ear {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Ear {
    /// # Errors
    /// No such interface, or no packet sockets.
    pub(crate) fn open(spaces: &Namespaces, link: &str, macs: [[u8; 6]; 2]) -> Result<Ear> {
        let socket = spaces.on_thread(|| open_socket(if_nametoindex(link)?))?;
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        let thread = thread::Builder::new().name("ear".into());
        let thread = thread.spawn(move || {
            let result = listen(&socket, macs, &inside);
            inside.failed.store(result.is_err(), Ordering::SeqCst);
            result
        })?;
        Ok(Ear {
            shared,
            thread: Some(thread),
        })
    }

    /// Everything since a moment.
    pub(crate) fn since(&self, from: Duration) -> Vec<Heard> {
        tail(&self.shared.heard(), from).to_vec()
    }

    /// The last of what was wanted before a moment.
    pub(crate) fn last_before(
        &self,
        at: Duration,
        wanted: impl Fn(&Heard) -> bool,
    ) -> Option<Heard> {
        let heard = self.shared.heard();
        let before = heard.partition_point(|one| one.at < at);
        let before = heard.get(..before)?;
        before.iter().rev().find(|one| wanted(one)).copied()
    }

    /// Looks at what was heard since a moment, whenever there is more, until it gives a value.
    ///
    /// # Errors
    /// It gives none within `limit`; the ear failed, or a signal came.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        from: Duration,
        limit: Duration,
        mut look: impl FnMut(&[Heard]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut heard = self.shared.heard();
        loop {
            if let Some(value) = look(tail(&heard, from)) {
                return Ok(value);
            }
            check_interrupt()?;
            if self.shared.failed.load(Ordering::SeqCst) {
                bail!("the ear ended early");
            }
            if Instant::now() >= deadline {
                bail!("{what}: not within {:.1} s", limit.as_secs_f64());
            }
            let pause = Duration::from_millis(STOP_POLL_MS.into());
            let waited = self.shared.news.wait_timeout(heard, pause);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            crate::complain(&format!("ear: {error:#}"));
        }
    }
}

impl Shared {
    fn heard(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tail(heard: &[Heard], from: Duration) -> &[Heard] {
    let begin = heard.partition_point(|one| one.at < from);
    heard.get(begin..).unwrap_or_default()
}

fn listen(socket: &OwnedFd, macs: [[u8; 6]; 2], shared: &Shared) -> Result<()> {
    let mut buffer = [0; FRAME_MAX];
    while !shared.stop.load(Ordering::SeqCst) {
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(STOP_POLL_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        loop {
            let taken = match take_frame(socket, &mut buffer)? {
                Taking::Frame(taken) => taken,
                Taking::Nothing => continue,
                Taking::Empty => break,
            };
            let frame = buffer.get(..taken.len.min(FRAME_MAX)).unwrap_or_default();
            if let Some(one) = understand(&taken, frame, macs) {
                let mut heard = shared.heard();
                if heard.len() >= HEARD_MAX {
                    bail!("more than {HEARD_MAX} frames");
                }
                heard.push(one);
                drop(heard);
                shared.news.notify_all();
            }
        }
    }
    Ok(())
}

fn understand(taken: &Taken, frame: &[u8], macs: [[u8; 6]; 2]) -> Option<Heard> {
    let source = frame.get(6..12)?;
    let by = match macs.iter().position(|mac| mac == source)? {
        0 => Which::Master,
        _ => Which::Backup,
    };
    let what = match describe(frame) {
        Content::Advert { priority, .. } => What::Advert { priority },
        Content::Announcement { .. } => What::Announcement,
        Content::Answer { .. }
        | Content::Other
        | Content::Question { .. }
        | Content::Tcp { .. }
        | Content::Udp { .. } => return None,
    };
    Some(Heard {
        at: taken.at,
        by,
        what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

    #[test]
    fn a_frame_is_of_the_router_whose_ethernet_address_it_has() {
        let taken = Taken {
            at: Duration::from_millis(7),
            len: 42,
            outgoing: false,
        };
        let mut frame = vec![0; 42];
        frame[6..12].copy_from_slice(&MACS[1]);
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        frame[21] = 1;
        let heard = understand(&taken, &frame, MACS).unwrap();
        assert_eq!((heard.by, heard.what), (Which::Backup, What::Announcement));
        frame[11] = 9;
        assert_eq!(understand(&taken, &frame, MACS), None);
        assert_eq!(understand(&taken, &frame[..10], MACS), None);
    }

    #[test]
    fn what_was_heard_since_a_moment_begins_with_it() {
        let at = |ms| Heard {
            at: Duration::from_millis(ms),
            by: Which::Master,
            what: What::Announcement,
        };
        let heard = [at(1), at(2), at(3)];
        assert_eq!(tail(&heard, Duration::from_millis(2)), &heard[1..]);
        assert_eq!(tail(&heard, Duration::from_millis(4)), &[]);
    }
}
