//! One call of a pool: its tasks on their way to workers, and its results on their way back.

mod data;
mod delivery;
mod inbox;
mod pending;
pub(crate) mod queue;
mod short_queue;

pub(crate) use data::{BoundData, DroppedData};
pub(crate) use delivery::{Delivery, Results};
pub(crate) use inbox::Inbox;
pub(crate) use pending::Pending;
pub(crate) use queue::{ChunkCut, LargeArg, TaskQueue, WaitingHandles};
pub(crate) use short_queue::ShortQueue;
