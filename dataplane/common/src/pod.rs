//! Permission for the loader to copy the layouts to and from maps.

use crate::batch::BatchItem;
use crate::entry::{Conn4, Conn6};
use crate::extra::{ExtraKey, ExtraRecord};
use crate::key::{Be32, FlowKey4, FlowKey6, FlowRef};
use crate::layout::Layout;

use crate::service::{
    CacheKey, CacheRecord, MarkRecord, RouteRecord, ServerRecord, ServiceKey4, ServiceKey6,
    ServiceRecord, StatsRecord,
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
    Be32,
    BatchItem,
    CacheKey,
    CacheRecord,
    Conn4,
    Conn6,
    ExtraKey,
    ExtraRecord,
    FlowKey4,
    FlowKey6,
    FlowRef,
    Layout,
    MarkRecord,
    RouteRecord,
    ServerRecord,
    ServiceKey4,
    ServiceKey6,
    ServiceRecord,
    Settings,
    StatsRecord,
    SyncDaemonRecord
);
