//! Several messages per system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, recvmmsg, sendmmsg};

use super::{BackupSocket, MasterSocket};
use crate::buffer::SyncBuffer;

/// Messages per system call.
pub const BATCH_MAX: usize = 32;

/// Sends messages in batches. Made by the thread that uses it: it cannot be handed to another.
#[derive(Debug)]
pub struct SendBatch {
    headers: MultiHeaders<()>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    pub fn new() -> Self {
        SendBatch {
            headers: MultiHeaders::preallocate(BATCH_MAX, None),
        }
    }

    /// Sends the first messages, at most [`BATCH_MAX`], and says how many; 0 when the socket would
    /// block, so the caller waits until it is writable.
    ///
    /// # Errors
    /// Why the first of these messages could not be sent. Sending it again may help or not; the
    /// kernel's master gives it up.
    pub fn send(&mut self, socket: &MasterSocket, messages: &[SyncBuffer]) -> io::Result<usize> {
        let mut slices = [[IoSlice::new(&[])]; BATCH_MAX];
        for (slice, message) in slices.iter_mut().zip(messages) {
            *slice = [IoSlice::new(message.message())];
        }
        let sent = sendmmsg(
            socket.as_raw_fd(),
            &mut self.headers,
            slices.iter().take(messages.len()),
            [None; BATCH_MAX],
            [],
            MsgFlags::MSG_DONTWAIT,
        );
        match sent {
            Ok(results) => Ok(results.count()),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

/// A datagram as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// At most as many bytes as the batch was made for.
    pub bytes: &'a [u8],
    /// The datagram was longer; a receiver refuses what is left of it for its size field.
    pub truncated: bool,
}

/// Receives datagrams in batches into memory of its own. Made by the thread that uses it: it
/// cannot be handed to another.
#[derive(Debug)]
pub struct RecvBatch {
    headers: MultiHeaders<()>,
    memory: Vec<u8>,
    maxlen: usize,
}

impl RecvBatch {
    /// `maxlen`: longest datagram, in bytes. Takes [`BATCH_MAX`] times as much memory.
    pub fn new(maxlen: usize) -> Self {
        let maxlen = maxlen.max(1);
        RecvBatch {
            headers: MultiHeaders::preallocate(BATCH_MAX, None),
            memory: vec![0; maxlen.saturating_mul(BATCH_MAX)],
            maxlen,
        }
    }

    /// Hands on the datagrams that wait, at most [`BATCH_MAX`], and says how many; 0 when there
    /// is none, so the caller waits until the socket is readable.
    ///
    /// # Errors
    /// What the socket says, such as that its interface went down.
    pub fn recv(
        &mut self,
        socket: &BackupSocket,
        mut on: impl FnMut(Datagram<'_>),
    ) -> io::Result<usize> {
        let mut memory = self.memory.chunks_exact_mut(self.maxlen);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH_MAX] =
            std::array::from_fn(|_| [IoSliceMut::new(memory.next().unwrap_or_default())]);
        let received = recvmmsg(
            socket.as_raw_fd(),
            &mut self.headers,
            slices.iter_mut(),
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        let datagrams = match received {
            Ok(datagrams) => datagrams,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let mut count = 0;
        for datagram in datagrams {
            on(Datagram {
                bytes: datagram.iovs().next().unwrap_or_default(),
                truncated: datagram.flags.contains(MsgFlags::MSG_TRUNC),
            });
            count += 1;
        }
        Ok(count)
    }
}
