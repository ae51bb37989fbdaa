//! Several messages per system call.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use super::{BackupSocket, MasterSocket};
use crate::buffer::SyncBuffer;
use crate::limits::{ENTRIES_MAX, v0};

/// Most messages per system call.
pub const BATCH_MAX: usize = 32;

/// Memory of a [`RecvBatch`], which takes fewer messages per call when they are long: 64 threads take
/// 8 MiB. Unit: bytes.
const RECV_MEMORY_MAX: usize = 128 << 10;
/// Entries that the messages of a call can have, at most 255 each: so many are handed on at once, see
/// [`RecvBatch::new`].
const RECV_ENTRIES_MAX: usize = 2048;
/// Messages per call however long they are; two of the longest are within [`RECV_MEMORY_MAX`].
const RECV_MIN: usize = 2;

/// Sends messages in batches. Made by the thread that uses it: it cannot be handed to another.
#[derive(Debug)]
pub struct SendBatch {
    headers: MultiHeaders<()>,
    refused: u64,
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
            refused: 0,
        }
    }

    /// Sends the first messages, at most [`BATCH_MAX`], and says how many; 0 when the socket would
    /// block, so the caller waits until it is writable.
    ///
    /// # Errors
    /// Why the first of these messages could not be sent. Sending it again may help or not; the
    /// kernel's master gives it up.
    pub fn send(&mut self, socket: &MasterSocket, messages: &[SyncBuffer]) -> io::Result<usize> {
        let mut sent = self.try_send(socket, messages);
        if sent == Err(Errno::ECONNREFUSED) {
            // What a peer's host said of an earlier message, because no backup runs there: this
            // one has not been tried.
            self.refused = self.refused.wrapping_add(1);
            sent = self.try_send(socket, messages);
        }
        match sent {
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// How often a peer's host said that no backup listens there.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    fn try_send(&mut self, socket: &MasterSocket, messages: &[SyncBuffer]) -> nix::Result<usize> {
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
        Ok(sent?.count())
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
    headers: MultiHeaders<SockaddrStorage>,
    memory: Vec<u8>,
    maxlen: usize,
    count: usize,
    strangers: u64,
}

impl RecvBatch {
    /// `maxlen`: longest datagram, in bytes. Takes 128 KiB of memory at most, unless two datagrams
    /// are longer. What it takes at once has 2048 entries at most.
    pub fn new(maxlen: usize) -> Self {
        let maxlen = maxlen.max(1);
        let entries = (maxlen / v0::ENTRY_LEN).clamp(1, ENTRIES_MAX);
        let count = (RECV_MEMORY_MAX / maxlen).min(RECV_ENTRIES_MAX / entries);
        let count = count.clamp(RECV_MIN, BATCH_MAX);
        RecvBatch {
            headers: MultiHeaders::preallocate(count, None),
            memory: vec![0; maxlen.saturating_mul(count)],
            maxlen,
            count,
            strangers: 0,
        }
    }

    /// Takes the datagrams that wait, at most [`BATCH_MAX`], hands on those of the socket's peers,
    /// and says how many it took; 0 when there is none, so the caller waits until the socket is
    /// readable.
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
            slices.iter_mut().take(self.count),
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        let datagrams = match received {
            Ok(datagrams) => datagrams,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let wants_sources = socket.wants_sources();
        let mut count = 0;
        for datagram in datagrams {
            count += 1;
            if wants_sources && !socket.hears(datagram.address.and_then(source)) {
                self.strangers = self.strangers.wrapping_add(1);
                continue;
            }
            on(Datagram {
                bytes: datagram.iovs().next().unwrap_or_default(),
                truncated: datagram.flags.contains(MsgFlags::MSG_TRUNC),
            });
        }
        Ok(count)
    }

    /// Datagrams that were not handed on, because no peer of the socket sent them.
    pub const fn strangers(&self) -> u64 {
        self.strangers
    }
}

fn source(address: SockaddrStorage) -> Option<IpAddr> {
    let four = address.as_sockaddr_in().map(|address| address.ip().into());
    four.or_else(|| Some(address.as_sockaddr_in6()?.ip().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_at_once_is_bounded_in_bytes_and_entries() {
        for (maxlen, count) in [(0, 32), (1024, 32), (1472, 32), (8972, 8), (65_507, 2)] {
            let batch = RecvBatch::new(maxlen);
            assert_eq!(batch.count, count, "{maxlen} bytes");
            assert!(batch.memory.len() <= RECV_MEMORY_MAX);
            let entries = count * (maxlen / v0::ENTRY_LEN).min(ENTRIES_MAX);
            assert!(entries <= RECV_ENTRIES_MAX);
        }
    }
}
