//! The tasks of one call on their way to workers, and the results on their way back.

mod inbox;
pub(crate) mod queue;

pub(crate) use inbox::{Delivery, Inbox, Results};
pub(crate) use queue::{ChunkCut, LargeArg, TaskQueue, WaitingHandles};
