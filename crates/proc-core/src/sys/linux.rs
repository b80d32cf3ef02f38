//! Implements, for Linux, the calls that differ between systems.

use std::ffi::CString;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::libc;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::ClockId;
use nix::unistd::Pid;

use super::access::Access;
pub(crate) use crate::sys::cgroup::available as cgroup_memory;

/// Returns the number of threads of this process; `None` if `/proc` is not mounted.
pub(crate) fn thread_count() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count())
}

/// Returns how many bytes of memory this process has in pages that no file backs (`RssAnon`).
/// Shared memory does not count. Pages that the process has not changed since its fork do count.
pub(crate) fn own_memory() -> std::io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| std::io::ErrorKind::Unsupported.into())
}

/// Asks the kernel to send SIGKILL to this process when the thread that forked it dies.
///
/// This is only meant for children of a fork server, which lives as long as its one thread.
pub(crate) fn die_with_parent() {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

/// Sets the name that `ps -o comm` shows. The kernel keeps 15 bytes of it.
pub(crate) fn name_process(name: &str) {
    let bytes: Vec<u8> = name.bytes().filter(|b| *b != 0).take(15).collect();
    if let Ok(name) = CString::new(bytes) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}

/// Sets the processors that the calling thread may run on. They are also the processors of the
/// threads and processes that it makes later.
pub(crate) fn set_affinity(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Returns the processors that the calling thread may run on.
pub(crate) fn affinity() -> Option<Affinity> {
    sched_getaffinity(Pid::from_raw(0)).ok().map(Affinity)
}

/// Returns the processors that the main thread may run on.
pub(crate) fn affinity_of_main_thread() -> Option<Affinity> {
    sched_getaffinity(nix::unistd::getpid()).ok().map(Affinity)
}

/// Set of processors to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Affinity(CpuSet);

impl Affinity {
    /// Returns the numbers of the processors, counted from 0.
    pub(crate) fn numbers(&self) -> Vec<usize> {
        (0..CpuSet::count()).filter(|cpu| self.0.is_set(*cpu) == Ok(true)).collect()
    }
}

/// Makes an empty file without a name, whose size can be sealed.
pub(crate) fn nameless_file() -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    memfd_create(c"proc-core", flags).map_err(|errno| match errno {
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => io::Error::other(format!(
            "memfd_create was refused ({}), and without it there is no shared memory: allow it in the \
             seccomp filter, or in the profile of the container",
            errno.desc()
        )),
        errno => errno.into(),
    })
}

/// Returns how many bytes of memory are available according to the system.
pub(crate) fn system_memory() -> Option<usize> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

fn seals(access: Access) -> SealFlag {
    let size = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    match access {
        Access::Write => size,
        Access::Read => size | SealFlag::F_SEAL_WRITE,
    }
}

/// How long [`seal`] tries again while the kernel uses pages of the file.
const SEAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Fixes the size of a file for good, and its contents too if `access` is [`Access::Read`].
///
/// The kernel refuses to fix the contents while it holds a page of the file itself, for example
/// because it moves the page to other memory. It waits for a moment before it refuses. That may not
/// be enough for a large file on a busy machine, so this tries again.
pub(crate) fn seal(fd: &OwnedFd, access: Access) -> io::Result<()> {
    let deadline = Instant::now() + SEAL_TIMEOUT;
    loop {
        match fcntl(fd, FcntlArg::F_ADD_SEALS(seals(access) | SealFlag::F_SEAL_SEAL)) {
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done.map(drop).map_err(io::Error::from),
        }
    }
}

/// Whether a file has the seals for `access`.
pub(crate) fn is_sealed(fd: BorrowedFd<'_>, access: Access) -> bool {
    let has = fcntl(fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    has.is_ok_and(|has| has.contains(seals(access)))
}

/// Excludes a mapping from later forks: children do not get it.
pub(crate) fn exclude_from_fork(start: NonNull<u8>, len: usize) {
    let start = start.as_ptr().cast();
    // SAFETY: the range is one mapping of this process, and the advice changes nothing in it.
    let _ = unsafe { libc::madvise(start, len, libc::MADV_DONTFORK) };
}

/// Sets the lock of an open file description on byte 0 of its file.
pub(crate) fn lock_description(fd: BorrowedFd<'_>, kind: impl Into<libc::c_int>) -> io::Result<()> {
    Ok(fcntl(fd, FcntlArg::F_OFD_SETLK(&super::record_lock::lock_of_byte(0, kind))).map(drop)?)
}

/// Whether another open file description of the file has a lock on byte 0; `None` if the kernel
/// does not tell.
pub(crate) fn is_description_locked_by_others(fd: BorrowedFd<'_>) -> Option<bool> {
    let mut lock = super::record_lock::lock_of_byte(0, libc::F_WRLCK);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock)).ok()?;
    Some(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Frees the memory of a part of a memfd.
pub(crate) fn give_back(fd: BorrowedFd<'_>, offset: u64, len: u64) {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let _ = fallocate(fd, flags, offset as libc::off_t, len as libc::off_t);
}

/// Replaces the open descriptor `to` by a copy of `from`.
pub(crate) fn copy_to(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: dup3 takes three integers. The descriptor that it closes belongs to the caller, who
    // gets the copy instead.
    match unsafe { libc::dup3(from, to, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Maps a page of zeros that is filled with zeros again in each child of a fork; `None` if the
/// kernel has no such pages (before 4.14).
pub(crate) fn page_emptied_by_fork() -> Option<NonNull<u8>> {
    const LEN: NonZeroUsize = NonZeroUsize::new(1).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses a free address.
    let page =
        unsafe { nix::sys::mman::mmap_anonymous(None, LEN, protection, MapFlags::MAP_PRIVATE) };
    let page = page.ok()?;
    // SAFETY: the page was mapped just now, and nothing else uses it.
    match unsafe { libc::madvise(page.as_ptr(), LEN.get(), libc::MADV_WIPEONFORK) } {
        0 => Some(page.cast()),
        _ => {
            // SAFETY: as above.
            let _ = unsafe { nix::sys::mman::munmap(page, LEN.get()) };
            None
        }
    }
}

/// Opens a descriptor that becomes readable when process `pid` ends; `None` if the kernel has no
/// such descriptors.
pub(crate) fn watch_process(pid: u32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kills the processes that have this name and a descriptor of the socket `inode`.
pub(crate) fn kill_holders_of_socket(inode: u64, name: &str) {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok()) else {
            continue;
        };
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if comm.strip_suffix('\n') != Some(name) {
            continue;
        }
        // Open this before the look at its descriptors. If another process gets the pid in between,
        // the signal does not reach that process.
        let Some(process) = watch_process(pid) else { continue };
        let fds = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        if fds.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|link| link == socket) {
            let _ = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL);
        }
    }
}

/// Returns the processor time that process `pid` has used. The process is not reaped yet.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid as i32)).ok()?;
    clock.now().ok().map(Duration::from)
}

/// Descriptor that becomes readable when a child may have ended. SIGCHLD must be blocked.
#[derive(Debug)]
pub(crate) struct ChildExits(SignalFd);

impl ChildExits {
    pub(crate) fn new() -> io::Result<ChildExits> {
        let set: SigSet = [Signal::SIGCHLD].into_iter().collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(ChildExits(SignalFd::with_flags(&set, flags)?))
    }

    /// Makes the descriptor unreadable until the next exit. Call this before reaping the children.
    pub(crate) fn clear(&self) {
        while let Ok(Some(_)) = self.0.read_signal() {}
    }

    /// Returns the descriptor to wait on; `None` on a system where the caller must poll instead.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
