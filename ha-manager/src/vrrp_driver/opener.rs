//! The thread that opens and closes sockets. Joining and leaving a group takes the kernel's lock of
//! network configuration (rtnl), which is held for long exactly when interfaces come and go.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use tracing::warn;
use vrrp::Config;
use vrrp::net::socket::{AdvertSocket, Place};

use super::RouterSpec;
use super::post::{Letterbox, Post, post};
use crate::privileges;

/// Where a router advertises, and how: everything its sockets depend on.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) interface: String,
    pub(super) send_on: Option<String>,
    pub(super) source: Option<IpAddr>,
    /// VRIDs of other routers of this node in the same place.
    pub(super) neighbours: Vec<u8>,
    pub(super) config: Config,
}

impl Site {
    pub(super) fn new(spec: &RouterSpec, neighbours: Vec<u8>) -> Site {
        Site {
            interface: spec.interface.clone(),
            send_on: spec.send_on.clone(),
            source: spec.source,
            neighbours,
            config: spec.config.clone(),
        }
    }

    pub(super) fn open(&self) -> io::Result<AdvertSocket> {
        AdvertSocket::open(&self.place(), &self.config)
    }

    pub(super) fn is_current(&self, socket: &AdvertSocket) -> io::Result<bool> {
        socket.is_current(&self.place(), &self.config)
    }

    fn place(&self) -> Place<'_> {
        Place {
            interface: &self.interface,
            send_on: self.send_on.as_deref(),
            source: self.source,
            neighbours: &self.neighbours,
        }
    }
}

/// Sockets wanted for a router, in place of those it had: two would both receive.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) router: usize,
    pub(super) site: Site,
    pub(super) old: Option<AdvertSocket>,
}

/// What became of a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) router: usize,
    pub(super) opened: io::Result<AdvertSocket>,
}

/// Where answers wait for the election thread.
pub(super) type Answers = Arc<Mutex<Vec<Answer>>>;

/// The answers there are, unless one is just being added.
pub(super) fn take(answers: &Answers) -> Option<Vec<Answer>> {
    match answers.try_lock() {
        Ok(mut answers) => Some(std::mem::take(&mut *answers)),
        Err(TryLockError::Poisoned(answers)) => Some(std::mem::take(&mut *answers.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Starts the thread in the network namespace of the caller; it ends when the other end is dropped.
/// `wake` wakes the election thread.
pub(super) fn start(
    answers: Answers,
    wake: impl Fn() + Send + 'static,
) -> io::Result<(Post<Vec<Request>>, JoinHandle<()>)> {
    let (post, letterbox) = post()?;
    let thread = std::thread::Builder::new()
        .name("vrrp-open".to_owned())
        .spawn(move || open_all(letterbox, &answers, wake))?;
    Ok((post, thread))
}

fn open_all(mut letterbox: Letterbox<Vec<Request>>, answers: &Answers, wake: impl Fn()) {
    if let Err(error) = privileges::keep_election() {
        warn!(%error, "the election's helper keeps more privileges than it needs");
    }
    while let Some(requests) = letterbox.next() {
        for request in requests {
            drop(request.old);
            let answer = Answer {
                router: request.router,
                opened: request.site.open(),
            };
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            answers.push(answer);
            drop(answers);
            wake();
        }
    }
}
