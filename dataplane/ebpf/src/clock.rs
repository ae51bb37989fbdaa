//! The two clocks of the programs.

use aya_ebpf::helpers::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};

/// CLOCK_MONOTONIC_COARSE in nanoseconds: connection timers, whose unit is the second. Like the
/// kernel's own timers it moves in ticks and stands still while the host is suspended.
#[inline(always)]
pub fn coarse_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// CLOCK_BOOTTIME in nanoseconds: leases, which run on through a suspend.
#[inline(always)]
pub fn boot_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
