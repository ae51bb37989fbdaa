//! One port of a sync backup: datagrams in, batches of connections out.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dataplane::{Extra, SyncedConn};
use ipvs_model::flags::ConnFlags;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use syncproto::conn::{Addresses, SyncConn};
use syncproto::flags;
use syncproto::net::{BackupSocket, RecvBatch};
use syncproto::receiver::{Receiver, ReceiverCounters};
use syncproto::wire::WalkConfig;
use tokio::sync::Notify;
use tracing::warn;

use crate::sync::{SyncPortStatus, lock};

/// Reads of a socket that never empties, by all ports together, once they are told to stop: more than
/// a socket's buffer holds by default.
const LAST_READS: usize = 64;
/// As above, by each.
const LAST_READS_MIN: usize = 4;
/// Pause after an error of the socket. Unit: milliseconds.
const ERROR_PAUSE: u16 = 100;

/// Emptied batches, to be filled again.
pub(super) struct Pool {
    batches: Mutex<Vec<Vec<SyncedConn>>>,
    most: usize,
}

impl Pool {
    pub(super) const fn new(most: usize) -> Pool {
        Pool {
            batches: Mutex::new(Vec::new()),
            most,
        }
    }

    pub(super) fn give(&self, batch: Vec<SyncedConn>) {
        let mut batch = batch;
        batch.clear();
        let mut batches = lock(&self.batches);
        if batches.len() < self.most {
            batches.push(batch);
        }
    }

    fn take(&self) -> Vec<SyncedConn> {
        lock(&self.batches).pop().unwrap_or_default()
    }
}

/// What the thread tells, once per turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    receiver: ReceiverCounters,
    truncated: u64,
    strangers: u64,
    socket_errors: u64,
    heard_at: Option<Instant>,
}

impl Told {
    pub(super) fn status(&self, port: u16, socket_drops: u64) -> SyncPortStatus {
        let mut counters: Vec<(&'static str, u64)> = self.receiver.iter().collect();
        counters.extend([
            ("drop_socket_full", socket_drops),
            ("drop_not_peer", self.strangers),
            ("truncated", self.truncated),
            ("socket_errors", self.socket_errors),
        ]);
        let millis = |at: Instant| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        SyncPortStatus {
            port,
            counters,
            idle_ms: self.heard_at.map(millis),
            ..SyncPortStatus::default()
        }
    }
}

/// What a thread is made from.
pub(super) struct Plan {
    pub(super) socket: Arc<BackupSocket>,
    pub(super) maxlen: usize,
    /// How many threads there are.
    pub(super) ports: usize,
    pub(super) config: WalkConfig,
    pub(super) to_owner: SyncSender<Vec<SyncedConn>>,
    pub(super) pool: Arc<Pool>,
    pub(super) received: Arc<Notify>,
    pub(super) shared: Arc<Mutex<Told>>,
}

/// The state of the thread.
pub(super) struct Port {
    socket: Arc<BackupSocket>,
    batch: RecvBatch,
    receiver: Receiver,
    told: Told,
    last_reads: usize,
    to_owner: SyncSender<Vec<SyncedConn>>,
    pool: Arc<Pool>,
    received: Arc<Notify>,
    shared: Arc<Mutex<Told>>,
}

impl Port {
    pub(super) fn new(plan: Plan) -> Port {
        Port {
            socket: plan.socket,
            batch: RecvBatch::new(plan.maxlen),
            receiver: Receiver::new(plan.config),
            told: Told::default(),
            last_reads: (LAST_READS / plan.ports.max(1)).max(LAST_READS_MIN),
            to_owner: plan.to_owner,
            pool: plan.pool,
            received: plan.received,
            shared: plan.shared,
        }
    }

    /// Ends when it is told to stop, and what had arrived by then has been read.
    pub(super) fn run(mut self, stopped: BorrowedFd<'_>) {
        let mut conns = Vec::new();
        loop {
            let more = self.receive(&mut conns);
            self.tell();
            if !conns.is_empty() {
                let full = std::mem::replace(&mut conns, self.pool.take());
                if !self.hand_over(full) {
                    return;
                }
            }
            let timeout = if more {
                PollTimeout::ZERO
            } else {
                PollTimeout::NONE
            };
            let mut fds = [
                PollFd::new(stopped, PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => warn!(%error, "sync backup cannot wait"),
            }
            let [stop, readable] = fds.map(|fd| fd.any().unwrap_or(false));
            if stop {
                self.last_reads = self.last_reads.saturating_sub(1);
                if !readable || self.last_reads == 0 {
                    return;
                }
            }
        }
    }

    /// One batch of datagrams; true when there may be more.
    fn receive(&mut self, conns: &mut Vec<SyncedConn>) -> bool {
        let Port {
            socket,
            batch,
            receiver,
            told,
            ..
        } = self;
        let mut is_heard = false;
        let received = batch.recv(socket, |datagram| {
            is_heard = true;
            told.truncated += u64::from(datagram.truncated);
            receiver.receive(datagram.bytes, |conn| conns.push(synced(conn)));
        });
        if is_heard {
            told.heard_at = Some(Instant::now());
        }
        match received {
            Ok(count) => count > 0,
            Err(_) => {
                self.told.socket_errors += 1;
                // An interface that went down says so once; it may not come in a loop.
                let _ = poll(&mut [], PollTimeout::from(ERROR_PAUSE));
                false
            }
        }
    }

    /// Waits for the owner; false when it is gone.
    fn hand_over(&self, conns: Vec<SyncedConn>) -> bool {
        let (is_there, late) = match self.to_owner.try_send(conns) {
            Ok(()) => (true, None),
            Err(TrySendError::Full(conns)) => (true, Some(conns)),
            Err(TrySendError::Disconnected(_)) => (false, None),
        };
        self.received.notify_one();
        let Some(conns) = late else {
            return is_there;
        };
        let is_there = self.to_owner.send(conns).is_ok();
        // The owner may have emptied the queue and gone to sleep before this batch was in it.
        self.received.notify_one();
        is_there
    }

    fn tell(&mut self) {
        self.told.receiver.clone_from(self.receiver.counters());
        self.told.strangers = self.batch.strangers();
        lock(&self.shared).clone_from(&self.told);
    }
}

/// What an entry says, as it is stored.
fn synced(conn: SyncConn) -> SyncedConn {
    // A connection's engine data is of no use after its template has been found.
    let is_template = conn.is_template();
    let pe = conn.pe.filter(|_| is_template).map(|pe| *pe);
    let extra = (conn.seq.is_some() || pe.is_some()).then(|| Box::new(Extra { seq: conn.seq, pe }));
    let [client, virt, dest]: [SocketAddr; 3] = match conn.addresses {
        Addresses::V4(ends) => [ends.client.into(), ends.virt.into(), ends.dest.into()],
        Addresses::V6(ends) => [ends.client.into(), ends.virt.into(), ends.dest.into()],
    };
    SyncedConn {
        protocol: conn.protocol,
        client,
        virt,
        dest,
        flags: ConnFlags(flags::stored(conn.flags)),
        state: conn.state,
        fwmark: conn.fwmark,
        timeout_secs: conn.timeout_secs,
        extra,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::thread;
    use std::time::Duration;

    use syncproto::conn::{Ends, Pe, SeqPair};
    use syncproto::net::{NetConfig, backup_socket};
    use tokio::time::timeout;

    use super::*;

    const AH: u8 = 51;
    const SCTP: u8 = 132;

    #[test]
    fn every_entry_is_passed_on_with_all_it_says() {
        let template = ConnFlags::TEMPLATE;
        let (no_cport, in_seq) = (ConnFlags::NO_CPORT, ConnFlags::IN_SEQ);
        let seq = Some(SeqPair::default());
        for (protocol, flags, seq) in [
            (6, 0, None),
            (17, 0, None),
            (SCTP, 0, None),
            (0, template, None),
            (AH, template, None),
            (AH, 0, None),
            (6, no_cport, None),
            (6, in_seq, seq),
            (6, 0, seq),
        ] {
            for addresses in [v4(), v6()] {
                let taken = synced(conn(protocol, addresses, flags, seq, None));
                assert_eq!((taken.protocol, taken.fwmark), (protocol, 7));
                assert_eq!(taken.virt, addresses.virt());
                assert_eq!(taken.flags.0, flags | ConnFlags::SYNC);
                assert_eq!(taken.extra.and_then(|extra| extra.seq), seq);
            }
        }
    }

    #[test]
    fn engine_data_is_kept_with_templates_alone() {
        let pe = Pe::new(b"sip", b"call@lab").unwrap();
        let of = |flags| {
            let pe = Some(Box::new(pe.clone()));
            synced(conn(17, v4(), flags, None, pe)).extra
        };
        let kept = of(ConnFlags::TEMPLATE).and_then(|extra| extra.pe);
        assert_eq!(kept.as_ref(), Some(&pe));
        assert_eq!(of(0), None);
    }

    /// The owner may have emptied the queue and gone to sleep before a batch that waited for room is in it.
    #[tokio::test]
    async fn a_batch_that_waited_for_room_wakes_the_owner_once_more() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        let net = NetConfig {
            interface: "lo".to_owned(),
            group: syncproto::limits::DEFAULT_GROUP.into(),
            peers: Vec::new(),
            port: 0,
            ttl: 1,
            sock_size: 0,
        };
        let (to_owner, batches) = sync_channel(1);
        let received = Arc::new(Notify::new());
        // There is room for one.
        to_owner.send(Vec::new()).unwrap();
        let plan = Plan {
            socket: Arc::new(backup_socket(&net).unwrap()),
            maxlen: 1472,
            ports: 1,
            config: WalkConfig::default(),
            to_owner,
            pool: Arc::new(Pool::new(1)),
            received: Arc::clone(&received),
            shared: Arc::default(),
        };
        let late = vec![synced(conn(6, v4(), 0, None, None))];
        let thread = thread::spawn(move || Port::new(plan).hand_over(late));
        received.notified().await;
        assert_eq!(batches.try_recv().map(|batch| batch.len()), Ok(0));
        let woken = timeout(Duration::from_secs(20), received.notified());
        assert!(woken.await.is_ok(), "the owner sleeps on");
        assert_eq!(batches.try_recv().map(|batch| batch.len()), Ok(1));
        assert!(thread.join().unwrap());
    }

    fn conn(
        protocol: u8,
        addresses: Addresses,
        flags: u32,
        seq: Option<SeqPair>,
        pe: Option<Box<Pe>>,
    ) -> SyncConn {
        SyncConn {
            protocol,
            addresses,
            flags,
            state: 0,
            fwmark: 7,
            timeout_secs: 60,
            seq,
            pe,
        }
    }

    fn v4() -> Addresses {
        let end = |text: &str| text.parse().unwrap();
        Addresses::V4(Ends {
            client: end("203.0.113.7:40000"),
            virt: end("192.0.2.10:80"),
            dest: end("10.0.0.21:8080"),
        })
    }

    fn v6() -> Addresses {
        let end = |text: &str| text.parse().unwrap();
        Addresses::V6(Ends {
            client: end("[2001:db8::7]:40000"),
            virt: end("[2001:db8::10]:80"),
            dest: end("[fd00::21]:8080"),
        })
    }
}
