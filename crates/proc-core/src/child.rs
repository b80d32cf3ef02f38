//! A started process, in its parent's hands: [`Child`].
//!
//! A child has one channel back, on which the template tells its pid and its exit status and the
//! child its result. Reading that channel is all that `join` does; there is no thread behind it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::error::{Error, Place};
use crate::function::Message;
use crate::process::{Link, Received};
use crate::wire::{Payload, Report};

/// A process that was started.
///
/// Dropping it without joining leaves the process running. As in Python, the end of the program waits
/// for it, unless it is a [daemon](crate::Process::daemon); how it ended is then told to nobody.
#[derive(Debug)]
#[must_use = "whether it succeeded is told only to whoever joins it"]
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
    pub(crate) fn new(link: Link, name: String) -> Child<R> {
        Child { link, name, result: None }
    }

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

    /// Ends the process and waits for it: SIGTERM, and after `grace` SIGKILL.
    ///
    /// For a process that may have work to finish but must not refuse. It is joined in either case, so
    /// a function that has returned meanwhile, or made a handler for SIGTERM that lets it return, has
    /// its result given back.
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
    pub fn stop(self, grace: Duration) -> Result<R, Error> {
        self.terminate()?;
        match self.join_timeout(grace) {
            Ok(result) => result,
            Err(child) => {
                child.kill()?;
                child.join()
            }
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
