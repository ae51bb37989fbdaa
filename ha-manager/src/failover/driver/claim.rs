//! Takes part in a virtual router alone in this network namespace: two directors of one host, with
//! sockets and pins of their own, would not hear each other's adverts and both be master.
//!
//! The claim is a listening stream socket of an abstract name. Any local user can have that name
//! first, so whoever holds it is asked for: the kernel tells the user who listens (`SO_PEERCRED`).
//! Only root or this director's own user can be another directord.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Uid, geteuid};
use socket2::{Domain, SockAddr, Socket, Type};
use tracing::warn;

use super::FailoverError;

/// A holder that ends between two looks leaves the name free.
const TRIES: u32 = 3;

/// Held as long as this node takes part.
#[derive(Debug)]
pub(in crate::failover) struct Claim {
    _listener: UnixListener,
}

/// Who has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nobody listens, or not any more.
    Deaf,
    /// Its queue is full, which a directord's is not.
    Busy,
    User(Uid),
}

impl Claim {
    /// `None` when a stranger has the name.
    ///
    /// # Errors
    /// Another director takes part, or there is no socket.
    pub(in crate::failover) fn stake(
        interface: &str,
        vrid: u8,
        is_ipv6: bool,
    ) -> Result<Option<Claim>, FailoverError> {
        // The routers of the two families are different ones.
        let family = if is_ipv6 { "6" } else { "" };
        let name = format!("tandem/vrrp{family}/{interface}/{vrid}");
        let failed = |source| FailoverError::Socket {
            what: "claim of the virtual router",
            source,
        };
        let mut holder = Holder::Deaf;
        for _ in 0..TRIES {
            let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
            match UnixListener::bind_addr(&address) {
                Ok(listener) => {
                    let _listener = listener;
                    return Ok(Some(Claim { _listener }));
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(failed(error)),
            }
            holder = who_holds(&name).map_err(failed)?;
            if holder != Holder::Deaf {
                break;
            }
        }
        let uid = match holder {
            Holder::User(uid) if uid.is_root() || uid == geteuid() => {
                let interface = interface.to_owned();
                return Err(FailoverError::Twice { vrid, interface });
            }
            Holder::User(uid) => uid.to_string(),
            Holder::Deaf | Holder::Busy => "unknown".to_owned(),
        };
        warn!(
            uid,
            name,
            "a user who is no directord holds this name, so a second directord of this host would \
             not be noticed"
        );
        Ok(None)
    }
}

fn who_holds(name: &str) -> io::Result<Holder> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&SockAddr::unix(format!("\0{name}"))?) {
        Ok(()) => {
            let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
            Ok(Holder::User(Uid::from_raw(peer.uid())))
        }
        Err(error) if error.raw_os_error() == Some(Errno::EAGAIN as i32) => Ok(Holder::Busy),
        Err(error) if error.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => Ok(Holder::Deaf),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_had_once_and_free_again_after() {
        let interface = format!("t{}", std::process::id());
        let claim = Claim::stake(&interface, 7, false).unwrap();
        assert!(claim.is_some());
        assert!(Claim::stake(&interface, 8, false).unwrap().is_some());
        let twice = Claim::stake(&interface, 7, false).unwrap_err().to_string();
        assert!(
            twice.starts_with("another directord of this host"),
            "{twice}"
        );
        drop(claim);
        assert!(Claim::stake(&interface, 7, false).unwrap().is_some());
    }

    #[test]
    fn a_name_whose_holder_listens_not_is_gone_without() {
        let interface = format!("d{}", std::process::id());
        let name = format!("\0tandem/vrrp/{interface}/7");
        let deaf = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        deaf.bind(&SockAddr::unix(name).unwrap()).unwrap();
        assert!(Claim::stake(&interface, 7, false).unwrap().is_none());
        // Nor one whose queue is full.
        deaf.listen(0).unwrap();
        let name = format!("tandem/vrrp/{interface}/7");
        assert_eq!(who_holds(&name).unwrap(), Holder::User(geteuid()));
    }
}
