//! Processes, as `/proc` shows them.

use std::path::Path;

use nix::sys::signal::Signal;

/// Whether a process exists. It may have ended if it is not reaped.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether a process exists and has not ended.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.starts_with(" Z") && !rest.is_empty())
}

/// The children of this process, also ended ones.
pub(crate) fn children() -> Vec<u32> {
    children_of(std::process::id())
}

/// The children of a process, also ended ones.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|p| p.parse().ok()).collect()
}

/// Which signals below 32 a process blocks, ignores and handles: one bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SignalSets {
    pub(crate) blocked: u64,
    pub(crate) ignored: u64,
    pub(crate) handled: u64,
}

impl SignalSets {
    /// The sets of a process, which is named by its pid or `self`.
    pub(crate) fn of_process(process: &str) -> SignalSets {
        let status = std::fs::read_to_string(format!("/proc/{process}/status"));
        SignalSets::parse(&status.expect("/proc is mounted, and the process exists"))
    }

    /// The sets in a text of `/proc/<pid>/status`.
    pub(crate) fn parse(status: &str) -> SignalSets {
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let set = u64::from_str_radix(line.expect("it has the line").trim(), 16);
            // Real-time signals, from 32 on, may be ignored where the tests were started.
            set.expect("it is a number") & 0x7fff_ffff
        };
        SignalSets { blocked: set("SigBlk:"), ignored: set("SigIgn:"), handled: set("SigCgt:") }
    }
}

/// The bit of a signal in [`SignalSets`].
pub(crate) fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

/// How many bytes of memory a process has in pages that no file backs; 0 if it is gone.
pub(crate) fn anonymous_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
