//! Registry of the fork servers for which this process is responsible: its children, which it
//! reaps, and fork servers that are not its children, but have started daemons for it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::server_watch::ServerWatch;
use super::{Request, ServerLink};
use crate::sys::{self, PerProcess};

#[derive(Default)]
struct ForkServers {
    /// Whether this process makes no more fork servers, because it is ending.
    is_closed: bool,
    /// Fork servers that are children of this process and not reaped yet.
    children: Vec<ChildForkServer>,
    /// Links to fork servers that are not children of this process, but have started daemons for
    /// it.
    of_daemons: Vec<Arc<ServerLink>>,
}

/// Fork server that is a child of this process.
pub(super) struct ChildForkServer {
    pub(super) pid: u32,
    /// Link to the fork server; `None` once no more requests will be sent to it.
    pub(super) server_link: Option<Arc<ServerLink>>,
    watch: Option<Arc<ServerWatch>>,
    /// Whether the fork server was told to end, or was found dead.
    is_ending: bool,
    /// Whether the fork server has started daemons for this process.
    has_daemons: bool,
    /// Writing end of the alive pipe of a fork server that was told to end. It closes when this
    /// process ends or executes another program: the fork server's children must not outlive that.
    alive_pipe: Option<OwnedFd>,
}

impl ForkServers {
    /// Prevents further fork servers, and returns the children.
    fn close(&mut self) -> Vec<ChildForkServer> {
        self.is_closed = true;
        std::mem::take(&mut self.children)
    }

    /// Reaps the children that were told to end and have ended.
    fn reap_ended(&mut self) {
        // Some may be reaped already: by the program itself, or by the system if SIGCHLD is
        // ignored.
        let is_reaped = |pid| sys::reap_one(pid).is_some() || !sys::is_child(pid);
        self.children.retain(|child| !child.is_ending || !is_reaped(child.pid));
    }
}

/// Fork servers of this process. A copy that a user's `fork` makes begins with none: the fork
/// servers of its parent serve the parent.
static FORK_SERVERS: PerProcess<Mutex<ForkServers>> = PerProcess::new();

fn fork_servers() -> MutexGuard<'static, ForkServers> {
    FORK_SERVERS.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lock that a thread holds while it makes a fork server for all processes that are started from
/// now on. That takes a while, so only one is made at a time. `init` and `Fork` need no lock: they
/// fork only while the process has one thread. A pool with `preload` has a lock of its own.
static MAKING: PerProcess<Mutex<()>> = PerProcess::new();

/// Waits until no other thread makes a fork server, and keeps others from making one while the
/// guard lives.
pub(super) fn lock_making() -> MutexGuard<'static, ()> {
    MAKING.get().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether another thread is making a fork server.
pub(super) fn is_making() -> bool {
    MAKING.get().try_lock().is_err_and(|error| matches!(error, TryLockError::WouldBlock))
}

/// In a new process: forgets the fork servers of its parent, of which it has copies.
pub(super) fn forget_inherited() {
    FORK_SERVERS.inherit();
    // Drop the values of the parent without holding the lock.
    let inherited = std::mem::take(&mut *fork_servers());
    drop(inherited);
}

/// Checks that this process may still make fork servers. Reaps those that have ended.
///
/// # Errors
///
/// The program is ending.
pub(super) fn check_open() -> io::Result<()> {
    let mut registry = fork_servers();
    registry.reap_ended();
    if registry.is_closed { Err(io::Error::other("the program is ending")) } else { Ok(()) }
}

/// Adds a new fork server that is a child of this process, so that it is reaped later.
pub(super) fn add_child(pid: u32, server_link: &Arc<ServerLink>, watch: Option<Arc<ServerWatch>>) {
    fork_servers().children.push(ChildForkServer {
        pid,
        server_link: Some(Arc::clone(server_link)),
        watch,
        is_ending: false,
        has_daemons: false,
        alive_pipe: None,
    });
}

/// Notes that a fork server was told to end. It is reaped when this process next asks for a fork
/// server, or ends.
pub(super) fn reap_later(fork_server: u32, mut alive_pipe: Option<OwnedFd>) {
    let mut registry = fork_servers();
    for child in registry.children.iter_mut().filter(|child| child.pid == fork_server) {
        child.is_ending = true;
        child.alive_pipe = alive_pipe.take();
        child.server_link.take_if(|_| !child.has_daemons);
    }
    registry.reap_ended();
}

/// Waits for the exit of a fork server that was told to end, and reaps it. Gives up at `deadline`.
pub(super) fn reap_until(fork_server: u32, deadline: Instant) {
    let is_listed =
        |registry: &ForkServers| registry.children.iter().any(|child| child.pid == fork_server);
    // Another thread may have reaped it.
    if is_listed(&fork_servers()) && sys::reap_until(fork_server, deadline).is_some() {
        fork_servers().children.retain(|child| child.pid != fork_server);
    }
}

/// Notes that a fork server is asked for a daemon. The daemon is told to end even if the fork
/// server is out of use by then.
pub(super) fn note_daemon(fork_server: Option<u32>, server_link: &Arc<ServerLink>) {
    let mut registry = fork_servers();
    let ForkServers { children, of_daemons, .. } = &mut *registry;
    match children.iter_mut().find(|child| Some(child.pid) == fork_server) {
        Some(child) => child.has_daemons = true,
        None if of_daemons.iter().any(|listed| Arc::ptr_eq(listed, server_link)) => {}
        None => of_daemons.push(Arc::clone(server_link)),
    }
}

/// Sends a signal to all daemons of this process.
pub(super) fn signal_daemons(signal: Signal) {
    let owner = sys::pid();
    // Do not hold the lock while sending: sending blocks if a fork server is stopped.
    let links: Vec<Arc<ServerLink>> = {
        let registry = fork_servers();
        let children = registry.children.iter().filter(|child| child.has_daemons);
        let links = children.filter_map(|child| child.server_link.as_ref());
        links.chain(&registry.of_daemons).cloned().collect()
    };
    for link in links {
        // If the fork server is gone, so are its children, see `kill_orphans`.
        let _ = link.send(Request::SignalDaemons { owner, signal: signal as i32 });
    }
}

/// Kills the children that dead fork servers of this process have left behind.
pub(super) fn kill_orphans() {
    let watches: Vec<Arc<ServerWatch>> =
        fork_servers().children.iter().filter_map(|child| child.watch.clone()).collect();
    watches.iter().for_each(|watch| watch.kill_orphans());
}

/// Prevents further fork servers, and returns those that are children of this process. The caller
/// must end them. Another thread may hold the lock for long: returns `None` if the lock is not free
/// before `deadline`.
pub(super) fn close(deadline: Instant) -> Option<Vec<ChildForkServer>> {
    loop {
        match FORK_SERVERS.get().try_lock() {
            Ok(mut registry) => return Some(registry.close()),
            Err(TryLockError::Poisoned(registry)) => return Some(registry.into_inner().close()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}
