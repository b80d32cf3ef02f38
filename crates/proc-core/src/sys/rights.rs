//! What the kernel lets a thread do, as far as it tells: credentials belong to threads on Linux.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use nix::libc;

/// Rights of a moment, to be compared with those of another.
///
/// Not among them is what the kernel tells nobody: rules of Landlock and of other security modules, and
/// the contents of seccomp filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// The lines of /proc/PID/status that say something of rights.
    told: Vec<String>,
    root: Option<(u64, u64)>,
    namespaces: Vec<Option<OsString>>,
}

/// See proc_pid_status(5).
const LINES: [&str; 11] = [
    "Uid:",
    "Gid:",
    "Groups:",
    "CapInh:",
    "CapPrm:",
    "CapEff:",
    "CapBnd:",
    "CapAmb:",
    "NoNewPrivs:",
    "Seccomp:",
    "Seccomp_filters:",
];

/// See namespaces(7).
const NAMESPACES: [&str; 8] =
    ["cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts"];

impl Rights {
    /// What the calling thread may do now.
    ///
    /// # Errors
    ///
    /// There is no descriptor for asking.
    pub(crate) fn now() -> io::Result<Rights> {
        Rights::of("thread-self")
    }

    fn of(thread: &str) -> io::Result<Rights> {
        // Where /proc is not mounted, nothing is told.
        let status = match std::fs::read_to_string(format!("/proc/{thread}/status")) {
            Err(error) if super::is_shortage(&error) => return Err(error),
            status => status.unwrap_or_default(),
        };
        let says = |line: &&str| LINES.iter().any(|start| line.starts_with(start));
        let told = status.lines().filter(says).map(str::to_owned).collect();
        let root = std::fs::metadata("/").ok().map(|root| (root.dev(), root.ino()));
        let namespace = |name: &&str| {
            let link = std::fs::read_link(format!("/proc/{thread}/ns/{name}"));
            link.ok().map(PathBuf::into_os_string)
        };
        Ok(Rights { told, root, namespaces: NAMESPACES.iter().map(namespace).collect() })
    }

    /// The sets of capabilities among them.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let set = |start: &str| {
            let line = self.told.iter().find_map(|line| line.strip_prefix(start));
            line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(u64::MAX)
        };
        Capabilities {
            effective: set("CapEff:"),
            permitted: set("CapPrm:"),
            inheritable: set("CapInh:"),
            bounding: set("CapBnd:"),
            ambient: set("CapAmb:"),
        }
    }
}

/// Sets of capabilities, a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    effective: u64,
    permitted: u64,
    inheritable: u64,
    bounding: u64,
    ambient: u64,
}

impl Capabilities {
    /// As words for the environment of a program.
    pub(crate) fn to_words(self) -> String {
        let Capabilities { effective, permitted, inheritable, bounding, ambient } = self;
        format!("{effective:x}.{permitted:x}.{inheritable:x}.{bounding:x}.{ambient:x}")
    }

    pub(crate) fn from_words(words: &str) -> Option<Capabilities> {
        let sets: Option<Vec<u64>> =
            words.split('.').map(|set| u64::from_str_radix(set, 16).ok()).collect();
        let [effective, permitted, inheritable, bounding, ambient] = sets?.try_into().ok()?;
        Some(Capabilities { effective, permitted, inheritable, bounding, ambient })
    }

    /// Takes from the calling thread what is not among these: root gets all that it is not forbidden when
    /// it executes a program.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    #[cfg(target_os = "linux")]
    pub(crate) fn keep_no_more(self) -> io::Result<()> {
        let now = Rights::now()?.capabilities();
        let beyond = |now: u64, kept: u64| (0..64).filter(move |bit| now & !kept & 1 << bit != 0);
        for capability in beyond(now.bounding, self.bounding) {
            prctl(libc::PR_CAPBSET_DROP, capability, 0)?;
        }
        for capability in beyond(now.ambient, self.ambient) {
            prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_LOWER as libc::c_ulong, capability)?;
        }
        let kept = [
            now.effective & self.effective,
            now.permitted & self.permitted,
            now.inheritable & self.inheritable,
        ];
        if kept == [now.effective, now.permitted, now.inheritable] {
            return Ok(());
        }
        // Of include/uapi/linux/capability.h: version 3 and the calling thread; the sets by halves.
        let header: [u32; 2] = [0x2008_0522, 0];
        let halves = [0, 32].map(|shift| kept.map(|set| (set >> shift) as u32)).concat();
        // SAFETY: the kernel reads a header of two words, and six words for this version.
        match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), halves.as_ptr()) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn keep_no_more(self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(target_os = "linux")]
fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options asked for here read integers and write nothing.
    match unsafe { libc::prctl(option, first, second, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// In a thread of ours, which has the rights and processors that the program had when it was made: takes
/// over what the main thread has now.
///
/// # Errors
///
/// Something differs that a thread cannot take over from another one.
#[cfg(target_os = "linux")]
pub(crate) fn follow_main_thread() -> io::Result<()> {
    let processors = super::os::affinity_of_main_thread();
    if !processors.is_empty() && processors != super::affinity() {
        super::set_affinity(&processors)?;
    }
    let main = Rights::of("self")?;
    if main == Rights::now()? {
        return Ok(());
    }
    main.capabilities().keep_no_more()?;
    let has_none_new = |told: &String| told.starts_with("NoNewPrivs:") && told.ends_with('1');
    if main.told.iter().any(has_none_new) {
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    }
    if main == Rights::now()? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "the main thread has changed its rights since the pool was built (a seccomp filter, a namespace, \
         its groups), which other threads cannot take over: build the pool after that",
    ))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn follow_main_thread() -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn now() -> Rights {
        Rights::now().expect("there is a descriptor")
    }

    #[test]
    fn capabilities_come_back() {
        let sets = now().capabilities();
        assert_eq!(Capabilities::from_words(&sets.to_words()), Some(sets));
        assert_eq!(Capabilities::from_words("1.2.3"), None);
        assert!(sets.effective & !sets.permitted == 0, "{sets:?}");
    }

    #[test]
    fn rights_stay_the_same() {
        assert_eq!(now(), now());
        assert_eq!(now().told.len(), LINES.len());
        now().capabilities().keep_no_more().expect("there is nothing to take");
    }
}
