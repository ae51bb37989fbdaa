//! The pinned maps, typed; the only file with their names, and with the memory they are mapped to.
//!
//! Arrays that user space edits field by field, or only reads, are mapped. All access to mapped
//! memory goes through [`Mapped`] and its atomic fields: programs work in it at the same time.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, PerCpuArray};
use dataplane_common::batch::BatchItem;
use dataplane_common::entry::Conn4;
use dataplane_common::layout::Layout;
use dataplane_common::service::{
    RouteRecord, ServerRecord, ServiceKey4, ServiceRecord, StatsRecord,
};
use dataplane_common::settings::Settings;
use dataplane_common::sync_daemon::SyncDaemonRecord;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::{OpenError, TableSizes};

/// Every map of the object, in the order in which their pins are listed.
pub(crate) const NAMES: [&str; 19] = [
    "LAYOUT",
    "SETTINGS",
    "FLOWS4",
    "CONNS4",
    "FULL_UNTIL",
    "SERVICE_IDS4",
    "SERVICES",
    "SERVERS",
    "LISTS",
    "VIPS4",
    "ROUTES4",
    "TOTAL_STATS",
    "SERVICE_STATS",
    "SERVER_STATS",
    "COUNTERS",
    "ICMP_BUCKET",
    "BATCH",
    "OFFERS",
    "SYNC_DAEMONS",
];

/// Routes the data plane keeps at most.
pub(crate) const ROUTES_MAX: u32 = 65_536;

/// Entries of each map whose size the configuration decides.
pub(crate) fn max_entries(sizes: &TableSizes) -> [(&'static str, u32); 9] {
    [
        ("FLOWS4", sizes.connections_v4.saturating_mul(2)),
        ("CONNS4", sizes.connections_v4),
        ("SERVICE_IDS4", sizes.services),
        ("SERVICES", sizes.services),
        ("SERVERS", sizes.servers),
        ("LISTS", list_words(sizes)),
        ("VIPS4", sizes.services.saturating_mul(2)),
        ("SERVICE_STATS", sizes.services),
        ("SERVER_STATS", sizes.servers),
    ]
}

/// Words for the lists of all services, four times over: an edit writes the new list beside the old
/// one, and with the old one in the middle there must still be room on one side.
pub(crate) fn list_words(sizes: &TableSizes) -> u32 {
    sizes
        .servers
        .saturating_add(sizes.services.saturating_mul(2))
        .saturating_mul(4)
        .max(1024)
}

/// An array map in this process's memory.
pub(crate) struct Mapped<T> {
    start: NonNull<T>,
    len: u32,
    bytes: NonZeroUsize,
    _elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and every access is atomic or a
// copy of plain integers.
unsafe impl<T: Send> Send for Mapped<T> {}

impl<T> Mapped<T> {
    fn new(map: &MapData, writable: bool) -> Result<Mapped<T>, OpenError> {
        let failed = |reason: String| OpenError::Map(reason);
        let info = map.info().map_err(|error| failed(error.to_string()))?;
        let len = info.max_entries();
        let size = size_of::<T>() * len as usize;
        let bytes = NonZeroUsize::new(size).ok_or_else(|| failed("map without elements".into()))?;
        let access = ProtFlags::PROT_READ
            | if writable {
                ProtFlags::PROT_WRITE
            } else {
                ProtFlags::empty()
            };
        // SAFETY: a new mapping at an address of the kernel's choice; the descriptor is open.
        let start = unsafe {
            mmap(
                None,
                bytes,
                access,
                MapFlags::MAP_SHARED,
                map.fd().as_fd(),
                0,
            )
        };
        let start = start.map_err(|error| failed(format!("mapping {bytes} bytes: {error}")))?;
        Ok(Mapped {
            start: start.cast(),
            len,
            bytes,
            _elements: PhantomData,
        })
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Where element `index` is, inside the mapping.
    fn at(&self, index: u32) -> NonNull<T> {
        assert!(
            index < self.len,
            "place {index} is outside a map of {}",
            self.len
        );
        // SAFETY: the index is inside the mapping.
        unsafe { self.start.add(index as usize) }
    }

    /// A copy of an element. Fields that programs change may be from different moments.
    pub(crate) fn read(&self, index: u32) -> T
    where
        T: Copy,
    {
        // SAFETY: `at` gives a valid, aligned place of plain integers; volatile, because others
        // write there.
        unsafe { self.at(index).read_volatile() }
    }

    /// A 64-bit field of an element, by its offset in bytes.
    pub(crate) fn word(&self, index: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= size_of::<T>());
        // SAFETY: inside the element, aligned to 8, and shared with atomic accesses only.
        unsafe { AtomicU64::from_ptr(self.at(index).as_ptr().byte_add(offset).cast()) }
    }

    /// A 32-bit field of an element, by its offset in bytes.
    pub(crate) fn half(&self, index: u32, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= size_of::<T>());
        // SAFETY: inside the element, aligned to 4, and shared with atomic accesses only.
        unsafe { AtomicU32::from_ptr(self.at(index).as_ptr().byte_add(offset).cast()) }
    }
}

impl<T: Copy> Mapped<T> {
    /// Writes a whole element that no program reads at this moment.
    pub(crate) fn write(&mut self, index: u32, value: T) {
        // SAFETY: as in `read`; the caller knows that the place is not in use.
        unsafe { self.at(index).write_volatile(value) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length and nothing refers to it any more.
        let unmapped = unsafe { munmap(self.start.cast(), self.bytes.get()) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Stores a field of a mapped element: `store!(map, index, Type.field = value)`.
macro_rules! store {
    ($map:expr, $index:expr, $type:ident . $field:ident, $width:ident, $value:expr) => {
        $map.$width($index, core::mem::offset_of!($type, $field))
            .store($value, core::sync::atomic::Ordering::SeqCst)
    };
}
pub(crate) use store;

/// All maps of the data plane.
pub(crate) struct Maps {
    pub(crate) layout: Array<MapData, Layout>,
    pub(crate) settings: Mapped<Settings>,
    pub(crate) conns4: Mapped<Conn4>,
    pub(crate) service_ids4: HashMap<MapData, ServiceKey4, u32>,
    pub(crate) services: Mapped<ServiceRecord>,
    pub(crate) servers: Mapped<ServerRecord>,
    pub(crate) lists: Mapped<u64>,
    pub(crate) vips4: HashMap<MapData, u32, u32>,
    pub(crate) routes4: LpmTrie<MapData, u32, RouteRecord>,
    pub(crate) total_stats: PerCpuArray<MapData, StatsRecord>,
    pub(crate) service_stats: PerCpuArray<MapData, StatsRecord>,
    pub(crate) server_stats: PerCpuArray<MapData, StatsRecord>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    pub(crate) batch: Mapped<BatchItem>,
    pub(crate) flows4: HashMap<MapData, dataplane_common::FlowKey4, dataplane_common::FlowRef>,
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
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .ok_or_else(|| OpenError::Map(format!("{name} is not in the object")))
        };
        Ok(Maps {
            layout: typed(take("LAYOUT")?)?,
            settings: Mapped::new(data(&take("SETTINGS")?)?, true)?,
            conns4: Mapped::new(data(&take("CONNS4")?)?, false)?,
            service_ids4: typed(take("SERVICE_IDS4")?)?,
            services: Mapped::new(data(&take("SERVICES")?)?, true)?,
            servers: Mapped::new(data(&take("SERVERS")?)?, true)?,
            lists: Mapped::new(data(&take("LISTS")?)?, true)?,
            vips4: typed(take("VIPS4")?)?,
            routes4: typed(take("ROUTES4")?)?,
            total_stats: typed(take("TOTAL_STATS")?)?,
            service_stats: typed(take("SERVICE_STATS")?)?,
            server_stats: typed(take("SERVER_STATS")?)?,
            counters: typed(take("COUNTERS")?)?,
            batch: Mapped::new(data(&take("BATCH")?)?, true)?,
            flows4: typed(take("FLOWS4")?)?,
            sync_daemons: typed(take("SYNC_DAEMONS")?)?,
            memory_bytes,
        })
    }
}

fn typed<T: TryFrom<Map, Error = aya::maps::MapError>>(map: Map) -> Result<T, OpenError> {
    T::try_from(map).map_err(|error| OpenError::Map(error.to_string()))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's list of map types grows; ours are these five"
)]
fn data(map: &Map) -> Result<&MapData, OpenError> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
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

/// Sum over processors.
pub(crate) fn sum(stats: &PerCpuArray<MapData, StatsRecord>, index: u32) -> StatsRecord {
    let mut total = StatsRecord::default();
    let Ok(values) = stats.get(&index, 0) else {
        return total;
    };
    for value in values.iter() {
        total.conns = total.conns.wrapping_add(value.conns);
        total.in_pkts = total.in_pkts.wrapping_add(value.in_pkts);
        total.out_pkts = total.out_pkts.wrapping_add(value.out_pkts);
        total.in_bytes = total.in_bytes.wrapping_add(value.in_bytes);
        total.out_bytes = total.out_bytes.wrapping_add(value.out_bytes);
    }
    total
}

/// Waits until every program run that is in progress has ended (an RCU grace period).
pub(crate) fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes integers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        // Refused where some processors run without a tick. Runs are bounded to well below this.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

/// A grace period that somebody waits for without standing still: it takes 10 ms and more.
#[derive(Debug)]
pub(crate) struct Grace {
    is_over: Arc<AtomicBool>,
}

impl Grace {
    /// Begins now.
    pub(crate) fn begin() -> Grace {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = std::thread::Builder::new().name("grace-period".into());
        let waiting = thread.spawn(move || {
            grace_period();
            told.store(true, Ordering::Release);
        });
        if waiting.is_err() {
            grace_period();
            is_over.store(true, Ordering::Release);
        }
        Grace { is_over }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }
}

/// A sequentially consistent load, for fields that programs write.
pub(crate) fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
}
