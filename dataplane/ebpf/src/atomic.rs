//! Atomic operations on map values.
//!
//! The target has no `core::sync::atomic` read-modify-write operations, so they are written as the
//! instructions they become.

use core::arch::asm;
use core::ptr;

/// Adds without giving the result back.
///
/// # Safety
/// `at` points into a map value and is aligned to 8 bytes.
#[inline(always)]
pub unsafe fn add(at: *mut u64, value: u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) at, in(reg) value) }
}

/// Adds, and gives back what was there before.
///
/// # Safety
/// `at` points into a map value and is aligned to 8 bytes.
#[inline(always)]
pub unsafe fn fetch_add(at: *mut u64, value: u64) -> u64 {
    let mut found = value;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!(
            "{1} = atomic_fetch_add((u64 *)({0} + 0), {1})",
            in(reg) at,
            inout(reg) found,
        );
    }
    found
}

/// Swaps `old` for `new`; true when `old` was there.
///
/// # Safety
/// `at` points into a map value and is aligned to 8 bytes.
#[inline(always)]
pub unsafe fn swap(at: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the caller vouches for the pointer.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({0} + 0, r0, {1})",
            in(reg) at,
            in(reg) new,
            inout("r0") old => found,
        );
    }
    found == old
}

/// Reads a word that others change.
///
/// # Safety
/// `at` points into a map value and is aligned to 8 bytes.
#[inline(always)]
pub unsafe fn load(at: *const u64) -> u64 {
    // SAFETY: the caller vouches for the pointer.
    unsafe { ptr::read_volatile(at) }
}

/// Writes a word that others read.
///
/// # Safety
/// `at` points into a map value and is aligned to 8 bytes.
#[inline(always)]
pub unsafe fn store(at: *mut u64, value: u64) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { ptr::write_volatile(at, value) }
}

/// Sets bits of a 32-bit word that others change.
///
/// # Safety
/// `at` points into a map value and is aligned to 4 bytes.
#[inline(always)]
pub unsafe fn or32(at: *mut u32, bits: u32) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u32 *)({0} + 0) |= {1}", in(reg) at, in(wreg) bits) }
}

/// Keeps only these bits of a 32-bit word that others change.
///
/// # Safety
/// `at` points into a map value and is aligned to 4 bytes.
#[inline(always)]
pub unsafe fn and32(at: *mut u32, bits: u32) {
    // SAFETY: the caller vouches for the pointer.
    unsafe { asm!("lock *(u32 *)({0} + 0) &= {1}", in(reg) at, in(wreg) bits) }
}
