//! Listens on the sync link: how many entries each port carries.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};

use crate::capture::open_socket;
use crate::netns::Namespaces;

const STOP_POLL_MS: u8 = 20;
const FRAME_MAX: usize = 65_535;

/// Messages and entries of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) messages: u64,
    pub(crate) entries: u64,
    /// Messages of version 0.
    pub(crate) version_0: u64,
}

/// By destination port.
pub(crate) type ByPort = BTreeMap<u16, Heard>;

/// A thread that listens.
pub(crate) struct Ear {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<ByPort>>,
}

impl Ear {
    /// # Errors
    /// No such interface, or no packet sockets.
    pub(crate) fn open(spaces: &Namespaces, link: &str) -> Result<Ear> {
        let socket = spaces.on_thread(|| open_socket(if_nametoindex(link)?))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::Builder::new().name("ear".into());
        let thread = thread.spawn(move || listen(&socket, &told))?;
        Ok(Ear { stop, thread })
    }

    /// # Errors
    /// It could not listen to the end.
    pub(crate) fn close(self) -> Result<ByPort> {
        self.stop.store(true, Ordering::SeqCst);
        match self.thread.join() {
            Ok(heard) => heard,
            Err(_) => bail!("a thread panicked"),
        }
    }
}

fn listen(socket: &OwnedFd, stop: &AtomicBool) -> Result<ByPort> {
    let mut heard = ByPort::new();
    let mut frame = vec![0; FRAME_MAX];
    while !stop.load(Ordering::SeqCst) {
        let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(STOP_POLL_MS)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
        loop {
            match recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) {
                Ok(length) => note(&mut heard, frame.get(..length).unwrap_or_default()),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                Err(error) => return Err(error).context("receive a frame"),
            }
        }
    }
    Ok(heard)
}

fn note(heard: &mut ByPort, frame: &[u8]) {
    let Some((port, message)) = datagram(frame) else {
        return;
    };
    // Version 1 has 0 where version 0 has its number of entries.
    let (entries, version_0) = match *message {
        [0, _, _, _, entries, 1, ..] => (entries, 0),
        [entries, ..] if entries > 0 => (entries, 1),
        _ => return,
    };
    let port = heard.entry(port).or_default();
    port.messages += 1;
    port.entries += u64::from(entries);
    port.version_0 += version_0;
}

/// Destination port and payload of a UDP datagram without IP options.
fn datagram(frame: &[u8]) -> Option<(u16, &[u8])> {
    let (protocol, header) = match frame.get(12..15)? {
        [0x08, 0x00, 0x45] => (*frame.get(23)?, 20),
        [0x86, 0xdd, 0x60..=0x6f] => (*frame.get(20)?, 40),
        _ => return None,
    };
    let udp = frame.get(14 + header..)?;
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    (protocol == 17).then_some((port, udp.get(8..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_both_versions_are_counted_by_port() {
        let mut heard = ByPort::new();
        let mut frame = vec![0; 14 + 20 + 8 + 8];
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[23] = 17;
        frame[36..38].copy_from_slice(&8849u16.to_be_bytes());
        frame[42..50].copy_from_slice(&[0, 7, 0, 8, 40, 1, 0, 0]);
        note(&mut heard, &frame);
        frame[42..50].copy_from_slice(&[3, 7, 0, 76, 0, 6, 0, 0]);
        note(&mut heard, &frame);
        let expected = Heard {
            messages: 2,
            entries: 43,
            version_0: 1,
        };
        assert_eq!(heard, [(8849, expected)].into());
        frame[23] = 6;
        note(&mut heard, &frame);
        note(&mut heard, &frame[..30]);
        assert_eq!(heard[&8849].messages, 2);
    }
}
