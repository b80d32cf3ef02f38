//! A started process, in its parent's hands: [`Child`].
//!
//! A child has one channel back, on which the fork server tells its pid and its exit status and the
//! child its result. Reading that channel is all that `join` does; there is no thread behind it.

use std::fmt;
use std::io::{PipeReader, PipeWriter};
use std::marker::PhantomData;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::main::Said;
use super::outcome::{FunctionResult, Observed, Outcome};
use crate::error::{Error, Origin};
use crate::forkserver::{Handle, Limits, Link, Pipes};
use crate::process::wait::Sentinel;
use crate::sys;
use crate::wire::Message;

/// A process that was started.
///
/// Dropping it without joining leaves the process running. As in Python, the end of the program
/// waits for it, unless it is a [daemon](crate::Process::daemon); how it ended is then told to
/// nobody.
#[must_use = "whether it succeeded is told only to whoever joins it"]
pub struct Child<R> {
    handle: Handle,
    name: String,
    outcome: Arc<Outcome>,
    result: PhantomData<fn() -> R>,
    /// The writing end of the process's stdin, where [`Stdio::piped`](crate::Stdio::piped) was
    /// asked for. The process reads to its end once this is dropped.
    pub stdin: Option<PipeWriter>,
    /// The reading end of its stdout, where a pipe was asked for.
    pub stdout: Option<PipeReader>,
    /// The reading end of its stderr, where a pipe was asked for.
    pub stderr: Option<PipeReader>,
}

impl<R: Message> Child<R> {
    pub(crate) fn new(mut link: Link<Said>, name: String, limits: Limits) -> Child<R> {
        let handle = link.handle.clone();
        let Pipes { stdin, stdout, stderr } = std::mem::take(&mut link.pipes);
        let outcome = Arc::new(Outcome(Mutex::new(Observed {
            link,
            limits,
            returned: None,
            exited: None,
            taken: false,
        })));
        Child { handle, name, outcome, result: PhantomData, stdin, stdout, stderr }
    }

    /// The process's pid.
    pub fn pid(&self) -> u32 {
        self.handle.pid
    }

    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error in a copy of the process that has started it, which is told nothing.
    fn check_owner(&self) -> Result<(), Error> {
        let owner = self.handle.owner();
        if owner == sys::pid() {
            return Ok(());
        }
        let place = Origin { name: Some(self.name.clone()), ..Origin::default() };
        Err(Error::invalid(format!(
            "the child belongs to process {owner}, and this one is a copy of it: start another"
        ))
        .with_origin(place))
    }

    /// Whether the process has not ended yet.
    ///
    /// In a copy of the process that has started it (the child of a `fork` of yours) nothing is
    /// known of it: it counts as alive, and other calls are errors.
    pub fn is_alive(&mut self) -> bool {
        self.check_owner().is_err() || !self.outcome.observed().advance(Some(Instant::now()))
    }

    /// How the process ended: its exit code or its signal; `None` while it is alive.
    ///
    /// A function that returned ends its process with code 0, one that panicked with 101.
    #[doc(alias = "exitcode")]
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.check_owner().ok()?;
        let mut observed = self.outcome.observed();
        observed.advance(Some(Instant::now()));
        observed.exited.as_ref()?.status
    }

    /// What tells of the process's end, for [`wait`](crate::wait); also when the child is joined or
    /// dropped.
    pub fn sentinel(&self) -> Sentinel {
        Sentinel::new(&self.outcome, self.pid(), self.handle.owner())
    }

    /// Waits for the process to end and gives back what its function returned.
    ///
    /// # Errors
    ///
    /// The function panicked, its result could not be sent, or the process ended without a result.
    pub fn join(mut self) -> Result<R, Error> {
        self.check_owner()?;
        self.outcome.observed().advance(None);
        self.finish()
    }

    /// Waits like [`join`](Child::join), for at most `timeout`: `None` while the process runs.
    ///
    /// # Errors
    ///
    /// As for [`join`](Child::join). The result, or the error in its place, is given once: whoever
    /// asks again gets an [`Invalid`](crate::ErrorKind::Invalid) error.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// let nap = |()| std::thread::sleep(Duration::from_secs(60));
    /// let mut child = proc_core::Process::new(nap, ()).start()?;
    /// if child.join_timeout(Duration::from_millis(10))?.is_none() {
    ///     child.kill()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn join_timeout(&mut self, timeout: Duration) -> Result<Option<R>, Error> {
        self.check_owner()?;
        let deadline = Instant::now().checked_add(timeout);
        let ended = self.outcome.observed().advance(deadline);
        if ended { self.finish().map(Some) } else { Ok(None) }
    }

    /// Ends the process and waits for it: SIGTERM, and after `grace` SIGKILL.
    ///
    /// For a process that may have work to finish but must not refuse. It is joined in either case,
    /// so a function that has returned meanwhile, or made a handler for SIGTERM that lets it
    /// return, has its result given back.
    ///
    /// # Errors
    ///
    /// As for [`join`](Child::join); mostly that the process was killed by a signal.
    ///
    /// ```
    /// # fn main() -> Result<(), proc_core::Error> {
    /// # proc_core::init();
    /// # use std::time::Duration;
    /// let server = |()| std::thread::sleep(Duration::from_secs(60));
    /// let child = proc_core::Process::new(server, ()).start()?;
    /// let error = child.stop(Duration::from_secs(1)).expect_err("it had not finished");
    /// assert!(error.to_string().contains("SIGTERM"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop(mut self, grace: Duration) -> Result<R, Error> {
        self.terminate()?;
        if let Some(result) = self.join_timeout(grace)? {
            return Ok(result);
        }
        self.kill()?;
        self.join()
    }

    /// Asks the process to end, by SIGTERM. It may take its time, or refuse.
    ///
    /// Does nothing if it has ended already.
    ///
    /// # Errors
    ///
    /// The calling process is a copy of the one that has started it.
    pub fn terminate(&self) -> Result<(), Error> {
        self.check_owner()?;
        self.handle.signal(Signal::SIGTERM);
        Ok(())
    }

    /// Ends the process, by SIGKILL. Does nothing if it has ended already.
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Child::terminate).
    pub fn kill(&self) -> Result<(), Error> {
        self.check_owner()?;
        self.handle.signal(Signal::SIGKILL);
        Ok(())
    }

    /// What has come of a process that has ended, once.
    fn finish(&mut self) -> Result<R, Error> {
        let name = Some(self.name.clone());
        let origin = Origin { name, pid: Some(self.handle.pid), ..Origin::default() };
        let mut observed = self.outcome.observed();
        if std::mem::replace(&mut observed.taken, true) {
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
