//! Values that have no bytes, and the time.

use std::ptr::NonNull;

/// The value of a type that has only one: how a function item comes back to life from its type.
pub(crate) fn zst_value<F: Copy>() -> F {
    assert!(size_of::<F>() == 0, "refused by the compiler where the function was given");
    // SAFETY: F has no bytes to read, a dangling pointer is valid and aligned for it, and F is
    // inhabited and free to copy: this code is only reached through a name made from a value.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Nanoseconds of the clock that all processes share and nobody sets.
pub(crate) fn monotonic() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // It cannot fail for this clock; zero would mean "never noted".
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
