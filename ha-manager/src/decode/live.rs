//! Frames of an interface as they pass, own ones included.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use socket2::SockRef;
use syncproto::limits;

use super::capture::Captured;
use super::{Decoder, filter};

/// Longer than any frame of an interface with offloads. Unit: bytes.
const FRAME_MAX: usize = 65_536 + 64;
/// What waits while the output is slow. Unit: bytes.
const SOCKET_BUFFER: usize = 8 << 20;

/// Why an interface cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("listening to an interface needs CAP_NET_RAW (you must be root)")]
    Privilege,
    #[error("interface {interface}: {source}")]
    Socket { interface: String, source: Errno },
}

/// An interface that is listened to.
#[derive(Debug)]
pub struct Live {
    interface: String,
    index: usize,
    socket: OwnedFd,
    frame: Vec<u8>,
}

impl Live {
    /// Listens for what this decoder decodes.
    ///
    /// # Errors
    /// See [`LiveError`].
    pub fn open(interface: &str, decoder: &Decoder) -> Result<Live, LiveError> {
        let link = link_of(interface).ok_or(LiveError::NoInterface(interface.to_owned()))?;
        let open = || -> Result<OwnedFd, Errno> {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?;
            let program = filter::program(limits::DEFAULT_GROUP, &decoder.ports);
            SockRef::from(&socket)
                .attach_filter(&program)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
            bind(socket.as_raw_fd(), &link)?;
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            // Without the privilege to go above the system's limit, the limit has to do.
            let _ = setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER);
            Ok(socket)
        };
        let socket = open().map_err(|source| {
            if matches!(source, Errno::EPERM | Errno::EACCES) {
                LiveError::Privilege
            } else {
                LiveError::Socket {
                    interface: interface.to_owned(),
                    source,
                }
            }
        })?;
        Ok(Live {
            interface: interface.to_owned(),
            index: link.ifindex(),
            socket,
            frame: vec![0; FRAME_MAX],
        })
    }

    /// Waits for the next frame of the interface.
    ///
    /// # Errors
    /// The interface went down or away.
    pub fn next_frame(&mut self) -> Result<Captured<'_>, LiveError> {
        let (len, at) = loop {
            match self.receive() {
                Ok(Some(received)) => break received,
                Ok(None) | Err(Errno::EINTR) => {}
                Err(source) => {
                    return Err(LiveError::Socket {
                        interface: self.interface.clone(),
                        source,
                    });
                }
            }
        };
        Ok(Captured {
            at,
            frame: self.frame.get(..len).unwrap_or_default(),
        })
    }

    /// `None` for a frame of another interface, which came before the socket was bound.
    fn receive(&mut self) -> Result<Option<(usize, Duration)>, Errno> {
        let mut control = nix::cmsg_space!(TimeSpec);
        let mut parts = [IoSliceMut::new(&mut self.frame)];
        let message = recvmsg::<LinkAddr>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        )?;
        let is_ours = message
            .address
            .is_some_and(|from| from.ifindex() == self.index);
        let stamp = message.cmsgs()?.find_map(|control| {
            if let ControlMessageOwned::ScmTimestampns(at) = control {
                return Some(Duration::from(at));
            }
            None
        });
        let now = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
        };
        Ok(is_ours.then(|| (message.bytes, stamp.unwrap_or_else(now))))
    }
}

/// The interface as an address to bind to. Its protocol is left open, which leaves the socket's own.
fn link_of(interface: &str) -> Option<LinkAddr> {
    let mut addresses = getifaddrs().ok()?;
    addresses.find_map(|found| {
        if found.interface_name != interface {
            return None;
        }
        found.address?.as_link_addr().copied()
    })
}
