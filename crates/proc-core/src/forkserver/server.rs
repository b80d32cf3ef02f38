//! Runs a fork server: receives requests, forks, and reports how its children ended.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{IpcReceiver, IpcSender};
use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;

use super::streams::Arrived;
use super::{Key, Lifetime, Report, Request, ServerLink, Start, last_words, lifeline};
use crate::error::LastWords;
use crate::panics::{self, PanicOutput};
use crate::sys::{self, ChildExits, Forked, Heard, Listener, SingleThread};
use crate::wire;

/// How long a fork server that ends waits for the children that it has killed, and how long its
/// parent waits for it.
pub(super) const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a fork server looks for its parent and its children if no descriptor tells of them.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Inputs of a fork server.
pub(crate) struct Ears {
    /// Requests, each of which is announced by a notification.
    pub(crate) requests: IpcReceiver<Request>,
    /// Listener of the descriptor channel.
    pub(crate) listener: Listener,
    /// Pipe end that tells when the owner ends or executes another program. Without it, this fork
    /// server is the child of another fork server, and ends together with that one.
    pub(crate) life: Option<OwnedFd>,
}

/// State of a running fork server.
pub(crate) struct Server {
    alone: SingleThread,
    /// Pid of the process that this fork server serves, which is its parent.
    owner: u32,
    ears: Ears,
    /// Tells of exits; `None` if each child has a descriptor of its own for that.
    exits: Option<ChildExits>,
    children: FxHashMap<u32, Running>,
    streams: Arrived,
    retiring: bool,
    /// Whether a notification was received whose request is not read yet.
    is_notified: bool,
}

/// New process that has done nothing yet.
pub(crate) struct Newborn {
    pub(super) alone: SingleThread,
    pub(super) start: Start,
    pub(super) streams: Vec<(u8, OwnedFd)>,
}

/// Child that has not been reaped.
struct Running {
    key: Key,
    lifetime: Lifetime,
    report: IpcSender<Report<()>>,
    /// Readable when the child has ended; `None` if `Server::exits` tells that.
    end: Option<OwnedFd>,
    /// Last words of the child, which say what it may die of.
    last_words: Option<LastWords>,
}

impl Running {
    fn is_daemon_of(&self, owner: u32) -> bool {
        self.lifetime == Lifetime::Daemon && self.key.owner == owner
    }
}

impl Server {
    /// Runs the fork server. Returns only in a new child, with what the child must do.
    pub(crate) fn run(
        alone: SingleThread,
        owner: u32,
        ears: Ears,
        line: &Arc<ServerLink>,
    ) -> Newborn {
        lifeline::let_go();
        sys::ignore_sigpipe();
        sys::reset_sigchld();
        sys::name_process("forkserver");
        // Only ipc-channel can panic here, on a malformed message; `receive` deals with that.
        panics::install_hook();
        panics::set_panic_output(PanicOutput::Never);
        let Ok(mask) = sys::block_signals(&sys::fork_server_signals()) else { sys::exit_now(1) };
        // The fork server holds descriptors for all its children. The children get the program's
        // limit back.
        let files = sys::raise_limit_of_open_files();
        // Threads that libraries started before `main` would take the signal that tells of exits.
        let exits = if sys::has_one_thread() { ChildExits::new().ok() } else { None };
        last_words::have_children_say_to(line);
        let children = FxHashMap::default();
        let streams = Arrived::default();
        let (retiring, is_notified) = (false, false);
        let mut server =
            Server { alone, owner, ears, exits, children, streams, retiring, is_notified };
        let fork_server = sys::pid();
        let (start, streams) = server.serve();
        // From here on this process is a child. It must not hold the channels of its siblings, nor
        // those of the fork server.
        drop(server);
        sys::die_with_parent();
        if sys::parent_pid() != fork_server {
            sys::exit_now(0);
        }
        sys::restore_signals(&mask);
        sys::restore_limit_of_open_files(files);
        Newborn { alone, start, streams }
    }

    /// Serves requests. Returns only in a new child, with its [`Start`] and its streams.
    fn serve(&mut self) -> (Start, Vec<(u8, OwnedFd)>) {
        let watch = sys::watch_process(self.owner);
        loop {
            if sys::parent_pid() != self.owner {
                self.end();
            }
            if self.retiring && self.children.is_empty() {
                sys::exit_now(0);
            }
            let mut fds = vec![self.ears.listener.as_fd()];
            fds.extend(watch.as_ref().map(OwnedFd::as_fd));
            let life = self.ears.life.as_ref();
            fds.extend(life.map(OwnedFd::as_fd));
            let first_exit = fds.len();
            match &self.exits {
                Some(exits) => fds.extend(exits.descriptor()),
                None => {
                    let ends = self.children.values().filter_map(|child| child.end.as_ref());
                    fds.extend(ends.map(OwnedFd::as_fd));
                }
            }
            let watched = match &self.exits {
                Some(exits) => exits.descriptor().is_some(),
                None => self.children.values().all(|child| child.end.is_some()),
            };
            let glance = (!watched || watch.is_none()).then_some(POLL_INTERVAL);
            // Do not wait if a notification came while something else was waited for.
            let glance = if self.is_notified { Some(Duration::ZERO) } else { glance };
            let Ok(ready) = sys::wait_readable(&fds, glance) else { self.end() };
            let lost_owner = life.is_some() && ready[first_exit - 1];
            // Take one notification in each turn. Each has its request in the channel by now, so
            // taking more at once would save nothing.
            let is_notified = std::mem::take(&mut self.is_notified) | (ready[0] && self.hear());
            if is_notified && let Some(start) = self.obey() {
                return start;
            }
            if lost_owner {
                self.end();
            }
            if !watched || ready[first_exit..].contains(&true) {
                if let Some(exits) = &self.exits {
                    exits.quiet();
                }
                while let Some((pid, status)) = sys::reap() {
                    self.report_exit(pid, status);
                }
            }
        }
    }

    /// Reads the descriptor channel up to the next notification. Returns false if there was none.
    fn hear(&mut self) -> bool {
        loop {
            match self.ears.listener.hear() {
                None => return false,
                Some(Heard::Notification) => return true,
                Some(Heard::End) => self.end(),
                Some(Heard::Descriptor(tag, fd)) => self.streams.keep(tag, fd),
                Some(Heard::LastWords(words)) => {
                    if let Some((pid, words)) = last_words::decode(&words)
                        && let Some(child) = self.children.get_mut(&pid)
                    {
                        child.last_words = Some(words);
                    }
                }
            }
        }
    }

    /// Carries out the requests that have come. In a new child, returns its [`Start`] and its
    /// streams.
    fn obey(&mut self) -> Option<(Start, Vec<(u8, OwnedFd)>)> {
        while let Some(request) = self.receive() {
            match request {
                Request::Start(start) => {
                    if let Some(start) = self.start(*start) {
                        return Some(start);
                    }
                }
                Request::Signal { to, signal } => self.signal(signal, |child| child.key == to),
                Request::SignalDaemons { of, signal } => {
                    self.signal(signal, |child| child.is_daemon_of(of));
                }
                Request::Forget(start) => self.streams.forget(|key| key == start),
                Request::Retire => self.retiring = true,
            }
        }
        None
    }

    /// Ends the children and the fork server, since nobody is left to work for.
    fn end(&mut self) -> ! {
        for pid in self.children.keys() {
            sys::signal_child(*pid, Signal::SIGKILL);
        }
        // A child that is not reaped here would stay as a zombie if the system's first process does
        // not reap.
        let deadline = Instant::now() + REAP_TIMEOUT;
        for pid in self.children.keys() {
            sys::reap_until(*pid, deadline);
        }
        sys::exit_now(0)
    }

    fn receive(&self) -> Option<Request> {
        // A message is lost if its channel ends did not fit into this process's descriptors. The
        // process that sent it sees its report channel closed.
        match panics::catch(|| self.ears.requests.try_recv()) {
            Ok(received) => received.ok(),
            Err(_) => {
                wire::close_arrived(wire::MAX_HANDLES);
                None
            }
        }
    }

    /// Forks. In the new child, returns its [`Start`] and its streams.
    fn start(&mut self, start: Start) -> Option<(Start, Vec<(u8, OwnedFd)>)> {
        // The streams were sent before the request, but perhaps after the descriptor channel was
        // last read.
        while start.streams > 0 && self.hear() {
            self.is_notified = true;
        }
        let streams = self.streams.take(start.key, start.streams);
        let forked = streams.and_then(|streams| Ok((sys::fork(self.alone)?, streams)));
        match forked {
            Ok((Forked::Parent { child: pid }, _)) => {
                let _ = start.report.send(Report::Started { pid });
                let Start { key, lifetime, report, .. } = start;
                let end = if self.exits.is_none() { sys::watch_process(pid) } else { None };
                self.children.insert(pid, Running { key, lifetime, report, end, last_words: None });
                None
            }
            Ok((Forked::Child, streams)) => Some((start, streams)),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                let _ = start.report.send(Report::NotStarted { errno });
                None
            }
        }
    }

    fn signal(&self, signal: i32, is_meant: impl Fn(&Running) -> bool) {
        let Ok(signal) = Signal::try_from(signal) else { return };
        for (pid, _) in self.children.iter().filter(|(_, child)| is_meant(child)) {
            sys::signal_child(*pid, signal);
        }
    }

    fn report_exit(&mut self, pid: u32, status: ExitStatus) {
        if status.code().is_none() {
            // The last words of the child have come by now.
            while self.hear() {
                self.is_notified = true;
            }
        }
        let Some(child) = self.children.remove(&pid) else { return };
        let last_words = child.last_words.filter(|words| words.explains(status));
        let exited = Report::Exited { status: status.into_raw(), last_words };
        let _ = child.report.send(exited);
        self.streams.forget(|key| key.owner == pid);
        for (orphan, _) in self.children.iter().filter(|(_, other)| other.key.owner == pid) {
            sys::signal_child(*orphan, Signal::SIGKILL);
        }
    }
}
