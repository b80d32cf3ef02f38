//! What the kernel lets the calling thread do, as far as it tells.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::libc;
use nix::unistd::{getgroups, getresgid, getresuid};

/// Rights of a moment, to be compared with those of another.
///
/// Not among them is what the kernel tells nobody: rules of Landlock and of other security modules, and
/// the contents of seccomp filters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    users: [u32; 3],
    groups: [u32; 3],
    other_groups: Vec<u32>,
    /// Effective, permitted and inheritable capabilities, as capget gives them.
    capabilities: [u32; 6],
    bounding: u64,
    ambient: u64,
    no_new_privileges: bool,
    seccomp: i32,
    root: Option<(u64, u64)>,
    namespaces: Vec<Option<OsString>>,
}

impl Rights {
    /// What the calling thread may do now.
    pub(crate) fn now() -> Rights {
        let mut rights = Rights::default();
        if let Ok(users) = getresuid() {
            rights.users = [users.real, users.effective, users.saved].map(nix::unistd::Uid::as_raw);
        }
        if let Ok(groups) = getresgid() {
            rights.groups =
                [groups.real, groups.effective, groups.saved].map(nix::unistd::Gid::as_raw);
        }
        rights.other_groups =
            getgroups().unwrap_or_default().into_iter().map(nix::unistd::Gid::as_raw).collect();
        #[cfg(target_os = "linux")]
        rights.ask_linux();
        rights.root = std::fs::metadata("/").ok().map(|root| (root.dev(), root.ino()));
        rights
    }

    #[cfg(target_os = "linux")]
    fn ask_linux(&mut self) {
        /// Of include/uapi/linux/capability.h.
        const VERSION_3: u32 = 0x2008_0522;
        let mut header = [VERSION_3, 0];
        // SAFETY: the kernel reads a header of two words, and writes six words for this version.
        unsafe {
            libc::syscall(libc::SYS_capget, header.as_mut_ptr(), self.capabilities.as_mut_ptr())
        };
        for capability in 0..63 {
            match prctl(libc::PR_CAPBSET_READ, capability, 0) {
                -1 => break,
                in_bounding => self.bounding |= u64::from(in_bounding == 1) << capability,
            }
            // Who has none in both sets has none here.
            if self.capabilities.iter().any(|word| *word != 0) {
                let is_set = libc::PR_CAP_AMBIENT_IS_SET as libc::c_ulong;
                let ambient = prctl(libc::PR_CAP_AMBIENT, is_set, capability);
                self.ambient |= u64::from(ambient == 1) << capability;
            }
        }
        self.no_new_privileges = prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0) == 1;
        // In strict mode this would kill; but then nothing of this could have been called either.
        self.seccomp = prctl(libc::PR_GET_SECCOMP, 0, 0);
        let names =
            ["cgroup", "ipc", "mnt", "net", "pid_for_children", "time_for_children", "user", "uts"];
        self.namespaces = names.iter().map(|name| namespace(name)).collect();
    }
}

#[cfg(target_os = "linux")]
fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> libc::c_int {
    // SAFETY: the options asked for here read integers and write nothing.
    unsafe { libc::prctl(option, first, second, 0, 0) }
}

/// What names the namespace that the calling thread is in, or makes children in.
#[cfg(target_os = "linux")]
fn namespace(name: &str) -> Option<OsString> {
    let path = format!("/proc/thread-self/ns/{name}");
    std::fs::read_link(path).ok().map(PathBuf::into_os_string)
}
