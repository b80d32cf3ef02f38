//! The tasks of one call on their way to workers, and the results on their way back.

mod delivery;
mod inbox;
pub(crate) mod queue;

pub(crate) use delivery::{Delivery, Results};
pub(crate) use inbox::Inbox;
pub(crate) use queue::{ChunkCut, LargeArg, TaskQueue, WaitingHandles};
