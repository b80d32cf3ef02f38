//! Computes how much more memory the cgroups of this process allow.
//!
//! A process is in one cgroup of each hierarchy, and every cgroup above that one may have a limit
//! too. See cgroups(7). The kernel's cgroup-v2 and cgroup-v1 documentation describes the files in
//! the sections named "Memory".

use std::path::{Path, PathBuf};

/// Returns how many bytes this process may still take before it reaches a limit of its cgroups;
/// `None` if there is no limit.
pub(crate) fn available() -> Option<usize> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    available_in(&groups, &mounts)
}

/// Computes [`available`] from the contents of /proc/self/cgroup and /proc/self/mounts.
fn available_in(groups: &str, mounts: &str) -> Option<usize> {
    let left = groups.lines().filter_map(|line| {
        // A line is `4:memory:/path` in version 1, and `0::/path` in version 2.
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let version = if controllers.is_empty() { Version::Two } else { Version::One };
        let is_memory = |controller| controller == "memory";
        if version == Version::One && !controllers.split(',').any(is_memory) {
            return None;
        }
        let root = version.mount_point(mounts)?;
        let ours = root.join(path.trim_start_matches('/'));
        let all = ours.ancestors().take_while(|group| group.starts_with(&root));
        all.filter_map(|group| version.files().left(group)).min()
    });
    left.min()
}

/// Version of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// Returns where the hierarchy with the memory controller is mounted.
    fn mount_point(self, mounts: &str) -> Option<PathBuf> {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind, options) =
                (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            let is_meant = match self {
                Version::One => kind == "cgroup" && options.split(',').any(|o| o == "memory"),
                Version::Two => kind == "cgroup2",
            };
            is_meant.then(|| PathBuf::from(path))
        })
    }

    fn files(self) -> &'static Files {
        match self {
            Version::One => &FILES_1,
            Version::Two => &FILES_2,
        }
    }
}

/// Names of the files in one version of cgroups.
struct Files {
    limit: &'static str,
    used: &'static str,
    /// Start of the line in memory.stat that counts used memory which the kernel can take back: the
    /// part of the page cache that nobody has used lately.
    cache: &'static str,
}

const FILES_1: Files = Files {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cache: "total_inactive_file ",
};

const FILES_2: Files =
    Files { limit: "memory.max", used: "memory.current", cache: "inactive_file " };

impl Files {
    /// Returns how many bytes the limit of one cgroup leaves; `None` if the files do not tell a
    /// limit.
    fn left(&self, group: &Path) -> Option<usize> {
        let read = |name: &str| std::fs::read_to_string(group.join(name)).ok();
        // Without a limit, the file contains the word "max" in version 2, which is no number. In
        // version 1 it contains a huge number.
        let limit: usize = read(self.limit)?.trim().parse().ok()?;
        let used: usize = read(self.used)?.trim().parse().ok()?;
        let statistics = read("memory.stat").unwrap_or_default();
        let cache = statistics.lines().find_map(|line| line.strip_prefix(self.cache));
        let cache = cache.and_then(|number| number.parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cache)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let group = root.join(path);
        std::fs::create_dir_all(&group).expect("it is a temporary directory");
        for (name, text) in files {
            std::fs::write(group.join(name), text).expect("it is a temporary directory");
        }
    }

    #[test]
    fn available_obeys_the_tightest_limit_of_all_ancestors() {
        let root = tempfile::tempdir().expect("there is a temporary directory");
        let at = root.path();
        group(at, "", &[]);
        group(at, "a", &[("memory.max", "1000\n"), ("memory.current", "700\n")]);
        let stat = "anon 5\ninactive_file 100\nactive_file 9\n";
        group(at, "a/b", &[("memory.max", "max\n"), ("memory.current", "9\n")]);
        group(
            at,
            "a/c",
            &[("memory.max", "500\n"), ("memory.current", "450\n"), ("memory.stat", stat)],
        );
        let mounts = format!("proc /proc proc rw 0 0\ncgroup2 {} cgroup2 rw 0 0\n", at.display());
        assert_eq!(available_in("0::/a/b\n", &mounts), Some(300));
        assert_eq!(available_in("0::/a/c\n", &mounts), Some(150));
        assert_eq!(available_in("0::/\n", &mounts), None);
        assert_eq!(available_in("0::/a/b\n", "proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn available_obeys_version_1_too() {
        let root = tempfile::tempdir().expect("there is a temporary directory");
        let at = root.path();
        let files = [("memory.limit_in_bytes", "1000\n"), ("memory.usage_in_bytes", "1200\n")];
        group(at, "job", &files);
        let mounts = format!(
            "cgroup {0}/cpu cgroup rw,cpu 0 0\ncgroup {0} cgroup rw,relatime,memory 0 0\n",
            at.display()
        );
        let groups = "3:cpu:/\n4:memory:/job\n0::/job\n";
        assert_eq!(available_in(groups, &mounts), Some(0));
    }
}
