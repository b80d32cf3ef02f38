//! The tasks of one call on their way out, and their results on their way in.

mod inbox;
pub(crate) mod queue;

pub(crate) use inbox::{CallOptions, Delivery, Inbox, Results};
pub(crate) use queue::{ChunkCut, LargeArg, TaskQueue, WaitingHandles};
