//! What a data plane is opened with, and why it cannot be had.

use std::io;
use std::path::PathBuf;

use ipvs_model::service::EditError;

/// How the director hooks into an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AttachMode {
    /// TCX where the kernel has it (6.6 on), clsact otherwise.
    #[default]
    Auto,
    Tcx,
    Clsact,
}

/// How much the tables hold. Pinned tables keep the size they were made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// IPv4 connections and templates, a power of two.
    pub connections_v4: u32,
    /// IPv6 connections and templates, a power of two.
    pub connections_v6: u32,
    pub services: u32,
    pub servers: u32,
    /// Tables of mh that the server lists have room for, 32 KiB each with the room that edits need; one
    /// of sh or dh takes a sixteenth.
    pub hash_tables: u32,
    /// Destinations that lblc and lblcr remember, over all services.
    pub cache_entries: u32,
}

/// What [`DataPlane::open`] needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory in a bpffs; created when missing.
    pub pin_dir: PathBuf,
    pub interfaces: Vec<String>,
    /// Those of them that carry the MAC address of a virtual router, which other routers use too: what
    /// would tell switches that the address is here, while it may be elsewhere, does not go out.
    pub guarded: Vec<String>,
    pub attach: AttachMode,
    pub sizes: TableSizes,
}

/// Why a data plane cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("interface {0} does not exist")]
    NoInterface(String),
    #[error("pin directory {}: {source}", path.display())]
    PinDir { path: PathBuf, source: io::Error },
    #[error("pin directory {} is not in a bpffs (mount -t bpf bpf DIR)", .0.display())]
    NotBpffs(PathBuf),
    #[error("another directord uses the pin directory {}", .0.display())]
    Busy(PathBuf),
    #[error(
        "pin directory {} holds maps of another layout ({found}); run the version that made them, \
         or `directord detach`, which ends their connections",
        path.display()
    )]
    OtherLayout { path: PathBuf, found: String },
    #[error(
        "pin directory {} holds torn maps ({reason}); `directord detach` removes them",
        path.display()
    )]
    Torn { path: PathBuf, reason: String },
    #[error("loading the programs: {0}")]
    Load(String),
    #[error("attaching to {interface} by {kind}: {reason}")]
    Attach {
        interface: String,
        kind: &'static str,
        reason: String,
    },
    #[error("map: {0}")]
    Map(String),
    #[error("services in the pinned maps cannot be taken over: {0:?}")]
    Adopt(EditError),
}
