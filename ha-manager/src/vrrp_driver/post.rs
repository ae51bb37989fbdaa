//! Handing things from the election thread to one that may wait.
//!
//! The election thread is served before all others. If it waited for a lock that an ordinary thread
//! holds, it would be served no earlier than that one, which may have no processor for tens of
//! milliseconds. So it only tries; what cannot be handed over now it keeps until the next turn.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// The side that never waits. Dropping it ends the other.
#[derive(Debug)]
pub(super) struct Post<M> {
    mail: Arc<Mutex<M>>,
    wake: PipeWriter,
}

/// The side that does nothing but wait.
#[derive(Debug)]
pub(super) struct Letterbox<M> {
    mail: Arc<Mutex<M>>,
    woken: PipeReader,
    has_ended: bool,
}

pub(super) fn post<M: Default>() -> io::Result<(Post<M>, Letterbox<M>)> {
    let (woken, wake) = io::pipe()?;
    fcntl(&wake, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mail = Arc::new(Mutex::new(M::default()));
    let letterbox = Letterbox {
        mail: Arc::clone(&mail),
        woken,
        has_ended: false,
    };
    Ok((Post { mail, wake }, letterbox))
}

impl<M> Post<M> {
    /// Adds to what is taken next, unless it is just being taken; whether it was added.
    pub(super) fn try_add(&self, add: impl FnOnce(&mut M)) -> bool {
        match self.mail.try_lock() {
            Ok(mut mail) => add(&mut mail),
            Err(TryLockError::Poisoned(mail)) => add(&mut mail.into_inner()),
            Err(TryLockError::WouldBlock) => return false,
        }
        self.wake();
        true
    }

    /// The same, when there is time to wait.
    pub(super) fn add(&self, add: impl FnOnce(&mut M)) {
        add(&mut self.mail.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake();
    }

    /// A pipe that is full wakes as well, and one that is closed has none to wake.
    fn wake(&self) {
        let _ = (&self.wake).write(&[0]);
    }
}

impl<M: Default> Letterbox<M> {
    /// Waits for the next mail; `None` when there will be no more.
    pub(super) fn next(&mut self) -> Option<M> {
        if self.has_ended {
            return None;
        }
        loop {
            match self.woken.read(&mut [0; 64]) {
                Ok(0) => self.has_ended = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => self.has_ended = true,
            }
            break;
        }
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut mail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_taken_in_order_and_the_last_before_the_end() {
        let (post, mut letterbox) = post::<Vec<u32>>().unwrap();
        assert!(post.try_add(|mail| mail.push(1)));
        post.add(|mail| mail.push(2));
        assert_eq!(letterbox.next(), Some(vec![1, 2]));
        post.add(|mail| mail.push(3));
        drop(post);
        let rest: Vec<_> = std::iter::from_fn(|| letterbox.next()).flatten().collect();
        assert_eq!(rest, [3]);
    }

    #[test]
    fn a_taker_that_holds_the_mail_keeps_nobody_waiting() {
        let (post, letterbox) = post::<Vec<u32>>().unwrap();
        let held = letterbox.mail.lock().unwrap();
        assert!(!post.try_add(|mail| mail.push(1)));
        drop(held);
        assert!(post.try_add(|mail| mail.push(1)));
    }
}
