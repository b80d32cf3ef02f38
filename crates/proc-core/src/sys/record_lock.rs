//! Describes a lock on one byte of a file to the kernel.

use nix::libc;

/// Returns the description of a lock of this kind (`F_RDLCK`, `F_WRLCK` or `F_UNLCK`) on a byte.
/// The type of these constants differs between systems.
pub(super) fn lock_of_byte(number: u32, kind: impl Into<libc::c_int>) -> libc::flock {
    // SAFETY: all fields are integers.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind.into() as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = libc::off_t::from(number);
    lock.l_len = 1;
    lock
}
