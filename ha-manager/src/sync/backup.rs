//! The threads of a sync backup: datagrams in, batches of connections out to the owner of the data
//! plane.
//!
//! ```text
//!  group or peers, port i --> port i --bounded queue of batches--> owner
//!                                <------ emptied batches ------------
//! ```

mod port;

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver as Channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use dataplane::{ApplyReport, DataPlane, SyncedConn};
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use syncproto::limits;
use syncproto::net::{BackupSocket, NetConfig, NetError, backup_socket};
use syncproto::wire::{SeqOrder, WalkConfig};
use tokio::sync::Notify;
use tracing::warn;

use super::start::wrap_warning;
use super::{Named, SyncDaemonStatus, SyncPortStatus, add_up, lock, not_started, refused};
use crate::privileges;
use port::{Pool, Port, Told};

/// Batches of all ports that may wait for the owner; each port has one more in hand. When the owner
/// falls behind, datagrams wait in the sockets, and what finds no room there is dropped by the kernel
/// and counted.
///
/// A batch is what one system call brings, of 2048 entries at most: of the usual messages 1280 entries
/// or 170 KiB, of small entries of version 0 280 KiB, and of the worst that a peer can make of 128 KiB
/// of datagrams, small entries with engine data, 0.8 MiB.
const BATCHES_MAX: usize = 32;
/// Once as many entries have been applied, the owner looks at its other work: with the batch that
/// reaches them 2 to 4 milliseconds of it.
const ENTRIES_AT_ONCE: usize = 2048;
/// Before a promotion, about as long is spent on it: what is left is applied behind the announcement.
const PROMOTION_MAX: Duration = Duration::from_millis(5);
/// At a stop, as long is spent on what has been received: a promotion waits for it.
const STOP_GRACE: Duration = Duration::from_millis(200);
/// Persistence engines whose data this director keeps.
const ENGINES: &[&str] = &["sip"];

/// A running backup.
pub(super) struct Backup {
    spec: SyncSpec,
    nets: Vec<NetConfig>,
    /// Closing it ends the threads.
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
    batches: Channel<Vec<SyncedConn>>,
    pool: Arc<Pool>,
    received: Arc<Notify>,
    /// What each port tells, and its socket.
    told: Vec<(Arc<Mutex<Told>>, Arc<BackupSocket>)>,
    applied: ApplyReport,
}

impl Backup {
    /// # Errors
    /// That of the first port that cannot be had; none is kept then.
    pub(super) fn start(
        spec: SyncSpec,
        nets: Vec<NetConfig>,
        seq_order: SeqOrder,
        received: Arc<Notify>,
    ) -> Result<Backup, SyncError> {
        let room = limits::receive_room(nets.len());
        let sockets = nets.iter().map(|net| open(net, room).map(Arc::new));
        let sockets: Vec<_> = sockets.collect::<Result<_, _>>().map_err(refused)?;
        let (to_owner, batches) = sync_channel(BATCHES_MAX);
        let (stopped, stop) = io::pipe().map_err(not_started)?;
        let mut backup = Backup {
            nets,
            stop: Some(stop),
            threads: Vec::new(),
            batches,
            pool: Arc::new(Pool::new(BATCHES_MAX)),
            received,
            told: sockets
                .into_iter()
                .map(|socket| (Arc::default(), socket))
                .collect(),
            applied: ApplyReport::default(),
            spec,
        };
        let config = WalkConfig {
            sync_id: backup.spec.sync_id,
            seq_order,
            ipv6: true,
            engines: ENGINES,
        };
        let stopped = Arc::new(stopped);
        for (index, (told, socket)) in backup.told.iter().enumerate() {
            let plan = port::Plan {
                socket: Arc::clone(socket),
                maxlen: usize::from(backup.spec.maxlen),
                ports: backup.told.len(),
                config,
                to_owner: to_owner.clone(),
                pool: Arc::clone(&backup.pool),
                received: Arc::clone(&backup.received),
                shared: Arc::clone(told),
            };
            let stopped = Arc::clone(&stopped);
            let run = move || {
                if let Err(error) = privileges::drop_all() {
                    warn!(%error, "sync backup keeps its capabilities");
                }
                Port::new(plan).run(stopped.as_fd());
            };
            let name = format!("sync-backup-{index}");
            match thread::Builder::new().name(name).spawn(run) {
                Ok(thread) => backup.threads.push(thread),
                Err(error) => {
                    drop(to_owner);
                    backup.end(|_| {});
                    return Err(not_started(error));
                }
            }
        }
        Ok(backup)
    }

    pub(super) fn spec(&self) -> &SyncSpec {
        &self.spec
    }

    /// Whether all threads are still there.
    pub(super) fn is_alive(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Applies a bounded part of what was received.
    pub(super) fn apply_some(&mut self, plane: &mut DataPlane) {
        let mut entries = 0;
        while entries < ENTRIES_AT_ONCE {
            let Ok(batch) = self.batches.try_recv() else {
                return;
            };
            entries += batch.len();
            add(&mut self.applied, &plane.apply_synced(&batch));
            self.pool.give(batch);
        }
        // There may be more, and its wake-up is used up.
        self.received.notify_one();
    }

    /// Applies what the threads have handed over by now: a promotion waits for it, so that whoever goes
    /// on sending does not hold it up.
    pub(super) fn apply_all(&mut self, plane: &mut DataPlane) {
        let latest = Instant::now() + PROMOTION_MAX;
        for _ in 0..BATCHES_MAX {
            let Ok(batch) = self.batches.try_recv() else {
                return;
            };
            add(&mut self.applied, &plane.apply_synced(&batch));
            self.pool.give(batch);
            if Instant::now() >= latest {
                break;
            }
        }
        // There may be more, and its wake-up is used up.
        self.received.notify_one();
    }

    /// Ends the threads; applies everything that had arrived before, or as much of it as there is time
    /// for.
    pub(super) fn stop(mut self, plane: &mut DataPlane) {
        let pool = Arc::clone(&self.pool);
        let latest = Instant::now() + STOP_GRACE;
        let mut drop_stopped = 0;
        self.end(|batch| {
            if Instant::now() < latest {
                plane.apply_synced(&batch);
            } else {
                drop_stopped += batch.len();
            }
            pool.give(batch);
        });
        if drop_stopped > 0 {
            warn!(
                drop_stopped,
                "sync backup had more entries at its stop than it could apply"
            );
        }
    }

    /// Ends the threads; `on` gets what had arrived before.
    fn end(&mut self, mut on: impl FnMut(Vec<SyncedConn>)) {
        self.stop = None;
        // Until the last thread has dropped its end.
        while let Ok(batch) = self.batches.recv() {
            on(batch);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a thread of the sync backup had failed");
            }
        }
    }

    pub(super) fn status(&self) -> SyncDaemonStatus {
        let ports = self.nets.iter().zip(&self.told);
        let ports: Vec<SyncPortStatus> = ports
            .map(|(net, (told, socket))| {
                let told = lock(told).clone();
                told.status(net.port, socket.drops().map_or(0, u64::from))
            })
            .collect();
        let mut counters = add_up(&ports);
        counters.extend(named(&self.applied));
        let failed = "a thread of the sync backup has failed";
        let failed = (!self.is_alive()).then(|| failed.to_owned());
        let peers = self.nets.first().map(|net| net.peers.clone());
        SyncDaemonStatus {
            role: SyncRole::Backup,
            spec: self.spec.clone(),
            peers: peers.unwrap_or_default(),
            version: None,
            counters,
            ports,
            problem: failed,
            warning: wrap_warning(&self.nets),
        }
    }
}

/// The socket of a port. Without a size that was asked for it has room for `room` bytes.
fn open(net: &NetConfig, room: usize) -> Result<BackupSocket, NetError> {
    let socket = backup_socket(net)?;
    if net.sock_size == 0 {
        socket.make_room(room)?;
    }
    Ok(socket)
}

fn add(sum: &mut ApplyReport, report: &ApplyReport) {
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

fn named(applied: &ApplyReport) -> Named {
    vec![
        ("applied_new", applied.created),
        ("applied_known", applied.updated),
        ("applied_replaced", applied.replaced),
        ("ignored_late_end", applied.late),
        ("guarded", applied.guarded),
        ("drop_table_full", applied.table_full),
        ("drop_reply_collision", applied.reply_collision),
        ("drop_busy", applied.busy),
        ("drop_no_share", applied.no_share),
        ("extra_lost", applied.extra_lost),
    ]
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{getsockopt, sockopt};

    use super::*;

    /// The kernel books twice as many bytes as it is told.
    #[test]
    fn a_socket_has_room_for_a_busy_masters_messages_unless_a_size_is_asked_for() {
        assert!(nix::unistd::geteuid().is_root(), "this test needs root");
        for (ports, sock_size, booked) in [(1, 0, 8 << 20), (64, 0, 2 << 20), (1, 9000, 18_000)] {
            let net = NetConfig {
                interface: "lo".to_owned(),
                group: limits::DEFAULT_GROUP.into(),
                peers: Vec::new(),
                port: 0,
                ttl: 1,
                sock_size,
            };
            let socket = open(&net, limits::receive_room(ports)).unwrap();
            assert_eq!(getsockopt(&socket, sockopt::RcvBuf).unwrap(), booked);
        }
    }
}
