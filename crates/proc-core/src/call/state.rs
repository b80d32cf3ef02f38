//! A worker's state: made in the worker, lent to its tasks, and never sent.

use std::any::Any;

use super::Fault;
use crate::panics;

/// What a worker keeps from task to task, of whatever type its pool says; `()` where that says
/// none.
pub(crate) struct State {
    value: Option<Box<dyn Any>>,
    /// A task has it. If that has panicked, it may have left it half changed.
    lent: bool,
}

impl State {
    /// For what is called without.
    pub(crate) fn none() -> State {
        State { value: None, lent: false }
    }

    pub(crate) fn put<S: 'static>(&mut self, value: S) {
        self.value = Some(Box::new(value));
    }

    /// Lends the state, until it is taken back.
    pub(crate) fn lend<S: 'static>(&mut self) -> Result<&mut S, Fault> {
        let value = self.value.as_mut().and_then(|value| value.downcast_mut());
        let value = value.ok_or_else(wrong_type)?;
        self.lent = true;
        Ok(value)
    }

    pub(crate) fn take_back(&mut self) {
        self.lent = false;
    }

    /// Whether it was lent to a task that did not return.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.lent
    }

    /// Gives it away for good.
    pub(crate) fn take<S: 'static>(&mut self) -> Result<Box<S>, Fault> {
        self.value.take().and_then(|value| value.downcast().ok()).ok_or_else(wrong_type)
    }

    /// Drops it. A panic in its destructor is printed, as in any thread.
    pub(crate) fn clear(&mut self) {
        self.lent = false;
        let value = self.value.take();
        let _ = panics::catch_and_print(|| drop(value));
    }
}

fn wrong_type() -> Fault {
    Fault::Unknown("the worker has no state of the type that is asked for".into())
}
