//! System calls and crashes for which there is no safe code.

#![allow(unsafe_code, reason = "safe code cannot make these calls and crashes")]

use std::ffi::CString;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::libc::{self, c_int, c_long, c_ulong};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction, signal};

/// The number of a system call, by its name. Tests refuse these calls.
pub(crate) fn number_of(call: &str) -> c_long {
    match call {
        "memfd_create" => libc::SYS_memfd_create,
        "signalfd" => libc::SYS_signalfd4,
        "pidfd_open" => libc::SYS_pidfd_open,
        "eventfd" => libc::SYS_eventfd2,
        "close_range" => libc::SYS_close_range,
        "nothing" => -1,
        other => panic!("no such system call: {other}"),
    }
}

/// Makes the kernel refuse a system call with `errno` from now on, in this process and its
/// children.
pub(crate) fn refuse(call: c_long, errno: Errno) {
    const BYTES: u32 = size_of::<libc::sock_filter>() as u32;
    const { assert!(BYTES == 8, "as the kernel has it") };
    let code = |code: u32| u16::try_from(code).expect("codes are short");
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let load = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
    let equal = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
    let answer = code(libc::BPF_RET | libc::BPF_K);
    let mut steps = [
        step(load, 0, 0, 0), // the number of the system call is the first field
        step(equal, 0, 1, call as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(answer, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    let mode: c_ulong = libc::SECCOMP_MODE_FILTER.into();
    // SAFETY: the kernel copies the four steps, which live until the call has returned.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) };
    Errno::result(set).expect("root may set a filter");
}

/// The first argument of `capset`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// One half of the bits of the three sets.
#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets the effective and the permitted capabilities of this thread; none is inheritable.
pub(crate) fn set_capabilities(effective: u64, permitted: u64) {
    const VERSION_3: u32 = 0x2008_0522;
    let header = CapabilityHeader { version: VERSION_3, pid: 0 };
    let half = |shift: u32| CapabilityData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: 0,
    };
    let data = [half(0), half(32)];
    // SAFETY: the kernel reads a header, and two halves as the version in the header says.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    Errno::result(set).expect("a thread may give up capabilities");
}

/// Empties the bounding set of this thread.
pub(crate) fn drop_bounding_set() {
    for capability in 0_u64..64 {
        // SAFETY: no memory is passed.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability as c_ulong) };
        if dropped == -1 {
            assert!(capability > 30, "{}", Errno::last());
            return;
        }
    }
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("there is no zero in it")
}

/// Mounts `source` at `target`.
fn mount(source: &str, target: &str, kind: &str, flags: c_ulong) {
    let (source, target, kind) = (c_string(source), c_string(target), c_string(kind));
    // SAFETY: the three strings end with a zero, and there is no data.
    let mounted = unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null())
    };
    Errno::result(mounted).unwrap_or_else(|error| panic!("cannot mount at {target:?}: {error}"));
}

/// Gives this process mounts of its own, so that its mounts do not change those of others.
pub(crate) fn own_mounts() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
    mount("none", "/", "none", libc::MS_REC | libc::MS_PRIVATE);
}

/// Hides a directory behind an empty one. Call [`own_mounts`] before.
pub(crate) fn hide(directory: &str) {
    mount("none", directory, "tmpfs", 0);
}

/// Shows a directory in a second place. Call [`own_mounts`] before.
pub(crate) fn show(directory: &str, place: &str) {
    mount(directory, place, "none", libc::MS_BIND | libc::MS_REC);
}

/// Writes to a field of a null pointer. The checks of Rust accept its address.
pub(crate) fn write_to_null() {
    let nowhere = std::hint::black_box(std::ptr::without_provenance_mut::<u8>(8));
    // SAFETY: this is not safe: it is meant to kill the process.
    unsafe { std::ptr::write_volatile(nowhere, 1) };
}

/// Reads mapped memory behind the end of its file, which raises SIGBUS.
pub(crate) fn read_behind_the_end() -> u8 {
    const LEN: usize = 4096;
    let file = tempfile::tempfile().expect("a file can be made");
    let file = std::os::fd::AsRawFd::as_raw_fd(&file);
    // SAFETY: the kernel chooses a free place for the mapping.
    let place = unsafe {
        libc::mmap(std::ptr::null_mut(), LEN, libc::PROT_READ, libc::MAP_SHARED, file, 0)
    };
    assert_ne!(place, libc::MAP_FAILED);
    // SAFETY: this is not safe: it is meant to kill the process.
    unsafe { std::ptr::read_volatile(place.cast::<u8>()) }
}

/// Ends the process as a failed assertion in C does.
pub(crate) fn abort_in_c() {
    // SAFETY: this only ends the process, on purpose.
    unsafe { libc::abort() }
}

/// Ignores SIGCHLD, so that the kernel reaps children.
pub(crate) fn ignore_exits() {
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { signal(Signal::SIGCHLD, SigHandler::SigIgn) };
}

/// How often each signal has come since [`count_signal`] was called, by its number.
static COUNTS: [AtomicUsize; 65] = [const { AtomicUsize::new(0) }; 65];

/// Sets a handler that counts a signal.
pub(crate) fn count_signal(signal: Signal) {
    extern "C" fn count(signal: c_int) {
        COUNTS[signal as usize].fetch_add(1, Ordering::SeqCst);
    }
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only adds to an atomic.
    let set = unsafe { sigaction(signal, &action) };
    set.expect("these signals can be handled");
}

/// Sends a signal by its number: nix has no real-time signals.
pub(crate) fn send_signal(pid: u32, number: c_int) {
    // SAFETY: no memory is passed.
    let sent = unsafe { libc::kill(pid as libc::pid_t, number) };
    Errno::result(sent).expect("the process is not reaped yet");
}

/// Gives a signal its default action.
pub(crate) fn reset_signal(number: Signal) {
    // SAFETY: the default action runs no code.
    let set = unsafe { signal(number, SigHandler::SigDfl) };
    set.expect("these signals can be handled");
}

/// How often a signal has come since [`count_signal`] was called, here or in the process that this
/// one is a copy of.
pub(crate) fn counted(signal: Signal) -> usize {
    COUNTS[signal as usize].load(Ordering::SeqCst)
}

unsafe extern "C" {
    safe fn getchar() -> i32;
}

/// Waits in C for a character of stdin, and holds the stream meanwhile.
pub(crate) fn read_character() -> i32 {
    getchar()
}

/// Sets the limit of processes (`RLIMIT_NPROC`) of process `pid`: it can start no other while its
/// user has so many.
pub(crate) fn limit_processes(pid: u32, soft: u64, hard: u64) {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit and writes none. For a process of another user the call
    // fails, which does no harm.
    let _ = unsafe { libc::prlimit(pid as i32, libc::RLIMIT_NPROC, &limit, std::ptr::null_mut()) };
}

/// Fills every shared mapping of this process that can be written to.
pub(crate) fn overwrite_shared_memory(byte: u8) {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let mut overwritten = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-s ")) {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let (start, end) = range.expect("a line begins with a range");
        let address = |text| usize::from_str_radix(text, 16).expect("addresses are hexadecimal");
        let (start, end) = (address(start), address(end));
        // SAFETY: the kernel has just said that these pages are mapped and may be written. No Rust
        // object of this process lives in memory that other processes may change. The program is
        // meant to harm other processes.
        unsafe { std::ptr::write_bytes(start as *mut u8, byte, end - start) };
        overwritten += 1;
    }
    assert!(overwritten > 0, "there is shared memory");
}
