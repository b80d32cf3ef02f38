//! Calls of a pool: from inputs to results.

mod call;
pub(crate) mod callback;
mod imap;
mod map;
mod task;

pub(crate) use call::Call;
pub use imap::{Imap, ImapUnordered};
pub use task::Task;
