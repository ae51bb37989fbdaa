//! Array maps in this process's memory: all access to them goes through [`Mapped`] and its atomic
//! fields, because programs work in them at the same time.

use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::OpenError;

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
    /// Bytes from one element to the next: the kernel begins each at a multiple of eight.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    pub(crate) fn new(map: &MapData, writable: bool) -> Result<Mapped<T>, OpenError> {
        let failed = |reason: String| OpenError::Map(reason);
        let info = map.info().map_err(|error| failed(error.to_string()))?;
        let len = info.max_entries();
        let size = Self::STRIDE * len as usize;
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
        unsafe { self.start.byte_add(index as usize * Self::STRIDE) }
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

/// A sequentially consistent load, for fields that programs write.
pub(crate) fn load(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
}
