//! Defines [`Child`], by which a parent waits for a process that it has started.
//!
//! Each child has one report channel. The fork server reports the pid and the exit status on it,
//! the child its result. `join` only reads this channel; no thread runs in the background.

use std::fmt;
use std::io::{PipeReader, PipeWriter};
use std::marker::PhantomData;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::main::EncodedResult;
use super::outcome::{FunctionResult, Observed, Outcome};
use crate::error::{Error, Origin};
use crate::forkserver::{Handle, Limits, Link, Pipes};
use crate::process::wait::Sentinel;
use crate::sys;
use crate::wire::Message;

/// Process that was started.
///
/// Dropping a `Child` leaves its process running. As in Python, the program waits for that process
/// when it ends, unless the process is a [daemon](crate::Process::daemon). The result of the
/// process, or its error, is then lost.
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// use proc_core::{Process, Stdio};
///
/// fn shout(_: ()) -> Option<String> {
///     std::io::read_to_string(std::io::stdin()).ok().map(|text| text.to_uppercase())
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     proc_core::init();
///     let mut child = Process::new(shout, ()).stdin(Stdio::piped()).start()?;
///     let mut stdin = child.stdin.take().expect("stdin is a pipe");
///     stdin.write_all(b"hello")?;
///     drop(stdin); // the end of the input
///     assert_eq!(child.join()?.as_deref(), Some("HELLO"));
///     Ok(())
/// }
/// ```
#[must_use = "only `join` tells whether the process succeeded"]
pub struct Child<R> {
    handle: Handle,
    name: String,
    outcome: Arc<Outcome>,
    result: PhantomData<fn() -> R>,
    /// Writing end of the process's stdin, if stdin is [`Stdio::piped`](crate::Stdio::piped). When
    /// it is dropped, the process reads the end of its input.
    pub stdin: Option<PipeWriter>,
    /// Reading end of the process's stdout, if stdout is [`Stdio::piped`](crate::Stdio::piped).
    pub stdout: Option<PipeReader>,
    /// Reading end of the process's stderr, if stderr is [`Stdio::piped`](crate::Stdio::piped).
    pub stderr: Option<PipeReader>,
}

impl<R: Message> Child<R> {
    pub(crate) fn new(mut link: Link<EncodedResult>, name: String, limits: Limits) -> Child<R> {
        let handle = link.handle.clone();
        let Pipes { stdin, stdout, stderr } = std::mem::take(&mut link.pipes);
        let outcome = Arc::new(Outcome(Mutex::new(Observed {
            link,
            limits,
            returned: None,
            exited: None,
            is_taken: false,
        })));
        Child { handle, name, outcome, result: PhantomData, stdin, stdout, stderr }
    }

    /// Returns the pid of the process.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let child = Process::new(|()| std::process::id(), ()).start()?;
    ///     let pid = child.pid();
    ///     assert_eq!(child.join()?, pid);
    ///     Ok(())
    /// }
    /// ```
    pub fn pid(&self) -> u32 {
        self.handle.pid
    }

    /// Returns the name of the process.
    ///
    /// See the example of [`Process::name`](crate::Process::name).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks that this process has started the child.
    ///
    /// # Errors
    ///
    /// This process is a copy of the one that has started the child. A copy receives no reports.
    fn check_is_owner(&self) -> Result<(), Error> {
        let owner = self.handle.owner();
        if owner == sys::pid() {
            return Ok(());
        }
        let origin = Origin { name: Some(self.name.clone()), ..Origin::default() };
        Err(Error::invalid(format!(
            "the child belongs to process {owner}, of which this process is a copy: start another \
             child here"
        ))
        .with_origin(origin))
    }

    /// Whether the process has not ended yet.
    ///
    /// If your program calls `fork`, the copy of your process receives no reports about the child.
    /// There, this method returns true, [`exit_status`](Child::exit_status) returns `None`, and the
    /// methods that wait for the child or signal it return errors.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn never(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let mut child = Process::new(never, ()).start()?;
    ///     assert!(child.is_alive());
    ///     child.kill()?;
    ///     proc_core::wait(&[child.sentinel()], None);
    ///     assert!(!child.is_alive());
    ///     Ok(())
    /// }
    /// ```
    pub fn is_alive(&mut self) -> bool {
        self.check_is_owner().is_err() || !self.outcome.observed().advance(Some(Instant::now()))
    }

    /// Returns how the process ended: its exit code or its signal. Returns `None` while the process
    /// is alive, and also if it is not known how the process ended, because its fork server had
    /// died before. `is_alive` tells which.
    ///
    /// The exit code is 0 if the function has returned, and 101 if it has panicked.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let exit = |code: i32| -> () { std::process::exit(code) };
    ///     let mut child = Process::new(exit, 3).start()?;
    ///     proc_core::wait(&[child.sentinel()], None); // until it has ended
    ///     assert_eq!(child.exit_status().and_then(|status| status.code()), Some(3));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "exitcode")]
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.check_is_owner().ok()?;
        let mut observed = self.outcome.observed();
        observed.advance(Some(Instant::now()));
        observed.exited.as_ref()?.status
    }

    /// Returns a sentinel of the process, for [`wait`](crate::wait). The sentinel works also after
    /// the child was joined or dropped.
    ///
    /// See the example of [`wait`](crate::wait).
    pub fn sentinel(&self) -> Sentinel {
        Sentinel::new(&self.outcome, self.pid(), self.handle.owner())
    }

    /// Waits until the process ends, and returns the result of its function.
    ///
    /// # Errors
    ///
    /// The function panicked, its result could not be sent, or the process ended without a result.
    ///
    /// # Examples
    ///
    /// ```
    /// use proc_core::Process;
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let divide = |x: u32| 12 / x;
    ///     assert_eq!(Process::new(divide, 4).start()?.join()?, 3);
    ///     let error = Process::new(divide, 0).start()?.join().expect_err("12 / 0 panics");
    ///     assert_eq!(error.panic_message(), Some("attempt to divide by zero"));
    ///     Ok(())
    /// }
    /// ```
    pub fn join(mut self) -> Result<R, Error> {
        self.check_is_owner()?;
        self.outcome.observed().advance(None);
        self.finish()
    }

    /// Waits like [`join`](Child::join), but for at most `timeout`. Returns `None` if the process
    /// still runs then.
    ///
    /// # Errors
    ///
    /// As for [`join`](Child::join). A call that has returned `None` can be repeated. Once a call
    /// has returned the result or the error of the process, later calls return an
    /// [`Invalid`](crate::ErrorKind::Invalid) error.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Process;
    ///
    /// fn never(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let mut child = Process::new(never, ()).start()?;
    ///     assert_eq!(child.join_timeout(Duration::from_millis(10))?, None); // it still runs
    ///     child.kill()?;
    ///     assert!(child.join().is_err_and(|error| error.is_death()));
    ///     Ok(())
    /// }
    /// ```
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<Option<R>, Error> {
        self.check_is_owner()?;
        let deadline = Instant::now().checked_add(timeout);
        let ended = self.outcome.observed().advance(deadline);
        if ended { self.finish().map(Some) } else { Ok(None) }
    }

    /// Ends the process and waits for its end: sends SIGTERM, and sends SIGKILL if the process
    /// still runs after `grace`.
    ///
    /// Use this for a process that may have work to finish. If its function returns in time
    /// (because it was nearly done, or by a handler of SIGTERM), the result is returned.
    ///
    /// # Errors
    ///
    /// As for [`join`](Child::join); mostly, that the process was killed by a signal.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use proc_core::Process;
    ///
    /// fn serve(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let server = Process::new(serve, ()).start()?;
    ///     let error = server.stop(Duration::from_secs(60)).expect_err("it serves until then");
    ///     assert!(error.to_string().contains("SIGTERM"));
    ///     Ok(())
    /// }
    /// ```
    pub fn stop(mut self, grace: Duration) -> Result<R, Error> {
        self.terminate()?;
        if let Some(result) = self.join_timeout(grace)? {
            return Ok(result);
        }
        self.kill()?;
        self.join()
    }

    /// Asks the process to end, by SIGTERM. The process may end later, or ignore the signal.
    ///
    /// Does nothing if the process has ended already.
    ///
    /// # Errors
    ///
    /// The calling process is a copy of the one that has started the child.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// use proc_core::Process;
    ///
    /// fn serve(_: ()) {
    ///     loop {
    ///         std::thread::park();
    ///     }
    /// }
    ///
    /// fn main() -> Result<(), proc_core::Error> {
    ///     proc_core::init();
    ///     let server = Process::new(serve, ()).start()?;
    ///     server.terminate()?;
    ///     let error = server.join().expect_err("it serves until it is ended");
    ///     assert_eq!(error.exit_status().and_then(|status| status.signal()), Some(15)); // SIGTERM
    ///     Ok(())
    /// }
    /// ```
    pub fn terminate(&self) -> Result<(), Error> {
        self.check_is_owner()?;
        self.handle.signal(Signal::SIGTERM);
        Ok(())
    }

    /// Ends the process, by SIGKILL. Does nothing if the process has ended already.
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Child::terminate).
    ///
    /// See the example of [`join_timeout`](Child::join_timeout).
    pub fn kill(&self) -> Result<(), Error> {
        self.check_is_owner()?;
        self.handle.signal(Signal::SIGKILL);
        Ok(())
    }

    /// Returns the result of a process that has ended, or its error. Only the first call does so.
    fn finish(&mut self) -> Result<R, Error> {
        let name = Some(self.name.clone());
        let origin = Origin { name, pid: Some(self.handle.pid), ..Origin::default() };
        let mut observed = self.outcome.observed();
        if std::mem::replace(&mut observed.is_taken, true) {
            return Err(Error::already_taken().with_origin(origin));
        }
        match observed.returned.take() {
            Some(FunctionResult::Value(value)) => value.decode().map_err(Error::decode_result),
            Some(FunctionResult::Fault(fault)) => Err(Error::from_fault_payload(fault)),
            Some(FunctionResult::NotStarted(why)) => {
                Err(Error::start("the process", std::io::Error::other(why)))
            }
            None => {
                let exit = observed.exited.clone().unwrap_or_default();
                Err(observed.limits.died(exit))
            }
        }
        .map_err(|error| error.with_origin(origin))
    }
}

impl<R> fmt::Debug for Child<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("name", &self.name)
            .field("pid", &self.handle.pid)
            .finish_non_exhaustive()
    }
}
