//! The sync daemons: which run, with what, and their threads.

use dataplane::DataPlane;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};

/// The sync daemons of this node; the one owner of their threads.
#[derive(Debug, Default)]
pub struct SyncDaemons {}

/// One daemon, for `directord status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncDaemonStatus {
    pub role: SyncRole,
    pub spec: SyncSpec,
    /// Name and count, in a fixed order: messages, entries, bytes, then drops by reason.
    pub counters: Vec<(&'static str, u64)>,
}

impl SyncDaemons {
    /// Starts a daemon.
    ///
    /// # Errors
    /// See [`SyncError`]; nothing runs then that did not run before.
    pub fn start(
        &mut self,
        plane: &mut DataPlane,
        role: SyncRole,
        spec: &SyncSpec,
    ) -> Result<(), SyncError> {
        let (_, _, _) = (plane, role, spec);
        Err(SyncError::Invalid("not there yet".to_owned()))
    }

    /// Stops a daemon. What a backup has received is applied first; what a master has been offered
    /// is sent first.
    ///
    /// # Errors
    /// [`SyncError::NotRunning`].
    pub fn stop(&mut self, plane: &mut DataPlane, role: SyncRole) -> Result<(), SyncError> {
        let _ = plane;
        Err(SyncError::NotRunning(role))
    }

    pub fn runs(&self, role: SyncRole) -> bool {
        let _ = role;
        false
    }

    /// The running daemons, master first, with every value filled in.
    pub fn list(&self) -> Vec<(SyncRole, SyncSpec)> {
        Vec::new()
    }

    pub fn status(&self) -> Vec<SyncDaemonStatus> {
        Vec::new()
    }
}
