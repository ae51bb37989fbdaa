//! The other router of a pair as a script of packets, at the other end of the link.

use std::net::IpAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vrrp::net::socket::{AdvertSocket, BUFFER_LEN, Place, Queue};
use vrrp::{AdvertCodec, Config, Parameters, Priority};

use crate::host::Neighbour;

/// Where the priority stands in a packet of IPv4 without options.
const PRIORITY: usize = 22;

/// Speaks for a virtual router, and hears it.
pub(crate) struct Router {
    socket: AdvertSocket,
    codec: AdvertCodec,
}

impl Router {
    /// In the network namespace of the calling thread, on `lan1`.
    pub(crate) fn open(parameters: Parameters) -> Router {
        let config = Config::new(parameters).unwrap();
        let place = Place {
            interface: "lan1",
            send_on: None,
            source: None,
            neighbours: &[],
        };
        Router {
            socket: AdvertSocket::open(&place, &config).unwrap(),
            codec: AdvertCodec::new(&config),
        }
    }

    pub(crate) fn advertise(&mut self, priority: u8) {
        let source = self.socket.source();
        for outgoing in self.codec.encode(Priority(priority), source) {
            self.socket.send(&outgoing).unwrap();
        }
    }

    /// Waits until the master says that it gives up; false if it does not in time.
    pub(crate) fn hears_priority_zero(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut buffer = [0; BUFFER_LEN];
        while Instant::now() < deadline {
            let fd = PollFd::new(self.socket.fd(Queue::Election), PollFlags::POLLIN);
            let _ = poll(&mut [fd], PollTimeout::from(100_u8));
            while let Ok(Some(received)) = self.socket.receive(Queue::Election, &mut buffer) {
                if buffer[..received.len].get(PRIORITY) == Some(&0) {
                    return true;
                }
            }
        }
        false
    }
}

/// What every router here has.
pub(crate) fn parameters(vrid: u8, advert_ms: u32, addresses: &[&str]) -> Parameters {
    let addresses = addresses.iter().map(|at| at.parse::<IpAddr>().unwrap());
    Parameters {
        vrid,
        advert_ms,
        addresses: addresses.collect(),
        ..Parameters::default()
    }
}

/// A master that hears nobody, until it is dropped.
pub(crate) struct Master {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Master {
    /// Advertises this priority every `pause`.
    pub(crate) fn begin(
        neighbour: &Neighbour,
        parameters: Parameters,
        priority: u8,
        pause: Duration,
    ) -> Master {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = neighbour.run(move || {
            let mut router = Router::open(parameters);
            thread::spawn(move || {
                while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                    router.advertise(priority);
                }
            })
        });
        Master {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A section of the director under test, on `lan0`; `more` are further lines.
pub(crate) fn section(vrid: u8, vips: &[String], more: &str) -> String {
    format!(
        "[[vrrp]]\nname = \"VI_{vrid}\"\ninterface = \"lan0\"\nvrid = {vrid}\nvips = {vips:?}\n\
         garp_delay_ms = 200\n{more}\n"
    )
}
