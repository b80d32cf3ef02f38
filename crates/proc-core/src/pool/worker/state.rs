//! A worker's state. It is made when the worker starts, and made again when a panic has spoilt it.

use crate::call::{Fault, Input, Name, State};
use crate::sys;
use crate::wire::{Payload, Sink};

/// Calls the initializer, or the function that makes the state, with its argument.
pub(super) fn call_start_function(
    name: Name,
    argument: &mut Payload,
    state: &mut State,
) -> Result<(), Fault> {
    let (bytes, handles) = argument.parts().map_err(Fault::Arguments)?;
    let me = sys::pid();
    let called = name.call(Input { bytes, handles }, state, &mut Sink::default());
    sys::exit_if_copy_of(me);
    called.map(|_| ())
}

/// The state that tasks borrow, and the function that makes it.
pub(crate) struct WorkerState {
    pub(super) current: State,
    /// The function that makes the state, and its argument.
    maker: Option<(Name, Payload)>,
}

impl WorkerState {
    /// Makes the state of a new worker. Without a function to make it, the state is `()`.
    ///
    /// # Errors
    ///
    /// The function that makes the state failed.
    pub(crate) fn new(maker: Option<(Name, Payload)>) -> Result<WorkerState, Fault> {
        let mut state = WorkerState { current: State::none(), maker };
        state.renew()?;
        Ok(state)
    }

    /// Replaces a state that a panic has spoilt. A panic while the old state is dropped is caught.
    ///
    /// # Errors
    ///
    /// As for [`new`](WorkerState::new).
    pub(crate) fn renew(&mut self) -> Result<(), Fault> {
        self.current.clear();
        self.current.put(());
        match &mut self.maker {
            Some((name, argument)) => call_start_function(*name, argument, &mut self.current),
            None => Ok(()),
        }
    }

    /// Gives the state to the `worker_exit` function, if there is one.
    pub(crate) fn end(mut self, worker_exit: Option<Name>) {
        if let Some(name) = worker_exit {
            let nothing = Input { bytes: &[], handles: None };
            let _ = name.call(nothing, &mut self.current, &mut Sink::default());
        }
        self.current.clear();
    }
}
