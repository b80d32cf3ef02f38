//! The fork server's side: it hears requests, forks, and tells how its children ended.

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

/// How long a fork server that ends waits for the children that it has killed, and its parent for
/// it.
pub(super) const REAP_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a fork server looks for its parent and its children where no descriptor tells it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Where a fork server hears of what it is to do.
pub(crate) struct Ears {
    pub(crate) requests: IpcReceiver<Request>,
    pub(crate) bell: Listener,
    /// Closed when the owner ends or executes another program; without it, the fork server is another
    /// fork server's child and ends with that.
    pub(crate) life: Option<OwnedFd>,
}

/// The fork server's side.
pub(crate) struct Server {
    alone: SingleThread,
    /// The process that this fork server serves, its parent.
    owner: u32,
    ears: Ears,
    /// Tells of exits, unless each child has to be watched by itself.
    exits: Option<ChildExits>,
    children: FxHashMap<u32, Running>,
    streams: Arrived,
    retiring: bool,
    /// Whether a ring was heard whose request is not read yet.
    is_rung: bool,
}

/// A new process that has done nothing yet.
pub(crate) struct Newborn {
    pub(super) alone: SingleThread,
    pub(super) start: Start,
    pub(super) streams: Vec<(u8, OwnedFd)>,
}

/// A child that has not been reaped.
struct Running {
    key: Key,
    lifetime: Lifetime,
    report: IpcSender<Report<()>>,
    /// Readable when it has ended, where nothing else tells that.
    end: Option<OwnedFd>,
    /// What it said that it may die of.
    last_words: Option<LastWords>,
}

impl Running {
    fn is_daemon_of(&self, owner: u32) -> bool {
        self.lifetime == Lifetime::Daemon && self.key.owner == owner
    }
}

impl Server {
    /// Becomes the fork server; what returns from `serve` is a child, which ends here too.
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
        // It holds descriptors for all its children, which get the program's limit back.
        let files = sys::raise_limit_of_open_files();
        // Threads of libraries that were there before `main` would take the signal that tells of
        // exits.
        let exits = if sys::has_one_thread() { ChildExits::new().ok() } else { None };
        last_words::have_children_say_to(line);
        let children = FxHashMap::default();
        let streams = Arrived::default();
        let (retiring, is_rung) = (false, false);
        let mut server = Server { alone, owner, ears, exits, children, streams, retiring, is_rung };
        let fork_server = sys::pid();
        let (start, streams) = server.serve();
        // From here on this is a child. It must not hold its siblings' channels, nor the
        // fork server's.
        drop(server);
        sys::die_with_parent();
        if sys::parent_pid() != fork_server {
            sys::exit_now(0);
        }
        sys::restore_signals(&mask);
        sys::restore_limit_of_open_files(files);
        Newborn { alone, start, streams }
    }

    /// Serves requests; returns in each new child, with what it is to do.
    fn serve(&mut self) -> (Start, Vec<(u8, OwnedFd)>) {
        let watch = sys::watch_process(self.owner);
        loop {
            if sys::parent_pid() != self.owner {
                self.end();
            }
            if self.retiring && self.children.is_empty() {
                sys::exit_now(0);
            }
            let mut fds = vec![self.ears.bell.as_fd()];
            fds.extend(watch.as_ref().map(OwnedFd::as_fd));
            // One that retires no longer has an owner who keeps its pipe open.
            let life = self.ears.life.as_ref().filter(|_| !self.retiring);
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
            // What was rung while something else was waited for is not waited for again.
            let glance = if self.is_rung { Some(Duration::ZERO) } else { glance };
            let Ok(ready) = sys::wait_readable(&fds, glance) else { self.end() };
            let lost_owner = life.is_some() && ready[first_exit - 1];
            // One ring a turn: each has its request in the channel by now, and costs no more.
            let is_rung = std::mem::take(&mut self.is_rung) | (ready[0] && self.hear());
            if is_rung && let Some(start) = self.obey() {
                return start;
            }
            if lost_owner && !self.retiring {
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

    /// Hears what was said at the descriptor channel, up to the next ring; false if there was none.
    fn hear(&mut self) -> bool {
        loop {
            match self.ears.bell.hear() {
                None => return false,
                Some(Heard::Notifier) => return true,
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

    /// Does what is asked for; in a new child, what it is to do.
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

    /// Nobody is left to work for: ends the children, and the fork server.
    fn end(&mut self) -> ! {
        for pid in self.children.keys() {
            sys::signal_child(*pid, Signal::SIGKILL);
        }
        // Those who are not reaped here would stay with a first process that does not reap.
        let deadline = Instant::now() + REAP_TIMEOUT;
        for pid in self.children.keys() {
            sys::reap_until(*pid, deadline);
        }
        sys::exit_now(0)
    }

    fn receive(&self) -> Option<Request> {
        // A message whose channel ends did not fit this process's descriptors is lost; the asker
        // sees its channel closed.
        match panics::catch(|| self.ears.requests.try_recv()) {
            Ok(received) => received.ok(),
            Err(_) => {
                wire::close_arrived(wire::MAX_HANDLES);
                None
            }
        }
    }

    /// Forks; the child gets `start` back, with its streams.
    fn start(&mut self, start: Start) -> Option<(Start, Vec<(u8, OwnedFd)>)> {
        // They were sent before the request, but perhaps after the descriptor channel was last heard.
        while start.streams > 0 && self.hear() {
            self.is_rung = true;
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
            // What it said before it died has come by now.
            while self.hear() {
                self.is_rung = true;
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
