//! Where a port's messages go: to the group, or to every peer.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use syncproto::buffer::SyncBuffer;
use syncproto::net::{BATCH_MAX, MasterSocket, SendBatch};

/// How long the others wait for one peer whose socket takes no more. Unit: milliseconds.
const LAGGARD_WAIT_MS: u8 = 2;

/// The destinations of one port, and how far each is with the batch at hand.
pub(super) struct Outlets {
    outlets: Vec<Outlet>,
    /// Messages of the batch that have gone to at least one.
    sent: Sent,
}

/// By their places in a batch.
pub(super) type Sent = [bool; BATCH_MAX];

struct Outlet {
    socket: MasterSocket,
    /// Messages of the batch that have gone to it, or are lost to it.
    done: usize,
    /// Its socket was full when another's was not, and has not taken a whole batch since: the others
    /// do not wait for it.
    lags: bool,
}

/// What has become of a batch just now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// Messages that went to their first destination.
    pub(super) sent: Sent,
    /// Entries that a destination did not get; for several destinations the sum of them.
    pub(super) lost_entries: u64,
}

impl Outlets {
    pub(super) fn new(sockets: Vec<MasterSocket>) -> Outlets {
        let outlet = |socket| Outlet {
            socket,
            done: 0,
            lags: false,
        };
        Outlets {
            outlets: sockets.into_iter().map(outlet).collect(),
            sent: Sent::default(),
        }
    }

    /// Sends `messages`, at most a batch. False when no destination takes all of them now: the same
    /// messages, and possibly more behind them, are to be given again when one is writable.
    ///
    /// The buffer of a peer's socket is its queue: what it does not take while another peer's does is
    /// lost to it, so that a dead peer delays nobody.
    pub(super) fn send(
        &mut self,
        batch: &mut SendBatch,
        messages: &[SyncBuffer],
        gone: &mut Gone,
    ) -> bool {
        let Outlets { outlets, sent } = self;
        let before = *sent;
        for outlet in outlets.iter_mut() {
            gone.lost_entries += outlet.send(batch, messages, sent);
        }
        let is_done = outlets.iter().any(|outlet| outlet.done >= messages.len());
        for outlet in outlets.iter_mut().filter(|_| is_done) {
            if outlet.done < messages.len() && !outlet.lags {
                outlet.wait();
                gone.lost_entries += outlet.send(batch, messages, sent);
            }
            outlet.lags = outlet.done < messages.len();
            gone.lost_entries += entries(messages.get(outlet.done..).unwrap_or_default());
        }
        for ((new, now), before) in gone.sent.iter_mut().zip(*sent).zip(before) {
            *new = now && !before;
        }
        if is_done {
            self.forget();
        }
        is_done
    }

    /// The batch at hand is done with, or given up. Gives back what of it has gone to at least one.
    pub(super) fn forget(&mut self) -> Sent {
        for outlet in &mut self.outlets {
            outlet.done = 0;
        }
        std::mem::take(&mut self.sent)
    }

    /// To wait until one takes more.
    pub(super) fn writable(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.outlets
            .iter()
            .map(|outlet| PollFd::new(outlet.socket.as_fd(), PollFlags::POLLOUT))
    }
}

impl Outlet {
    /// Sends what it takes without waiting, marks that, and says how many entries could not be sent.
    fn send(&mut self, batch: &mut SendBatch, messages: &[SyncBuffer], sent: &mut Sent) -> u64 {
        let mut lost_entries = 0;
        while let Some(rest @ [first, ..]) = messages.get(self.done..) {
            match batch.send(&self.socket, rest) {
                Ok(0) => break,
                Ok(count) => {
                    let went = sent.iter_mut().skip(self.done).take(count);
                    went.for_each(|sent| *sent = true);
                    self.done += count;
                }
                // As the kernel's master: the message is lost, the next one is tried.
                Err(_) => {
                    lost_entries += u64::from(first.count());
                    self.done += 1;
                }
            }
        }
        lost_entries
    }

    fn wait(&self) {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        let _ = poll(&mut fds, PollTimeout::from(LAGGARD_WAIT_MS));
    }
}

fn entries(messages: &[SyncBuffer]) -> u64 {
    messages
        .iter()
        .map(|message| u64::from(message.count()))
        .sum()
}
