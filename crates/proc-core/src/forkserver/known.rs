//! The fork servers that this process has to see to: those that are its children, which it collects,
//! and those of others that have made daemons of its.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::{Request, ServerLink};
use crate::sys::{self, PerProcess};

#[derive(Default)]
struct ForkServers {
    /// It makes no more of them.
    ends: bool,
    /// Those that are children of this process and not collected yet.
    children: Vec<Known>,
    /// The way to those of others that have made daemons of ours.
    of_daemons: Vec<Arc<ServerLink>>,
}

/// A fork server that is a child of this process.
pub(super) struct Known {
    pub(super) pid: u32,
    /// `None` once there is nothing more to tell it.
    pub(super) line: Option<Arc<ServerLink>>,
    /// It was told to end, or was found dead.
    ends: bool,
    /// It has made daemons of this process.
    has_daemons: bool,
}

impl ForkServers {
    /// Has no more of them made; those that there are.
    fn end(&mut self) -> Vec<Known> {
        self.ends = true;
        std::mem::take(&mut self.children)
    }

    fn collect_ended(&mut self) {
        self.children.retain(|child| !child.ends || sys::reap_one(child.pid).is_none());
    }
}

/// A copy of this process, made by a user's `fork`, begins without: those of its parent serve its
/// parent.
static FORK_SERVERS: PerProcess<Mutex<ForkServers>> = PerProcess::new();

fn fork_servers() -> MutexGuard<'static, ForkServers> {
    FORK_SERVERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while a fork server is made: one at a time, since it takes a while.
static MAKING: PerProcess<Mutex<()>> = PerProcess::new();

/// Waits until nobody else makes a fork server, and keeps others from making one.
pub(super) fn make() -> MutexGuard<'static, ()> {
    MAKING.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether another thread is making one.
pub(super) fn is_making() -> bool {
    MAKING.get().try_lock().is_err_and(|error| matches!(error, TryLockError::WouldBlock))
}

/// In a new process: begins anew.
pub(super) fn begin() {
    FORK_SERVERS.inherit();
    // What the parent had is dropped with the lock free.
    let inherited = std::mem::take(&mut *fork_servers());
    drop(inherited);
}

/// Collects what has ended.
///
/// # Errors
///
/// The program is ending.
pub(super) fn check_open() -> io::Result<()> {
    let mut known = fork_servers();
    known.collect_ended();
    if known.ends { Err(io::Error::other("the program is ending")) } else { Ok(()) }
}

/// Notes a new fork server that is a child of this process, to be collected.
pub(super) fn note(pid: u32, line: &Arc<ServerLink>) {
    let line = Some(Arc::clone(line));
    fork_servers().children.push(Known { pid, line, ends: false, has_daemons: false });
}

/// Notes a fork server, told to end, whose exit is to be collected when convenient.
pub(super) fn collect_later(fork_server: u32) {
    let mut known = fork_servers();
    for child in known.children.iter_mut().filter(|child| child.pid == fork_server) {
        child.ends = true;
        child.line.take_if(|_| !child.has_daemons);
    }
    known.collect_ended();
}

/// Waits for the exit of a fork server that was told to end.
pub(super) fn collect_until(fork_server: u32, deadline: Instant) {
    let is_known =
        |known: &ForkServers| known.children.iter().any(|child| child.pid == fork_server);
    // Somebody else may have collected it.
    if is_known(&fork_servers()) && sys::reap_until(fork_server, deadline).is_some() {
        fork_servers().children.retain(|child| child.pid != fork_server);
    }
}

/// Notes that a fork server is asked for a daemon, which is told to end also when the fork server is out
/// of use.
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
    // The lock is not held while sending, which waits where a fork server is stopped.
    let lines: Vec<Arc<ServerLink>> = {
        let known = fork_servers();
        let children = known.children.iter().filter(|child| child.has_daemons);
        children.filter_map(|child| child.line.as_ref()).chain(&known.of_daemons).cloned().collect()
    };
    for line in lines {
        // Where the fork server is gone, so are its children.
        let _ = line.ask(Request::SignalDaemons { of, signal: signal as i32 });
    }
}

/// Has this process make no more fork servers, and gives those that there are to whoever ends them.
/// Waits until `deadline` for a thread that holds the lock for long; `None` then.
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
