//! Names functions across processes, calls them, and describes how a call fails.

pub(crate) mod current;
mod fault;
mod function;
mod state;

pub(crate) use current::running_index;
pub use current::{Current, current};
pub(crate) use fault::{Fault, Stage};
pub(crate) use function::{
    Callable, Called, Code, Entry, Input, Name, Plain, Stateful, read_argument, refuse_captures,
    write_result,
};
pub(crate) use state::State;
