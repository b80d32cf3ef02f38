//! guide to come
mod context;
mod error;
mod function;
mod panics;
mod pool;
mod process;
mod queue;
mod record;
mod sys;
mod template;
mod wire;
mod worker;
pub use context::{Context, init};
pub use error::Error;
pub use function::Message;
pub use pool::{Imap, ImapUnordered, Options, Pool, PoolBuilder, Task};
pub use process::{Child, Process};
#[doc(hidden)]
pub mod __private {
    pub use ctor;
}
