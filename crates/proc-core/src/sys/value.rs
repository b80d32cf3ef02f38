//! Makes values that have no bytes, and reads the clock.

use std::ptr::NonNull;

/// Returns the only value of a type without bytes. A function item is made from its type alone in
/// this way.
pub(crate) fn zst_value<F: Copy>() -> F {
    assert!(size_of::<F>() == 0, "refused by the compiler where the function was given");
    // SAFETY: F has no bytes to read, and a dangling pointer is valid and aligned for it. F has a
    // value, which is free to copy: somebody has given one, to this process or to the one that has
    // sent the function's name.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Returns the nanoseconds of the clock that all processes share and that nobody sets.
pub(crate) fn monotonic() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // The call cannot fail for this clock. Callers use zero for "never noted".
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
