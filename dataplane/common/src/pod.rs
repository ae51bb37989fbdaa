//! Permission for the loader to copy the layouts to and from maps.

use crate::batch::BatchItem;
use crate::entry::Conn4;
use crate::key::{FlowKey4, FlowRef};
use crate::layout::Layout;
use crate::offer::Offer;
use crate::service::{
    RouteKey4, RouteRecord, ServerRecord, ServiceKey4, ServiceRecord, StatsRecord,
};
use crate::settings::Settings;
use crate::sync_daemon::SyncDaemonRecord;

macro_rules! pod {
    ($($name:ty),*) => { $(
        // SAFETY: `repr(C)`, integers only, no padding (the sizes are asserted beside the types).
        unsafe impl aya::Pod for $name {}
    )* };
}

pod!(
    BatchItem,
    Conn4,
    FlowKey4,
    FlowRef,
    Layout,
    Offer,
    RouteKey4,
    RouteRecord,
    ServerRecord,
    ServiceKey4,
    ServiceRecord,
    Settings,
    StatsRecord,
    SyncDaemonRecord
);
