//! A worker's state: made in the worker, lent to its tasks, and never sent.

use std::any::Any;

use crate::function::{Fault, Input, Name};
use crate::panics;
use crate::sink::Sink;
use crate::sys;
use crate::wire::Payload;

/// What a worker keeps from task to task, of whatever type its pool says; `()` where that says
/// none.
pub(crate) struct State {
    value: Option<Box<dyn Any>>,
    /// A task has it. If that has panicked, it may have left it half changed.
    lent: bool,
    /// What makes it, with its argument.
    maker: Option<(Name, Payload)>,
}

impl State {
    /// For what is called without.
    pub(crate) fn none() -> State {
        State { value: None, lent: false, maker: None }
    }

    /// The state of a new worker.
    ///
    /// # Errors
    ///
    /// The function that makes it failed.
    pub(crate) fn new(maker: Option<(Name, Payload)>) -> Result<State, Fault> {
        let mut state = State { maker, ..State::none() };
        state.renew()?;
        Ok(state)
    }

    /// Makes another. What a panic has spoilt is dropped, whatever that does.
    ///
    /// # Errors
    ///
    /// As for [`new`](State::new).
    pub(crate) fn renew(&mut self) -> Result<(), Fault> {
        self.lent = false;
        self.drop_value();
        self.put(());
        let Some((name, mut argument)) = self.maker.take() else { return Ok(()) };
        let me = sys::pid();
        let made = name.resolve().and_then(|code| {
            let (bytes, handles) = argument.parts().map_err(Fault::Arguments)?;
            (code.call)(Input { bytes, handles }, self, &mut Sink::default())
        });
        sys::end_copy_of(me);
        self.maker = Some((name, argument));
        made.map(|_| ())
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

    /// Gives it to the function that is to have it last. Nobody waits for what comes of it.
    pub(crate) fn end(mut self, worker_exit: Option<Name>) {
        if let Some(code) = worker_exit.and_then(|name| name.resolve().ok()) {
            let nothing = Input { bytes: &[], handles: None };
            let _ = (code.call)(nothing, &mut self, &mut Sink::default());
        }
        self.drop_value();
    }

    /// A panic in the value's destructor is printed, as in any thread.
    fn drop_value(&mut self) {
        let value = self.value.take();
        let _ = panics::contain(|| drop(value));
    }
}

fn wrong_type() -> Fault {
    Fault::Unknown("the worker has no state of the type that is asked for".into())
}
