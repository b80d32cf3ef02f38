//! The system calls proc-core needs, each behind a safe function with one meaning.
//!
//! This is the only home of `unsafe` beside the queue. What differs between systems lives in `os`:
//! Linux is the tested one, `other` keeps the same signatures with what POSIX has. Nothing here
//! knows of tasks, pools or messages.

#![allow(unsafe_code)]

#[cfg(all(target_os = "linux", not(proc_core_portable)))]
#[path = "linux.rs"]
mod os;
#[cfg(not(all(target_os = "linux", not(proc_core_portable))))]
#[path = "other.rs"]
mod os;

mod bell;
#[cfg(all(target_os = "linux", not(proc_core_portable)))]
mod cgroup;
mod crash;
mod identity;
pub(crate) mod image;
pub(crate) mod memory;
mod reserve;
mod rights;
mod startup;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::resource::Resource;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus};
use nix::unistd::{ForkResult, Pid};

pub(crate) use bell::{Bell, Heard, Ring, Tag, Taking, doorbell, put_into, take_out};
pub(crate) use crash::{prepare_last_words, say_last_words_at};
pub(crate) use identity::{PerProcess, pid};
pub(crate) use os::{
    Affinity, ExitBell, affinity, die_with_parent, name_process, set_affinity, thread_count,
    watch_process,
};
use reserve::has_address_space;
pub(crate) use reserve::{has_memory_for_messages, keep_reserve, with_reserve};
pub(crate) use rights::{Capabilities, Rights, follow_main_thread};
pub(crate) use startup::{
    Arguments, Constructor, before_main, empty_stdin, fill_standard_streams, run_constructors_after,
};

/// Proof that the calling process has one thread, so that forking it copies nobody's held lock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleThread(());

impl SingleThread {
    /// Counts the threads: `Err` holds their number, or `None` where it cannot be known.
    pub(crate) fn prove() -> Result<SingleThread, Option<usize>> {
        // A thread that was joined is still counted until the kernel has put it away.
        let patience = Instant::now() + Duration::from_millis(20);
        loop {
            match thread_count() {
                Some(1) => return Ok(SingleThread(())),
                // Where /proc is not mounted, the C library may know.
                None if never_had_threads() => return Ok(SingleThread(())),
                Some(_) if Instant::now() < patience => std::thread::yield_now(),
                other => return Err(other),
            }
        }
    }

    /// For a process that has executed nothing but constructors.
    ///
    /// Threads that a C library starts before `main` are the one exception; they are in every
    /// image of such a program, so there is no better process to fork.
    pub(crate) fn fresh_image() -> SingleThread {
        SingleThread(())
    }
}

/// Which side of a [`fork`] the caller is on.
pub(crate) enum Forked {
    Parent { child: u32 },
    Child,
}

/// Copies this process. What stdout holds is written first, so that it is not written twice.
pub(crate) fn fork(_: SingleThread) -> io::Result<Forked> {
    flush_stdout();
    // SAFETY: the token proves that no other thread can hold a lock the child would wait for.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Forked::Parent { child: child.as_raw() as u32 }),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Writes out stdout and C's buffers and ends the process without running anybody's exit handlers.
pub(crate) fn exit_now(code: i32) -> ! {
    flush(PATIENCE);
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(code) }
}

/// Has `run` called when this process ends by a return from `main` or by `exit`.
pub(crate) fn at_exit(run: extern "C" fn()) {
    // SAFETY: atexit only notes the function, which lives as long as the program. It fails where
    // there is no memory; then nothing is called.
    let _ = unsafe { libc::atexit(run) };
}

/// How long a dying process waits for threads that hold its output streams.
const PATIENCE: Duration = Duration::from_secs(1);

/// Writes out what stdout holds.
fn flush_stdout() {
    // A closed pipe is the business of whoever prints next.
    let _ = io::stdout().flush();
}

/// Writes out what stdout holds, unless another thread might be holding it.
pub(crate) fn flush_line() {
    if never_had_threads() {
        flush_stdout();
    }
}

/// Writes out what stdout and C's streams hold.
///
/// A thread that a task left behind may hold a stream for ever (C's input streams while they wait);
/// where there are threads, another one flushes, and is waited for no longer than `patience`.
pub(crate) fn flush(patience: Duration) {
    static STUCK: PerProcess<AtomicBool> = PerProcess::new();
    if has_one_thread() {
        return flush_all();
    }
    if STUCK.get().swap(true, Ordering::SeqCst) {
        return;
    }
    let (done, flushed) = std::sync::mpsc::channel();
    let flusher = spawn_thread("proc-core flush", SMALL_STACK, move || {
        flush_all();
        STUCK.get().store(false, Ordering::SeqCst);
        let _ = done.send(());
    });
    if flusher.is_ok() {
        let _ = flushed.recv_timeout(patience);
    }
}

/// Whether this process is known to have one thread now.
pub(crate) fn has_one_thread() -> bool {
    never_had_threads() || thread_count() == Some(1)
}

/// Whether this process has had one thread all its life, as far as the C library tells.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn never_had_threads() -> bool {
    unsafe extern "C" {
        /// Of glibc 2.32 and newer; false as soon as there was a second thread.
        safe static __libc_single_threaded: AtomicBool;
    }
    __libc_single_threaded.load(Ordering::Relaxed)
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn never_had_threads() -> bool {
    false
}

fn flush_all() {
    flush_stdout();
    // SAFETY: a null stream means every open one; C's streams lock themselves.
    unsafe { libc::fflush(std::ptr::null_mut()) };
}

/// In a copy of this process that a function of the user's has forked, and that has returned from
/// it: ends the copy, which has no business in what comes then. `known` is the pid of the process
/// that has called the function.
#[inline]
pub(crate) fn end_copy_of(known: u32) {
    if pid() != known {
        end_now()
    }
}

#[cold]
fn end_now() -> ! {
    // Not even what it has printed is written out: the original writes the beginning of that, too.
    // SAFETY: _exit only ends the process.
    unsafe { libc::_exit(0) }
}

/// The pid of this process's parent now.
pub(crate) fn parent_pid() -> u32 {
    nix::unistd::getppid().as_raw() as u32
}

/// Collects one child that has ended, if there is one; never blocks.
pub(crate) fn reap() -> Option<(u32, ExitStatus)> {
    wait(None, WaitPidFlag::WNOHANG)
}

/// Collects the child `pid` if it has ended; never blocks.
pub(crate) fn reap_one(pid: u32) -> Option<ExitStatus> {
    wait(Some(Pid::from_raw(pid as i32)), WaitPidFlag::WNOHANG).map(|(_, status)| status)
}

/// Collects the child `pid` when it ends, or gives up at `deadline`.
pub(crate) fn reap_until(pid: u32, deadline: Instant) -> Option<ExitStatus> {
    let end = watch_process(pid);
    loop {
        let status = reap_one(pid);
        let left = deadline.saturating_duration_since(Instant::now());
        if status.is_some() || left.is_zero() || !is_child(pid) {
            return status;
        }
        let fds: Vec<_> = end.iter().map(AsFd::as_fd).collect();
        let longest = if fds.is_empty() { Duration::from_millis(1) } else { left };
        if wait_readable(&fds, Some(left.min(longest))).is_err() {
            return None;
        }
    }
}

/// Whether `pid` is a child of this process that is not collected yet.
fn is_child(pid: u32) -> bool {
    use nix::sys::wait::{Id, waitid};
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(Pid::from_raw(pid as i32)), flags) != Err(Errno::ECHILD)
}

fn wait(pid: Option<Pid>, flags: WaitPidFlag) -> Option<(u32, ExitStatus)> {
    loop {
        // The raw layout of a wait status, which ExitStatus is built from, is POSIX's <sys/wait.h>.
        return match nix::sys::wait::waitpid(pid, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                Some((pid.as_raw() as u32, ExitStatus::from_raw((code & 0xff) << 8)))
            }
            Ok(WaitStatus::Signaled(pid, signal, core)) => Some((
                pid.as_raw() as u32,
                ExitStatus::from_raw(signal as i32 | if core { 0x80 } else { 0 }),
            )),
            Err(Errno::EINTR) => continue,
            _ => None,
        };
    }
}

/// Sends a signal to a process that the caller knows to be its unreaped child.
pub(crate) fn signal_child(pid: u32, signal: Signal) {
    // ESRCH and EPERM mean that it is a zombie already, or changed its user: nothing to do.
    let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), signal);
}

/// The signals a template does not take: it ends when its program does, not by Ctrl-C.
pub(crate) fn template_signals() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM]
        .into_iter()
        .collect()
}

/// Blocks `set` in this thread and returns the mask that was in force.
pub(crate) fn block_signals(set: &SigSet) -> io::Result<SigSet> {
    Ok(set.thread_swap_mask(SigmaskHow::SIG_BLOCK)?)
}

/// Puts back a mask that [`block_signals`] returned.
pub(crate) fn restore_signals(mask: &SigSet) {
    let _ = mask.thread_set_mask();
}

/// Makes Ctrl-C pass by this process but not by programs that it executes.
///
/// A handler that does nothing, unlike "ignore", is forgotten by exec. A handler the program
/// installed is left alone.
pub(crate) fn shrug_off_interrupt() {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler does nothing, so it is async-signal-safe.
    let old = unsafe { nix::sys::signal::sigaction(Signal::SIGINT, &action) };
    if let Ok(old) = old
        && !matches!(old.handler(), SigHandler::SigDfl)
    {
        // SAFETY: this handler was in force a moment ago.
        let _ = unsafe { nix::sys::signal::sigaction(Signal::SIGINT, &old) };
    }
}

/// Makes exits of children reported, also where the program was started with SIGCHLD ignored.
pub(crate) fn hear_children() {
    // SAFETY: the default action runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
}

/// Puts a copy of `fd` in the place of an open descriptor, whose number somebody of ours owns.
pub(crate) fn put_at(number: i32, fd: BorrowedFd<'_>) -> io::Result<()> {
    os::copy_to(fd.as_raw_fd(), number)
}

/// A copy of the open descriptor `number`, whose owner keeps it.
pub(crate) fn copy_at(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the number is open as long as its owner lives, who is borrowed by the caller.
    unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()
}

/// Whether what is written to one of two open descriptors comes out at the other, where nothing is
/// yet.
pub(crate) fn are_joined(one: i32, other: i32) -> io::Result<bool> {
    // SAFETY: as in `copy_at`.
    let fd = unsafe { BorrowedFd::borrow_raw(other) };
    if wait_readable(&[fd], Some(Duration::ZERO))?[0] {
        return Ok(false);
    }
    nix::sys::socket::send(one, &[0], nix::sys::socket::MsgFlags::MSG_NOSIGNAL)?;
    Ok(wait_readable(&[fd], Some(Duration::ZERO))?[0])
}

/// Waits until something can be read from the open descriptor `number`, or `timeout` has passed.
pub(crate) fn wait_at(number: i32, timeout: Option<Duration>) -> io::Result<bool> {
    // SAFETY: as in `copy_at`.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(wait_readable(&[fd], timeout)?[0])
}

/// The supplementary groups of the calling thread.
fn groups() -> io::Result<Vec<u32>> {
    // nix reads a file first, to learn how many there may be.
    loop {
        // SAFETY: with a size of 0 nothing is written.
        let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        let mut groups = vec![0; count];
        // SAFETY: there is room for so many.
        match unsafe { libc::getgroups(count as libc::c_int, groups.as_mut_ptr()) } {
            found if usize::try_from(found) == Ok(count) => return Ok(groups),
            -1 if Errno::last() != Errno::EINVAL => return Err(io::Error::last_os_error()),
            _ => {} // they have changed meanwhile
        }
    }
}

/// The stack of a thread that calls little, and of one that calls functions of the user's: Rust's
/// own size.
pub(crate) const SMALL_STACK: usize = 256 << 10;
pub(crate) const USUAL_STACK: usize = 2 << 20;

/// Starts a thread of ours.
///
/// # Errors
///
/// There are no threads or no memory to be had.
pub(crate) fn spawn_thread<T: Send + 'static>(
    name: &str,
    stack: usize,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    // What a thread wants beside its stack when it begins, Rust's runtime aborts the process
    // without.
    const AT_ITS_BEGINNING: usize = 1 << 20;
    if !has_address_space(stack + AT_ITS_BEGINNING) {
        return Err(Errno::ENOMEM.into());
    }
    std::thread::Builder::new().name(name.into()).stack_size(stack).spawn(run)
}

/// Whether the calling thread is the one that has begun the program.
pub(crate) fn is_main_thread() -> bool {
    #[cfg(target_os = "linux")]
    return nix::unistd::gettid() == nix::unistd::getpid();
    #[cfg(not(target_os = "linux"))]
    return false;
}

/// How many descriptors this process may have.
pub(crate) fn limit_of_open_files() -> usize {
    let limit = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE);
    limit.map_or(usize::MAX, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX))
}

/// Lets this process have as many descriptors as the hard limit says; the limit that it had.
pub(crate) fn raise_limit_of_open_files() -> Option<(u64, u64)> {
    let (soft, hard) = nix::sys::resource::getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    (soft < hard && set_limit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()).then_some((soft, hard))
}

/// Puts back a limit that was raised.
pub(crate) fn restore_limit_of_open_files(before: Option<(u64, u64)>) {
    if let Some((soft, hard)) = before {
        let _ = set_limit(Resource::RLIMIT_NOFILE, soft, hard);
    }
}

/// What to do about an error of the system, for the end of a sentence; empty where nothing is
/// known.
pub(crate) fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            "; raise the limit of open files (ulimit -n), or have fewer of them open at a time"
        }
        Some(libc::ENFILE) => {
            "; the system has no more open files to give: raise fs.file-max, or have fewer open"
        }
        Some(libc::ETOOMANYREFS) => {
            "; too many descriptors are on their way between processes: raise the limit of open files \
             (ulimit -n), or send fewer at a time"
        }
        Some(libc::EAGAIN) => {
            "; raise the limit of processes (ulimit -u, pids.max of the cgroup) or of memory (ulimit -v), \
             or start fewer"
        }
        Some(libc::ENOMEM) => {
            "; raise the limit of address space (ulimit -v, Limits::address_space) if there is one, \
             send smaller values, or fewer at a time (PoolBuilder::memory_limit)"
        }
        Some(libc::EFBIG) => {
            "; shared memory counts as a file here: raise the limit of file sizes (ulimit -f), or send \
             smaller values"
        }
        _ => "",
    }
}

/// Whether an error means that there is not enough of something.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EFBIG, libc::ETOOMANYREFS];
    error.raw_os_error().is_some_and(|errno| shortages.contains(&errno))
}

/// SIGPIPE as Rust's own start-up sets it: writing to a closed pipe is an error, not a death.
///
/// Needed where a template is born before Rust's start-up has run.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: ignoring a signal runs no code.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGPIPE, SigHandler::SigIgn) };
}

/// Waits until one of `fds` is readable or closed, or `timeout` has passed; says which are.
pub(crate) fn wait_readable(
    fds: &[BorrowedFd<'_>],
    timeout: Option<Duration>,
) -> io::Result<Vec<bool>> {
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    let timeout = timeout
        .and_then(|d| PollTimeout::try_from(d.as_millis()).ok())
        .unwrap_or(PollTimeout::NONE);
    match nix::poll::poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    Ok(polled.iter().map(|fd| fd.revents().is_some_and(|r| !r.is_empty())).collect())
}

/// Makes an already open descriptor survive the execution of `command`; the number to tell it.
pub(crate) fn pass_on(fd: &impl AsFd, command: &mut Command) -> io::Result<i32> {
    let fd = fd.as_fd().try_clone_to_owned()?;
    let number = fd.as_raw_fd();
    let inherit = move || {
        nix::fcntl::fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(inherit) };
    Ok(number)
}

/// Takes over a descriptor that [`pass_on`] sent along.
pub(crate) fn take_over(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the program that executed this one names a descriptor that it passed for us to own;
    // nothing else in this process has heard of it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match nix::fcntl::fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)) {
        Ok(_) => Ok(fd),
        Err(errno) => {
            // The number was not open, and closing it is an error too.
            std::mem::forget(fd);
            Err(errno.into())
        }
    }
}

/// In a copy of a process: closes a descriptor that its owner there never will.
pub(crate) fn close_copy(fd: BorrowedFd<'_>) {
    if fd.as_raw_fd() > 2 {
        let _ = nix::unistd::close(fd.as_raw_fd());
    }
}

/// A copy of the standard stream with this number.
pub(crate) fn own_stream(number: usize) -> io::Result<OwnedFd> {
    match number {
        0 => io::stdin().as_fd().try_clone_to_owned(),
        1 => io::stdout().as_fd().try_clone_to_owned(),
        _ => io::stderr().as_fd().try_clone_to_owned(),
    }
}

/// Makes `fd` the standard stream with this number.
pub(crate) fn put_stream(number: u8, fd: OwnedFd) -> io::Result<()> {
    // A copy at its place would be closed when executing, and here when dropped.
    let above = nix::fcntl::fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    let above = unsafe { OwnedFd::from_raw_fd(above) };
    match number {
        0 => nix::unistd::dup2_stdin(above)?,
        1 => nix::unistd::dup2_stdout(above)?,
        2 => nix::unistd::dup2_stderr(above)?,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    // Where the program had closed its standard streams, it may have come as one of them.
    if fd.as_raw_fd() <= 2 {
        std::mem::forget(fd);
    }
    Ok(())
}

/// Changes this process's environment.
pub(crate) fn set_env(_: SingleThread, name: &OsStr, value: Option<&OsStr>) {
    match value {
        // SAFETY: the token proves that nobody reads the environment meanwhile.
        Some(value) => unsafe { std::env::set_var(name, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(name) },
    }
}

/// Sets both limits of a resource for this process.
pub(crate) fn set_limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    Ok(nix::sys::resource::setrlimit(resource, soft, hard)?)
}

/// Sets this process's nice value.
pub(crate) fn set_niceness(niceness: i32) -> io::Result<()> {
    // SAFETY: setpriority takes three integers; 0 means the calling process.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The value of a type that has only one: how a function item comes back to life from its type.
pub(crate) fn conjure<F: Copy>() -> F {
    assert!(size_of::<F>() == 0, "refused by the compiler where the function was given");
    // SAFETY: F has no bytes to read, a dangling pointer is valid and aligned for it, and F is
    // inhabited and free to copy: this code is only reached through a name made from a value.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Nanoseconds of the clock that all processes share and nobody sets.
pub(crate) fn monotonic() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    // It cannot fail for this clock; zero would mean "never noted".
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// The name of a signal, such as `SIGKILL`.
pub(crate) fn signal_name(signal: i32) -> &'static str {
    Signal::try_from(signal).map_or("unknown signal", Signal::as_str)
}

/// How many processors this process may use: affinity and cgroup quota count.
pub(crate) fn available_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
