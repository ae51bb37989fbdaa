//! The word that says how pinned maps are laid out.

use crate::batch::BatchItem;
use crate::entry::{Conn4, Conn6};
use crate::extra::{ExtraKey, ExtraRecord};
use crate::key::{FlowKey4, FlowKey6, FlowRef};
use crate::offer::{Offer4, Offer6};
use crate::service::{
    CacheRecord, MarkRecord, RouteRecord, ServerRecord, ServiceRecord, StatsRecord,
};
use crate::settings::Settings;
use crate::sync_daemon::SyncDaemonRecord;

/// "TANDEM" in ASCII.
pub const MAGIC: u64 = 0x5441_4e44_454d;
/// Raised with every change of a pinned type or its meaning.
pub const VERSION: u32 = 6;
/// The oldest version whose maps this one takes over as they are: what came since then stands in
/// places that were reserved, where zero means that there is none.
pub const VERSION_ADOPTED: u32 = 4;

/// The one element of the pinned map `LAYOUT`, written last when maps are made.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub magic: u64,
    pub version: u32,
    /// Sizes in bytes of the pinned types, in the order of [`Layout::CURRENT`].
    pub sizes: [u16; 20],
    pub reserved: [u32; 3],
}

impl Layout {
    /// Whether maps of this layout can be taken over. Whoever does writes [`Layout::CURRENT`] in its
    /// place, so that no older daemon adopts what it does not know.
    pub fn is_adoptable(self) -> bool {
        let version = VERSION_ADOPTED..=VERSION;
        version.contains(&self.version)
            && self
                == Layout {
                    version: self.version,
                    ..Layout::CURRENT
                }
    }

    pub const CURRENT: Layout = Layout {
        magic: MAGIC,
        version: VERSION,
        sizes: [
            size_of::<FlowKey4>() as u16,
            size_of::<FlowRef>() as u16,
            size_of::<Conn4>() as u16,
            size_of::<ServiceRecord>() as u16,
            size_of::<ServerRecord>() as u16,
            size_of::<StatsRecord>() as u16,
            size_of::<RouteRecord>() as u16,
            size_of::<Settings>() as u16,
            size_of::<BatchItem>() as u16,
            size_of::<Offer4>() as u16,
            size_of::<SyncDaemonRecord>() as u16,
            size_of::<FlowKey6>() as u16,
            size_of::<Conn6>() as u16,
            size_of::<Offer6>() as u16,
            size_of::<MarkRecord>() as u16,
            size_of::<CacheRecord>() as u16,
            size_of::<ExtraKey>() as u16,
            size_of::<ExtraRecord>() as u16,
            0,
            0,
        ],
        reserved: [0; 3],
    };
}

const _: () = assert!(size_of::<Layout>() == 64);
