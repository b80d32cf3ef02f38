//! Names functions across processes, calls them, and describes how a call fails.

mod fault;
mod function;
mod state;

pub(crate) use fault::{Fault, Stage};
pub(crate) use function::{
    Callable, Code, Entry, Input, Name, Plain, Stateful, refuse_captures, write_result,
};
pub(crate) use state::State;
