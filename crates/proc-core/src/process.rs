//! One function in one process: [`Process`] describes it, [`Child`] is it running.
//!
//! A child has one channel back, on which the template tells its pid and its exit status and the
//! child its result. Reading that channel is all that `join` does; there is no thread behind it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{self, IpcReceiver, IpcSender};
use nix::sys::signal::Signal;

use crate::context::{self, Context};
use crate::error::{Error, Place};
use crate::function::{Fault, Input, Message, Name, refuse_captures};
use crate::panics::{self, Echo};
use crate::sys;
use crate::template::Template;
use crate::wire::{Job, Key, Payload, Report, Start};

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
    context: Context,
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
        Process { function, argument, name: None, context: Context::default() }
    }

    /// Names the process, for people: in errors and, cut to 15 bytes, in `ps`.
    ///
    /// Without a name it is `Process-1`, `Process-2` and so on.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Chooses how the process comes into being.
    pub fn context(mut self, context: Context) -> Self {
        self.context = context;
        self
    }

    /// Starts the process.
    ///
    /// It has the working directory and environment that the caller has now, and shares the
    /// program's stdin, stdout and stderr; see [`Context`] for the rest. Returns when it exists; what
    /// its function does is not waited for.
    ///
    /// # Errors
    ///
    /// The argument cannot be encoded, the process cannot be started, or [`init`](crate::init) is
    /// missing.
    pub fn start(self) -> Result<Child<R>, Error> {
        let _ = self.function;
        let serial = next_serial();
        let name = self.name.unwrap_or_else(|| format!("Process-{serial}"));
        let place = || Place { name: Some(name.clone()), ..Place::default() };
        let function = Name::of::<F, A, R>().map_err(Error::invalid)?;
        context::with_template(self.context, |template| {
            let arguments = Payload::encode(&self.argument).map_err(Error::encode_argument)?;
            let job = Job::Call { function, arguments };
            let link = Link::start(template, serial, &name, job)?;
            Ok(Child { link, name: name.clone(), result: None })
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
        job: Job,
    ) -> Result<Link, Error> {
        let cannot = |source| Error::start("the process", source);
        let (report, reports) = ipc::channel().map_err(cannot)?;
        let key = Key { owner: std::process::id(), serial };
        let surroundings = Payload::encode(&template.surroundings())
            .map_err(|why| cannot(std::io::Error::other(why)))?;
        // More is not shown anywhere; errors have the whole name.
        let name = name.chars().take(16).collect();
        template.start(Start { key, name, report, surroundings, job })?;
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
                _ => return Err(Error::template_gone()),
            }
        }
    }

    /// Waits for the next report, for ever or until `deadline`.
    pub(crate) fn receive(&self, deadline: Option<Instant>) -> Received {
        if let Some(report) = self.early.borrow_mut().pop_front() {
            return Received::Report(report);
        }
        loop {
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

/// A process that was started.
///
/// Dropping it without joining leaves the process running, but no longer than the program: unlike in
/// Python, the end of `main` waits for nobody. Join what must finish.
#[derive(Debug)]
#[must_use = "a child that is not joined ends with the program, finished or not"]
pub struct Child<R> {
    link: Link,
    name: String,
    result: Option<Outcome<R>>,
}

/// What is known of a child's end so far.
#[derive(Debug)]
enum Outcome<R> {
    Returned(Result<R, Error>),
    Exited { status: Option<ExitStatus>, returned: Option<Result<R, Error>> },
}

impl<R: Message> Child<R> {
    /// The process's pid.
    pub fn pid(&self) -> u32 {
        self.link.handle.pid
    }

    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the process has not ended yet.
    pub fn is_alive(&mut self) -> bool {
        self.advance(Some(Instant::now()));
        !matches!(self.result, Some(Outcome::Exited { .. }))
    }

    /// How the process ended: its exit code or its signal; `None` while it is alive.
    ///
    /// A function that returned ends its process with code 0, one that panicked with 101.
    #[doc(alias = "exitcode")]
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.advance(Some(Instant::now()));
        match self.result {
            Some(Outcome::Exited { status, .. }) => status,
            _ => None,
        }
    }

    /// Waits for the process to end and gives back what its function returned.
    ///
    /// # Errors
    ///
    /// The function panicked, its result could not be sent, or the process ended without a result.
    pub fn join(mut self) -> Result<R, Error> {
        self.advance(None);
        self.finish()
    }

    /// Like [`join`](Child::join), for at most `timeout`; then the child comes back as the error.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// let nap = |()| std::thread::sleep(Duration::from_secs(60));
    /// let child = proc_core::Process::new(nap, ()).start()?;
    /// match child.join_timeout(Duration::from_millis(10)) {
    ///     Ok(result) => result?,
    ///     Err(child) => child.kill()?,
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[expect(
        clippy::result_large_err,
        reason = "what comes back is no error, and not on a hot path"
    )]
    pub fn join_timeout(mut self, timeout: Duration) -> Result<Result<R, Error>, Child<R>> {
        let deadline = Instant::now().checked_add(timeout);
        self.advance(deadline);
        match self.result {
            Some(Outcome::Exited { .. }) => Ok(self.finish()),
            _ => Err(self),
        }
    }

    /// Asks the process to end, by SIGTERM. It may take its time, or refuse.
    ///
    /// Does nothing if it has ended already.
    ///
    /// # Errors
    ///
    /// None today; a system where signals need a permission could have one.
    pub fn terminate(&self) -> Result<(), Error> {
        self.link.handle.signal(Signal::SIGTERM);
        Ok(())
    }

    /// Ends the process, by SIGKILL. Does nothing if it has ended already.
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Child::terminate).
    pub fn kill(&self) -> Result<(), Error> {
        self.link.handle.signal(Signal::SIGKILL);
        Ok(())
    }

    /// Reads reports until the exit or the deadline.
    fn advance(&mut self, deadline: Option<Instant>) {
        loop {
            let returned = match self.result.take() {
                exited @ Some(Outcome::Exited { .. }) => {
                    self.result = exited;
                    return;
                }
                Some(Outcome::Returned(result)) => Some(result),
                None => None,
            };
            let wait = |returned: Option<_>| returned.map(Outcome::Returned);
            self.result = match self.link.receive(deadline) {
                Received::Report(Report::Exited { status }) => {
                    Some(Outcome::Exited { status: Some(ExitStatus::from_raw(status)), returned })
                }
                Received::End => Some(Outcome::Exited { status: None, returned }),
                Received::Report(Report::Returned(result)) => {
                    Some(Outcome::Returned(returned.unwrap_or_else(|| open(result))))
                }
                Received::Report(Report::BadSurroundings(why)) => {
                    let source = std::io::Error::other(why);
                    Some(Outcome::Returned(Err(Error::start("the process", source))))
                }
                Received::Report(_) => wait(returned),
                Received::Rubbish => {
                    self.link.handle.signal(Signal::SIGKILL);
                    wait(returned)
                }
                Received::Nothing => {
                    self.result = wait(returned);
                    return;
                }
            };
        }
    }

    fn finish(self) -> Result<R, Error> {
        let place =
            Place { name: Some(self.name), pid: Some(self.link.handle.pid), ..Place::default() };
        match self.result {
            Some(Outcome::Exited { returned: Some(result), .. }) => result,
            Some(Outcome::Exited { status, .. }) => Err(Error::died(status)),
            _ => Err(Error::died(None)),
        }
        .map_err(|error| error.at(place))
    }
}

fn open<R: Message>(result: Result<Payload, Payload>) -> Result<R, Error> {
    match result {
        Ok(value) => value.decode().map_err(Error::decode_result),
        Err(fault) => Err(Error::from_fault_payload(fault)),
    }
}

/// The life of a [`Process`] from inside.
pub(crate) fn child_main(function: Name, mut arguments: Payload, report: &IpcSender<Report>) -> ! {
    panics::set_echo(Echo::Print);
    let mut out = Vec::new();
    let result = function.resolve().and_then(|call| {
        let (bytes, handles) = arguments.parts();
        call(Input { bytes, handles, state: &mut None }, &mut out)
    });
    let code = if matches!(result, Err(Fault::Panicked(_))) { PANICKED } else { 0 };
    let result = result
        .and_then(|handles| Payload::new(out, handles).map_err(Fault::Result))
        .map_err(|fault| Payload::encode(&fault).expect("a fault is text"));
    // Where the parent no longer listens, nobody misses the result.
    let _ = report.send(Report::Returned(result));
    sys::exit_now(code)
}
