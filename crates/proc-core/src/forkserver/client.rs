//! Asks a fork server for processes, and signals the processes that it has made.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use ipc_channel::ipc;
use nix::sys::signal::Signal;

use super::StdioConfig;
use super::environment::{EnvironmentChanges, Overrides, Snapshot};
use super::server::{Newborn, REAP_TIMEOUT, Server, ServerInputs};
use super::server_watch::ServerWatch;
use super::streams::Streams;
use super::{Key, Lifetime, Request, ServerLink, Start, registry};
use crate::error::Error;
use crate::memory::Family;
use crate::sys::{self, Forked, RightsReader, SingleThread};
use crate::wire;

/// Fork server, as seen by the processes that ask it for processes.
#[derive(Debug)]
pub(crate) struct ForkServer {
    server_link: Arc<ServerLink>,
    /// Pid of the fork server and pid of its parent, if the parent is the process that it serves.
    /// Only the parent tells the fork server to end, and reaps it.
    child: Option<(u32, u32)>,
    /// Handle by which the fork server is ended, if it was made by another fork server.
    handle: Option<Handle>,
    /// Environment and rights with which the fork server was made. In a process that asks for a
    /// fork server of `preload`, they are those of that process: what the preloaded function
    /// changes is not in them, so the workers keep these changes.
    base: Snapshot,
    /// Writing end of the alive pipe. It closes when this process ends or executes another program,
    /// and the fork server ends then.
    alive_pipe: Option<OwnedFd>,
    /// Tells of the end of the fork server, in the process that has made it or asked for it.
    watch: Option<Arc<ServerWatch>>,
}

impl ForkServer {
    /// Represents a fork server that is a child of this process, and that has no requests yet.
    /// `listener` is the inode of its listener.
    pub(super) fn of_child(
        server_link: Arc<ServerLink>,
        base: Snapshot,
        child: u32,
        alive_pipe: OwnedFd,
        listener: io::Result<u64>,
    ) -> ForkServer {
        let watch = ServerWatch::new(child, listener);
        registry::add_child(child, &server_link, watch.clone());
        let child = Some((child, sys::pid()));
        ForkServer { server_link, child, handle: None, base, alive_pipe: Some(alive_pipe), watch }
    }

    /// Represents a fork server that was made by another fork server. `listener` is the inode of
    /// its listener.
    pub(crate) fn made_by_another(
        server_link: Arc<ServerLink>,
        base: Snapshot,
        handle: Handle,
        listener: io::Result<u64>,
    ) -> ForkServer {
        let watch = ServerWatch::new(handle.pid, listener);
        ForkServer { server_link, child: None, handle: Some(handle), base, alive_pipe: None, watch }
    }

    /// In a fork server: represents the fork server itself, for its children.
    pub(crate) fn this_process(server_link: Arc<ServerLink>, base: Snapshot) -> ForkServer {
        ForkServer { server_link, child: None, handle: None, base, alive_pipe: None, watch: None }
    }

    /// Forks a fork server from this process as it is now. The fork server closes its copies of the
    /// descriptors that were given for standard streams.
    pub(crate) fn fork(
        alone: SingleThread,
        stdio: &StdioConfig,
        become_process: fn(Arc<ForkServer>, Newborn) -> !,
    ) -> io::Result<ForkServer> {
        sys::fill_standard_streams();
        wire::warm_up()?;
        // Processes have a family only if their fork server has one. Without it, only shared state
        // does not work, and says why.
        let _ = Family::get();
        let (sender, requests) = ipc::channel()?;
        let (notifier, listener) = sys::fd_channel()?;
        let (alive_reader, alive_writer) = std::io::pipe()?;
        let parent = sys::pid();
        let base = Snapshot::now()?;
        match sys::fork(alone)? {
            Forked::Parent { child } => {
                let server_link = ServerLink::new(sender, notifier);
                let listener = sys::inode(&listener);
                Ok(ForkServer::of_child(server_link, base, child, alive_writer.into(), listener))
            }
            Forked::Child { mask } => {
                drop(alive_writer);
                stdio.close_copies();
                // Children of the fork server begin with an empty stdin: only the program reads the
                // program's input.
                if sys::null_stream(0).and_then(|null| sys::set_standard_stream(0, null)).is_err() {
                    sys::exit_now(1);
                }
                let own = ForkServer::this_process(ServerLink::new(sender, notifier), base);
                let alive_pipe = Some(alive_reader.into());
                let inputs = ServerInputs { requests, listener, alive_pipe, mask };
                own.serve(alone, parent, inputs, become_process)
            }
        }
    }

    /// In a fork server: serves requests until `parent` ends. Each new process calls
    /// `become_process`.
    pub(crate) fn serve(
        self,
        alone: SingleThread,
        parent: u32,
        inputs: ServerInputs,
        become_process: fn(Arc<ForkServer>, Newborn) -> !,
    ) -> ! {
        // Made before the forks, so that each child writes to fewer pages.
        let own = Arc::new(self);
        let newborn = Server::run(alone, parent, inputs, &own.server_link);
        become_process(own, newborn)
    }

    /// Returns the changes that give a new process the current environment of the caller, with
    /// `overrides`.
    pub(crate) fn environment(&self, overrides: &Overrides) -> Result<EnvironmentChanges, String> {
        self.base.changes(overrides)
    }

    /// Asks the fork server for a process.
    pub(crate) fn start(&self, start: Start, streams: &Streams) -> Result<(), Error> {
        if start.lifetime == Lifetime::Daemon {
            registry::note_daemon(self.child.map(|(pid, _)| pid), &self.server_link);
        }
        let key = start.key;
        let passed = streams.pass(self.server_link.notifier(), key);
        passed.and_then(|()| self.send(Request::Start(Box::new(start)))).map_err(|error| {
            self.forget(key);
            match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Error::fork_server_gone()
                }
                _ => Error::start("the process", error),
            }
        })
    }

    /// Tells the fork server to close the streams of a process whose start has failed.
    pub(crate) fn forget(&self, key: Key) {
        let _ = self.send(Request::Forget(key));
    }

    /// Kills the fork server, if this process can: as its parent, or through the handle.
    pub(crate) fn kill(&self) {
        // If the program itself has reaped the fork server, another process may have its pid by
        // now.
        if let Some((child, parent)) = self.child
            && parent == sys::pid()
            && sys::is_child(child)
        {
            sys::signal_child(child, Signal::SIGKILL);
        }
        if let Some(handle) = &self.handle {
            handle.signal(Signal::SIGKILL);
        }
    }

    /// Whether the fork server is a child of this process that has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.child.is_some_and(|(pid, parent)| parent == sys::pid() && sys::has_ended(pid))
    }

    /// Whether the fork server still has the rights of this thread, and so may make processes for
    /// this thread.
    ///
    /// # Errors
    ///
    /// There is no descriptor left to read the rights.
    pub(crate) fn has_our_rights(&self, reader: &mut RightsReader) -> io::Result<bool> {
        reader.has(&self.base.rights)
    }

    /// Ends a fork server that is no longer wanted, and waits for its end. Everything that it held
    /// is free then.
    pub(crate) fn end(fork_server: Arc<ForkServer>) {
        let handle = fork_server.handle.as_ref().map(|handle| handle.pid);
        let child = fork_server.child.map(|(pid, _)| pid);
        let end = handle.and_then(sys::watch_process);
        // Other holders may keep the fork server until their last process has ended.
        drop(fork_server);
        let timeout = sys::time_to_end(REAP_TIMEOUT);
        if let Some(pid) = child {
            registry::reap_until(pid, Instant::now() + timeout);
        }
        if let Some(end) = end {
            let _ = sys::wait_readable(&[end.as_fd()], Some(timeout));
        }
    }

    fn send(&self, request: Request) -> io::Result<()> {
        if self.child.is_some_and(|(_, parent)| parent != sys::pid()) {
            return Err(io::Error::other(
                "this process is a copy of the one that the fork server serves: start the process in \
                 the original, or build a new pool in this copy",
            ));
        }
        self.server_link.send(request)
    }
}

impl Drop for ForkServer {
    fn drop(&mut self) {
        // A copy of this process, made by a fork, drops this value too. That must have no effect.
        if let Some((child, parent)) = self.child.take()
            && parent == sys::pid()
        {
            let _ = self.send(Request::Retire);
            registry::reap_later(child, self.alive_pipe.take());
        }
        if self.handle.as_ref().is_some_and(Handle::is_ours) {
            let _ = self.send(Request::Retire);
        }
    }
}

/// Handle of a started process: names it, and knows the fork server that may signal it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) pid: u32,
    key: Key,
    fork_server: Arc<ForkServer>,
}

impl Handle {
    /// Makes the handle of a process whose pid is not known yet.
    pub(super) fn new(key: Key, fork_server: &Arc<ForkServer>) -> Handle {
        Handle { pid: 0, key, fork_server: Arc::clone(fork_server) }
    }

    /// Sends a signal to the process, unless it has been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = self.fork_server.send(Request::Signal { to: self.key, signal: signal as i32 });
        // If the fork server is gone, so are its children. The exception is a child that was
        // stopped before it could ask the kernel for its end.
        if signal == Signal::SIGKILL
            && let Some(watch) = self.watch()
        {
            watch.kill_orphans();
        }
    }

    /// Tells of the end of the fork server, if this process has made it or asked for it.
    pub(super) fn watch(&self) -> Option<&ServerWatch> {
        self.fork_server.watch.as_deref()
    }

    /// Returns the pid of the process that asked for this one.
    pub(crate) fn owner(&self) -> u32 {
        self.key.owner
    }

    /// Whether the calling process asked for the process that this handle names. False in a copy of
    /// the process that asked.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner() == sys::pid()
    }

    /// Kills the fork server that made the process, as [`ForkServer::kill`] does. All processes
    /// that the fork server made end with it.
    pub(crate) fn kill_fork_server(&self) {
        self.fork_server.kill();
    }
}
