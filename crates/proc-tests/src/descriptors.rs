//! What workers inherit, and what crosses beside bytes.

use std::path::PathBuf;

use proc_core::Pool;

use crate::{Arguments, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("worker-descriptors", worker_descriptors)];

/// Each worker tells its open descriptors.
fn worker_descriptors(arguments: &Arguments) {
    let pool = Pool::builder()
        .processes(arguments.number())
        .context(arguments.context)
        .initializer(|()| println!("{}", descriptors()), ())
        .build()
        .expect("the pool can be built");
    pool.close();
    pool.join().expect("the workers end");
}

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
