//! Defines [`Error`], the one error of this crate. It is opaque: methods tell what kind of error it
//! is.

mod exit;
mod portable;
#[cfg(test)]
mod tests;
mod text;

use std::fmt::{self, Display, Formatter};
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use exit::{Exit, LastWords};
use serde::{Deserialize, Serialize};

use crate::call::Fault;
use crate::panics::PanicReport;
use crate::wire::Payload;

/// Kind of an [`Error`].
///
/// # Examples
///
/// ```
/// use proc_core::{Error, ErrorKind, Pool};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::Panic => "look at the function",
///         ErrorKind::Death => "look at the exit status",
///         _ => "read the message",
///     }
/// }
///
/// fn main() -> Result<(), Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(1).build()?;
///     let error = pool.apply(|x: u32| 12 / x, 0).expect_err("12 / 0 panics");
///     assert_eq!(advice(&error), "look at the function");
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The function panicked, and its process caught the panic. (A worker lives on; a `Process`
    /// ends with exit code 101.)
    Panic,
    /// The process ended before it had a result.
    Death,
    /// The time that the caller allowed has passed.
    Timeout,
    /// The task was cancelled: by the caller, or because another task of a call with `fail_fast`
    /// failed.
    Cancelled,
    /// An argument or a result cannot be encoded.
    Encode,
    /// An argument or a result cannot be decoded.
    Decode,
    /// A process or a thread cannot be started, or there is no shared memory.
    Start,
    /// The function of [`preload`](crate::PoolBuilder::preload) failed. Or the pool's initializer,
    /// or the function that makes its state, failed in every attempt to start a worker. Or each
    /// worker had more memory before its first task than
    /// [`max_memory_per_child`](crate::PoolBuilder::max_memory_per_child) allows.
    Initializer,
    /// The pool was closed, terminated or dropped, or a worker has overwritten the pool's memory.
    /// Or a [`Queue`](crate::sync::Queue) was closed, or nobody else has it any more. Or the
    /// process of a [`Manager`](crate::sync::Manager), or the other end of a
    /// [`Connection`](crate::sync::Connection), is gone.
    Closed,
    /// More of the pool's workers died than its restart intensity allows.
    RestartLimit,
    /// A process died while it held a [`Mutex`](crate::sync::Mutex), or a process that had a
    /// [`Barrier`](crate::sync::Barrier) died, other than by exiting with code 0.
    Abandoned,
    /// A setting or an argument is invalid, such as a pool of no processes.
    Invalid,
    /// A cluster cannot connect or cannot run a call, or it was closed or terminated
    /// (`proc-cluster`).
    Fleet,
}

/// Reason why a process, a pool or a task has no result.
///
/// The message names the task, the worker and the pid, if there are any, and often says what to do.
/// To match on an error, use [`kind`](Error::kind). Cloning is cheap. Errors are serde values, so
/// that a task can return one, and a log can keep one as data.
///
/// # Examples
///
/// ```
/// use proc_core::Pool;
///
/// fn main() -> Result<(), proc_core::Error> {
///     proc_core::init();
///     let pool = Pool::builder().processes(1).build()?;
///     let error = pool.map(|x: u32| 12 / x, [1, 0]).expect_err("12 / 0 panics");
///     // task 1: panicked at src/main.rs:6:35: attempt to divide by zero (worker 0, pid 4242)
///     assert!(error.to_string().starts_with("task 1: panicked at "));
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Error(Box<Inner>);

/// Contents of an error. They lie on the heap, so that a `Result` with an [`Error`] stays small.
#[derive(Clone)]
struct Inner {
    kind: Arc<Kind>,
    origin: Origin,
}

/// Origin of an error: where it happened, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) host: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) worker: Option<usize>,
    pub(crate) task: Option<usize>,
}

impl Origin {
    pub(crate) fn of_task(task: usize) -> Origin {
        Origin { task: Some(task), ..Origin::default() }
    }
}

/// What can be encoded and decoded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Part {
    Argument,
    Data,
    Result,
    Item,
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Argument => "argument",
            Part::Data => "data of `with`",
            Part::Result => "result",
            Part::Item => "item of the queue",
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    Panicked(PanicReport),
    Died {
        #[serde(with = "exit::exit_status")]
        status: Option<ExitStatus>,
        exceeded: Option<String>,
        panic: Option<PanicReport>,
    },
    Timeout(Duration),
    Cancelled,
    Encode {
        what: Part,
        why: String,
    },
    Decode {
        what: Part,
        why: String,
    },
    Start {
        /// What cannot be done, as "start a worker".
        action: String,
        #[serde(with = "portable::io_error")]
        source: io::Error,
    },
    ForkServerGone,
    ForkWithThreads(Option<usize>),
    Initializer(Error),
    Closed,
    Overwritten,
    Restarts {
        restarts: u32,
        period: Duration,
        last: Error,
    },
    Abandoned {
        what: Abandoned,
        #[serde(with = "exit::exit_status")]
        status: Option<ExitStatus>,
    },
    Ended(String),
    PeerDied {
        peer: Peer,
        #[serde(with = "exit::exit_status")]
        status: Option<ExitStatus>,
    },
    Invalid(String),
    Lost(String),
    Fleet(String),
}

/// What a dead process has abandoned.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Abandoned {
    Mutex,
    Barrier,
}

/// A process that others wait for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Peer {
    /// The one at the other end of a pipe.
    Pipe,
    Manager,
}

impl Error {
    fn new(kind: Kind) -> Error {
        Error(Box::new(Inner { kind: Arc::new(kind), origin: Origin::default() }))
    }

    /// Fills in the parts of the error's origin that are not set yet.
    pub(crate) fn with_origin(mut self, origin: Origin) -> Error {
        let Origin { host, name, pid, worker, task } = origin;
        self.0.origin.host = self.0.origin.host.or(host);
        self.0.origin.name = self.0.origin.name.or(name);
        self.0.origin.pid = self.0.origin.pid.or(pid);
        self.0.origin.worker = self.0.origin.worker.or(worker);
        self.0.origin.task = self.0.origin.task.or(task);
        self
    }

    pub(crate) fn from_fault(fault: Fault) -> Error {
        Error::new(match fault {
            Fault::Panicked(report) => Kind::Panicked(report),
            Fault::Arguments(why) => Kind::Decode { what: Part::Argument, why },
            Fault::Data(why) => Kind::Decode { what: Part::Data, why },
            Fault::Result(why) => Kind::Encode { what: Part::Result, why },
            Fault::Invalid(why) => Kind::Invalid(why),
        })
    }

    /// Makes the error from the encoded [`Fault`] that a process has sent.
    pub(crate) fn from_fault_payload(fault: Payload) -> Error {
        fault.decode().map_or_else(Error::decode_result, Error::from_fault)
    }

    /// Makes the error of a process that ended before it had a result. `exceeded` names the limit
    /// that the process has exceeded, in words.
    pub(crate) fn died(exit: Exit, exceeded: Option<String>) -> Error {
        let panic = match exit.last_words {
            Some(LastWords::Panicked(report)) => Some(report),
            _ => None,
        };
        Error::new(Kind::Died { status: exit.status, exceeded, panic })
    }

    pub(crate) fn timeout(after: Duration) -> Error {
        Error::new(Kind::Timeout(after))
    }

    pub(crate) fn cancelled() -> Error {
        Error::new(Kind::Cancelled)
    }

    /// Makes the error of data that cannot be encoded.
    pub(crate) fn encode_data(why: String) -> Error {
        Error::new(Kind::Encode { what: Part::Data, why })
    }

    pub(crate) fn encode_item(why: String) -> Error {
        Error::new(Kind::Encode { what: Part::Item, why })
    }

    pub(crate) fn decode_item(why: String) -> Error {
        Error::new(Kind::Decode { what: Part::Item, why })
    }

    pub(crate) fn encode_argument(why: String) -> Error {
        Error::new(Kind::Encode { what: Part::Argument, why })
    }

    #[cfg(feature = "remote")]
    pub(crate) fn encode_result(why: impl Into<String>) -> Error {
        Error::new(Kind::Encode { what: Part::Result, why: why.into() })
    }

    pub(crate) fn decode_result(why: String) -> Error {
        Error::new(Kind::Decode { what: Part::Result, why })
    }

    pub(crate) fn start(what: impl Display, source: io::Error) -> Error {
        Error::new(Kind::Start { action: format!("start {what}"), source })
    }

    /// Like [`start`](Error::start), for what is no process and no thread.
    pub(crate) fn make(what: impl Display, source: io::Error) -> Error {
        Error::new(Kind::Start { action: format!("make {what}"), source })
    }

    pub(crate) fn fork_server_gone() -> Error {
        Error::new(Kind::ForkServerGone)
    }

    pub(crate) fn fork_with_threads(threads: Option<usize>) -> Error {
        Error::new(Kind::ForkWithThreads(threads))
    }

    pub(crate) fn initializer(cause: Error) -> Error {
        Error::new(Kind::Initializer(cause))
    }

    pub(crate) fn closed() -> Error {
        Error::new(Kind::Closed)
    }

    pub(crate) fn overwritten() -> Error {
        Error::new(Kind::Overwritten)
    }

    pub(crate) fn restarts(restarts: u32, period: Duration, last: Error) -> Error {
        Error::new(Kind::Restarts { restarts, period, last })
    }

    /// Makes the error of a queue or a pipe that has ended.
    pub(crate) fn ended(what: &str) -> Error {
        Error::new(Kind::Ended(what.into()))
    }

    /// Makes the error of waiting for a process that has died.
    pub(crate) fn peer_died(peer: Peer, status: Option<ExitStatus>) -> Error {
        Error::new(Kind::PeerDied { peer, status })
    }

    /// Makes the error of what a process abandoned when it died. `status` says how it ended.
    pub(crate) fn abandoned(what: Abandoned, status: Option<ExitStatus>) -> Error {
        Error::new(Kind::Abandoned { what, status })
    }

    /// Makes the error of a call that asks for a result again.
    pub(crate) fn already_taken() -> Error {
        Error::invalid("the result was taken already: only the first call returns it")
    }

    pub(crate) fn invalid(what: impl Into<String>) -> Error {
        Error::new(Kind::Invalid(what.into()))
    }

    #[cfg(feature = "remote")]
    pub(crate) fn lost(what: impl Into<String>) -> Error {
        Error::new(Kind::Lost(what.into()))
    }

    #[cfg(feature = "remote")]
    pub(crate) fn fleet(what: impl Into<String>) -> Error {
        Error::new(Kind::Fleet(what.into()))
    }

    pub(crate) fn is_fork_server_gone(&self) -> bool {
        matches!(*self.0.kind, Kind::ForkServerGone)
    }

    /// Returns the kind of the error, to match on.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::{ErrorKind, Pool};
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).build()?;
    ///     for x in [4, 0] {
    ///         match pool.apply(|x: u32| 12 / x, x) {
    ///             Ok(quotient) => assert_eq!(quotient, 3),
    ///             Err(error) if error.kind() == ErrorKind::Panic => assert_eq!(x, 0),
    ///             Err(other) => return Err(other),
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn kind(&self) -> ErrorKind {
        match &*self.0.kind {
            Kind::Panicked(_) => ErrorKind::Panic,
            Kind::Died { .. } | Kind::Lost(_) => ErrorKind::Death,
            Kind::Timeout(_) => ErrorKind::Timeout,
            Kind::Cancelled => ErrorKind::Cancelled,
            Kind::Encode { .. } => ErrorKind::Encode,
            Kind::Decode { .. } => ErrorKind::Decode,
            Kind::Start { .. } | Kind::ForkServerGone | Kind::ForkWithThreads(_) => {
                ErrorKind::Start
            }
            Kind::Initializer(_) => ErrorKind::Initializer,
            Kind::Closed | Kind::Overwritten | Kind::Ended(_) | Kind::PeerDied { .. } => {
                ErrorKind::Closed
            }
            Kind::Restarts { .. } => ErrorKind::RestartLimit,
            Kind::Abandoned { .. } => ErrorKind::Abandoned,
            Kind::Invalid(_) => ErrorKind::Invalid,
            Kind::Fleet(_) => ErrorKind::Fleet,
        }
    }

    /// Whether the function panicked and its process caught the panic. See
    /// [`panic_message`](Error::panic_message).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).build()?;
    ///     let error = pool.map(|x: u32| 12 / x, [1, 0]).expect_err("12 / 0 panics");
    ///     assert!(error.is_panic());
    ///     assert_eq!(error.panic_message(), Some("attempt to divide by zero"));
    ///     assert!(error.panic_location().is_some_and(|place| place.contains(".rs:")));
    ///     assert_eq!((error.task(), error.worker()), (Some(1), Some(0)));
    ///     assert_eq!(error.pid(), Some(pool.worker_pids()[0])); // the worker lives on
    ///     assert_eq!(error.host(), None); // it was on this machine
    ///     Ok(())
    /// }
    /// ```
    pub fn is_panic(&self) -> bool {
        self.kind() == ErrorKind::Panic
    }

    /// Whether the process ended before it had a result. See [`exit_status`](Error::exit_status).
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Pool;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let pool = Pool::builder().processes(1).build()?;
    ///     let exit = |code: i32| -> () { std::process::exit(code) };
    ///     let error = pool.apply(exit, 3).expect_err("the worker exits");
    ///     assert!(error.is_death());
    ///     assert_eq!(error.exit_status().and_then(|status| status.code()), Some(3));
    ///     Ok(())
    /// }
    /// ```
    pub fn is_death(&self) -> bool {
        self.kind() == ErrorKind::Death
    }

    /// Whether the process ended because it exceeded one of its [`Limits`](crate::Limits).
    ///
    /// For a limit of memory, this is true only if the system refused memory to the process just
    /// before the process crashed.
    ///
    /// See the example of [`Limits`](crate::Limits).
    pub fn is_limit(&self) -> bool {
        match &*self.0.kind {
            Kind::Died { exceeded, .. } => exceeded.is_some(),
            Kind::Initializer(cause) | Kind::Restarts { last: cause, .. } => cause.is_limit(),
            _ => false,
        }
    }

    /// Whether the time that the caller allowed has passed.
    ///
    /// See the example of [`Options::timeout`](crate::Options::timeout).
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Whether the task was cancelled: by the caller, or because another task of a call with
    /// `fail_fast` failed.
    ///
    /// See the example of [`Task::cancel`](crate::Task::cancel).
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether the error is of the kind [`Closed`](ErrorKind::Closed), for example because the pool
    /// was closed, terminated or dropped.
    ///
    /// See the example of [`Pool::close`](crate::Pool::close).
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// Returns how the function's process ended, if the error is that it has ended.
    ///
    /// [`ExitStatusExt::signal`](std::os::unix::process::ExitStatusExt::signal) gives the signal
    /// that has killed it. After a timeout or a cancellation, there is no exit status.
    ///
    /// See the example of [`is_death`](Error::is_death).
    pub fn exit_status(&self) -> Option<ExitStatus> {
        match &*self.0.kind {
            Kind::Died { status, .. } => *status,
            Kind::Initializer(cause) | Kind::Restarts { last: cause, .. } => cause.exit_status(),
            _ => None,
        }
    }

    /// Returns the message of the function's panic. There is a message also if the panic ended the
    /// process, for example because the panic could not unwind.
    ///
    /// See the example of [`is_panic`](Error::is_panic).
    pub fn panic_message(&self) -> Option<&str> {
        self.panic_report().map(|report| report.message.as_str())
    }

    /// Returns the source position of the panic, as `file:line:column`.
    ///
    /// See the example of [`is_panic`](Error::is_panic).
    pub fn panic_location(&self) -> Option<&str> {
        self.panic_report().and_then(|report| report.location.as_deref())
    }

    /// Returns the backtrace of the panic, if `RUST_BACKTRACE` asked for one.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let child = Process::new(|x: u32| 12 / x, 0).env("RUST_BACKTRACE", "1").start()?;
    ///     let error = child.join().expect_err("12 / 0 panics");
    ///     assert!(error.backtrace().is_some_and(|frames| frames.contains("main")));
    ///     Ok(())
    /// }
    /// ```
    pub fn backtrace(&self) -> Option<&str> {
        self.panic_report().and_then(|report| report.backtrace.as_deref())
    }

    fn panic_report(&self) -> Option<&PanicReport> {
        match &*self.0.kind {
            Kind::Panicked(report) | Kind::Died { panic: Some(report), .. } => Some(report),
            Kind::Initializer(cause) | Kind::Restarts { last: cause, .. } => cause.panic_report(),
            _ => None,
        }
    }

    /// Returns the machine on which the error happened, if it is another machine (`proc-cluster`).
    ///
    /// See the example of [`is_panic`](Error::is_panic).
    pub fn host(&self) -> Option<&str> {
        self.0.origin.host.as_deref()
    }

    /// Returns the pid of the process in which the error happened.
    ///
    /// See the example of [`is_panic`](Error::is_panic).
    pub fn pid(&self) -> Option<u32> {
        self.0.origin.pid
    }

    /// Returns the number of the pool's worker, counted from 0.
    ///
    /// See the example of [`is_panic`](Error::is_panic).
    pub fn worker(&self) -> Option<usize> {
        self.0.origin.worker
    }

    /// Returns the position of the task in the input, counted from 0.
    ///
    /// The task of `apply` and `apply_async` is the only one of its call, so it is 0.
    ///
    /// See the example of [`is_panic`](Error::is_panic).
    pub fn task(&self) -> Option<usize> {
        self.0.origin.task
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &*self.0.kind {
            // An error of the system is part of the text, so it is not a source too.
            Kind::Initializer(cause) | Kind::Restarts { last: cause, .. } => Some(cause),
            _ => None,
        }
    }
}
