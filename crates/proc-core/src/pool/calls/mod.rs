//! Calls of a pool: from inputs to results.

pub(crate) mod callback;
mod caller;
mod imap;
mod map;
mod task;

pub(crate) use caller::Caller;
pub use imap::{Imap, ImapUnordered};
pub use task::Task;
