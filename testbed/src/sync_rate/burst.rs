//! Datagrams and frames, many in one system call.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};

/// Payloads for each system call.
pub(crate) const BURST: usize = 32;
/// Asked of the kernel for what sends. Unit: bytes.
const SEND_BUFFER: usize = 8 << 20;

/// Sends through one socket; belongs to the thread that made it.
#[derive(Debug)]
pub(crate) struct Burst {
    socket: OwnedFd,
    headers: MultiHeaders<()>,
}

impl Burst {
    /// To a group of sync daemons, out of the interface with this address.
    ///
    /// # Errors
    /// No such address here.
    pub(crate) fn to_group(own: Ipv4Addr, group: SocketAddrV4) -> Result<Burst> {
        let socket = UdpSocket::bind((own, 0)).context("sender of entries")?;
        let socket = socket2::Socket::from(socket);
        socket.set_multicast_if_v4(&own)?;
        // More than the system's limit is not an error.
        socket.set_send_buffer_size(SEND_BUFFER)?;
        socket.connect(&group.into())?;
        Ok(Burst::of(socket.into()))
    }

    /// Whole frames out of an interface of the calling thread's namespace.
    ///
    /// # Errors
    /// No such interface, or no raw sockets.
    pub(crate) fn frames(interface: &str) -> Result<Burst> {
        let index = if_nametoindex(interface).with_context(|| interface.to_owned())?;
        // Of no protocol: it receives nothing.
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) takes numbers only.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            return Err(io::Error::last_os_error()).context("packet socket");
        }
        // SAFETY: the descriptor was made above and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: an address of zeros is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(index)?;
        let len = libc::socklen_t::try_from(size_of_val(&address))?;
        // SAFETY: bind(2) reads `len` bytes from a live structure of exactly that size.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
        if bound < 0 {
            return Err(io::Error::last_os_error()).context("packet socket");
        }
        Ok(Burst::of(socket))
    }

    fn of(socket: OwnedFd) -> Burst {
        Burst {
            socket,
            headers: MultiHeaders::preallocate(BURST, None),
        }
    }

    /// Sends all payloads, waiting for room.
    ///
    /// # Errors
    /// The socket's.
    pub(crate) fn send_all<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<()> {
        let mut rest = payloads;
        while !rest.is_empty() {
            let sent = self.send_some(rest)?;
            rest = rest.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    fn send_some<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<usize> {
        let mut slices = [[IoSlice::new(&[])]; BURST];
        for (slice, payload) in slices.iter_mut().zip(payloads) {
            *slice = [IoSlice::new(payload.as_ref())];
        }
        let sent = sendmmsg(
            self.socket.as_raw_fd(),
            &mut self.headers,
            slices.iter().take(payloads.len()),
            [None; BURST],
            [],
            MsgFlags::empty(),
        );
        match sent {
            Ok(results) => Ok(results.count()),
            // A packet socket says so when the interface's queue is full.
            Err(Errno::EINTR | Errno::ENOBUFS | Errno::EAGAIN) => Ok(0),
            Err(error) => Err(error).context("send"),
        }
    }
}

/// Keeps to a number of events in a second; what is late follows at once.
#[derive(Debug)]
pub(crate) struct Pace {
    begun: Instant,
    per_second: u64,
    done: u64,
}

/// A sleep that is not worth it.
const SPIN_BELOW: Duration = Duration::from_micros(80);

impl Pace {
    pub(crate) fn new(per_second: u64) -> Pace {
        Pace {
            begun: Instant::now(),
            per_second: per_second.max(1),
            done: 0,
        }
    }

    /// Waits until `more` events are due after those before.
    pub(crate) fn wait_for(&mut self, more: u64) {
        self.done += more;
        let due = self.done.saturating_mul(1_000_000_000) / self.per_second;
        let due = self.begun + Duration::from_nanos(due);
        let left = due.saturating_duration_since(Instant::now());
        if left > SPIN_BELOW {
            thread::sleep(left);
        }
    }
}
