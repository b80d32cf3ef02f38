//! Reads the rights of a thread: what the kernel lets the thread do, as far as the kernel tells. On
//! Linux, credentials belong to threads.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use nix::fcntl::OFlag;
use nix::libc;
#[cfg(target_os = "linux")]
use nix::sys::stat::Mode;
use nix::unistd::{self, Gid, Uid};

/// Rights of a thread at one moment, to be compared with those at another moment.
///
/// A thread reads its rights each time that it starts a process. To make this cheap, rights that
/// cannot have changed are not read.
/// Some rights are missing here because the kernel does not tell them: the rules of Landlock and of
/// other security modules, and the contents of seccomp filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Real, effective and saved user ID.
    users: [u32; 3],
    /// Real, effective and saved group ID.
    groups: [u32; 3],
    supplementary_groups: Vec<u32>,
    /// Effective, permitted and inheritable capabilities: first the low halves of the three, then
    /// the high halves, as capget returns them.
    capabilities: [u32; 6],
    bounding: u64,
    ambient: u64,
    no_new_privileges: bool,
    /// Mode of seccomp, as prctl returns it.
    seccomp: i32,
    /// Device and inode of the root directory.
    root: Option<(u64, u64)>,
    namespaces: Vec<Option<OsString>>,
}

/// Numbers of capabilities, from include/uapi/linux/capability.h.
#[cfg(target_os = "linux")]
const CAP_SETPCAP: u32 = 8;
#[cfg(target_os = "linux")]
const CAP_SYS_ADMIN: u32 = 21;

/// Kinds of namespaces, see namespaces(7). A thread needs no capability to enter a new namespace of
/// the first kind. For the other kinds, it needs `CAP_SYS_ADMIN`.
#[cfg(target_os = "linux")]
const NAMESPACES: [&str; 8] =
    ["user", "cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "uts"];

impl Rights {
    /// Returns what the calling thread may do now.
    ///
    /// # Errors
    ///
    /// There is no descriptor left to read the rights.
    pub(crate) fn now() -> io::Result<Rights> {
        Rights::read(None)
    }

    /// Like [`now`](Rights::now), but takes over from `before`, an earlier reading of this thread,
    /// what the other threads of the program cannot have changed since.
    fn read(before: Option<&Rights>) -> io::Result<Rights> {
        let mut rights = Rights::default();
        #[cfg(target_os = "linux")]
        if let (Ok(users), Ok(groups)) = (unistd::getresuid(), unistd::getresgid()) {
            rights.users = [users.real, users.effective, users.saved].map(Uid::as_raw);
            rights.groups = [groups.real, groups.effective, groups.saved].map(Gid::as_raw);
        }
        // POSIX does not tell the saved IDs.
        #[cfg(not(target_os = "linux"))]
        {
            let _ = before;
            let (user, group) = (unistd::geteuid(), unistd::getegid());
            rights.users = [unistd::getuid(), user, user].map(Uid::as_raw);
            rights.groups = [unistd::getgid(), group, group].map(Gid::as_raw);
        }
        rights.supplementary_groups = groups()?;
        rights.root = std::fs::metadata("/").ok().map(|root| (root.dev(), root.ino()));
        #[cfg(target_os = "linux")]
        rights.ask_linux(before)?;
        Ok(rights)
    }

    #[cfg(target_os = "linux")]
    fn ask_linux(&mut self, before: Option<&Rights>) -> io::Result<()> {
        let header = CAPABILITIES_OF_CALLER;
        let sets = self.capabilities.as_mut_ptr();
        // SAFETY: the kernel reads a header of two words, and writes six words for this version.
        unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets) };
        let [effective, permitted, inheritable, ..] = self.capabilities;
        let has = |capability: u32| (effective | permitted) >> capability & 1 == 1;
        if inheritable | self.capabilities[5] != 0 {
            let is_set = libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong;
            let in_set = |capability| prctl(libc::PR_CAP_AMBIENT, is_set, capability);
            self.ambient = capability_set(in_set);
        }
        self.no_new_privileges = prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0).is_ok_and(|set| set == 1);
        self.seccomp = prctl(libc::PR_GET_SECCOMP, 0, 0).unwrap_or(0);
        if let Some(before) = before.filter(|before| before.capabilities == self.capabilities) {
            self.bounding = before.bounding;
            self.namespaces.clone_from(&before.namespaces);
            return Ok(());
        }
        if has(CAP_SETPCAP) {
            self.bounding =
                capability_set(|capability| prctl(libc::PR_CAPBSET_READ, capability, 0));
        }
        let count = if has(CAP_SYS_ADMIN) { NAMESPACES.len() } else { 1 };
        let directory = match nix::fcntl::open(
            "/proc/thread-self/ns",
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(directory) => directory,
            Err(errno) if super::shortage::is_shortage(&errno.into()) => return Err(errno.into()),
            // If /proc is not mounted, the namespaces stay unknown.
            Err(_) => return Ok(()),
        };
        let namespace = |name: &&str| nix::fcntl::readlinkat(&directory, *name).ok();
        self.namespaces = NAMESPACES[..count].iter().map(namespace).collect();
        Ok(())
    }
}

/// Reads the rights of the calling thread several times in a row. The bounding set and the
/// namespaces are read again only if the capabilities have changed: they take 50 system calls, and
/// a thread changes them only for itself. So the thread must call nothing of the user between two
/// readings.
///
/// A signal handler can change them too (libpsx does so for all threads). That is not noticed until
/// the next reader.
#[derive(Debug, Default)]
pub(crate) struct RightsReader {
    last: Option<Rights>,
}

impl RightsReader {
    /// Whether the calling thread has these rights now.
    ///
    /// # Errors
    ///
    /// There is no descriptor left to read the rights.
    pub(crate) fn has(&mut self, rights: &Rights) -> io::Result<bool> {
        Ok(*self.last.insert(Rights::read(self.last.as_ref())?) == *rights)
    }
}

/// Returns the set of the capabilities for which `in_set` returns 1. `in_set` fails for numbers
/// that the kernel does not know; the first of them ends the search.
#[cfg(target_os = "linux")]
fn capability_set(in_set: impl Fn(libc::c_ulong) -> io::Result<i32>) -> u64 {
    let known =
        (0..63).map_while(|capability| Some((in_set(capability).ok()? as u64) << capability));
    known.sum()
}

/// Header of capget and capset: version 3, for the calling thread.
#[cfg(target_os = "linux")]
const CAPABILITIES_OF_CALLER: [u32; 2] = [0x2008_0522, 0];

/// Rights of a thread as text. Unlike [`Rights`], they can be read for another thread.
#[derive(Debug, PartialEq, Eq)]
struct ShownRights {
    /// Lines of /proc/PID/status that concern rights.
    status: Vec<String>,
    namespaces: Vec<Option<OsString>>,
}

/// Starts of the lines that concern rights, see proc_pid_status(5).
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

impl ShownRights {
    /// Reads the rights of a thread: `thread-self` is the calling thread, `self` is the main
    /// thread.
    fn of(thread: &str) -> io::Result<ShownRights> {
        // If /proc is not mounted, the rights stay unknown.
        let status = match std::fs::read_to_string(format!("/proc/{thread}/status")) {
            Err(error) if super::shortage::is_shortage(&error) => return Err(error),
            status => status.unwrap_or_default(),
        };
        let says = |line: &&str| LINES.iter().any(|start| line.starts_with(start));
        let status = status.lines().filter(says).map(str::to_owned).collect();
        #[cfg(not(target_os = "linux"))]
        const NAMESPACES: [&str; 0] = [];
        let namespace = |name: &&str| {
            let link = std::fs::read_link(format!("/proc/{thread}/ns/{name}"));
            link.ok().map(PathBuf::into_os_string)
        };
        Ok(ShownRights { status, namespaces: NAMESPACES.iter().map(namespace).collect() })
    }

    /// Returns the sets of capabilities. A set that the kernel does not tell counts as full.
    fn capabilities(&self) -> Capabilities {
        let set = |start: &str| {
            let line = self.status.iter().find_map(|line| line.strip_prefix(start));
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

/// Sets of capabilities, with one bit for each capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    effective: u64,
    permitted: u64,
    inheritable: u64,
    bounding: u64,
    ambient: u64,
}

impl Capabilities {
    /// Returns the capabilities of the calling thread.
    ///
    /// # Errors
    ///
    /// There is no descriptor left to read them.
    pub(crate) fn now() -> io::Result<Capabilities> {
        Ok(ShownRights::of("thread-self")?.capabilities())
    }

    /// Writes the sets as text, for the environment of a program.
    pub(crate) fn to_text(self) -> String {
        let Capabilities { effective, permitted, inheritable, bounding, ambient } = self;
        format!("{effective:x}.{permitted:x}.{inheritable:x}.{bounding:x}.{ambient:x}")
    }

    pub(crate) fn from_text(text: &str) -> Option<Capabilities> {
        let sets: Option<Vec<u64>> =
            text.split('.').map(|set| u64::from_str_radix(set, 16).ok()).collect();
        let [effective, permitted, inheritable, bounding, ambient] = sets?.try_into().ok()?;
        Some(Capabilities { effective, permitted, inheritable, bounding, ambient })
    }

    /// Takes all capabilities from the calling thread that are not in these sets. A program that
    /// root has executed needs this, since it begins with every capability that root may have. A
    /// thread that [follows the main thread](follow_main_thread) needs this too.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    #[cfg(target_os = "linux")]
    pub(crate) fn keep_no_more(self) -> io::Result<()> {
        let now = Capabilities::now()?;
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
        let header = CAPABILITIES_OF_CALLER;
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
fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: with the options that are used here, the arguments are integers, and the kernel
    // writes to no memory of this process.
    match unsafe { libc::prctl(option, first, second, 0, 0) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// Gives the calling thread, which belongs to this library, the rights and processors that the main
/// thread has now. Without this call, it has those that the main thread had when it made the
/// thread.
///
/// # Errors
///
/// The threads differ in something that one thread cannot take over from another.
#[cfg(target_os = "linux")]
pub(crate) fn follow_main_thread() -> io::Result<()> {
    let processors = super::os::affinity_of_main_thread();
    if let Some(processors) = processors.filter(|main| Some(*main) != super::os::affinity()) {
        super::os::set_affinity(&processors.numbers())?;
    }
    let main = ShownRights::of("self")?;
    if main == ShownRights::of("thread-self")? {
        return Ok(());
    }
    main.capabilities().keep_no_more()?;
    let is_no_new_privs = |line: &String| line.starts_with("NoNewPrivs:") && line.ends_with('1');
    if main.status.iter().any(is_no_new_privs) {
        prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)?;
    }
    if main == ShownRights::of("thread-self")? {
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

/// Returns the supplementary groups of the calling thread.
fn groups() -> io::Result<Vec<u32>> {
    // Call libc directly: nix reads a file first, to learn how many groups there may be.
    loop {
        // SAFETY: with a size of 0 nothing is written.
        let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let mut groups = vec![0; count];
        // SAFETY: the vector has room for `count` groups.
        match unsafe { libc::getgroups(count as libc::c_int, groups.as_mut_ptr()) } {
            found if usize::try_from(found) == Ok(count) => return Ok(groups),
            -1 if nix::errno::Errno::last() != nix::errno::Errno::EINVAL => {
                return Err(io::Error::last_os_error());
            }
            _ => {} // the groups have changed meanwhile: ask again
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn from_text_returns_what_to_text_wrote() {
        let sets = Capabilities::now().expect("there is a descriptor");
        assert_eq!(Capabilities::from_text(&sets.to_text()), Some(sets));
        assert_eq!(Capabilities::from_text("1.2.3"), None);
        assert!(sets.effective & !sets.permitted == 0, "{sets:?}");
        sets.keep_no_more().expect("there is nothing to take");
    }

    #[test]
    fn a_reader_notices_what_has_changed_since_its_last_reading() {
        // A thread of its own, because it gives up rights.
        let thread = std::thread::spawn(|| {
            let now = || Rights::now().expect("there is a descriptor");
            let mut reader = RightsReader::default();
            let mut has = |rights: &Rights| reader.has(rights).expect("there is a descriptor");
            let all = now();
            assert!(has(&all) && has(&all));
            prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).expect("every thread may do this");
            assert!(!has(&all));
            let fewer = now();
            let nothing =
                Capabilities::from_text("0.0.0.ffffffffffffffff.0").expect("there are five sets");
            nothing.keep_no_more().expect("every thread may do this");
            // A user who had no capabilities has lost none.
            assert_eq!(has(&fewer), fewer == now());
            assert!(has(&now()));
        });
        thread.join().expect("all changes were noticed");
    }

    #[test]
    fn rights_are_complete_and_stay_the_same() {
        let now = || Rights::now().expect("there is a descriptor");
        assert_eq!(now(), now());
        assert!(!now().namespaces.is_empty() && now().root.is_some());
        assert_eq!(
            ShownRights::of("self").expect("there is a descriptor").status.len(),
            LINES.len()
        );
    }
}
