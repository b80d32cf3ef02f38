//! Queues, leases and pipes between processes (`proc_core::sync`).

pub(crate) mod bad_input;
pub(crate) mod copies;
pub(crate) mod ends;
pub(crate) mod kills;
pub(crate) mod order;
pub(crate) mod pipes;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use proc_core::{Child, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::support::Arguments;

/// Starts a process.
fn child<A, R, F>(arguments: &Arguments, function: F, argument: A) -> Child<R>
where
    A: Serialize + DeserializeOwned + 'static,
    R: Serialize + DeserializeOwned + 'static,
    F: Fn(A) -> R + Copy + Send + 'static,
{
    let process = Process::new(function, argument).start_method(arguments.start_method);
    process.start().expect("it can be started")
}

/// How many bytes the shared memory has that this process has descriptors of.
fn shared_memory() -> u64 {
    let links = std::fs::read_dir("/proc/self/fd").expect("/proc is mounted");
    let files = links.filter_map(|link| {
        let path = link.ok()?.path();
        let is_memory = std::fs::read_link(&path).ok()?.to_string_lossy().starts_with("/memfd:");
        is_memory.then(|| std::fs::metadata(&path).ok()).flatten()
    });
    // Several descriptors may be of the same memory.
    let sizes: BTreeMap<u64, u64> = files.map(|file| (file.ino(), file.blocks() * 512)).collect();
    sizes.values().sum()
}
