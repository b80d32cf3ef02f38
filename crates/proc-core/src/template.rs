//! The template: a process with one thread that runs no user code, so that forking it is always safe.
//!
//! A template is born in one of three ways (see [`Context`](crate::Context)): forked at the top of
//! `main`, forked from the caller as it is now, or by executing the program again. From then on all
//! are alike: a request arrives, the template forks, tells the new process's pid, and when it has
//! reaped the process tells its exit status.
//!
//! What can go wrong, and why it does not:
//! - *The template blocks.* It waits only in `poll`. What it sends goes to a channel of the new
//!   process's own, where it puts two messages, so no channel is ever full because of it.
//! - *A request arrives unseen.* ipc-channel shows nobody its descriptor, so a doorbell beside it
//!   is rung after each request; the template reads requests until there are none.
//! - *The program is killed.* A pidfd of the program becomes readable; the template ends, and the
//!   kernel kills its children (PR_SET_PDEATHSIG, safe here because one thread is the template).
//! - *The template is killed.* Its children die with it, by the same signal, and every channel to
//!   them reads end-of-file. The next process is started by a new template, executed.
//! - *A pid is signalled after its process has ended.* Only the template sends signals, and it is
//!   the one that reaps, so it knows.
//! - *The owner of a process dies*, where that is itself a child: the template kills what it owned.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcOneShotServer, IpcReceiver, IpcSender};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::ending::{self, Tie};
use crate::error::Error;
use crate::panics::{self, Echo};
use crate::process::Handle;
use crate::streams::{self, Arrived, BELL, Streams};
use crate::surroundings::{Overrides, Snapshot, Surroundings};
use crate::sys::image::Image;
use crate::sys::{self, Bell, ExitBell, Forked, Ring, SingleThread};
use crate::wire::{Job, Key, Report, Request, Start};
use crate::{context, preload, process, worker};

/// Tells an executed program that it is to be a template, and where to report: `nonce:bell:ring:server`.
const VARIABLE: &str = "PROC_CORE_TEMPLATE";

/// How often a template looks for its parent and its children where no descriptor tells it.
const GLANCE: Duration = Duration::from_millis(20);

/// How long an executed template may take to reach `init()`.
const BIRTH: Duration = Duration::from_secs(30);

/// The way to a template: requests, and the bell that announces them.
#[derive(Debug)]
pub(crate) struct Line {
    requests: Mutex<IpcSender<Request>>,
    ring: Ring,
}

impl Line {
    pub(crate) fn new(requests: IpcSender<Request>, ring: Ring) -> Arc<Line> {
        Arc::new(Line { requests: Mutex::new(requests), ring })
    }

    pub(crate) fn ask(&self, request: Request) -> io::Result<()> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.send(request).map_err(|error| match error {
            IpcError::Io(error) => error,
            IpcError::Disconnected => io::ErrorKind::ConnectionReset.into(),
            error => io::Error::other(error),
        })?;
        self.ring.ring()
    }
}

/// A template, for whoever asks it for processes.
#[derive(Debug)]
pub(crate) struct Template {
    line: Arc<Line>,
    /// Where the template is a child: its pid and its parent, who tells it to end and collects it.
    child: Option<(u32, u32)>,
    /// Where another template has made it: how to end it.
    handle: Option<Handle>,
    /// What the template's own environment looks like.
    base: Snapshot,
}

impl Template {
    /// One that was made by another template.
    pub(crate) fn made(line: Arc<Line>, base: Snapshot, handle: Handle) -> Template {
        Template { line, child: None, handle: Some(handle), base }
    }

    /// In a template: itself, as its children see it.
    pub(crate) fn own(line: Arc<Line>, base: Snapshot) -> Template {
        Template { line, child: None, handle: None, base }
    }

    /// Forks a template from this process as it is now, but for `streams`.
    pub(crate) fn fork(alone: SingleThread, streams: &Streams) -> io::Result<Template> {
        let (sender, requests) = ipc::channel()?;
        let (ring, bell) = sys::doorbell()?;
        let owner = std::process::id();
        let base = Snapshot::now();
        match sys::fork(alone)? {
            Forked::Parent { child } => {
                let child = Some((child, owner));
                Ok(Template { line: Line::new(sender, ring), child, handle: None, base })
            }
            Forked::Child => {
                streams.close_copies();
                let line = Template::own(Line::new(sender, ring), base);
                Server::run(alone, owner, requests, bell, line)
            }
        }
    }

    /// Executes this program again; its `init()` becomes the template.
    pub(crate) fn spawn() -> io::Result<Template> {
        // ipc-channel panics where it cannot make its socket's directory.
        let temporary = std::env::temp_dir();
        if !temporary.is_dir() {
            let what = format!("the temporary directory {} (TMPDIR)", temporary.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{what} does not exist")));
        }
        let (server, address) = panics::catch(IpcOneShotServer::<Hello>::new)
            .map_err(|panic| io::Error::other(format!("no socket: {}", panic.message)))??;
        let (ring, bell) = sys::doorbell()?;
        // The address is in a directory that other users may be able to reach.
        let nonce = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &address);
        let owner = std::process::id();
        let mut command = Command::new(own_executable());
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        let fds = (sys::pass_on(&bell, &mut command)?, sys::pass_on(&ring, &mut command)?);
        let base = Snapshot::now();
        let mut child = command
            .env(VARIABLE, format!("{nonce}:{}:{}:{address}", fds.0, fds.1))
            .stdin(Stdio::inherit())
            .spawn()?;
        drop((bell, command));

        // accept() cannot be given a deadline, so a thread does it, and is called off by a message
        // of our own if the child ends first.
        let (told, hello) = mpsc::channel();
        let accept = move || {
            let _ = told.send(server.accept());
        };
        let accepting =
            std::thread::Builder::new().name("proc-core accept".into()).spawn(accept)?;
        let call_off = || {
            if let Ok(line) = IpcSender::<Hello>::connect(address.clone()) {
                let _ = line.send(Hello { nonce: !nonce, image: 0, requests: None });
            }
        };
        let deadline = std::time::Instant::now() + BIRTH;
        let outcome = loop {
            match hello.recv_timeout(GLANCE) {
                Ok(outcome) => break outcome.map_err(|error| error.to_string()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break Err("nobody listens".into()),
            }
            if let Ok(Some(status)) = child.try_wait() {
                call_off();
                break Err(format!("it ended ({status}) before it reached proc_core::init()"));
            }
            if std::time::Instant::now() > deadline {
                call_off();
                break Err(format!("it did not reach proc_core::init() within {BIRTH:?}"));
            }
        };
        // With it goes the socket's directory.
        let _ = accepting.join();
        let sender = outcome.and_then(|(_, hello)| match hello {
            Hello { nonce: told, .. } if told != nonce => Err("another process answered".into()),
            Hello { image, .. } if image != Image::get().identity() => {
                Err("the program file has changed since this process was started".into())
            }
            Hello { requests, .. } => requests.ok_or_else(|| "it sent no channel".to_owned()),
        });
        match sender {
            Ok(sender) => {
                let line = Line::new(sender, ring);
                Ok(Template { line, child: Some((child.id(), owner)), handle: None, base })
            }
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::other(format!("the program was executed again, but {why}")))
            }
        }
    }

    /// In an executed program: becomes the template if that is what it was executed for.
    pub(crate) fn serve_if_spawned() {
        let Some(value) = std::env::var_os(VARIABLE) else { return };
        let alone = SingleThread::fresh_image();
        sys::set_env(alone, VARIABLE.as_ref(), None);
        let owner = sys::parent_pid();
        let born = || -> io::Result<_> {
            let value = value.to_str().ok_or(io::ErrorKind::InvalidInput)?;
            let mut fields = value.splitn(4, ':');
            let mut field = || fields.next().ok_or(io::ErrorKind::InvalidInput);
            let nonce = field()?.parse().map_err(io::Error::other)?;
            let bell = sys::take_over(field()?.parse().map_err(io::Error::other)?)?;
            let ring = sys::take_over(field()?.parse().map_err(io::Error::other)?)?;
            let server = IpcSender::<Hello>::connect(field()?.to_owned())?;
            let (sender, requests) = ipc::channel()?;
            let image = Image::get().identity();
            server
                .send(Hello { nonce, image, requests: Some(sender.clone()) })
                .map_err(io::Error::other)?;
            let base = Snapshot::now();
            let line = Line::new(sender, ring.into());
            Ok((requests, bell.into(), Template::own(line, base)))
        };
        match born() {
            Ok((requests, bell, line)) => Server::run(alone, owner, requests, bell, line),
            Err(error) => {
                eprintln!(
                    "proc-core: {VARIABLE} is set, but the program that set it cannot be reached: \
                     {error}"
                );
                sys::exit_now(1)
            }
        }
    }

    /// What a new process must change to have today's surroundings, with `overrides`.
    pub(crate) fn surroundings(&self, overrides: &Overrides) -> Result<Surroundings, String> {
        self.base.changes(overrides)
    }

    /// Asks for a process.
    pub(crate) fn start(&self, start: Start, streams: &Streams) -> Result<(), Error> {
        if start.tie == Tie::Daemon {
            let pid = self.child.map_or(0, |(pid, _)| pid);
            context::note_daemon(pid, &self.line);
        }
        let key = start.key;
        let asked = streams.pass(&self.line.ring, key);
        asked.and_then(|()| self.ask(Request::Start(Box::new(start)))).map_err(|error| {
            self.forget(key);
            match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Error::template_gone()
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
        // Where the template is gone, so are its children.
        let _ = self.ask(Request::Signal { to, signal: signal as i32 });
    }

    /// Kills the template where it is this process's child.
    pub(crate) fn kill(&self) {
        // Only this process collects it, and not before this value is dropped.
        if let Some((child, parent)) = self.child
            && parent == std::process::id()
        {
            sys::signal_child(child, Signal::SIGKILL);
        }
        if let Some(handle) = &self.handle {
            handle.signal(Signal::SIGKILL);
        }
    }

    /// Whether the template still has this process's user and group, and so may make its children.
    pub(crate) fn has_our_rights(&self) -> bool {
        self.base.rights == sys::rights()
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        if self.child.is_some_and(|(_, parent)| parent != std::process::id()) {
            return Err(io::Error::other("it serves the process that this one was forked from"));
        }
        self.line.ask(request)
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // A fork of the parent drops a copy of this, which must have no effect.
        if let Some((child, parent)) = self.child.take()
            && parent == std::process::id()
        {
            let _ = self.ask(Request::Retire);
            context::collect_later(child);
        }
        if self.handle.as_ref().is_some_and(Handle::is_ours) {
            let _ = self.ask(Request::Retire);
        }
    }
}

fn own_executable() -> PathBuf {
    // Unlike current_exe()'s path, this still runs the same file after it was replaced on disk.
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() { link } else { std::env::current_exe().unwrap_or(link) }
}

/// What an executed template says first.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    nonce: u64,
    image: u64,
    requests: Option<IpcSender<Request>>,
}

/// The template's side.
pub(crate) struct Server {
    alone: SingleThread,
    /// The process that this template serves, its parent.
    owner: u32,
    requests: IpcReceiver<Request>,
    bell: Bell,
    exits: ExitBell,
    children: HashMap<u32, Running>,
    streams: Arrived,
    retiring: bool,
}

/// A child that has not been reaped.
struct Running {
    key: Key,
    tie: Tie,
    report: IpcSender<Report>,
}

impl Running {
    fn is_daemon_of(&self, owner: u32) -> bool {
        self.tie == Tie::Daemon && self.key.owner == owner
    }
}

impl Server {
    /// Becomes the template; what returns from `serve` is a child, which ends here too.
    pub(crate) fn run(
        alone: SingleThread,
        owner: u32,
        requests: IpcReceiver<Request>,
        bell: Bell,
        line: Template, // what children use to ask this template for processes of their own
    ) -> ! {
        ending::let_go();
        sys::ignore_sigpipe();
        sys::hear_children();
        sys::name_process("template");
        // Only ipc-channel can panic here, on a malformed message; `receive` deals with that.
        panics::install_hook();
        panics::set_echo(Echo::Never);
        let mask = sys::block_signals(&sys::template_signals());
        let (Ok(mask), Ok(exits)) = (mask, ExitBell::new()) else { sys::exit_now(1) };
        let mut server = Server {
            alone,
            owner,
            requests,
            bell,
            exits,
            children: HashMap::new(),
            streams: Arrived::default(),
            retiring: false,
        };
        let template = std::process::id();
        let (start, streams) = server.serve();
        // From here on this is a child. It must not hold its siblings' channels, nor the template's.
        drop(server);
        sys::die_with_parent();
        if sys::parent_pid() != template {
            sys::exit_now(0);
        }
        sys::restore_signals(&mask);
        context::adopt(line);
        become_process(alone, start, streams)
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
            let mut fds = vec![self.bell.as_fd()];
            fds.extend(self.exits.descriptor());
            fds.extend(watch.as_ref().map(OwnedFd::as_fd));
            let glance = (fds.len() < 3).then_some(GLANCE);
            let Ok(ready) = sys::wait_readable(&fds, glance) else { self.end() };
            let exits_are_told = self.exits.descriptor().is_some();
            if ready[0] {
                // One ring a turn: each has its request in the channel by now, and costs no more.
                self.streams.hear(&self.bell);
                while let Some(request) = self.receive() {
                    match request {
                        Request::Start(start) => {
                            if let Some(start) = self.start(*start) {
                                return start;
                            }
                        }
                        Request::Signal { to, signal } => {
                            self.signal(signal, |child| child.key == to);
                        }
                        Request::SignalDaemons { of, signal } => {
                            self.signal(signal, |child| child.is_daemon_of(of));
                        }
                        Request::Forget(start) => self.streams.forget(|key| key == start),
                        Request::Retire => self.retiring = true,
                    }
                }
            }
            if ready[1..].first() == Some(&true) || !exits_are_told {
                self.exits.quiet();
                while let Some((pid, status)) = sys::reap() {
                    self.report_exit(pid, status);
                }
            }
        }
    }

    /// The program is gone: nobody is left to work for.
    fn end(&self) -> ! {
        for pid in self.children.keys() {
            sys::signal_child(*pid, Signal::SIGKILL);
        }
        sys::exit_now(0)
    }

    fn receive(&self) -> Option<Request> {
        // A message whose channel ends did not fit this process's descriptors is lost; the asker
        // sees its channel closed.
        panics::catch(|| self.requests.try_recv()).ok()?.ok()
    }

    /// Forks; the child gets `start` back, with its streams.
    fn start(&mut self, start: Start) -> Option<(Start, Vec<(u8, OwnedFd)>)> {
        let streams = self.streams.take(start.key, start.streams, &self.bell);
        let forked = streams.and_then(|streams| Ok((sys::fork(self.alone)?, streams)));
        match forked {
            Ok((Forked::Parent { child: pid }, _)) => {
                let _ = start.report.send(Report::Started { pid });
                let Start { key, tie, report, .. } = start;
                self.children.insert(pid, Running { key, tie, report });
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
        let Some(child) = self.children.remove(&pid) else { return };
        let _ = child.report.send(Report::Exited { status: status.into_raw() });
        self.streams.forget(|key| key.owner == pid);
        for (orphan, _) in self.children.iter().filter(|(_, other)| other.key.owner == pid) {
            sys::signal_child(*orphan, Signal::SIGKILL);
        }
    }
}

/// What every new process does before its own work: take the name and the surroundings it was given.
fn become_process(alone: SingleThread, start: Start, streams: Vec<(u8, OwnedFd)>) -> ! {
    sys::name_process(&start.name);
    let (streams, doorbell) = streams.into_iter().partition(|(number, _)| *number < BELL);
    ending::hold(start.tie, start.lifeline);
    let taken = streams::put(streams).and_then(|()| start.surroundings.decode());
    let taken = taken.and_then(|surroundings: Surroundings| surroundings.take(alone));
    let taken = taken.and_then(|()| start.limits.set());
    if let Err(why) = taken {
        let _ = start.report.send(Report::NotReady(why));
        sys::exit_now(1);
    }
    match start.job {
        Job::Call { function, arguments } => {
            process::child_main(function, arguments, &start.report)
        }
        Job::Preload(setup) => preload::main(*setup, doorbell, start.report),
        Job::Work(setup) => worker::main(*setup, &start.report),
    }
}
