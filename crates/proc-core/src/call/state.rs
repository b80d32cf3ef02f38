//! Keeps a worker's state. The state is made in the worker, lent to its tasks, and never sent.

use std::any::Any;

use super::Fault;
use crate::panics;

/// State that a worker keeps from task to task. The pool chooses its type; without a choice it is
/// `()`.
pub(crate) struct State {
    value: Option<Box<dyn Any>>,
    /// Whether the value is lent to a task. A task that panics may leave the value half changed.
    lent: bool,
}

impl State {
    /// Makes an empty state, for calls that need none.
    pub(crate) fn none() -> State {
        State { value: None, lent: false }
    }

    /// Sets the state.
    pub(crate) fn put<S: 'static>(&mut self, value: S) {
        self.value = Some(Box::new(value));
    }

    /// Lends the state until [`take_back`](State::take_back) is called.
    pub(crate) fn lend<S: 'static>(&mut self) -> Result<&mut S, Fault> {
        let value = self.value.as_mut().and_then(|value| value.downcast_mut());
        let value = value.ok_or_else(wrong_type)?;
        self.lent = true;
        Ok(value)
    }

    /// Ends the loan: the task has returned.
    pub(crate) fn take_back(&mut self) {
        self.lent = false;
    }

    /// Whether the state was lent to a task that did not return.
    pub(crate) fn is_spoilt(&self) -> bool {
        self.lent
    }

    /// Takes the state out.
    pub(crate) fn take<S: 'static>(&mut self) -> Result<Box<S>, Fault> {
        self.value.take().and_then(|value| value.downcast().ok()).ok_or_else(wrong_type)
    }

    /// Drops the state. A panic in its destructor is printed, as in any thread.
    pub(crate) fn clear(&mut self) {
        self.lent = false;
        let value = self.value.take();
        let _ = panics::catch_and_print(|| drop(value));
    }
}

fn wrong_type() -> Fault {
    let why = "the worker has no state of the type that the function takes: see PoolBuilder::state";
    Fault::Invalid(why.into())
}
