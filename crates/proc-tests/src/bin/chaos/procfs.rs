//! Processes, as `/proc` shows them.

use std::fmt::Write as _;
use std::fs::{read_dir, read_to_string};

/// What was seen of a process at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) pid: u32,
    pub(crate) name: String,
    /// `Z` if the process has ended and is not reaped yet.
    pub(crate) state: char,
    parent: u32,
    group: u32,
}

impl Seen {
    fn look(pid: u32) -> Option<Seen> {
        let stat = read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // pid (name) state parent group …, where the name may hold anything.
        let (start, end) = (stat.find('(')? + 1, stat.rfind(')')?);
        let mut fields = stat[end + 1..].split_ascii_whitespace();
        Some(Seen {
            pid,
            name: stat[start..end].to_owned(),
            state: fields.next()?.chars().next()?,
            parent: fields.next()?.parse().ok()?,
            group: fields.next()?.parse().ok()?,
        })
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.state != 'Z'
    }
}

/// The children of a process, ended ones included.
pub(crate) fn children(parent: u32) -> Vec<Seen> {
    let tasks = read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| read_to_string(task.path().join("children")).ok());
    let pids: Vec<u32> = lists
        .flat_map(|list| list.split_whitespace().map(str::parse).collect::<Vec<_>>())
        .filter_map(Result::ok)
        .collect();
    pids.into_iter().filter_map(Seen::look).collect()
}

/// Whether all threads of this process sleep, except the calling one. Then none is just starting.
pub(crate) fn other_threads_sleep() -> bool {
    let own = nix::unistd::gettid().to_string();
    let tasks = read_dir("/proc/self/task").into_iter().flatten().flatten();
    tasks.filter(|task| *task.file_name() != *own).all(|task| {
        let stat = read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('S'))
    })
}

/// The living fork servers of this process.
pub(crate) fn fork_servers() -> Vec<Seen> {
    let mut children = children(std::process::id());
    children.retain(|child| child.name == "forkserver" && child.is_alive());
    children
}

/// All processes of a group.
pub(crate) fn group(group: u32) -> Vec<Seen> {
    let entries = read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Seen::look).filter(|seen| seen.group == group).collect()
}

/// How many entries a directory has.
pub(crate) fn count(directory: &str) -> usize {
    read_dir(directory).map_or(0, Iterator::count)
}

/// How many bytes of addresses this process has mapped.
pub(crate) fn address_space() -> u64 {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let size = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    size.expect("Linux tells") << 10
}

/// A text that says which processes of a group are alive, and where their threads wait.
pub(crate) fn describe_group(leader: u32) -> String {
    let mut text = String::new();
    for Seen { pid, name, state, parent, .. } in group(leader) {
        let _ = writeln!(text, "  {pid} {name} {state}, child of {parent}");
        for thread in read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let read = |file| read_to_string(thread.path().join(file)).unwrap_or_default();
            let (name, wchan, call) = (read("comm"), read("wchan"), read("syscall"));
            let call = call.split_ascii_whitespace().next().unwrap_or("?");
            let _ = writeln!(text, "    thread {} in {wchan}, system call {call}", name.trim_end());
        }
    }
    text
}
