//! Runs a fork server: receives requests, forks, and reports how its children have ended.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipc_channel::ipc::{IpcReceiver, IpcSender};
use nix::sys::signal::Signal;
use rustc_hash::FxHashMap;

use super::server_watch::FORK_SERVER_NAME;
use super::streams::ArrivedStreams;
use super::{Key, Lifetime, Report, Request, ServerLink, Start, last_words, lifeline};
use crate::error::{Exit, LastWords};
use crate::memory::Family;
use crate::panics::{self, PanicOutput};
use crate::sys::{
    self, ChannelMessage, ChildExits, Forked, Listener, Reaped, SignalMask, SingleThread,
};
use crate::wire;

/// How long a fork server that ends waits for the children that it has killed, and how long its
/// parent waits for it.
pub(super) const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a fork server checks its parent and its children if no descriptor tells of their end,
/// and how often it tries to send a report whose channel was full.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How long a fork server waits for room in a report channel. There is room at once, unless a
/// worker has filled the channel and its owner does not read, because it is stopped.
const SEND_TIMEOUT: Duration = Duration::from_millis(1);

/// Inputs of a fork server: what it waits for, besides the exits of its children.
pub(crate) struct ServerInputs {
    /// Requests, each of which is announced by a notification.
    pub(crate) requests: IpcReceiver<Request>,
    /// Listener of the descriptor channel.
    pub(crate) listener: Listener,
    /// Reading end of the alive pipe. It reaches its end when the parent ends or executes another
    /// program. `None` if the parent is another fork server: this one ends together with it.
    pub(crate) alive_pipe: Option<OwnedFd>,
    /// Signal mask that children take.
    pub(crate) mask: SignalMask,
}

/// State of a running fork server.
pub(crate) struct Server {
    alone: SingleThread,
    /// Pid of the parent. This fork server ends when the parent ends.
    parent: u32,
    inputs: ServerInputs,
    /// Tells of exits; `None` if each child has a descriptor of its own for that.
    exits: Option<ChildExits>,
    children: FxHashMap<u32, ForkedProcess>,
    /// Reports of exits that had no room in their channels.
    unsent: VecDeque<ExitReport>,
    streams: ArrivedStreams,
    /// Whether this fork server ends after its last child. Until then, its children may ask it for
    /// processes.
    is_retiring: bool,
    /// Whether a notification was received whose request is not read yet.
    is_notified: bool,
}

/// What a new process must do, and its streams by their numbers.
type StartWithStreams = (Box<Start>, Vec<(u8, OwnedFd)>);

/// New process that has done nothing yet. It still blocks the signals that its fork server blocks.
pub(crate) struct Newborn {
    pub(super) alone: SingleThread,
    /// Signal mask that the process must take.
    pub(super) mask: SignalMask,
    pub(super) start: Box<Start>,
    pub(super) streams: Vec<(u8, OwnedFd)>,
}

/// Report that a child has exited, and the channel for it.
struct ExitReport {
    report: IpcSender<Report<()>>,
    exit: Exit,
}

impl ExitReport {
    /// Returns false if the channel has no room now.
    fn send(&self) -> bool {
        let send = || self.report.send(Report::Exited(self.exit.clone()));
        match sys::with_time_limit(SEND_TIMEOUT, send).map_err(wire::to_io_error) {
            Err(error) => error.kind() != io::ErrorKind::Interrupted, // or the owner is gone
            Ok(()) => true,
        }
    }
}

/// Child that has not been reaped.
struct ForkedProcess {
    key: Key,
    lifetime: Lifetime,
    report: IpcSender<Report<()>>,
    /// Readable when the child has ended; `None` if `Server::exits` tells that.
    end: Option<OwnedFd>,
    /// Last words of the child, which say what it may die of.
    last_words: Option<LastWords>,
}

impl ForkedProcess {
    fn is_daemon_of(&self, owner: u32) -> bool {
        self.lifetime == Lifetime::Daemon && self.key.owner == owner
    }
}

impl Server {
    /// Runs the fork server. Returns only in a new child, with what the child must do.
    pub(crate) fn run(
        alone: SingleThread,
        parent: u32,
        inputs: ServerInputs,
        server_link: &Arc<ServerLink>,
    ) -> Newborn {
        lifeline::drop_inherited();
        sys::ignore_sigpipe();
        sys::reset_sigchld();
        sys::name_process(FORK_SERVER_NAME);
        // Only ipc-channel can panic here, on a malformed message. `receive_request` catches that.
        panics::install_hook();
        panics::set_panic_output(PanicOutput::Never);
        if sys::block_fork_server_signals().is_err() {
            sys::exit_now(1);
        }
        let mask = inputs.mask;
        // The fork server holds descriptors for all its children. The children get the program's
        // limit back.
        let files = sys::raise_limit_of_open_files();
        // If a library has started threads before `main`, the kernel could give them the signal
        // that tells of exits.
        let exits = if sys::has_one_thread() { ChildExits::new().ok() } else { None };
        last_words::make_children_send_to(server_link);
        let mut server = Server {
            alone,
            parent,
            inputs,
            exits,
            children: FxHashMap::default(),
            unsent: VecDeque::new(),
            streams: ArrivedStreams::default(),
            is_retiring: false,
            is_notified: false,
        };
        let fork_server = sys::pid();
        let (start, streams) = server.serve();
        // From here on this process is a child.
        sys::die_with_parent();
        if sys::parent_pid() != fork_server {
            sys::exit_now(0);
        }
        // It must not hold the channels of its siblings, nor those of the fork server.
        drop(server);
        sys::restore_limit_of_open_files(files);
        Newborn { alone, mask, start, streams }
    }

    /// Serves requests. Returns only in a new child, with its [`Start`] and its streams.
    fn serve(&mut self) -> StartWithStreams {
        let parent_end = sys::watch_process(self.parent);
        loop {
            if sys::parent_pid() != self.parent {
                self.kill_children();
                sys::exit_now(0);
            }
            self.send_again();
            if self.is_retiring && self.children.is_empty() && self.unsent.is_empty() {
                sys::end_process(0);
            }
            let mut fds = vec![self.inputs.listener.as_fd()];
            fds.extend(parent_end.as_ref().map(OwnedFd::as_fd));
            let alive_pipe = self.inputs.alive_pipe.as_ref();
            fds.extend(alive_pipe.map(OwnedFd::as_fd));
            let first_exit = fds.len();
            match &self.exits {
                Some(exits) => fds.extend(exits.descriptor()),
                None => {
                    let ends = self.children.values().filter_map(|child| child.end.as_ref());
                    fds.extend(ends.map(OwnedFd::as_fd));
                }
            }
            let are_exits_watched = match &self.exits {
                Some(exits) => exits.descriptor().is_some(),
                None => self.children.values().all(|child| child.end.is_some()),
            };
            let must_poll = !are_exits_watched || parent_end.is_none() || !self.unsent.is_empty();
            let timeout = match self.is_notified {
                true => Some(Duration::ZERO), // a notification was read outside this loop
                false => must_poll.then_some(POLL_INTERVAL),
            };
            let Ok(ready) = sys::wait_readable(&fds, timeout) else {
                self.kill_children();
                sys::exit_now(0)
            };
            let is_parent_gone = alive_pipe.is_some() && ready[first_exit - 1];
            // Read one notification in each turn. Mostly there is only one, and to look for another
            // costs a system call. If there are more, later turns read them and find no request.
            let was_notified = std::mem::take(&mut self.is_notified);
            let is_notified = was_notified | (ready[0] && self.read_to_notification());
            if is_notified && let Some(start) = self.handle_requests() {
                return start;
            }
            if is_parent_gone {
                self.kill_children();
                sys::exit_now(0);
            }
            if !are_exits_watched || ready[first_exit..].contains(&true) {
                if let Some(exits) = &self.exits {
                    exits.clear();
                }
                while let Some(reaped) = sys::reap() {
                    self.report_exit(reaped);
                }
            }
        }
    }

    /// Reads the descriptor channel up to the next notification. Returns false if there was none.
    fn read_to_notification(&mut self) -> bool {
        loop {
            match self.inputs.listener.receive() {
                None => return false,
                Some(ChannelMessage::Notification) => return true,
                Some(ChannelMessage::End) => {
                    self.kill_children();
                    sys::end_process(0);
                }
                Some(ChannelMessage::Descriptor(tag, fd)) => self.streams.keep(tag, fd),
                Some(ChannelMessage::LastWords(message)) => {
                    if let Some((pid, words)) = last_words::decode(&message)
                        && let Some(child) = self.children.get_mut(&pid)
                    {
                        child.last_words = Some(words);
                    }
                }
            }
        }
    }

    /// Handles the requests that have arrived. In a new child, returns its [`Start`] and its
    /// streams.
    fn handle_requests(&mut self) -> Option<StartWithStreams> {
        while let Some(request) = self.receive_request() {
            match request {
                Request::Start(start) => {
                    if let Some(start) = self.fork(start) {
                        return Some(start);
                    }
                }
                Request::Signal { to, signal } => {
                    self.signal_children(signal, |child| child.key == to);
                }
                Request::SignalDaemons { owner, signal } => {
                    self.signal_children(signal, |child| child.is_daemon_of(owner));
                }
                Request::Forget(start) => self.streams.forget(|key| key == start),
                Request::Retire => self.is_retiring = true,
            }
        }
        None
    }

    /// Kills the children and reaps them, because the fork server ends.
    fn kill_children(&mut self) {
        for pid in self.children.keys() {
            sys::signal_child(*pid, Signal::SIGKILL);
        }
        // A child that is not reaped here would stay as a zombie if the system's first process does
        // not reap.
        let deadline = Instant::now() + REAP_TIMEOUT;
        for pid in self.children.keys() {
            if let Some(status) = sys::reap_until(*pid, deadline) {
                Family::announce_death(*pid, status);
            }
        }
    }

    /// Returns the next request that has arrived.
    fn receive_request(&self) -> Option<Request> {
        // A request is lost if this process has too few descriptors for its channel ends. The
        // process that sent it then sees the end of the report channel.
        match panics::catch(|| self.inputs.requests.try_recv()) {
            Ok(received) => received.ok(),
            Err(_) => {
                wire::close_arrived(wire::MAX_HANDLES);
                None
            }
        }
    }

    /// Forks. In the new child, returns its [`Start`] and its streams.
    fn fork(&mut self, start: Box<Start>) -> Option<StartWithStreams> {
        // The streams were sent before the request, but perhaps after the descriptor channel was
        // last read.
        while start.streams > 0 && self.read_to_notification() {
            self.is_notified = true;
        }
        let streams = self.streams.take(start.key, start.streams);
        let forked = streams.and_then(|streams| Ok((sys::fork(self.alone)?, streams)));
        match forked {
            Ok((Forked::Parent { child: pid }, _)) => {
                let _ = start.report.send(Report::Started { pid });
                let Start { key, lifetime, report, .. } = *start;
                let end = if self.exits.is_none() { sys::watch_process(pid) } else { None };
                let last_words = None;
                let child = ForkedProcess { key, lifetime, report, end, last_words };
                self.children.insert(pid, child);
                None
            }
            Ok((Forked::Child { .. }, streams)) => Some((start, streams)),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(0);
                let _ = start.report.send(Report::NotStarted { errno });
                None
            }
        }
    }

    /// Sends the reports that had no room before, up to the first one that has none now either.
    fn send_again(&mut self) {
        while let Some(report) = self.unsent.pop_front() {
            if !report.send() {
                self.unsent.push_back(report);
                return;
            }
        }
    }

    fn signal_children(&self, signal: i32, is_meant: impl Fn(&ForkedProcess) -> bool) {
        let Ok(signal) = Signal::try_from(signal) else { return };
        for (pid, _) in self.children.iter().filter(|(_, child)| is_meant(child)) {
            sys::signal_child(*pid, signal);
        }
    }

    /// Reports the exit of a child that was reaped, and kills the processes that the child owned.
    fn report_exit(&mut self, reaped: Reaped) {
        let Reaped { pid, status, processor_time } = reaped;
        Family::announce_death(pid, status);
        if status.code().is_none() {
            // The child sent its last words before it ended, so they have arrived.
            while self.read_to_notification() {
                self.is_notified = true;
            }
        }
        let Some(child) = self.children.remove(&pid) else { return };
        let last_words = child.last_words.filter(|words| words.explains(status));
        let exit = Exit { status: Some(status), processor_time, last_words };
        let report = ExitReport { report: child.report, exit };
        if !report.send() {
            self.unsent.push_back(report);
        }
        self.streams.forget(|key| key.owner == pid);
        for (orphan, _) in self.children.iter().filter(|(_, other)| other.key.owner == pid) {
            sys::signal_child(*orphan, Signal::SIGKILL);
        }
    }
}
