//! The template: a process with one thread that runs no user code, so that forking it is always
//! safe.
//!
//! A template is born in one of three ways (see [`StartMethod`](crate::StartMethod)): forked at the top of
//! `main`, forked from the caller as it is now, or by executing the program again, which becomes a
//! template before its `main` begins. From then on all are alike: a request arrives, the template
//! forks, tells the new process's pid, and when it has reaped the process tells its exit status.
//!
//! What can go wrong, and why it does not:
//! - *The template blocks.* It waits only in `poll`. What it sends goes to a channel of the new
//!   process's own, where it puts two messages, so no channel is ever full because of it.
//! - *A request arrives unseen.* ipc-channel shows nobody its descriptor, so a doorbell beside it
//!   is rung after each request; the template reads requests until there are none.
//! - *The program is killed.* A pidfd of the program becomes readable; the template kills its
//!   children, reaps them, and ends. Where the template is killed as well, the kernel kills its
//!   children (PR_SET_PDEATHSIG, safe here because one thread is the template).
//! - *The program executes another one.* A pipe that only the program holds is closed by that.
//! - *A thread takes the template's SIGCHLD*, started by a library before `main`. Where there are
//!   other threads, the template waits for a pidfd of each child in place of the signal.
//! - *The template is killed.* Its children die with it, by the same signal, and every channel to
//!   them reads end-of-file. The next process is started by a new template, executed.
//! - *A pid is signalled after its process has ended.* Only the template sends signals, and it is
//!   the one that reaps, so it knows.
//! - *The owner of a process dies*, where that is itself a child: the template kills what it owned.

mod server;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipc_channel::IpcError;
use ipc_channel::ipc::{self, IpcSender};
use nix::sys::signal::Signal;

pub(crate) use self::server::{Ears, Server};
use crate::context;
use crate::ending::Tie;
use crate::error::Error;
use crate::process::Handle;
use crate::streams::Streams;
use crate::surroundings::{Overrides, Snapshot, Surroundings};
use crate::sys::image::{self, Image};
use crate::sys::{self, Bell, Forked, Rights, Ring, SingleThread};
use crate::wire::{self, Key, Request, Start};

/// Tells an executed program that it is to be a template, and the numbers of the descriptors that
/// it is given for that: the two ends of the doorbell, the requests and who sends them, its owner's
/// life, and stdin.
const VARIABLE: &str = "PROC_CORE_TEMPLATE";

/// How long a template that ends waits for the children that it has killed, and its parent for it.
const FUNERAL: Duration = Duration::from_secs(1);

/// How long an executed template may take to begin.
const BIRTH: Duration = Duration::from_secs(30);

sys::before_main! { BECOME_TEMPLATE: become_template_if_asked }

/// In an executed program, before its `main` begins: becomes the template if it was executed for
/// that.
fn become_template_if_asked(arguments: sys::Arguments) {
    if is_executed_for_it() {
        // What they prepare is there in every process of the program.
        sys::run_constructors_after(BECOME_TEMPLATE, arguments);
        Template::serve_if_spawned();
    }
}

/// Whether this process was executed to be a template, and is none yet.
pub(crate) fn is_executed_for_it() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

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

    /// Orders the template to kill its children and to end.
    pub(crate) fn order_end(&self) -> io::Result<()> {
        self.ring.order_end()
    }

    /// For who can do no more than one system call.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
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
    /// Closed when this process ends, or executes another program: then the template ends.
    #[expect(dead_code, reason = "held for the template, nothing more")]
    life: Option<OwnedFd>,
}

impl Template {
    /// One that was made by another template.
    pub(crate) fn made(line: Arc<Line>, base: Snapshot, handle: Handle) -> Template {
        Template { line, child: None, handle: Some(handle), base, life: None }
    }

    /// In a template: itself, as its children see it.
    pub(crate) fn own(line: Arc<Line>, base: Snapshot) -> Template {
        Template { line, child: None, handle: None, base, life: None }
    }

    /// Forks a template from this process as it is now, but for `streams`.
    pub(crate) fn fork(alone: SingleThread, streams: &Streams) -> io::Result<Template> {
        sys::fill_standard_streams();
        wire::warm_up()?;
        let (sender, requests) = ipc::channel()?;
        let (ring, bell) = sys::doorbell()?;
        let (owners_life, life) = std::io::pipe()?;
        let owner = sys::pid();
        let base = Snapshot::now()?;
        match sys::fork(alone)? {
            Forked::Parent { child } => {
                let line = Line::new(sender, ring);
                context::note_template(child, &line);
                let child = Some((child, owner));
                Ok(Template { line, child, handle: None, base, life: Some(life.into()) })
            }
            Forked::Child => {
                drop(life);
                streams.close_copies();
                let line = Template::own(Line::new(sender, ring), base);
                let life = Some(owners_life.into());
                Server::run(alone, owner, Ears { requests, bell, life }, line)
            }
        }
    }

    /// Executes this program again, which becomes the template before its `main` begins.
    pub(crate) fn spawn() -> io::Result<Template> {
        sys::fill_standard_streams();
        wire::warm_up()?;
        // Read, so that no linker leaves it out.
        std::hint::black_box(BECOME_TEMPLATE);
        let (sender, requests) = ipc::channel::<Request>()?;
        let (ring, bell) = sys::doorbell()?;
        let (owners_life, life) = std::io::pipe()?;
        let sender_of_its_own = wire::fd_of(&sender)?;
        let requests = wire::fd_of(&requests)?;
        let stdin = sys::own_stream(0)?;
        let mut command = Command::new(own_executable()?);
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        let fds = [
            sys::pass_on(&bell, &mut command)?,
            sys::pass_on(&ring, &mut command)?,
            sys::pass_on(&requests, &mut command)?,
            sys::pass_on(&sender_of_its_own, &mut command)?,
            sys::pass_on(&owners_life, &mut command)?,
            sys::pass_on(&stdin, &mut command)?,
        ];
        let base = Snapshot::now()?;
        let numbers = fds.map(|number| number.to_string()).join(":");
        let child = command
            .env(VARIABLE, format!("{}:{numbers}", sys::Capabilities::now()?.to_words()))
            .stdin(sys::empty_stdin()?)
            .spawn();
        let mut child = child.map_err(cannot_execute)?;
        // With our copies, nobody could tell that the template has died.
        drop((bell, requests, sender_of_its_own, owners_life, stdin, command));
        match await_birth(&ring, &mut child) {
            Ok(()) => {
                let line = Line::new(sender, ring);
                context::note_template(child.id(), &line);
                let child = Some((child.id(), sys::pid()));
                Ok(Template { line, child, handle: None, base, life: Some(life.into()) })
            }
            Err(why) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(io::Error::other(format!("the program was executed again, but {why}")))
            }
        }
    }

    /// In an executed program: becomes the template that it was executed to be.
    fn serve_if_spawned() -> ! {
        sys::fill_standard_streams();
        let alone = SingleThread::fresh_image();
        let value = std::env::var(VARIABLE).unwrap_or_default();
        sys::set_env(alone, VARIABLE.as_ref(), None);
        let owner = sys::parent_pid();
        let born = || -> io::Result<_> {
            let (capabilities, numbers) =
                value.split_once(':').ok_or(io::ErrorKind::InvalidInput)?;
            let capabilities = sys::Capabilities::from_words(capabilities);
            capabilities.ok_or(io::ErrorKind::InvalidInput)?.keep_no_more()?;
            let numbers = numbers.split(':').map(|number| number.parse().map_err(io::Error::other));
            let fds: io::Result<Vec<OwnedFd>> =
                numbers.map(|number| sys::take_over(number?)).collect();
            let fds = <[OwnedFd; 6]>::try_from(fds?).map_err(|_| io::ErrorKind::InvalidInput)?;
            let [bell, ring, requests, sender, owners_life, stdin] = fds;
            wire::warm_up()?;
            let requests = wire::receiver_of(requests)?;
            let sender = wire::sender_of(sender)?;
            // What the program reads is its own until then.
            sys::put_stream(0, stdin)?;
            let bell = Bell::from(bell);
            bell.greet(Image::get().identity())?;
            let line = Template::own(Line::new(sender, ring.into()), Snapshot::now()?);
            Ok((Ears { requests, bell, life: Some(owners_life) }, line))
        };
        match born() {
            Ok((ears, line)) => Server::run(alone, owner, ears, line),
            Err(error) => {
                eprintln!(
                    "proc-core: {VARIABLE} is set, but the program that set it cannot be reached: \
                     {error}; do not set this variable yourself"
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
            context::note_daemon(self.child.map(|(pid, _)| pid), &self.line);
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
            && parent == sys::pid()
        {
            sys::signal_child(child, Signal::SIGKILL);
        }
        if let Some(handle) = &self.handle {
            handle.signal(Signal::SIGKILL);
        }
    }

    /// Whether the template still has this thread's rights, and so may make its children.
    ///
    /// # Errors
    ///
    /// There is no descriptor for asking.
    pub(crate) fn has_our_rights(&self) -> Result<bool, Error> {
        let now = Rights::now().map_err(|error| Error::start("a process", error))?;
        Ok(self.base.rights == now)
    }

    /// Ends a template of which nothing more is wanted, and waits for that: what it holds is gone
    /// then.
    pub(crate) fn end(template: Arc<Template>) {
        let handle = template.handle.as_ref().map(|handle| handle.pid);
        let child = template.child.map(|(pid, _)| pid);
        let end = handle.and_then(sys::watch_process);
        // Others may hold it until they have ended their last process.
        drop(template);
        let deadline = Instant::now() + FUNERAL;
        if let Some(pid) = child {
            context::collect_until(pid, deadline);
        }
        if let Some(end) = end {
            let _ = sys::wait_readable(&[end.as_fd()], Some(FUNERAL));
        }
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        if self.child.is_some_and(|(_, parent)| parent != sys::pid()) {
            return Err(io::Error::other("it serves the process that this one was forked from"));
        }
        self.line.ask(request)
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // A fork of the parent drops a copy of this, which must have no effect.
        if let Some((child, parent)) = self.child.take()
            && parent == sys::pid()
        {
            let _ = self.ask(Request::Retire);
            context::collect_later(child);
        }
        if self.handle.as_ref().is_some_and(Handle::is_ours) {
            let _ = self.ask(Request::Retire);
        }
    }
}

/// What executes this program again.
fn own_executable() -> io::Result<PathBuf> {
    // Unlike current_exe()'s path, this still runs the same file after it was replaced on disk.
    let link = PathBuf::from("/proc/self/exe");
    // It must be followed: where /proc is not mounted, another file may be there.
    match std::fs::metadata(&link) {
        Ok(_) => Ok(link),
        Err(error) => Err(cannot_execute(error)),
    }
}

fn cannot_execute(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => io::Error::new(
            error.kind(),
            format!(
                "the program cannot be executed again ({error}): mount /proc, and let the program's file \
                 and what it is linked with be found and executed where it runs now (also in a chroot), or \
                 make proc_core::init() the first line of main, so that nothing is executed"
            ),
        ),
        _ => error,
    }
}

/// Waits until an executed copy of the program says that it is a template.
fn await_birth(ring: &Ring, child: &mut Child) -> Result<(), String> {
    let told =
        ring.await_greeting(child, Instant::now() + BIRTH).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => format!("did not become a template within {BIRTH:?}"),
            _ => format!("did not become a template: {error}"),
        })?;
    match told == Image::get().identity() {
        true => Ok(()),
        false => {
            Err("the program file has changed since this process was started: start it anew".into())
        }
    }
}

/// Why this process cannot be made anew by executing its program; `None` if it can.
pub(crate) fn why_not_executed() -> Option<io::Error> {
    (!image::is_of_our_program()).then(|| {
        let program = std::env::current_exe().unwrap_or_default();
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "this library was loaded by {}, a program that knows nothing of proc_core and is not \
                 executed again: call proc_core::init() in the library while the program has one thread \
                 (at best when it is loaded), or use StartMethod::Fork while it has one",
                program.display()
            ),
        )
    })
}
