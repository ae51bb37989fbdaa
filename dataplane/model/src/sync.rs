//! The sync daemons as operators know them (`ipvsadm --start-daemon`).

use alloc::string::String;
use core::net::IpAddr;

/// Which of the two daemons. A node may run both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub enum SyncRole {
    /// Sends (`IP_VS_STATE_MASTER`, 1).
    Master,
    /// Receives (`IP_VS_STATE_BACKUP`, 2).
    Backup,
}

impl SyncRole {
    pub const ALL: [SyncRole; 2] = [SyncRole::Master, SyncRole::Backup];

    pub const fn name(self) -> &'static str {
        match self {
            SyncRole::Master => "master",
            SyncRole::Backup => "backup",
        }
    }
}

/// What a sync daemon is started with. `None` and 0 ask for the default; a running daemon's spec,
/// as listed, has every value filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub struct SyncSpec {
    /// Kernel name `mcast_ifn`.
    pub interface: String,
    /// A backup with 0 hears every sync id.
    pub sync_id: u8,
    /// Longest datagram's payload in bytes (kernel name `sync_maxlen`).
    pub maxlen: u16,
    /// Kernel name `mcast_group`; 224.0.0.81.
    pub group: Option<IpAddr>,
    /// UDP port of the first thread; 8848.
    pub port: u16,
    /// Kernel name `mcast_ttl`; 1.
    pub ttl: u8,
}

/// Why a sync daemon was not started or stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "bincode", derive(bincode::Encode, bincode::Decode))]
pub enum SyncError {
    /// ENODEV: no such interface.
    NoDevice(String),
    /// EEXIST: that role runs already.
    Running(SyncRole),
    /// ESRCH: that role does not run.
    NotRunning(SyncRole),
    /// EINVAL, with the value and the rule.
    Invalid(String),
    /// The socket could not be had; the step that failed and the system's error.
    Socket(String),
    /// The kernel could, this director cannot yet; the text names what.
    Unsupported(String),
}

impl core::fmt::Display for SyncError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            SyncError::NoDevice(interface) => write!(f, "interface {interface} does not exist"),
            SyncError::Running(role) => write!(f, "the {} sync daemon runs already", role.name()),
            SyncError::NotRunning(role) => {
                write!(f, "the {} sync daemon does not run", role.name())
            }
            SyncError::Invalid(reason) | SyncError::Socket(reason) => f.write_str(reason),
            SyncError::Unsupported(what) => write!(f, "{what} are not supported yet"),
        }
    }
}

impl core::error::Error for SyncError {}
