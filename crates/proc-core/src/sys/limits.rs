//! Reads and sets the limits and the nice value of this process.

use std::io;

use nix::libc;
use nix::sys::resource::Resource;

/// Sets the soft and the hard limit of a resource for this process.
pub(crate) fn set_limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    Ok(nix::sys::resource::setrlimit(resource, soft, hard)?)
}

/// Sets this process's nice value.
pub(crate) fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: setpriority takes three integers; 0 means the calling process.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns how many descriptors this process may have.
pub(crate) fn limit_of_open_files() -> usize {
    let limit = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE);
    limit.map_or(usize::MAX, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Raises the limit of open descriptors to the hard limit. Returns the earlier limits; `None` if
/// nothing was raised.
pub(crate) fn raise_limit_of_open_files() -> Option<(u64, u64)> {
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft < hard && set_limit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()).then_some((soft, hard))
}

/// Restores a limit that was raised.
pub(crate) fn restore_limit_of_open_files(before: Option<(u64, u64)>) {
    if let Some((soft, hard)) = before {
        let _ = set_limit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}
