//! Somebody on the LAN who sends as fast as a processor can.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, MsgFlags, sendto};
use socket2::{Domain, Socket, Type};

use crate::host::Neighbour;

/// The attacker's MAC.
pub(crate) const FROM: [u8; 6] = [2, 0, 0, 0, 0x66, 6];
/// That of `lan0`.
const TO: [u8; 6] = [2, 0, 0, 0, 0x77, 1];
/// Frames between two looks at whether it shall end.
const ROUND: u64 = 64;

/// A flood from `lan1`, until it is dropped.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begun: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Sends these Ethernet frames, one after the other and again.
    pub(crate) fn begin(neighbour: &Neighbour, frames: Vec<Vec<u8>>) -> Flood {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (own_stop, own_sent) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread =
            neighbour.run(move || thread::spawn(move || send_all(&frames, &own_stop, &own_sent)));
        Flood {
            stop,
            sent,
            begun: Instant::now(),
            thread: Some(thread),
        }
    }

    /// Ends it; how many frames went out in a second.
    pub(crate) fn end(mut self) -> f64 {
        let length = self.begun.elapsed().as_secs_f64();
        self.stop();
        self.sent.load(Ordering::Relaxed) as f64 / length
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A socket that only sends, and where to: the end of the link in the namespace of the calling thread.
pub(crate) fn open() -> (Socket, LinkAddr) {
    let mut links = getifaddrs().unwrap();
    let link = links.find_map(|found| {
        let address = found.address?.as_link_addr().copied();
        address.filter(|_| found.interface_name == "lan1")
    });
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).unwrap();
    (socket, link.unwrap())
}

pub(crate) fn send(socket: &Socket, link: &LinkAddr, frame: &[u8]) {
    // What does not fit into a queue is lost, as on any wire.
    let _ = sendto(socket.as_raw_fd(), frame, link, MsgFlags::MSG_DONTWAIT);
}

fn send_all(frames: &[Vec<u8>], stop: &AtomicBool, sent: &AtomicU64) {
    let (socket, link) = open();
    let mut frames = frames.iter().cycle();
    while !stop.load(Ordering::Relaxed) {
        for frame in frames.by_ref().take(ROUND as usize) {
            send(&socket, &link, frame);
        }
        sent.fetch_add(ROUND, Ordering::Relaxed);
    }
}

/// A packet of IPv4 to a group, in its frame.
pub(crate) fn to_group(packet: &[u8]) -> Vec<u8> {
    let group = [1, 0, 0x5e, packet[17] & 0x7f, packet[18], packet[19]];
    [&group[..], &FROM, &[8, 0], packet].concat()
}

/// The attacker's word that an address is his, as a question of ARP or an advertisement of a neighbour,
/// to the director's host alone: a switch would deliver it no faster to all.
pub(crate) fn to_director(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&TO);
    frame
}

/// Looks at something again and again for so long.
pub(crate) fn watch(length: Duration, mut look: impl FnMut()) {
    let begun = Instant::now();
    while begun.elapsed() < length {
        look();
        thread::sleep(Duration::from_millis(50));
    }
}
