//! The maps. User space sets the sizes when it makes them; those here are the lab's.

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use dataplane_common::batch::{BatchItem, REGION_ITEMS, REGIONS};
use dataplane_common::entry::Conn4;
use dataplane_common::layout::Layout;
use dataplane_common::offer::{Offer, RING_BYTES};
use dataplane_common::service::{
    RouteRecord, ServerRecord, ServiceKey4, ServiceRecord, StatsRecord,
};
use dataplane_common::settings::Settings;
use dataplane_common::sync_daemon::SyncDaemonRecord;
use dataplane_common::verdict::{COUNTERS as COUNTERS_LEN, Event, Verdict};
use dataplane_common::{FlowKey4, FlowRef};

use crate::emit::Summing;
use crate::schedule::Walking;

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
/// Until when the table counts as full on this processor.
#[btf_map]
pub static FULL_UNTIL: PerCpuArray<u64, 1> = PerCpuArray::new();
#[btf_map]
pub static SERVICE_IDS4: HashMap<ServiceKey4, u32, 4096> = HashMap::new();
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
pub static ROUTES4: LpmTrie<u32, RouteRecord, 65536> = LpmTrie::new();
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
pub static OFFERS: RingBuf<Offer, { RING_BYTES as usize }> = RingBuf::new();
/// Which sync daemons run; for user space alone.
#[btf_map]
pub static SYNC_DAEMONS: Array<SyncDaemonRecord, 2> = Array::new();

/// Where the director's scheduler walks, see `schedule::Walking`.
#[btf_map]
pub static WALKING: PerCpuArray<Walking, 1> = PerCpuArray::new();
/// Where the director sums up packets, see `emit::Summing`.
#[btf_map]
pub static SUMMING: PerCpuArray<Summing, 1> = PerCpuArray::new();

/// Key of [`ROUTES4`] for a whole address.
#[inline(always)]
pub fn host_route(addr: u32) -> Key<u32> {
    Key::new(32, addr)
}

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
