//! The pinned maps, typed; the only file with their names.
//!
//! Arrays that user space edits field by field, or only reads, are mapped, see [`Mapped`].

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use dataplane_common::batch::BatchItem;
use dataplane_common::entry::{Conn4, Conn6};
use dataplane_common::extra::{ExtraKey, ExtraRecord};
use dataplane_common::layout::Layout;
use dataplane_common::rules::schedule::table::MAGLEV_SIZE;
use dataplane_common::service::{
    CacheKey, CacheRecord, MarkRecord, RouteRecord, ServerRecord, ServiceKey4, ServiceKey6,
    ServiceRecord, StatsRecord, list,
};
use dataplane_common::settings::Settings;
use dataplane_common::sync_daemon::SyncDaemonRecord;
use dataplane_common::{Addr6, FlowKey4, FlowKey6, FlowRef};

use crate::mapped::Mapped;
use crate::{OpenError, TableSizes};

/// Every map that outlives its programs, in the order in which their pins are listed.
pub(crate) const NAMES: [&str; 27] = [
    "LAYOUT",
    "SETTINGS",
    "FLOWS4",
    "FLOWS6",
    "CONNS4",
    "CONNS6",
    "FULL_UNTIL",
    "SERVICE_IDS4",
    "SERVICE_IDS6",
    "SERVICES",
    "SERVERS",
    "LISTS",
    "CACHE",
    "VIPS4",
    "VIPS6",
    "ROUTES4",
    "ROUTES6",
    "MARK_RULES",
    "TOTAL_STATS",
    "SERVICE_STATS",
    "SERVER_STATS",
    "COUNTERS",
    "ICMP_BUCKET",
    "BATCH",
    "OFFERS",
    "EXTRAS",
    "SYNC_DAEMONS",
];

/// Routes of one family the data plane keeps at most.
pub(crate) const ROUTES_MAX: usize = 65_536;

/// Addresses of virtual routers: 64 routers with 255 each, as the director's configuration allows.
const ROUTER_ADDRESSES_MAX: u32 = 64 * 255;

/// Entries of each map whose size the configuration decides.
pub(crate) fn max_entries(sizes: &TableSizes) -> [(&'static str, u32); 14] {
    let vips = sizes.services.saturating_mul(2);
    let vips = vips.saturating_add(ROUTER_ADDRESSES_MAX);
    [
        ("FLOWS4", sizes.connections_v4.saturating_mul(2)),
        ("FLOWS6", sizes.connections_v6.saturating_mul(2)),
        ("CONNS4", sizes.connections_v4),
        ("CONNS6", sizes.connections_v6),
        ("SERVICE_IDS4", sizes.services),
        ("SERVICE_IDS6", sizes.services),
        ("SERVICES", sizes.services),
        ("SERVERS", sizes.servers),
        ("LISTS", list_words(sizes)),
        ("CACHE", sizes.cache_entries.max(1)),
        ("VIPS4", vips),
        ("VIPS6", vips),
        ("SERVICE_STATS", sizes.services),
        ("SERVER_STATS", sizes.servers),
    ]
}

/// Words of the largest table of a list.
const TABLE_WORDS: u32 = MAGLEV_SIZE.div_ceil(list::SLOTS_PER_WORD);

/// How much room for lists there is of each word that they take: an edit writes the new list beside
/// the old one, and with the old one in the middle there must still be room on one side.
const LIST_ROOM: u32 = 4;

/// Words for the lists of all services and for their tables.
pub(crate) fn list_words(sizes: &TableSizes) -> u32 {
    plain_list_words(sizes.services, sizes.servers)
        .saturating_add(sizes.hash_tables.saturating_mul(TABLE_WORDS))
        .saturating_mul(LIST_ROOM)
        .max(1024)
}

/// How many tables a map of lists was made for.
pub(crate) fn hash_tables(list_words: u32, services: u32, servers: u32) -> u32 {
    (list_words / LIST_ROOM).saturating_sub(plain_list_words(services, servers)) / TABLE_WORDS
}

const fn plain_list_words(services: u32, servers: u32) -> u32 {
    servers.saturating_add(services.saturating_mul(list::HEAD))
}

/// All maps of the data plane.
pub(crate) struct Maps {
    pub(crate) layout: Array<MapData, Layout>,
    pub(crate) settings: Mapped<Settings>,
    pub(crate) conns4: Mapped<Conn4>,
    pub(crate) conns6: Mapped<Conn6>,
    pub(crate) service_ids4: HashMap<MapData, ServiceKey4, u32>,
    pub(crate) service_ids6: HashMap<MapData, ServiceKey6, u32>,
    pub(crate) services: Mapped<ServiceRecord>,
    pub(crate) servers: Mapped<ServerRecord>,
    pub(crate) lists: Mapped<u64>,
    pub(crate) cache: HashMap<MapData, CacheKey, CacheRecord>,
    /// Elements that `cache` can have.
    pub(crate) cache_entries: usize,
    pub(crate) vips4: HashMap<MapData, u32, u32>,
    pub(crate) vips6: HashMap<MapData, Addr6, u32>,
    pub(crate) routes4: LpmTrie<MapData, u32, RouteRecord>,
    pub(crate) routes6: LpmTrie<MapData, Addr6, RouteRecord>,
    pub(crate) mark_rules: Mapped<MarkRecord>,
    pub(crate) total_stats: PerCpuArray<MapData, StatsRecord>,
    pub(crate) service_stats: PerCpuArray<MapData, StatsRecord>,
    pub(crate) server_stats: PerCpuArray<MapData, StatsRecord>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) batch: Mapped<BatchItem>,
    pub(crate) flows4: HashMap<MapData, FlowKey4, FlowRef>,
    pub(crate) flows6: HashMap<MapData, FlowKey6, FlowRef>,
    pub(crate) extras: HashMap<MapData, ExtraKey, ExtraRecord>,
    pub(crate) sync_daemons: Array<MapData, SyncDaemonRecord>,
    /// Kernel memory of all maps in bytes.
    pub(crate) memory_bytes: u64,
}

impl Maps {
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Maps, OpenError> {
        let mut memory_bytes = 0;
        for (_, map) in ebpf.maps() {
            memory_bytes += map_memory(map);
        }
        let cache_entries = match ebpf.map("CACHE").map(data).transpose()? {
            Some(cache) => cache
                .info()
                .map_err(|error| OpenError::Map(error.to_string()))?
                .max_entries() as usize,
            None => 0,
        };
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .ok_or_else(|| OpenError::Map(format!("{name} is not in the object")))
        };
        Ok(Maps {
            layout: typed(take("LAYOUT")?)?,
            settings: Mapped::new(data(&take("SETTINGS")?)?, true)?,
            conns4: Mapped::new(data(&take("CONNS4")?)?, false)?,
            conns6: Mapped::new(data(&take("CONNS6")?)?, false)?,
            service_ids4: typed(take("SERVICE_IDS4")?)?,
            service_ids6: typed(take("SERVICE_IDS6")?)?,
            services: Mapped::new(data(&take("SERVICES")?)?, true)?,
            servers: Mapped::new(data(&take("SERVERS")?)?, true)?,
            lists: Mapped::new(data(&take("LISTS")?)?, true)?,
            cache: typed(take("CACHE")?)?,
            cache_entries,
            vips4: typed(take("VIPS4")?)?,
            vips6: typed(take("VIPS6")?)?,
            routes4: typed(take("ROUTES4")?)?,
            routes6: typed(take("ROUTES6")?)?,
            mark_rules: Mapped::new(data(&take("MARK_RULES")?)?, true)?,
            total_stats: typed(take("TOTAL_STATS")?)?,
            service_stats: typed(take("SERVICE_STATS")?)?,
            server_stats: typed(take("SERVER_STATS")?)?,
            counters: typed(take("COUNTERS")?)?,
            batch: Mapped::new(data(&take("BATCH")?)?, true)?,
            flows4: typed(take("FLOWS4")?)?,
            flows6: typed(take("FLOWS6")?)?,
            extras: typed(take("EXTRAS")?)?,
            sync_daemons: typed(take("SYNC_DAEMONS")?)?,
            memory_bytes,
        })
    }

    /// The place of an entry that the last run applied.
    pub(crate) fn applied_at(&self, at: u32) -> u32 {
        let half = self.batch.half(at, core::mem::offset_of!(BatchItem, index));
        half.load(Ordering::SeqCst)
    }

    /// What the last run made of an item of the batch array: a number of `BatchResult`.
    pub(crate) fn result(&self, at: u32) -> u8 {
        const OFFSET: usize = core::mem::offset_of!(BatchItem, result);
        let half = self.batch.half(at, OFFSET & !3);
        half.load(Ordering::SeqCst).to_ne_bytes()[OFFSET & 3]
    }
}

pub(crate) fn typed<T: TryFrom<Map, Error = aya::maps::MapError>>(
    map: Map,
) -> Result<T, OpenError> {
    T::try_from(map).map_err(|error| OpenError::Map(error.to_string()))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's list of map types grows; ours are these six"
)]
fn data(map: &Map) -> Result<&MapData, OpenError> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => Ok(data),
        _ => Err(OpenError::Map("map of another type".into())),
    }
}

/// What the kernel says a map takes (`memlock` of its `fdinfo`).
fn map_memory(map: &Map) -> u64 {
    use std::os::fd::AsRawFd;
    let Ok(data) = data(map) else { return 0 };
    let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    let info = std::fs::read_to_string(path).unwrap_or_default();
    let memlock = info.lines().find_map(|line| line.strip_prefix("memlock:"));
    memlock
        .and_then(|bytes| bytes.trim().parse().ok())
        .unwrap_or(0)
}

/// Of each processor, whether it runs or not.
pub(crate) fn percpu(stats: &PerCpuArray<MapData, StatsRecord>, index: u32) -> Vec<StatsRecord> {
    match stats.get(&index, 0) {
        Ok(values) => values.to_vec(),
        Err(_) => Vec::new(),
    }
}

/// Sum over processors.
pub(crate) fn sum(stats: &PerCpuArray<MapData, StatsRecord>, index: u32) -> StatsRecord {
    let mut total = StatsRecord::default();
    for value in percpu(stats, index) {
        total.conns = total.conns.wrapping_add(value.conns);
        total.in_pkts = total.in_pkts.wrapping_add(value.in_pkts);
        total.out_pkts = total.out_pkts.wrapping_add(value.out_pkts);
        total.in_bytes = total.in_bytes.wrapping_add(value.in_bytes);
        total.out_bytes = total.out_bytes.wrapping_add(value.out_bytes);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_tables_can_be_read_from_the_size_of_the_lists() {
        for (services, servers, tables) in [(16, 64, 8), (4096, 16_384, 64), (1, 1, 300)] {
            let sizes = TableSizes {
                connections_v4: 256,
                connections_v6: 256,
                services,
                servers,
                hash_tables: tables,
                cache_entries: 1,
            };
            assert_eq!(hash_tables(list_words(&sizes), services, servers), tables);
        }
    }
}
