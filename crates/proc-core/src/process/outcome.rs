//! Keeps the outcome of a process, as far as its reports have told it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::main::EncodedResult;
use crate::error::Exit;
use crate::forkserver::{Limits, Link, Received, Report};
use crate::wire::Payload;

/// Outcome of a process, shared by its [`Child`](crate::Child) and its sentinels.
#[derive(Debug)]
pub(crate) struct Outcome(pub(super) Mutex<Observed>);

/// Reports of a process so far.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) link: Link<EncodedResult>,
    pub(super) limits: Limits,
    pub(super) returned: Option<FunctionResult>,
    pub(super) exited: Option<Exit>,
    /// Whether a caller has taken the result.
    pub(super) is_taken: bool,
}

/// Result of a function, not decoded yet.
#[derive(Debug)]
pub(super) enum FunctionResult {
    Value(Payload),
    /// The function failed in a way that its process survived.
    Fault(Payload),
    /// The function was not called. The text says why.
    NotStarted(String),
}

impl Outcome {
    pub(super) fn observed(&self) -> MutexGuard<'_, Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process has ended, as far as is known without waiting.
    ///
    /// Does not wait for the lock either: a thread that joins the child holds it until the process
    /// has ended.
    pub(crate) fn has_ended(&self) -> bool {
        // If another thread holds the lock, that thread usually waits for the end of the process,
        // so the process has not ended. (The thread may also be taking the result of a process that
        // has ended. Then a later check says so.)
        match self.0.try_lock() {
            Ok(mut observed) => observed.advance(Some(Instant::now())),
            Err(_) => false,
        }
    }

    /// Reads reports until the process has ended, or until `deadline`.
    pub(crate) fn wait_for_end(&self, deadline: Instant) {
        self.observed().advance(Some(deadline));
    }
}

impl Observed {
    /// Reads reports until the process has ended, or until `deadline`. Returns whether it has
    /// ended.
    pub(super) fn advance(&mut self, deadline: Option<Instant>) -> bool {
        while self.exited.is_none() {
            match self.link.receive_soon(deadline) {
                Received::Report(Report::Exited(exit)) => self.exited = Some(exit),
                Received::End => self.exited = Some(Exit::default()),
                Received::Report(Report::Said(result)) => {
                    let returned = result.map_or_else(FunctionResult::Fault, FunctionResult::Value);
                    self.returned.get_or_insert(returned);
                }
                Received::Report(Report::NotReady(why)) => {
                    self.returned = Some(FunctionResult::NotStarted(why));
                }
                Received::Report(_) => {}
                Received::Rubbish => self.link.handle.signal(Signal::SIGKILL),
                Received::Nothing => return false,
            }
        }
        true
    }
}
