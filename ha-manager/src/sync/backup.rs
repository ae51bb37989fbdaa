//! The thread of a sync backup: datagrams in, batches of connections out to the owner of the data
//! plane.

use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{
    Receiver as Channel, RecvTimeoutError, SyncSender, TrySendError, sync_channel,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dataplane::{ApplyReport, DataPlane, SyncedConn};
use ipvs_model::flags::ConnFlags;
use ipvs_model::protocol::Protocol;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use syncproto::conn::SyncConn;
use syncproto::flags;
use syncproto::net::{BackupSocket, NetConfig, RecvBatch, backup_socket};
use syncproto::receiver::{Receiver, ReceiverCounters};
use syncproto::wire::WalkConfig;
use tokio::sync::Notify;
use tracing::warn;

use super::{SyncDaemonStatus, refused};
use crate::privileges;

/// Batches that may wait for the owner. When it falls behind, datagrams wait in the socket, and
/// what finds no room there is dropped by the kernel and counted.
const BATCHES_MAX: usize = 64;
/// Batches the owner applies before it looks at its other work: about a millisecond of it.
const BATCHES_AT_ONCE: usize = 2;
/// The thread looks at whether it should stop this often while the owner takes nothing.
const STOP_LOOK: Duration = Duration::from_millis(5);
/// Reads of a socket that never empties, once the thread is told to stop: more than its buffer
/// holds by default.
const LAST_READS: u32 = 64;
/// Pause after an error of the socket.
const ERROR_PAUSE: u16 = 100;

/// A running backup.
pub(super) struct Backup {
    spec: SyncSpec,
    /// Closing it ends the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    batches: Channel<Vec<SyncedConn>>,
    received: Arc<Notify>,
    shared: Arc<Mutex<Told>>,
    applied: ApplyReport,
}

/// What the thread tells.
#[derive(Clone, Debug, Default)]
struct Told {
    receiver: ReceiverCounters,
    unsupported: Unsupported,
    truncated: u64,
    socket_drops: u64,
    socket_errors: u64,
}

/// Entries the data plane has no place for.
#[derive(Clone, Copy, Debug, Default)]
struct Unsupported {
    protocol: u64,
    seq: u64,
    no_cport: u64,
}

impl Backup {
    pub(super) fn start(
        spec: SyncSpec,
        net: &NetConfig,
        received: Arc<Notify>,
    ) -> Result<Backup, SyncError> {
        let socket = backup_socket(net).map_err(refused)?;
        let (stopped, stop) = io::pipe().map_err(not_started)?;
        let (to_owner, batches) = sync_channel(BATCHES_MAX);
        let shared = Arc::new(Mutex::new(Told::default()));
        let config = WalkConfig {
            sync_id: spec.sync_id,
            ipv6: true,
            engines: &[],
            ..WalkConfig::default()
        };
        let told = Arc::clone(&shared);
        let (maxlen, wake) = (usize::from(spec.maxlen), Arc::clone(&received));
        let run = move || {
            if let Err(error) = privileges::drop_all() {
                warn!(%error, "sync backup keeps its capabilities");
            }
            let mut thread = Thread {
                socket,
                batch: RecvBatch::new(maxlen),
                receiver: Receiver::new(config),
                unsupported: Unsupported::default(),
                truncated: 0,
                socket_errors: 0,
                to_owner,
                received: wake,
                shared: told,
            };
            thread.run(stopped.as_fd());
        };
        let thread = thread::Builder::new().name("sync-backup".into());
        let thread = thread.spawn(run).map_err(not_started)?;
        Ok(Backup {
            spec,
            stop: Some(stop),
            thread: Some(thread),
            batches,
            received,
            shared,
            applied: ApplyReport::default(),
        })
    }

    pub(super) fn spec(&self) -> &SyncSpec {
        &self.spec
    }

    /// Whether the thread is still there.
    pub(super) fn is_alive(&self) -> bool {
        let thread = self.thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
    }

    /// Applies a bounded part of what was received.
    pub(super) fn apply_some(&mut self, plane: &mut DataPlane) {
        for _ in 0..BATCHES_AT_ONCE {
            let Ok(batch) = self.batches.try_recv() else {
                return;
            };
            self.apply(plane, &batch);
        }
        // There may be more, and its wake-up is used up.
        self.received.notify_one();
    }

    /// Ends the thread; applies everything that had arrived before.
    pub(super) fn stop(&mut self, plane: &mut DataPlane) {
        self.stop = None;
        loop {
            match self.batches.recv_timeout(STOP_LOOK) {
                Ok(batch) => self.apply(plane, &batch),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            warn!("the thread of the sync backup had failed");
        }
    }

    fn apply(&mut self, plane: &mut DataPlane, batch: &[SyncedConn]) {
        let report = plane.apply_synced(batch);
        let sum = &mut self.applied;
        sum.created += report.created;
        sum.updated += report.updated;
        sum.replaced += report.replaced;
        sum.late += report.late;
        sum.guarded += report.guarded;
        sum.table_full += report.table_full;
        sum.reply_collision += report.reply_collision;
        sum.busy += report.busy;
        sum.no_share += report.no_share;
        sum.extra_lost += report.extra_lost;
    }

    pub(super) fn status(&self) -> SyncDaemonStatus {
        let told = lock(&self.shared).clone();
        let applied = &self.applied;
        let mut counters: Vec<(&'static str, u64)> = told.receiver.iter().collect();
        counters.extend([
            ("applied_new", applied.created),
            ("applied_known", applied.updated),
            ("applied_replaced", applied.replaced),
            ("ignored_late_end", applied.late),
            ("guarded", applied.guarded),
            ("drop_table_full", applied.table_full),
            ("drop_reply_collision", applied.reply_collision),
            ("drop_busy", applied.busy),
            ("drop_socket_full", told.socket_drops),
            ("truncated", told.truncated),
            ("socket_errors", told.socket_errors),
            ("unsupported_protocol", told.unsupported.protocol),
            ("drop_no_share", applied.no_share),
            ("extra_lost", applied.extra_lost),
            ("unsupported_seq", told.unsupported.seq),
            ("unsupported_no_cport", told.unsupported.no_cport),
        ]);
        let failed = "the thread of the sync backup has failed";
        let failed = (!self.is_alive()).then(|| failed.to_owned());
        SyncDaemonStatus {
            role: SyncRole::Backup,
            spec: self.spec.clone(),
            counters,
            problem: failed,
            warning: None,
        }
    }
}

/// A lock whose holder failed still holds whole counters.
fn lock(shared: &Mutex<Told>) -> MutexGuard<'_, Told> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state of the thread.
struct Thread {
    socket: BackupSocket,
    batch: RecvBatch,
    receiver: Receiver,
    unsupported: Unsupported,
    truncated: u64,
    socket_errors: u64,
    to_owner: SyncSender<Vec<SyncedConn>>,
    received: Arc<Notify>,
    shared: Arc<Mutex<Told>>,
}

impl Thread {
    /// Ends when it is told to stop, and what had arrived by then has been read.
    fn run(&mut self, stopped: BorrowedFd<'_>) {
        let mut last_reads = LAST_READS;
        loop {
            let mut conns = Vec::new();
            let more = self.receive(&mut conns);
            if !conns.is_empty() && !self.hand_over(conns) {
                return;
            }
            self.tell();
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
                last_reads -= 1;
                if !readable || last_reads == 0 {
                    return;
                }
            }
        }
    }

    /// One batch of datagrams; true when there may be more.
    fn receive(&mut self, conns: &mut Vec<SyncedConn>) -> bool {
        let Thread {
            socket,
            batch,
            receiver,
            unsupported,
            truncated,
            ..
        } = self;
        let received = batch.recv(socket, |datagram| {
            *truncated += u64::from(datagram.truncated);
            receiver.receive(datagram.bytes, |conn| {
                conns.extend(supported(&conn, unsupported));
            });
        });
        match received {
            Ok(count) => count > 0,
            Err(_) => {
                self.socket_errors += 1;
                // An interface that went down says so once; it may not come in a loop.
                let _ = poll(&mut [], PollTimeout::from(ERROR_PAUSE));
                false
            }
        }
    }

    /// Waits for the owner; false when it is gone.
    fn hand_over(&self, conns: Vec<SyncedConn>) -> bool {
        let mut conns = conns;
        loop {
            match self.to_owner.try_send(conns) {
                Ok(()) => {
                    self.received.notify_one();
                    return true;
                }
                Err(TrySendError::Full(back)) => {
                    conns = back;
                    self.received.notify_one();
                    thread::park_timeout(STOP_LOOK);
                }
                Err(TrySendError::Disconnected(_)) => return false,
            }
        }
    }

    fn tell(&self) {
        let mut told = lock(&self.shared);
        told.receiver.clone_from(self.receiver.counters());
        told.unsupported = self.unsupported;
        told.truncated = self.truncated;
        told.socket_errors = self.socket_errors;
        told.socket_drops = self.socket.drops().map_or(told.socket_drops, u64::from);
    }
}

/// What the data plane has a place for; the rest is counted by reason. What has the data of a
/// persistence engine does not get here: the codec knows of no engine and skips it.
fn supported(conn: &SyncConn, unsupported: &mut Unsupported) -> Option<SyncedConn> {
    let flags = ConnFlags(flags::stored(conn.flags));
    // Any protocol may have a template; a mark's has none.
    let is_known = conn.is_template() || Protocol::from_number(conn.protocol).is_some();
    let refusal = if !is_known {
        Some(&mut unsupported.protocol)
    } else if flags.contains(ConnFlags::NO_CPORT) {
        Some(&mut unsupported.no_cport)
    } else if conn.says_seq() || conn.seq.is_some() {
        Some(&mut unsupported.seq)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        *refusal += 1;
        return None;
    }
    Some(SyncedConn {
        protocol: conn.protocol,
        client: conn.addresses.client(),
        virt: conn.addresses.virt(),
        dest: conn.addresses.dest(),
        flags,
        state: conn.state,
        fwmark: conn.fwmark,
        timeout_secs: conn.timeout_secs,
        extra: None,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn not_started(error: io::Error) -> SyncError {
    SyncError::Socket(format!("cannot start the thread: {error}"))
}

#[cfg(test)]
mod tests {
    use syncproto::conn::{Addresses, Ends, SeqPair};

    use super::*;

    const AH: u8 = 51;
    const SCTP: u8 = 132;

    #[test]
    fn what_the_table_has_no_place_for_is_counted_by_its_reason() {
        let template = ConnFlags::TEMPLATE;
        let (no_cport, in_seq) = (ConnFlags::NO_CPORT, ConnFlags::IN_SEQ);
        let mut counted = Unsupported::default();
        for (protocol, flags, seq, is_taken) in [
            (6, 0, None, true),
            (17, 0, None, true),
            (SCTP, 0, None, true),
            (0, template, None, true),
            (AH, template, None, true),
            (AH, 0, None, false),
            (6, no_cport, None, false),
            (6, in_seq, None, false),
            (6, 0, Some(SeqPair::default()), false),
        ] {
            for addresses in [v4(), v6()] {
                let conn = SyncConn {
                    protocol,
                    addresses,
                    flags,
                    state: 0,
                    fwmark: 7,
                    timeout_secs: 60,
                    seq,
                    pe: None,
                };
                let taken = supported(&conn, &mut counted);
                assert_eq!(taken.is_some(), is_taken, "{conn:?}");
                if let Some(taken) = taken {
                    assert_eq!((taken.virt, taken.fwmark), (addresses.virt(), 7));
                    assert!(taken.flags.contains(ConnFlags::SYNC));
                }
            }
        }
        let counts = [counted.protocol, counted.no_cport, counted.seq];
        assert_eq!(counts, [2, 2, 4]);
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
