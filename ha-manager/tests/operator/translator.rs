//! Something between two directors that changes where their adverts to each other come from, as
//! address translation in a cloud does.

#![expect(clippy::unwrap_used, reason = "a test ends there")]

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::host::Neighbour;

const VRRP: i32 = 112;
const LIMIT: Duration = Duration::from_millis(20);

/// What becomes of the adverts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Passes {
    Nothing = 0,
    /// All, from an address below both directors' own: of equal priorities each takes the other for
    /// the lesser one (RFC 5798 §6.4.3).
    AllAsLesser = 1,
    /// The same, but those of the first director come from an address above both.
    FirstAsGreater = 2,
    /// It ends.
    End = 3,
}

/// It runs on a host of the LAN until it is dropped.
pub(crate) struct Translator {
    passes: Arc<AtomicU8>,
    thread: Option<JoinHandle<()>>,
}

/// The translator's addresses, below and above those of the directors.
pub(crate) struct Addresses {
    pub(crate) directors: [Ipv4Addr; 2],
    pub(crate) below: Ipv4Addr,
    pub(crate) above: Ipv4Addr,
}

impl Translator {
    /// The directors' peer is the address below. Nothing passes yet.
    pub(crate) fn new(host: &Neighbour, addresses: Addresses) -> Translator {
        let passes = Arc::new(AtomicU8::new(Passes::Nothing as u8));
        let seen = Arc::clone(&passes);
        let thread = host.run(move || {
            // A thread has the namespace of the one that starts it.
            let sockets = [addresses.below, addresses.above].map(open);
            thread::spawn(move || pass_on(&addresses, &sockets, &seen))
        });
        Translator {
            passes,
            thread: Some(thread),
        }
    }

    pub(crate) fn set(&self, passes: Passes) {
        self.passes.store(passes as u8, Ordering::SeqCst);
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        self.set(Passes::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn open(source: Ipv4Addr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(VRRP))).unwrap();
    socket
        .bind(&SockAddr::from(SocketAddrV4::new(source, 0)))
        .unwrap();
    socket.set_ttl_v4(255).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn pass_on(addresses: &Addresses, [below, above]: &[Socket; 2], passes: &AtomicU8) {
    let mut buffer = [0; 1500];
    loop {
        let now = passes.load(Ordering::SeqCst);
        if now == Passes::End as u8 {
            return;
        }
        let length = match (&*below).read(&mut buffer) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let packet = &buffer[..length];
        let source: [u8; 4] = packet[12..16].try_into().unwrap();
        let advert = &packet[usize::from(packet[0] & 0xf) * 4..];
        let [first, second] = addresses.directors;
        let is_first = Ipv4Addr::from(source) == first;
        if now == Passes::Nothing as u8 {
            continue;
        }
        let raised = is_first && now == Passes::FirstAsGreater as u8;
        let through = if raised { above } else { below };
        let to = SocketAddrV4::new(if is_first { second } else { first }, 0);
        through.send_to(advert, &SockAddr::from(to)).unwrap();
    }
}
