//! One function in one process: [`Process`] describes it, [`Child`] is it running.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use nix::sys::signal::Signal;

use crate::child::Child;
use crate::context::{self, StartMethod};
use crate::ending::{self, Tie};
use crate::error::{Error, Place};
use crate::function::{Fault, Input, Message, Name, refuse_captures};
use crate::limits::Limits;
use crate::panics::{self, Echo};
use crate::sink::Sink;
use crate::state::State;
use crate::streams::Streams;
use crate::surroundings::Overrides;
use crate::sys;
use crate::template::Template;
use crate::wire::{self, Job, Key, Payload, Report, Start};

/// The exit code of a process whose function panicked: the one Rust gives a panicking `main`.
const PANICKED: i32 = 101;

/// A function and its argument, to be run in a process of their own.
///
/// The function is a `fn` item or a closure that captures nothing; anything else is refused by the
/// compiler. Argument and result are [`Message`]s; several arguments are a tuple, none is `()`.
///
/// ```
/// # fn main() -> Result<(), proc_core::Error> {
/// # proc_core::init();
/// use proc_core::Process;
///
/// fn even(n: u32) -> Vec<u32> {
///     (0..n).filter(|i| i % 2 == 0).collect()
/// }
///
/// let child = Process::new(even, 7).name("even").start()?;
/// assert_eq!(child.join()?, [0, 2, 4, 6]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Process<F, A> {
    function: F,
    argument: A,
    name: Option<String>,
    context: StartMethod,
    attributes: Attributes,
}

/// What a process is started with beside its job.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) tie: Tie,
    pub(crate) overrides: Overrides,
    pub(crate) limits: Limits,
    pub(crate) streams: Streams,
}

impl<F, A, R> Process<F, A>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
{
    /// Describes a process that calls `function` with `argument`.
    #[doc(alias = "target")]
    #[doc(alias = "args")]
    pub fn new(function: F, argument: A) -> Self {
        refuse_captures!(F);
        let (context, attributes) = (StartMethod::default(), Attributes::default());
        Process { function, argument, name: None, context, attributes }
    }

    /// Names the process, for people: in errors and, cut to 15 bytes, in `ps`.
    ///
    /// Without a name it is `Process-1`, `Process-2` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses how the process comes into being.
    #[doc(alias = "context")]
    pub fn start_method(mut self, context: StartMethod) -> Self {
        self.context = context;
        self
    }

    /// Makes the process a daemon, or not, as it is without this.
    ///
    /// When a program ends, by the return of `main`, by `std::process::exit` or by a panic of
    /// `main`, its daemons are told to end (SIGTERM), and killed after half a second; the other
    /// processes that it has started are waited for. The same holds for a process at the end of its
    /// function. A pool's workers do not wait: what a task has started and not joined ends with its
    /// worker.
    ///
    /// A daemon may start processes of its own, which Python refuses; they end with it.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// let heartbeat = |()| -> () {
    ///     loop {
    ///         std::thread::sleep(Duration::from_secs(1));
    ///     }
    /// };
    /// let child = proc_core::Process::new(heartbeat, ()).daemon(true).start()?;
    /// drop(child); // main can return, and the daemon ends
    /// # Ok(())
    /// # }
    /// ```
    pub fn daemon(mut self, daemon: bool) -> Self {
        self.attributes.tie = if daemon { Tie::Daemon } else { Tie::Awaited };
        self
    }

    /// Sets an environment variable of the process.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// let ask = |name: String| std::env::var(name).ok();
    /// let child = proc_core::Process::new(ask, "GREETING".to_owned()).env("GREETING", "hello").start()?;
    /// assert_eq!(child.join()?.as_deref(), Some("hello"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.attributes.overrides.set(name.as_ref(), Some(value.as_ref()));
        self
    }

    /// Removes a variable from the environment of the process.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.attributes.overrides.set(name.as_ref(), None);
        self
    }

    /// Gives the process an empty environment, but for what is set after this.
    pub fn env_clear(mut self) -> Self {
        self.attributes.overrides.clear();
        self
    }

    /// Sets the working directory of the process. A relative path begins at the caller's.
    ///
    /// A directory that cannot be entered is an error of [`join`](Child::join).
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.attributes.overrides.enter(directory.into());
        self
    }

    /// Gives the process another stdin: a file, or the reading end of [`std::io::pipe`].
    ///
    /// With [`StartMethod::Fork`] the process is a copy of the caller: it has what the caller has read
    /// ahead from its own stdin, and sees the end of a pipe only if the caller had closed the other
    /// end.
    pub fn stdin(mut self, stream: impl Into<OwnedFd>) -> Self {
        self.attributes.streams.set(0, stream.into());
        self
    }

    /// Gives the process another stdout: a file, or the writing end of [`std::io::pipe`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # proc_core::init();
    /// let (mut reader, writer) = std::io::pipe()?;
    /// let child = proc_core::Process::new(|()| println!("hello"), ()).stdout(writer).start()?;
    /// assert_eq!(std::io::read_to_string(&mut reader)?, "hello\n"); // to the end of the process
    /// child.join()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stdout(mut self, stream: impl Into<OwnedFd>) -> Self {
        self.attributes.streams.set(1, stream.into());
        self
    }

    /// Gives the process another stderr, as [`stdout`](Process::stdout).
    pub fn stderr(mut self, stream: impl Into<OwnedFd>) -> Self {
        self.attributes.streams.set(2, stream.into());
        self
    }

    /// Limits what the process may use.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.attributes.limits = limits;
        self
    }

    /// Starts the process.
    ///
    /// It has the working directory and environment that the caller has now, and shares the
    /// program's stdin, stdout and stderr, where nothing else was asked for; see [`StartMethod`] for
    /// the rest. Returns when it exists; what its function does is not waited for.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded, the process cannot be started, or what was asked for makes
    /// no sense ([`Error::is_invalid`]).
    pub fn start(self) -> Result<Child<R>, Error> {
        let _ = self.function;
        let serial = next_serial();
        let name = self.name.unwrap_or_else(|| format!("Process-{serial}"));
        let place = || Place { name: Some(name.clone()), ..Place::default() };
        let function = Name::of::<F, A, R>().map_err(Error::invalid)?;
        context::with_template(self.context, &self.attributes.streams, |template| {
            let arguments = Payload::encode(&self.argument).map_err(Error::encode_argument)?;
            let job = Job::Call { function, arguments };
            let link = Link::start(template, serial, &name, &self.attributes, job)?;
            Ok(Child::new(link, name.clone(), self.attributes.limits.clone()))
        })
        .map_err(|error| error.at(place()))
    }
}

/// Counts the processes of this program, for names and keys.
pub(crate) fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// A started process, seen from its parent: the way to signal it, and its reports.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) handle: Handle,
    reports: IpcReceiver<Report>,
    /// What a quick process said before the template told its pid.
    early: RefCell<VecDeque<Report>>,
}

/// Names a started process, and knows who may signal it.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) pid: u32,
    key: Key,
    template: Arc<Template>,
}

impl Handle {
    /// Sends a signal, unless the process has been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        self.template.signal(self.key, signal);
    }

    /// The process that asked for it.
    pub(crate) fn owner(&self) -> u32 {
        self.key.owner
    }

    /// Whether this process asked for it, and is no copy of the one that did.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner() == sys::pid()
    }

    /// Ends the template that made the process, and with it all that it made.
    pub(crate) fn kill_template(&self) {
        self.template.kill();
    }
}

impl Link {
    /// Asks `template` for a process and waits until it exists.
    pub(crate) fn start(
        template: &Arc<Template>,
        serial: u64,
        name: &str,
        attributes: &Attributes,
        job: Job,
    ) -> Result<Link, Error> {
        let cannot = |source| Error::start("the process", source);
        sys::keep_reserve();
        let (report, reports) = ipc::channel().map_err(cannot)?;
        let key = Key { owner: sys::pid(), serial };
        let Attributes { tie, overrides, limits, streams } = attributes;
        let (tie, limits) = (*tie, limits.clone());
        let streams = streams.or_inherited().map_err(cannot)?;
        let surroundings = template.surroundings(overrides).map_err(Error::invalid)?;
        let surroundings = Payload::encode_plain(&surroundings)
            .map_err(|why| cannot(std::io::Error::other(why)))?;
        let lifeline = ending::lifeline(tie).map_err(cannot)?;
        // More is not shown anywhere; errors have the whole name.
        let name = name.chars().take(16).collect();
        let start = Start {
            key,
            name,
            report,
            tie,
            lifeline,
            surroundings,
            limits,
            streams: streams.count(),
            job,
        };
        template.start(start, &streams)?;
        let handle = Handle { pid: 0, key, template: Arc::clone(template) };
        let mut link = Link { handle, reports, early: RefCell::default() };
        let mut early = VecDeque::new();
        loop {
            match link.receive(None) {
                Received::Report(Report::Started { pid }) => {
                    link.handle.pid = pid;
                    link.early.replace(early);
                    return Ok(link);
                }
                Received::Report(Report::NotStarted { errno }) => {
                    return Err(cannot(std::io::Error::from_raw_os_error(errno)));
                }
                Received::Report(report) => early.push_back(report),
                received => {
                    template.forget(key);
                    if !matches!(received, Received::End) {
                        // It may exist all the same, and nobody would know it.
                        link.handle.signal(Signal::SIGKILL);
                        link.wait_for_end();
                    }
                    return Err(Error::template_gone());
                }
            }
        }
    }

    /// Reads what is said until the process is gone.
    pub(crate) fn wait_for_end(&self) {
        while !matches!(self.receive(None), Received::End | Received::Report(Report::Exited { .. }))
        {
        }
    }

    /// Waits for the next report, for ever or until `deadline`.
    pub(crate) fn receive(&self, deadline: Option<Instant>) -> Received {
        if let Some(report) = self.early.borrow_mut().pop_front() {
            return Received::Report(report);
        }
        loop {
            if !sys::has_memory_for_messages() {
                match self.receive_with_reserve(deadline) {
                    Some(received) => return received,
                    None => continue,
                }
            }
            let received = panics::catch(|| match deadline {
                None => self.reports.recv().map_err(TryRecvError::IpcError),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    // poll counts whole milliseconds: round up, or the last one is spent spinning.
                    let left = left + Duration::from_micros(999);
                    self.reports.try_recv_timeout(left.min(Duration::from_secs(1 << 20)))
                }
            });
            match received {
                Ok(Ok(report)) => return Received::Report(report),
                Ok(Err(TryRecvError::Empty)) if deadline.is_some_and(|d| d <= Instant::now()) => {
                    return Received::Nothing;
                }
                Ok(Err(TryRecvError::Empty)) => {}
                Ok(Err(TryRecvError::IpcError(ipc_channel::IpcError::Io(error))))
                    if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(Err(TryRecvError::IpcError(ipc_channel::IpcError::Disconnected))) => {
                    return Received::End;
                }
                Ok(Err(_)) | Err(_) => return Received::Rubbish,
            }
        }
    }
}

impl Link {
    /// Waits for a message before there is a buffer for it, and receives it with the memory that is
    /// kept for that. `None` if it has not come, or is to be tried again.
    #[cold]
    fn receive_with_reserve(&self, deadline: Option<Instant>) -> Option<Received> {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match wire::wait_for_message(&self.reports, left) {
            Ok(true) => {}
            Ok(false) if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                return Some(Received::Nothing);
            }
            _ => return None,
        }
        match sys::with_reserve(|| panics::catch(|| self.reports.try_recv())) {
            Ok(Ok(report)) => Some(Received::Report(report)),
            Ok(Err(TryRecvError::Empty)) => None,
            Ok(Err(TryRecvError::IpcError(ipc_channel::IpcError::Disconnected))) => {
                Some(Received::End)
            }
            _ => Some(Received::Rubbish),
        }
    }
}

/// What waiting for a report can bring.
#[derive(Debug)]
pub(crate) enum Received {
    Report(Report),
    /// The deadline came first.
    Nothing,
    /// Nobody is left who could report: process and template are gone.
    End,
    /// Something that is no report.
    Rubbish,
}

/// The life of a [`Process`] from inside.
pub(crate) fn child_main(function: Name, mut arguments: Payload, report: &IpcSender<Report>) -> ! {
    panics::set_echo(Echo::Print);
    let mut out = Sink::default();
    let me = sys::pid();
    let result = function.resolve().and_then(|code| {
        let (bytes, handles) = arguments.parts().map_err(Fault::Arguments)?;
        (code.call)(Input { bytes, handles }, &mut State::none(), &mut out)
    });
    sys::end_copy_of(me);
    let code = if matches!(result, Err(Fault::Panicked(_))) { PANICKED } else { 0 };
    let result = result
        .and_then(|handles| Payload::new(out.into_bytes(), handles).map_err(Fault::Result))
        .map_err(|fault| Payload::encode(&fault).expect("a fault is text"));
    // Where the parent no longer listens, nobody misses the result.
    if let Err(error) = report.send(Report::Returned(result))
        && let Some(why) = wire::why_not_sent(error)
    {
        let fault = Payload::encode(&Fault::Result(why)).expect("a fault is text");
        let _ = report.send(Report::Returned(Err(fault)));
    }
    ending::end();
    sys::exit_now(code)
}
