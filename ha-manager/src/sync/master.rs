//! The thread of a sync master: offers of the programs in, datagrams out.

use std::io::{self, PipeWriter};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane::common::Addr6;
use dataplane::{OfferReader, OfferedConn, timer_ns};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, ppoll};
use nix::sys::time::TimeSpec;
use syncproto::buffer::SyncBuffer;
use syncproto::conn::{Addresses, Ends, SyncConn};
use syncproto::net::{BATCH_MAX, MasterSocket, NetConfig, SendBatch, master_socket};
use syncproto::sender::{Sender, SenderConfig};
use tracing::warn;

use super::{SyncDaemonStatus, refused};
use crate::privileges;

/// An offer that waited longer is thrown away, and everything is offered again: what a node that
/// stood still says of its connections may have been overtaken by its peer. The kernel's own
/// messages are at most this late.
const STALE_AFTER: Duration = syncproto::limits::FLUSH_AGE;
/// Offers taken from the ring before messages are sent.
const OFFERS_MAX: usize = 4096;
/// While messages are being filled the ring is looked at this often.
const FILLING: Duration = Duration::from_millis(1);
/// At a stop, the longest wait for a socket that takes no more.
const STOP_GRACE: Duration = Duration::from_millis(200);

/// How messages are made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) sync_id: u8,
    pub(super) maxlen: usize,
    pub(super) flush_age: Duration,
    pub(super) queue_max: usize,
}

/// A running master.
pub(super) struct Master {
    spec: SyncSpec,
    /// Closing it ends the thread.
    stop: PipeWriter,
    thread: JoinHandle<OfferReader>,
    shared: Arc<Shared>,
    warning: Option<String>,
}

/// What a master sends from, and what is odd about it.
pub(super) struct Socket {
    socket: MasterSocket,
    warning: Option<String>,
}

/// What the thread tells.
#[derive(Debug, Default)]
struct Shared {
    offered: AtomicU64,
    entries: AtomicU64,
    messages: AtomicU64,
    bytes: AtomicU64,
    drop_queue_full: AtomicU64,
    drop_send_error: AtomicU64,
    drop_stale: AtomicU64,
    /// Offers were thrown away, or could not be sent, since somebody asked last.
    has_lost: AtomicBool,
}

impl Master {
    pub(super) fn open(net: &NetConfig) -> Result<Socket, SyncError> {
        let (socket, warning) = master_socket(net).map_err(refused)?;
        let warning = warning.map(|warning| warning.to_string());
        Ok(Socket { socket, warning })
    }

    pub(super) fn start(
        spec: SyncSpec,
        socket: Socket,
        plan: Plan,
        offers: OfferReader,
    ) -> Result<Master, SyncError> {
        let Socket { socket, warning } = socket;
        let (stopped, stop) = io::pipe().map_err(not_started)?;
        let shared = Arc::new(Shared::default());
        let config = SenderConfig {
            sync_id: plan.sync_id,
            maxlen: plan.maxlen,
            flush_age: plan.flush_age,
            queue_max: plan.queue_max,
            ..SenderConfig::default()
        };
        let told = Arc::clone(&shared);
        let mut offers = offers;
        // What an earlier daemon left: everything is offered again in any case.
        let left = discard_stale(&mut offers);
        shared.drop_stale.store(left, Relaxed);
        let run = move || {
            if let Err(error) = privileges::drop_all() {
                warn!(%error, "sync master keeps its capabilities");
            }
            let mut thread = Thread {
                offers,
                sender: Sender::new(config),
                socket,
                batch: SendBatch::new(),
                unsent: Vec::with_capacity(BATCH_MAX),
                shared: told,
            };
            thread.run(stopped.as_fd());
            thread.offers
        };
        let thread = thread::Builder::new().name("sync-master".into());
        let thread = thread.spawn(run).map_err(not_started)?;
        Ok(Master {
            spec,
            stop,
            thread,
            shared,
            warning,
        })
    }

    /// What was offered is sent first. Gives back the reading end of the ring, unless the thread had
    /// failed.
    pub(super) fn stop(self) -> Option<OfferReader> {
        drop(self.stop);
        let offers = self.thread.join().ok();
        if offers.is_none() {
            warn!("the thread of the sync master had failed");
        }
        offers
    }

    pub(super) fn spec(&self) -> &SyncSpec {
        &self.spec
    }

    /// Whether offers were lost since the last call: the peer has to be told again.
    pub(super) fn has_lost(&self) -> bool {
        self.shared.has_lost.swap(false, Relaxed)
    }

    /// Whether the thread is still there.
    pub(super) fn is_alive(&self) -> bool {
        !self.thread.is_finished()
    }

    pub(super) fn status(&self) -> SyncDaemonStatus {
        let shared = &self.shared;
        let counters = [
            ("offered", &shared.offered),
            ("entries", &shared.entries),
            ("messages", &shared.messages),
            ("bytes", &shared.bytes),
            ("drop_queue_full", &shared.drop_queue_full),
            ("drop_send_error", &shared.drop_send_error),
            ("drop_stale", &shared.drop_stale),
        ];
        let failed = "the thread of the sync master has failed";
        let problem = (!self.is_alive()).then(|| failed.to_owned());
        SyncDaemonStatus {
            role: SyncRole::Master,
            spec: self.spec.clone(),
            counters: counters
                .map(|(name, counter)| (name, counter.load(Relaxed)))
                .to_vec(),
            problem,
            warning: self.warning.clone(),
        }
    }
}

impl Shared {
    /// A message that was sent, or could not be.
    fn count(&self, message: &SyncBuffer, is_sent: bool) {
        let entries = u64::from(message.count());
        if is_sent {
            self.entries.fetch_add(entries, Relaxed);
            self.messages.fetch_add(1, Relaxed);
            self.bytes
                .fetch_add(message.message().len() as u64, Relaxed);
        } else {
            self.drop_send_error.fetch_add(entries, Relaxed);
            self.has_lost.store(true, Relaxed);
        }
    }
}

/// The state of the thread.
struct Thread {
    offers: OfferReader,
    sender: Sender,
    socket: MasterSocket,
    batch: SendBatch,
    /// Messages taken from the sender and not yet from here.
    unsent: Vec<SyncBuffer>,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(&mut self, stopped: std::os::fd::BorrowedFd<'_>) {
        let mut turned = Instant::now();
        loop {
            let last = std::mem::replace(&mut turned, Instant::now());
            if turned.saturating_duration_since(last) > STALE_AFTER {
                self.discard();
            }
            let taken = self.take_offers();
            let blocked = self.send();
            self.tell();
            if taken == OFFERS_MAX {
                continue;
            }
            if self.wait(stopped, blocked) {
                return self.finish();
            }
        }
    }

    /// Throws away what this thread holds, after it stood still.
    fn discard(&mut self) {
        let unsent = self.unsent.iter().map(|message| u64::from(message.count()));
        let held = unsent.sum::<u64>() + self.sender.pending_entries();
        if held > 0 {
            self.unsent.clear();
            self.sender.discard();
            self.shared.drop_stale.fetch_add(held, Relaxed);
            self.shared.has_lost.store(true, Relaxed);
        }
    }

    /// Offers from the ring into messages; says how many.
    fn take_offers(&mut self) -> usize {
        let (now, now_ns) = (Instant::now(), timer_ns());
        let mut stale = 0;
        let mut taken = 0;
        while taken < OFFERS_MAX
            && let Some(offer) = self.offers.next_offer()
        {
            taken += 1;
            if is_stale(&offer, now_ns) {
                stale += 1;
            } else {
                self.sender.push(&conn_of(&offer), now);
            }
        }
        self.shared.offered.fetch_add(taken as u64, Relaxed);
        if stale > 0 {
            self.shared.drop_stale.fetch_add(stale, Relaxed);
            self.shared.has_lost.store(true, Relaxed);
        }
        taken
    }

    /// Sends what is due; true when the socket takes no more.
    fn send(&mut self) -> bool {
        loop {
            while self.unsent.len() < BATCH_MAX
                && let Some(message) = self.sender.poll_transmit(Instant::now())
            {
                self.unsent.push(message);
            }
            if self.unsent.is_empty() {
                return false;
            }
            let (gone, is_sent) = match self.batch.send(&self.socket, &self.unsent) {
                Ok(0) => return true,
                Ok(sent) => (sent, true),
                // As the kernel's master: the message is lost, the next one is tried.
                Err(_) => (1, false),
            };
            for message in self.unsent.drain(..gone.min(self.unsent.len())) {
                self.shared.count(&message, is_sent);
                self.sender.recycle(message);
            }
        }
    }

    /// Waits for offers, room in the socket, or the age of a message. True when told to stop.
    fn wait(&self, stopped: std::os::fd::BorrowedFd<'_>, blocked: bool) -> bool {
        let now = Instant::now();
        let until_due = self
            .sender
            .next_deadline()
            .map(|deadline| deadline.saturating_duration_since(now));
        // A message that is being filled is due soon: no need to hear of every offer before.
        let filling = until_due.is_some() && !blocked;
        let timeout = until_due.map(|due| due.min(FILLING)).filter(|_| !blocked);
        let mut fds = vec![PollFd::new(stopped, PollFlags::POLLIN)];
        if blocked {
            fds.push(PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT));
        } else if !filling {
            fds.push(PollFd::new(self.offers.as_fd(), PollFlags::POLLIN));
        }
        match ppoll(&mut fds, timeout.map(TimeSpec::from), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => warn!(%error, "sync master cannot wait"),
        }
        fds.first()
            .and_then(PollFd::revents)
            .is_some_and(|events| !events.is_empty())
    }

    /// Sends the rest.
    fn finish(&mut self) {
        let latest = Instant::now() + STOP_GRACE;
        while self.take_offers() == OFFERS_MAX {
            self.send();
        }
        self.sender.flush();
        while self.send() && Instant::now() < latest {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
            let millis = PollTimeout::from(10u8);
            let _ = nix::poll::poll(&mut fds, millis);
        }
        self.tell();
    }

    fn tell(&self) {
        let dropped = self.sender.counters().drop_queue_full;
        if self.shared.drop_queue_full.swap(dropped, Relaxed) < dropped {
            self.shared.has_lost.store(true, Relaxed);
        }
    }
}

/// Throws away what lies in the ring from an earlier life; the first offer that is not stale may
/// go with it.
fn discard_stale(offers: &mut OfferReader) -> u64 {
    let now_ns = timer_ns();
    let mut discarded = 0;
    while let Some(offer) = offers.next_offer() {
        discarded += 1;
        if !is_stale(&offer, now_ns) {
            break;
        }
    }
    discarded
}

fn is_stale(offered: &OfferedConn, now_ns: u64) -> bool {
    let stale_ns = u64::try_from(STALE_AFTER.as_nanos()).unwrap_or(u64::MAX);
    now_ns.saturating_sub(offered.offer.at_ns) > stale_ns
}

fn conn_of(offered: &OfferedConn) -> SyncConn {
    let offer = &offered.offer;
    let key = &offer.key;
    let ends = [
        (key.src, key.sport),
        (key.dst, key.dport),
        (offer.daddr, offer.dport),
    ];
    let addresses = if offered.ipv6 {
        let [client, virt, dest] =
            ends.map(|(addr, port)| SocketAddrV6::new(v6(addr), port.to_host(), 0, 0));
        Addresses::V6(Ends { client, virt, dest })
    } else {
        let [client, virt, dest] =
            ends.map(|(addr, port)| SocketAddrV4::new(v4(addr), port.to_host()));
        Addresses::V4(Ends { client, virt, dest })
    };
    SyncConn {
        protocol: key.protocol,
        addresses,
        flags: offer.conn_flags.into(),
        state: offer.state,
        fwmark: offer.fwmark,
        timeout_secs: offer.timeout_secs,
        seq: None,
        pe: None,
    }
}

/// IPv4 addresses stand in the first word.
fn v4([addr, ..]: Addr6) -> Ipv4Addr {
    Ipv4Addr::from(addr.to_host())
}

fn v6(addr: Addr6) -> Ipv6Addr {
    let bits = addr.iter().fold(0, |bits: u128, word| {
        bits << 32 | u128::from(word.to_host())
    });
    Ipv6Addr::from_bits(bits)
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn not_started(error: io::Error) -> SyncError {
    SyncError::Socket(format!("cannot start the thread: {error}"))
}

#[cfg(test)]
mod tests {
    use dataplane::common::offer::{Offer, Offer4, Offer6};
    use dataplane::common::{Be16, Be32, FlowKey};

    use super::*;

    #[test]
    fn offers_of_both_families_become_entries() {
        let word = |host| Be32::from_host(host);
        let port = Be16::from_host;
        let short = Offer4 {
            key: FlowKey::template(word(0xcb00_7100), word(7), port(0), 0),
            daddr: word(0x0a00_0015),
            conn_flags: 0x1100,
            fwmark: 7,
            timeout_secs: 360,
            state: 1,
            ..Offer::default()
        };
        let conn = conn_of(&OfferedConn {
            ipv6: false,
            offer: short.to_words(),
            extra: None,
        });
        assert_eq!(conn.addresses.client(), "203.0.113.0:0".parse().unwrap());
        assert_eq!(conn.addresses.virt(), "0.0.0.7:0".parse().unwrap());
        assert_eq!(conn.addresses.dest(), "10.0.0.21:0".parse().unwrap());
        assert!(conn.is_template());
        assert_eq!((conn.fwmark, conn.timeout_secs, conn.state), (7, 360, 1));
        let prefix = |last| [word(0x2001_0db8), word(0), word(0), word(last)];
        let offer = Offer6 {
            key: FlowKey::flow(prefix(7), port(40000), prefix(0x100), port(80), 6),
            daddr: prefix(0x21),
            dport: port(8080),
            ..Offer::default()
        };
        let conn = conn_of(&OfferedConn {
            ipv6: true,
            offer,
            extra: None,
        });
        assert_eq!(
            conn.addresses.client(),
            "[2001:db8::7]:40000".parse().unwrap()
        );
        assert_eq!(conn.addresses.virt(), "[2001:db8::100]:80".parse().unwrap());
        assert_eq!(
            conn.addresses.dest(),
            "[2001:db8::21]:8080".parse().unwrap()
        );
        assert_eq!(conn.protocol, 6);
    }
}
