//! A port of the bridge, set down and up without another program's time in between.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::{io, mem};

use anyhow::{Context, Result, ensure};

use crate::netns::Namespaces;

/// A port by name, and a socket of the namespace that it is in.
#[derive(Debug)]
pub(crate) struct Port {
    socket: OwnedFd,
    name: &'static str,
}

impl Port {
    /// # Errors
    /// No sockets there.
    pub(crate) fn open(spaces: &Namespaces, name: &'static str) -> Result<Port> {
        ensure!(name.len() < libc::IFNAMSIZ, "{name} is too long");
        let socket = spaces.on_thread(|| {
            let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
            // SAFETY: socket(2) takes numbers only.
            let socket = unsafe { libc::socket(libc::AF_INET, kind, 0) };
            if socket < 0 {
                return Err(io::Error::last_os_error().into());
            }
            // SAFETY: the descriptor was made above and belongs to nobody else.
            Ok(unsafe { OwnedFd::from_raw_fd(socket) })
        })?;
        Ok(Port { socket, name })
    }

    /// # Errors
    /// The kernel refuses.
    pub(crate) fn set(&self, is_up: bool) -> Result<()> {
        // SAFETY: a request of zeros is a valid value of this plain structure.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from.cast_signed();
        }
        self.ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: the call above has filled the flags, and any bits are valid flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let up = i16::try_from(libc::IFF_UP)?;
        request.ifr_ifru.ifru_flags = if is_up { flags | up } else { flags & !up };
        self.ask(libc::SIOCSIFFLAGS, &mut request)
    }

    fn ask(&self, what: libc::Ioctl, request: &mut libc::ifreq) -> Result<()> {
        // SAFETY: both requests read and write one `ifreq`, which lives across the call.
        let done = unsafe { libc::ioctl(self.socket.as_raw_fd(), what, &raw mut *request) };
        if done < 0 {
            return Err(io::Error::last_os_error()).context(self.name);
        }
        Ok(())
    }
}
