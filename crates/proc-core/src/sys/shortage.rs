//! Recognizes errors that mean a shortage of something in the system, and says what to do about
//! them.

use std::io;

use nix::libc;

/// Returns what to do about an error of the system, as the end of a sentence; empty if nothing is
/// known.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            "; raise the limit of open files (ulimit -n), or have fewer of them open at a time"
        }
        Some(libc::ENFILE) => {
            "; the whole system has too many open files: raise fs.file-max, or open fewer files"
        }
        Some(libc::ETOOMANYREFS) => {
            "; too many descriptors are on their way between processes: raise the limit of open files \
             (ulimit -n), or send fewer at a time"
        }
        Some(libc::EAGAIN) => {
            "; raise the limit of processes (ulimit -u, pids.max of the cgroup) or of memory (ulimit -v), \
             or start fewer"
        }
        Some(libc::ENOMEM) => {
            "; raise the limit of address space (ulimit -v, Limits::address_space) if there is one, \
             send smaller values, or fewer at a time (PoolBuilder::memory_limit)"
        }
        Some(libc::EFBIG) => {
            "; shared memory counts as a file here: raise the limit of file sizes (ulimit -f), or send \
             smaller values"
        }
        _ => "",
    }
}

/// Whether an error means that the system has too little of something.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EFBIG, libc::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}
