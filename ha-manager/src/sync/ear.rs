//! Hears whether another sync master sends, while no backup runs.
//!
//! Nobody should while every virtual router is active here: who does is active too. Looked at once a
//! second and bounded, so that a flood costs nothing; what is heard is counted and forgotten.

use syncproto::net::{BackupSocket, NetConfig, RecvBatch, backup_socket};
use syncproto::receiver::Receiver;
use syncproto::wire::WalkConfig;

use super::{SyncDaemons, SyncOptions, start};
use ipvs_model::sync::SyncSpec;

/// Unit: bytes of socket buffer, for a few messages.
const QUEUE_BYTES: usize = 16 << 10;
/// Unit: bytes. What a longer one says is as good when it is cut.
const DATAGRAM_MAX: usize = 9000;

/// The open socket.
pub struct SyncEar {
    socket: BackupSocket,
    batch: RecvBatch,
    receiver: Receiver,
    interface: String,
}

impl SyncEar {
    /// `None` when there is no socket; the next look tries again.
    fn open(spec: &SyncSpec, options: &SyncOptions) -> Option<SyncEar> {
        let net = NetConfig {
            sock_size: QUEUE_BYTES,
            ..start::net_config(spec, options).ok()?
        };
        let socket = backup_socket(&net).ok()?;
        let config = WalkConfig {
            sync_id: spec.sync_id,
            seq_order: options.seq_order,
            ipv6: true,
            engines: &[],
        };
        Some(SyncEar {
            socket,
            batch: RecvBatch::new(DATAGRAM_MAX),
            receiver: Receiver::new(config),
            interface: spec.interface.clone(),
        })
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Messages that have come since the last look, up to a bound, with entries and our sync id.
    pub fn listen(&mut self) -> u64 {
        let before = self.receiver.counters().messages;
        let receiver = &mut self.receiver;
        // An interface that went down says so here once.
        let _ = (self.batch).recv(&self.socket, |datagram| {
            receiver.receive(datagram.bytes, drop)
        });
        self.receiver.counters().messages - before
    }
}

impl SyncDaemons {
    /// Listens for another master, where a backup with `spec` would.
    pub fn listen(&self, spec: &SyncSpec) -> Option<SyncEar> {
        SyncEar::open(spec, &self.options)
    }
}
