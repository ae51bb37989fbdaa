//! What user space tells the programs: timeouts, tunables, the lease, what this node does.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use dataplane_common::rules::directing::{self, Inputs};
use dataplane_common::rules::sync::SyncRules;
use dataplane_common::rules::{sctp, tcp};
use dataplane_common::settings::{LEASE_FOREVER, Settings};
use dataplane_common::{SctpState, TcpState};
use ipvs_model::service::EditError;
use ipvs_model::timeouts::Timeouts;

use crate::mapped::store;
use crate::{ConnectionCount, DataPlane, Fill, Lease, timer_ns};

/// A tunable that the programs read, by its kernel name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunable {
    ConnReuseMode,
    ExpireNodestConn,
    SecureTcp,
    SloppyTcp,
    SloppySctp,
    ExpireQuiescentTemplate,
    CacheBypass,
    /// Seconds; kernel name `lblc_expiration`.
    LblcExpirationSecs,
    /// Seconds; kernel name `lblcr_expiration`.
    LblcrExpirationSecs,
    /// Ours: seconds during which a synchronised entry does not replace a connection that saw a
    /// packet here.
    ApplyGuardSecs,
}

impl Tunable {
    /// Where it stands in the settings.
    const fn offset(self) -> usize {
        use core::mem::offset_of;
        match self {
            Tunable::ConnReuseMode => offset_of!(Settings, conn_reuse_mode),
            Tunable::ExpireNodestConn => offset_of!(Settings, expire_nodest_conn),
            Tunable::SecureTcp => offset_of!(Settings, secure_tcp),
            Tunable::SloppyTcp => offset_of!(Settings, sloppy_tcp),
            Tunable::SloppySctp => offset_of!(Settings, sloppy_sctp),
            Tunable::ExpireQuiescentTemplate => offset_of!(Settings, expire_quiescent_template),
            Tunable::CacheBypass => offset_of!(Settings, cache_bypass),
            Tunable::LblcExpirationSecs => offset_of!(Settings, lblc_expiration_secs),
            Tunable::LblcrExpirationSecs => offset_of!(Settings, lblcr_expiration_secs),
            Tunable::ApplyGuardSecs => offset_of!(Settings, apply_guard_secs),
        }
    }
}

impl DataPlane {
    pub fn timeouts(&self) -> Timeouts {
        let settings = self.maps.settings.read(0);
        Timeouts {
            tcp_secs: settings.tcp_timeout_secs[TcpState::Established as usize],
            tcp_fin_secs: settings.tcp_timeout_secs[TcpState::FinWait as usize],
            udp_secs: settings.udp_timeout_secs,
        }
    }

    /// Changes timeouts for later packets; 0 leaves a value as it is.
    ///
    /// # Errors
    /// [`EditError::Invalid`] for a value out of range; nothing is changed then.
    pub fn set_timeouts(&mut self, change: Timeouts) -> Result<(), EditError> {
        let timeouts = self.timeouts().changed_by(change);
        let timeouts =
            timeouts.map_err(|error| EditError::Invalid(format!("timeout {} s", error.0)))?;
        let tcp = core::mem::offset_of!(Settings, tcp_timeout_secs);
        let of = |state: TcpState| tcp + 4 * state as usize;
        self.maps
            .settings
            .half(0, of(TcpState::Established))
            .store(timeouts.tcp_secs, SeqCst);
        self.maps
            .settings
            .half(0, of(TcpState::FinWait))
            .store(timeouts.tcp_fin_secs, SeqCst);
        store!(
            self.maps.settings,
            0,
            Settings.udp_timeout_secs,
            half,
            timeouts.udp_secs
        );
        Ok(())
    }

    /// Changes the timeout of one TCP state for later packets.
    pub fn set_tcp_timeout(&mut self, state: TcpState, secs: u32) {
        let offset = core::mem::offset_of!(Settings, tcp_timeout_secs) + 4 * state as usize;
        self.maps.settings.half(0, offset).store(secs, SeqCst);
    }

    pub fn set_tunable(&mut self, tunable: Tunable, value: u32) {
        let half = self.maps.settings.half(0, tunable.offset());
        half.store(value, SeqCst);
    }

    /// Changes the timeout of one SCTP state for later packets.
    pub fn set_sctp_timeout(&mut self, state: SctpState, secs: u32) {
        let offset = core::mem::offset_of!(Settings, sctp_timeout_secs) + 4 * state as usize;
        self.maps.settings.half(0, offset).store(secs, SeqCst);
    }

    /// Tells the programs what this node does while its lease holds.
    pub fn set_directing(&mut self, inputs: Inputs) {
        let function = directing::function(inputs) as u32;
        store!(self.maps.settings, 0, Settings.function, half, function);
    }

    pub fn lease(&self) -> Lease {
        let settings = self.maps.settings.read(0);
        let deadline = settings.lease_deadline_ns;
        Lease {
            epoch: settings.lease_epoch,
            deadline_boottime_ns: (deadline != LEASE_FOREVER).then_some(deadline),
        }
    }

    /// Puts a lease in force; refused (false) when its epoch is lower than the one in force.
    pub fn set_lease(&mut self, lease: Lease) -> bool {
        if lease.epoch < self.maps.settings.read(0).lease_epoch {
            return false;
        }
        let deadline = lease.deadline_boottime_ns.unwrap_or(LEASE_FOREVER);
        store!(
            self.maps.settings,
            0,
            Settings.lease_epoch,
            word,
            lease.epoch
        );
        store!(
            self.maps.settings,
            0,
            Settings.lease_deadline_ns,
            word,
            deadline
        );
        true
    }

    /// The tunables by which connections are offered; the threshold is also what the packet counter
    /// of a synchronised connection starts with.
    pub fn set_sync_rules(&mut self, rules: &SyncRules) {
        let settings = &self.maps.settings;
        store!(settings, 0, Settings.sync_threshold, half, rules.threshold);
        store!(settings, 0, Settings.sync_period, half, rules.period);
        store!(
            settings,
            0,
            Settings.sync_refresh_ms,
            half,
            rules.refresh_ticks
        );
        store!(settings, 0, Settings.sync_retries, half, rules.retries);
        let mode = u32::from(rules.persist_mode);
        store!(settings, 0, Settings.sync_persist_mode, half, mode);
    }

    /// Which version of the protocol the offers are for (kernel name `sync_version`, 0 or 1): version 0
    /// cannot say IPv6, and mentions a controller behind its connection alone.
    pub fn set_sync_version(&mut self, version: u32) {
        store!(self.maps.settings, 0, Settings.sync_version, half, version);
    }

    /// The part of each table that connections made by synchronisation may fill, in percent: the rest
    /// is kept for those made here. It is looked at with each round of the expiry walk.
    pub fn set_sync_share(&mut self, percent: u32) {
        self.sync_share = percent.clamp(1, 100);
        let count = self.connection_count();
        self.renew_sync_room(&count);
    }

    pub(crate) fn renew_sync_room(&mut self, count: &ConnectionCount) {
        // A round does not see what was made behind it.
        let made = std::mem::take(&mut self.sync_made);
        let room = |fill: &Fill, made: u64| {
            let share = u64::from(fill.places) * u64::from(self.sync_share) / 100;
            share.saturating_sub(u64::from(fill.taken) + made)
        };
        let (room4, room6) = (room(&count.v4, made.v4), room(&count.v6, made.v6));
        store!(self.maps.settings, 0, Settings.sync_room4, word, room4);
        store!(self.maps.settings, 0, Settings.sync_room6, word, room6);
    }

    /// Whether the programs offer connections to whoever holds the [`OfferReader`]. This stays in
    /// force without a daemon: offers that find no room are made by the walk of the next one.
    pub fn set_sync_master(&mut self, runs: bool) {
        let runs = u32::from(runs);
        store!(self.maps.settings, 0, Settings.sync_master, half, runs);
    }

    /// While it is wanted the peer is told of every connection from its first packet on, and of every
    /// change of its state; the expiry walk offers those that had too few packets before. For a node
    /// that is about to hand its role over. Without a daemon it stays in force until the next one
    /// starts.
    pub fn tell_all(&mut self, is_wanted: bool) {
        let wanted = u32::from(is_wanted);
        store!(self.maps.settings, 0, Settings.sync_tell_all, half, wanted);
    }

    /// For so long, packets of connections that are not known here, and may not start one, are dropped
    /// instead of passed to the stack, which would reset them: this node has just taken the role, and
    /// the node before it may be telling of them. Their senders send them again.
    ///
    /// DIFFERS: the kernel passes them from the first moment on.
    pub fn hold_unknown_for(&mut self, length: Duration) {
        let length_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = timer_ns().saturating_add(length_ns);
        store!(
            self.maps.settings,
            0,
            Settings.unknown_held_ns,
            word,
            until_ns
        );
    }

    /// Whether the programs offer connections.
    pub fn sync_master(&self) -> bool {
        self.maps.settings.read(0).sync_master != 0
    }
}

/// Those of new maps.
pub(crate) fn default_settings(connections_v4: u32, connections_v6: u32) -> Settings {
    /// Kernel names `lblc_expiration` and `lblcr_expiration`: a day.
    const CACHE_EXPIRATION_SECS: u32 = 24 * 60 * 60;
    Settings {
        lease_deadline_ns: LEASE_FOREVER,
        function: directing::Function::Direct as u32,
        conns4_mask: connections_v4.saturating_sub(1),
        conns6_mask: connections_v6.saturating_sub(1),
        tcp_timeout_secs: tcp::TIMEOUT_SECS,
        udp_timeout_secs: Timeouts::default().udp_secs,
        sctp_timeout_secs: sctp::TIMEOUT_SECS,
        conn_reuse_mode: 1,
        apply_guard_secs: 2,
        sync_threshold: SyncRules::default().threshold,
        sync_period: SyncRules::default().period,
        sync_version: 1,
        lblc_expiration_secs: CACHE_EXPIRATION_SECS,
        lblcr_expiration_secs: CACHE_EXPIRATION_SECS,
        unprivileged_port: UNPRIVILEGED_PORT,
        ..Settings::default()
    }
}

/// Default of `ip_unprivileged_port_start`.
const UNPRIVILEGED_PORT: u32 = 1024;

/// The host's `ip_unprivileged_port_start`.
pub(crate) fn unprivileged_port() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(UNPRIVILEGED_PORT)
}
