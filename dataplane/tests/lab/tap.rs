//! A TAP device: frames written here come in at the director's interface, and what the director
//! sends out of it can be read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;

/// Hardware address of the host at the other end.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];

pub struct Tap {
    file: File,
    pub mac: [u8; 6],
}

impl Tap {
    /// Makes the device in this thread's namespace, gives it an address, and brings it up.
    pub fn new(name: &str, address: &str) -> Tap {
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
        };
        let file = open().unwrap();
        // SAFETY: an all-zero request is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI;
        // SAFETY: the request lives during the call.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        assert_eq!(done, 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
        super::ip(&format!("link set {name} address 02:00:00:00:00:01"));
        super::ip(&format!("addr add {address} dev {name}"));
        super::ip(&format!("link set {name} up"));
        Tap {
            file,
            mac: [2, 0, 0, 0, 0, 1],
        }
    }

    /// An IP packet comes in, addressed to the director's interface.
    pub fn inject(&mut self, packet: &[u8]) {
        self.inject_frame(&super::packets::ip_frame(self.mac, packet));
    }

    pub fn inject_frame(&mut self, frame: &[u8]) {
        self.file.write_all(frame).unwrap();
    }

    /// The next frame that goes out within `wait`.
    pub fn frame(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let deadline = Instant::now() + wait;
        loop {
            let mut buffer = vec![0; 65_600];
            match self.file.read(&mut buffer) {
                Ok(len) => {
                    buffer.truncate(len);
                    return Some(buffer);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("tap: {error}"),
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let timeout = PollTimeout::try_from(left).unwrap();
            let mut ready = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            poll(&mut ready, timeout).unwrap();
        }
    }

    /// The next IPv4 packet that goes out within `wait`; other frames are left out.
    pub fn packet(&mut self, wait: Duration) -> Option<Vec<u8>> {
        loop {
            let frame = self.frame(wait)?;
            if frame[12..14] == [8, 0] {
                return Some(frame[14..].to_vec());
            }
        }
    }
}
