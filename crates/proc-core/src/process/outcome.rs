//! What becomes of a process, as far as its reports have told.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::sys::signal::Signal;

use super::main::Said;
use crate::error::Exit;
use crate::forkserver::{Limits, Link, Received, Report};
use crate::wire::Payload;

/// What becomes of a process, for its child and its sentinels.
#[derive(Debug)]
pub(crate) struct Outcome(pub(super) Mutex<Observed>);

/// What its reports have told so far.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) link: Link<Said>,
    pub(super) limits: Limits,
    pub(super) returned: Option<FunctionResult>,
    pub(super) exited: Option<Exit>,
}

/// What a function has returned, not decoded yet.
#[derive(Debug)]
pub(super) enum FunctionResult {
    Value(Payload),
    /// It failed in a way that its process survived.
    Fault(Payload),
    /// It was not called.
    NotStarted(String),
}

impl Outcome {
    pub(super) fn observed(&self) -> MutexGuard<'_, Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the process has ended, as far as is known without waiting.
    ///
    /// The lock may be held for ever in a copy of the process that has started it.
    pub(crate) fn has_ended(&self) -> bool {
        // Who holds it for long is waiting for the end, which has not come then.
        match self.0.try_lock() {
            Ok(mut observed) => observed.advance(Some(Instant::now())),
            Err(_) => false,
        }
    }

    /// Reads reports until the end or the deadline.
    pub(crate) fn wait_for_end(&self, deadline: Instant) {
        self.observed().advance(Some(deadline));
    }
}

impl Observed {
    /// Reads reports until the end or the deadline; whether it was the end.
    pub(super) fn advance(&mut self, deadline: Option<Instant>) -> bool {
        while self.exited.is_none() {
            match self.link.receive(deadline) {
                Received::Report(Report::Exited { status, last_words }) => {
                    self.exited = Some(Exit::told(status, last_words));
                }
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
