//! The descriptors of this process: which it has, and how to use up those that are free.

use std::fs::File;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The kinds of this process's open descriptors, sorted.
pub(crate) fn descriptors() -> String {
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let mut kinds: Vec<String> = links
        .filter_map(|link| std::fs::read_link(link.ok()?.path()).ok())
        // The descriptor by which the directory is read is closed, or leads to the directory.
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
    links.count() - 1 // the descriptor by which the directory is read
}

/// Uses up all free descriptors but `count`. Dropping the files frees them again.
pub(crate) fn leave_descriptors(count: usize) -> Vec<File> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit can be read");
    setrlimit(Resource::RLIMIT_NOFILE, 64, most).expect("less is allowed");
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    files.truncate(files.len().checked_sub(count).expect("so many were free"));
    files
}
