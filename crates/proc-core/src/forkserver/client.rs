//! A fork server, for whoever asks it for processes, and the processes that it has made.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use ipc_channel::ipc;
use nix::sys::signal::Signal;

use super::environment::{EnvironmentChanges, Overrides, Snapshot};
use super::server::{Ears, Newborn, REAP_TIMEOUT, Server};
use super::streams::Streams;
use super::{Key, Lifetime, Request, ServerLink, Start, known};
use crate::error::Error;
use crate::sys::{self, Forked, Rights, SingleThread};
use crate::wire;

/// A fork server, for whoever asks it for processes.
#[derive(Debug)]
pub(crate) struct ForkServer {
    line: Arc<ServerLink>,
    /// Where the fork server is a child: its pid and its parent, who tells it to end and collects it.
    child: Option<(u32, u32)>,
    /// Where another fork server has made it: how to end it.
    handle: Option<Handle>,
    /// What the fork server's own environment looks like.
    base: Snapshot,
    /// Closed when this process ends, or executes another program: then the fork server ends.
    #[expect(dead_code, reason = "held for the fork server, nothing more")]
    life: Option<OwnedFd>,
}

impl ForkServer {
    /// One that is a child of this process, and was told nothing yet.
    pub(super) fn executed(
        line: Arc<ServerLink>,
        base: Snapshot,
        child: u32,
        life: OwnedFd,
    ) -> ForkServer {
        known::note(child, &line);
        ForkServer { line, child: Some((child, sys::pid())), handle: None, base, life: Some(life) }
    }

    /// One that was made by another fork server.
    pub(crate) fn made(line: Arc<ServerLink>, base: Snapshot, handle: Handle) -> ForkServer {
        ForkServer { line, child: None, handle: Some(handle), base, life: None }
    }

    /// In a template: itself, as its children see it.
    pub(crate) fn own(line: Arc<ServerLink>, base: Snapshot) -> ForkServer {
        ForkServer { line, child: None, handle: None, base, life: None }
    }

    /// Forks a fork server from this process as it is now, but for `streams`.
    pub(crate) fn fork(
        alone: SingleThread,
        streams: &Streams,
        become_process: fn(ForkServer, Newborn) -> !,
    ) -> io::Result<ForkServer> {
        sys::fill_standard_streams();
        wire::warm_up()?;
        let (sender, requests) = ipc::channel()?;
        let (ring, bell) = sys::fd_channel()?;
        let (owners_life, life) = std::io::pipe()?;
        let owner = sys::pid();
        let base = Snapshot::now()?;
        match sys::fork(alone)? {
            Forked::Parent { child } => {
                let line = ServerLink::new(sender, ring);
                known::note(child, &line);
                let child = Some((child, owner));
                Ok(ForkServer { line, child, handle: None, base, life: Some(life.into()) })
            }
            Forked::Child => {
                drop(life);
                streams.close_copies();
                let own = ForkServer::own(ServerLink::new(sender, ring), base);
                let ears = Ears { requests, bell, life: Some(owners_life.into()) };
                own.serve(alone, owner, ears, become_process)
            }
        }
    }

    /// In a fork server: serves its owner; what `become_process` gets is a new process.
    pub(crate) fn serve(
        self,
        alone: SingleThread,
        owner: u32,
        ears: Ears,
        become_process: fn(ForkServer, Newborn) -> !,
    ) -> ! {
        let newborn = Server::run(alone, owner, ears, &self.line);
        become_process(self, newborn)
    }

    /// What a new process must change to have today's environment, with `overrides`.
    pub(crate) fn environment(&self, overrides: &Overrides) -> Result<EnvironmentChanges, String> {
        self.base.changes(overrides)
    }

    /// Asks for a process.
    pub(crate) fn start(&self, start: Start, streams: &Streams) -> Result<(), Error> {
        if start.lifetime == Lifetime::Daemon {
            known::note_daemon(self.child.map(|(pid, _)| pid), &self.line);
        }
        let key = start.key;
        let asked = streams.pass(self.line.ring(), key);
        asked.and_then(|()| self.ask(Request::Start(Box::new(start)))).map_err(|error| {
            self.forget(key);
            match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Error::fork_server_gone()
                }
                _ => Error::start("the process", error),
            }
        })
    }

    /// Takes back what a process was to have whose start has failed.
    pub(crate) fn forget(&self, key: Key) {
        let _ = self.ask(Request::Forget(key));
    }

    /// Sends a signal to a process that was asked for here, unless it has ended.
    pub(crate) fn signal(&self, to: Key, signal: Signal) {
        // Where the fork server is gone, so are its children.
        let _ = self.ask(Request::Signal { to, signal: signal as i32 });
    }

    /// Kills the fork server where it is this process's child.
    pub(crate) fn kill(&self) {
        // Only this process collects it, and not before this value is dropped.
        if let Some((child, parent)) = self.child
            && parent == sys::pid()
        {
            sys::signal_child(child, Signal::SIGKILL);
        }
        if let Some(handle) = &self.handle {
            handle.signal(Signal::SIGKILL);
        }
    }

    /// Whether the fork server still has this thread's rights, and so may make its children.
    ///
    /// # Errors
    ///
    /// There is no descriptor for asking.
    pub(crate) fn has_our_rights(&self) -> Result<bool, Error> {
        let now = Rights::now().map_err(|error| Error::start("a process", error))?;
        Ok(self.base.rights == now)
    }

    /// Ends a fork server of which nothing more is wanted, and waits for that: what it holds is gone
    /// then.
    pub(crate) fn end(fork_server: Arc<ForkServer>) {
        let handle = fork_server.handle.as_ref().map(|handle| handle.pid);
        let child = fork_server.child.map(|(pid, _)| pid);
        let end = handle.and_then(sys::watch_process);
        // Others may hold it until they have ended their last process.
        drop(fork_server);
        let deadline = Instant::now() + REAP_TIMEOUT;
        if let Some(pid) = child {
            known::collect_until(pid, deadline);
        }
        if let Some(end) = end {
            let _ = sys::wait_readable(&[end.as_fd()], Some(REAP_TIMEOUT));
        }
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        if self.child.is_some_and(|(_, parent)| parent != sys::pid()) {
            return Err(io::Error::other("it serves the process that this one was forked from"));
        }
        self.line.ask(request)
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        // A fork of the parent drops a copy of this, which must have no effect.
        if let Some((child, parent)) = self.child.take()
            && parent == sys::pid()
        {
            let _ = self.ask(Request::Retire);
            known::collect_later(child);
        }
        if self.handle.as_ref().is_some_and(Handle::is_ours) {
            let _ = self.ask(Request::Retire);
        }
    }
}

/// Names a started process, and knows who may signal it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) pid: u32,
    key: Key,
    fork_server: Arc<ForkServer>,
}

impl Handle {
    /// Of a process whose pid is not known yet.
    pub(super) fn new(key: Key, fork_server: &Arc<ForkServer>) -> Handle {
        Handle { pid: 0, key, fork_server: Arc::clone(fork_server) }
    }

    /// Sends a signal, unless the process has been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        self.fork_server.signal(self.key, signal);
    }

    /// The process that asked for it.
    pub(crate) fn owner(&self) -> u32 {
        self.key.owner
    }

    /// Whether this process asked for it, and is no copy of the one that did.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner() == sys::pid()
    }

    /// Ends the fork server that made the process, and with it all that it made.
    pub(crate) fn kill_fork_server(&self) {
        self.fork_server.kill();
    }
}
