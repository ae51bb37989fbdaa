//! What keeps the daemons running, and the peer's table whole, across failures and restarts.

use dataplane::DataPlane;
use ipvs_model::sync::{SyncError, SyncRole, SyncSpec};
use tracing::{info, warn};

use super::SyncDaemons;

/// Longest pause before lost offers are made again. Unit: calls of [`SyncDaemons::tend`], seconds.
const AGAIN_AFTER_MAX: u32 = 64;

/// What is offered again after a loss begins so long before it: two ticks of the clock of timers at
/// their slowest. What a peer took over during a standstill had its last packet here not much earlier.
/// Unit: nanoseconds.
const BEFORE_LOSS_NS: u64 = 20_000_000;

/// What is offered again by a daemon that is resumed begins so long before the last sign of life of
/// the one before it, which may have held a message for as long. Unit: nanoseconds.
const BEFORE_DEATH_NS: u64 = 2_000_000_000;

/// Lost offers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    /// They are made again after so many more calls of [`SyncDaemons::tend`].
    in_calls: u32,
    /// The earliest of them. Unit: nanoseconds of [`dataplane::timer_ns`].
    since_ns: u64,
}

impl SyncDaemons {
    /// Starts the daemons that ran when the daemon before this one ended. One that cannot start
    /// now is tried again by [`SyncDaemons::tend`].
    pub fn resume(&mut self, plane: &mut DataPlane) {
        // 0 is never: then everything is offered again.
        let since_ns = plane.sync_alive_ns().saturating_sub(BEFORE_DEATH_NS);
        for role in SyncRole::ALL {
            if self.runs(role) {
                continue;
            }
            let Some(spec) = plane.recorded_sync_daemon(role) else {
                continue;
            };
            match self.start_since(plane, role, &spec, since_ns) {
                Ok(()) => info!(
                    role = role.name(),
                    interface = spec.interface,
                    "sync daemon resumed"
                ),
                Err(error) => self.not_resumed(role, &spec, &error),
            }
        }
    }

    fn not_resumed(&mut self, role: SyncRole, spec: &SyncSpec, error: &SyncError) {
        let reason = format!("{} sync daemon on {}: {error}", role.name(), spec.interface);
        if self.unresumed.contains(&(role, reason.clone())) {
            return;
        }
        warn!(
            role = role.name(),
            reason, "sync daemon is not resumed, trying again"
        );
        self.unresumed.retain(|(known, _)| *known != role);
        self.unresumed.push((role, reason));
    }

    /// Forgets the daemons of a run before: a role decides which of them run.
    pub fn forget(&mut self, plane: &mut DataPlane) {
        for role in SyncRole::ALL {
            plane.record_sync_daemon(role, None);
        }
        plane.set_sync_master(false);
    }

    /// Gives up what could not be resumed: from here on a role decides, or nothing is to run.
    pub fn forget_unresumed(&mut self, plane: &mut DataPlane) {
        for (role, _) in std::mem::take(&mut self.unresumed) {
            plane.record_sync_daemon(role, None);
            if role == SyncRole::Master && !self.runs(role) {
                plane.set_sync_master(false);
            }
        }
    }

    /// To be called about once a second: tries again what failed, and has offers made again that a
    /// late master threw away.
    pub fn tend(&mut self, plane: &mut DataPlane) {
        self.restart_failed(plane);
        if !self.unresumed.is_empty() {
            self.resume(plane);
        }
        if let Some(master) = &self.master {
            plane.note_sync_alive();
            if let Some(since_ns) = master.lost_since() {
                self.has_lost(since_ns);
            }
        }
        match &mut self.again {
            Some(Again {
                in_calls: 0,
                since_ns,
            }) => {
                plane.offer_again_since(since_ns.saturating_sub(BEFORE_LOSS_NS));
                self.again = None;
            }
            Some(again) => again.in_calls -= 1,
            None => self.again_after = self.again_after.saturating_sub(1),
        }
    }

    /// Offers of this time and later were lost.
    fn has_lost(&mut self, since_ns: u64) {
        if let Some(again) = &mut self.again {
            again.since_ns = again.since_ns.min(since_ns);
            return;
        }
        // While sending fails, every try is twice as long after the last.
        let in_calls = self.again_after;
        self.again = Some(Again { in_calls, since_ns });
        self.again_after = (in_calls * 2).clamp(1, AGAIN_AFTER_MAX);
        warn!(
            in_secs = in_calls,
            "sync master has lost offers: it was late, or could not send; they are made again"
        );
    }

    /// A thread that has failed leaves its daemon to be started anew.
    fn restart_failed(&mut self, plane: &mut DataPlane) {
        let is_dead = |role: &SyncRole| match role {
            SyncRole::Master => self.master.as_ref().is_some_and(|it| !it.is_alive()),
            SyncRole::Backup => self.backup.as_ref().is_some_and(|it| !it.is_alive()),
        };
        let dead: Vec<SyncRole> = SyncRole::ALL.into_iter().filter(is_dead).collect();
        for role in dead {
            let listed = self.list().into_iter().find(|(known, _)| *known == role);
            let Some((_, spec)) = listed else { continue };
            warn!(
                role = role.name(),
                "the thread of a sync daemon has failed, starting it anew"
            );
            if self.stop(plane, role).is_ok()
                && let Err(error) = self.start(plane, role, &spec)
            {
                plane.record_sync_daemon(role, Some(&spec));
                self.not_resumed(role, &spec, &error);
            }
        }
    }
}
