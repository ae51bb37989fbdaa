//! The maps. User space sets the sizes when it makes them; those here are the lab's.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;
use dataplane_common::batch::{BatchItem, REGION_ITEMS, REGIONS};
use dataplane_common::entry::{Conn4, Conn6};
use dataplane_common::extra::{EXTRAS_MAX, ExtraKey, ExtraRecord};
use dataplane_common::layout::Layout;
use dataplane_common::offer::{Offer4, RING_BYTES};
use dataplane_common::passing::{Passing4, Passing6};
use dataplane_common::service::{
    CacheKey, CacheRecord, MarkRecord, RouteRecord, ServerRecord, ServiceKey4, ServiceKey6,
    ServiceRecord, StatsRecord, mark_rules,
};
use dataplane_common::settings::Settings;
use dataplane_common::sync_daemon::SyncDaemonRecord;
use dataplane_common::verdict::{COUNTERS as COUNTERS_LEN, Event, Verdict};
use dataplane_common::{Addr6, FlowKey4, FlowKey6, FlowRef};

use crate::cache::Caching;
use crate::emit::Summing;
use crate::pick::{Probing, Walking};
use crate::service::Marking;

const MMAPABLE: usize = BPF_F_MMAPABLE as usize;
const CONNS: usize = 1 << 16;

#[btf_map]
pub static LAYOUT: Array<Layout, 1> = Array::new();
#[btf_map]
pub static SETTINGS: Array<Settings, 1, MMAPABLE> = Array::new();
/// Where a packet's connection is.
#[btf_map]
pub static FLOWS4: HashMap<FlowKey4, FlowRef, { 2 * CONNS }> = HashMap::new();
/// The connections themselves. Its places never move, so a walk can go on where it stopped.
#[btf_map]
pub static CONNS4: Array<Conn4, CONNS, MMAPABLE> = Array::new();
#[btf_map]
pub static FLOWS6: HashMap<FlowKey6, FlowRef, { 2 * CONNS }> = HashMap::new();
#[btf_map]
pub static CONNS6: Array<Conn6, CONNS, MMAPABLE> = Array::new();
/// Until when the table of IPv4 and that of IPv6 count as full on this processor.
#[btf_map]
pub static FULL_UNTIL: PerCpuArray<u64, 2> = PerCpuArray::new();
#[btf_map]
pub static SERVICE_IDS4: HashMap<ServiceKey4, u32, 4096> = HashMap::new();
#[btf_map]
pub static SERVICE_IDS6: HashMap<ServiceKey6, u32, 4096> = HashMap::new();
#[btf_map]
pub static SERVICES: Array<ServiceRecord, 4096, MMAPABLE> = Array::new();
#[btf_map]
pub static SERVERS: Array<ServerRecord, 16384, MMAPABLE> = Array::new();
#[btf_map]
pub static LISTS: Array<u64, 65536, MMAPABLE> = Array::new();
/// Virtual addresses, see `service::vip`.
#[btf_map]
pub static VIPS4: HashMap<u32, u32, 4096> = HashMap::new();
#[btf_map]
pub static VIPS6: HashMap<Addr6, u32, 4096> = HashMap::new();
#[btf_map]
pub static ROUTES4: LpmTrie<u32, RouteRecord, 65536> = LpmTrie::new();
#[btf_map]
pub static ROUTES6: LpmTrie<Addr6, RouteRecord, 65536> = LpmTrie::new();
/// What gives packets a firewall mark, in two parts, see `service::mark_rules`.
#[btf_map]
pub static MARK_RULES: Array<MarkRecord, { 2 * mark_rules::MAX as usize }, MMAPABLE> = Array::new();
/// The servers that `lblc` and `lblcr` remember.
#[btf_map]
pub static CACHE: HashMap<CacheKey, CacheRecord, 4096> = HashMap::new();
#[btf_map]
pub static TOTAL_STATS: PerCpuArray<StatsRecord, 1> = PerCpuArray::new();
#[btf_map]
pub static SERVICE_STATS: PerCpuArray<StatsRecord, 4096> = PerCpuArray::new();
#[btf_map]
pub static SERVER_STATS: PerCpuArray<StatsRecord, 16384> = PerCpuArray::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, COUNTERS_LEN> = PerCpuArray::new();
#[btf_map]
pub static ICMP_BUCKET: Array<u64, 1> = Array::new();
#[btf_map]
pub static BATCH: Array<BatchItem, { (REGIONS * REGION_ITEMS) as usize }, MMAPABLE> = Array::new();

/// What the backup should hear of, read by the sync threads.
#[btf_map]
pub static OFFERS: RingBuf<Offer4, { RING_BYTES as usize }> = RingBuf::new();
/// Sequence records and data of persistence engines; for user space alone.
#[btf_map]
pub static EXTRAS: HashMap<
    ExtraKey,
    ExtraRecord,
    { EXTRAS_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
/// Which sync daemons run; for user space alone.
#[btf_map]
pub static SYNC_DAEMONS: Array<SyncDaemonRecord, 2> = Array::new();

/// The programs that others go on in, by the numbers in [`program`].
#[btf_map]
pub static PROGRAMS: ProgramArray<8> = ProgramArray::new();

/// Places in `PROGRAMS`.
pub mod program {
    pub const DIRECTOR6: u32 = 0;
    pub const SCHEDULE4: u32 = 1;
    pub const SCHEDULE6: u32 = 2;
    pub const CONNECT4: u32 = 3;
    pub const CONNECT6: u32 = 4;
    pub const RECALL4: u32 = 5;
    pub const RECALL6: u32 = 6;
}

// What follows is scratch space of one program run. It lies in maps, not on the stack: there the
// verifier would follow every value it can take.

/// A packet on its way from `director` to `schedule4` and `connect4`.
#[btf_map]
pub static PASSING4: PerCpuArray<Passing4, 1> = PerCpuArray::new();
/// A packet on its way from `director6` to `schedule6` and `connect6`.
#[btf_map]
pub static PASSING6: PerCpuArray<Passing6, 1> = PerCpuArray::new();
/// Where the scheduler walks, see [`Walking`].
#[btf_map]
pub static WALKING: PerCpuArray<Walking, 1> = PerCpuArray::new();
/// Where the scheduler looks into a table, see [`Probing`].
#[btf_map]
pub static PROBING: PerCpuArray<Probing, 1> = PerCpuArray::new();
/// What the marking rules are compared with, see [`Marking`].
#[btf_map]
pub static MARKING: PerCpuArray<Marking, 1> = PerCpuArray::new();
/// Where an entry of the cache is made up, see [`Caching`].
#[btf_map]
pub static CACHING: PerCpuArray<Caching, 1> = PerCpuArray::new();
/// Where the director sums up packets, see `emit::Summing`.
#[btf_map]
pub static SUMMING: PerCpuArray<Summing, 1> = PerCpuArray::new();

#[inline(always)]
fn bump(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the value is this processor's own.
        unsafe { *counter += 1 }
    }
}

#[inline(always)]
pub fn count_verdict(verdict: Verdict) {
    bump(verdict as u32);
}

#[inline(always)]
pub fn count(event: Event) {
    bump(event as u32);
}
