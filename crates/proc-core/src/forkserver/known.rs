//! Keeps the fork servers that this process must look after: those that are its children, which it
//! reaps, and those of other processes that have made daemons of this process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{Request, ServerLink};
use crate::sys::{self, PerProcess};

#[derive(Default)]
struct ForkServers {
    /// Whether this process makes no more fork servers.
    ends: bool,
    /// Fork servers that are children of this process and not reaped yet.
    children: Vec<Known>,
    /// Links to fork servers of other processes that have made daemons of this process.
    of_daemons: Vec<Arc<ServerLink>>,
}

/// Fork server that is a child of this process.
pub(super) struct Known {
    pub(super) pid: u32,
    /// Link to the fork server; `None` once there is nothing more to tell it.
    pub(super) line: Option<Arc<ServerLink>>,
    /// Whether the fork server was told to end, or was found dead.
    ends: bool,
    /// Whether the fork server has made daemons of this process.
    has_daemons: bool,
    /// Pipe end that tells a fork server of which nobody wants anything more when this process ends
    /// or executes another program: its children must not outlive that.
    life: Option<OwnedFd>,
}

impl ForkServers {
    /// Prevents further fork servers, and returns those that exist.
    fn end(&mut self) -> Vec<Known> {
        self.ends = true;
        std::mem::take(&mut self.children)
    }

    fn collect_ended(&mut self) {
        // The program itself, or the system where SIGCHLD is ignored, may have reaped some.
        let is_over = |pid| sys::reap_one(pid).is_some() || !sys::is_child(pid);
        self.children.retain(|child| !child.ends || !is_over(child.pid));
    }
}

/// Fork servers of this process. A copy that a user's `fork` makes begins with none: the fork
/// servers of its parent serve the parent.
static FORK_SERVERS: PerProcess<Mutex<ForkServers>> = PerProcess::new();

fn fork_servers() -> MutexGuard<'static, ForkServers> {
    FORK_SERVERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lock that a thread holds while it makes a fork server. Making one takes a while, so only one is
/// made at a time.
static MAKING: PerProcess<Mutex<()>> = PerProcess::new();

/// Waits until no other thread makes a fork server, and keeps others from making one while the
/// guard lives.
pub(super) fn make() -> MutexGuard<'static, ()> {
    MAKING.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether another thread is making a fork server.
pub(super) fn is_making() -> bool {
    MAKING.get().try_lock().is_err_and(|error| matches!(error, TryLockError::WouldBlock))
}

/// In a new process: begins without fork servers.
pub(super) fn begin() {
    FORK_SERVERS.inherit();
    // Drop the values of the parent without holding the lock.
    let inherited = std::mem::take(&mut *fork_servers());
    drop(inherited);
}

/// Reaps the fork servers that have ended.
///
/// # Errors
///
/// The program is ending.
pub(super) fn check_open() -> io::Result<()> {
    let mut known = fork_servers();
    known.collect_ended();
    if known.ends { Err(io::Error::other("the program is ending")) } else { Ok(()) }
}

/// Notes a new fork server that is a child of this process, so that it is reaped later.
pub(super) fn note(pid: u32, line: &Arc<ServerLink>) {
    let line = Some(Arc::clone(line));
    fork_servers().children.push(Known { pid, line, ends: false, has_daemons: false, life: None });
}

/// Notes that a fork server was told to end. It is reaped at the next opportunity.
pub(super) fn collect_later(fork_server: u32, mut life: Option<OwnedFd>) {
    let mut known = fork_servers();
    for child in known.children.iter_mut().filter(|child| child.pid == fork_server) {
        child.ends = true;
        child.life = life.take();
        child.line.take_if(|_| !child.has_daemons);
    }
    known.collect_ended();
}

/// Waits for the exit of a fork server that was told to end.
pub(super) fn collect_until(fork_server: u32, deadline: Instant) {
    let is_known =
        |known: &ForkServers| known.children.iter().any(|child| child.pid == fork_server);
    // Another thread may have reaped it.
    if is_known(&fork_servers()) && sys::reap_until(fork_server, deadline).is_some() {
        fork_servers().children.retain(|child| child.pid != fork_server);
    }
}

/// Notes that a fork server is asked for a daemon. The daemon is told to end even if the fork
/// server is out of use by then.
pub(super) fn note_daemon(fork_server: Option<u32>, line: &Arc<ServerLink>) {
    let mut known = fork_servers();
    let ForkServers { children, of_daemons, .. } = &mut *known;
    match children.iter_mut().find(|child| Some(child.pid) == fork_server) {
        Some(child) => child.has_daemons = true,
        None if of_daemons.iter().any(|known| Arc::ptr_eq(known, line)) => {}
        None => of_daemons.push(Arc::clone(line)),
    }
}

/// Sends a signal to all daemons of this process.
pub(super) fn signal_daemons(signal: Signal) {
    let of = sys::pid();
    // Do not hold the lock while sending: sending blocks if a fork server is stopped.
    let lines: Vec<Arc<ServerLink>> = {
        let known = fork_servers();
        let children = known.children.iter().filter(|child| child.has_daemons);
        children.filter_map(|child| child.line.as_ref()).chain(&known.of_daemons).cloned().collect()
    };
    for line in lines {
        // If the fork server is gone, so are its children.
        let _ = line.ask(Request::SignalDaemons { of, signal: signal as i32 });
    }
}

/// Prevents further fork servers, and returns those that exist to the caller, who ends them.
/// Another thread may hold the lock for long: waits for it until `deadline`, then returns `None`.
pub(super) fn end(deadline: Instant) -> Option<Vec<Known>> {
    loop {
        match FORK_SERVERS.get().try_lock() {
            Ok(mut known) => return Some(known.end()),
            Err(TryLockError::Poisoned(known)) => return Some(known.into_inner().end()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}
