//! The descriptors of a process: which it has, and how to take them away.

use std::fs::File;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// This process's open descriptors by what they are, without their numbers.
pub(crate) fn descriptors() -> String {
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let mut kinds: Vec<String> = links
        .filter_map(|link| std::fs::read_link(link.ok()?.path()).ok())
        // The directory that is being read has no link any more, or points to itself.
        .filter(|target| !target.starts_with("/proc"))
        .map(|target: PathBuf| {
            let target = target.to_string_lossy();
            // pipe:[123], socket:[123], /memfd:name (deleted), /dev/null
            let kind = target.trim_start_matches('/').split([':', ' ']).next();
            kind.unwrap_or_default().to_owned()
        })
        .collect();
    kinds.sort();
    format!("{}: {}", kinds.len(), kinds.join(" "))
}

/// How many descriptors this process has open.
pub(crate) fn count_descriptors() -> usize {
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    links.count() - 1 // the directory itself
}

/// Leaves this process so many descriptors, until what is returned is dropped.
pub(crate) fn leave_descriptors(count: usize) -> Vec<File> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).expect("less is allowed");
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    files.truncate(files.len().checked_sub(count).expect("so many were free"));
    files
}
