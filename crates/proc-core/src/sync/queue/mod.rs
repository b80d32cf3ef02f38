//! Queues between processes, and the directions of pipes.
//!
//! The layers, from below: `chunks`, `items` and `free_chunks` have the records in shared memory;
//! `shared` waits for them, wakes others, and sends a queue to other processes; `lease` gives items
//! back that nobody has finished; [`Queue`] has the type of the items.

mod chunks;
mod direction;
mod free_chunks;
mod handle;
mod item;
mod items;
mod lease;
mod locked;
mod shared;

pub(super) use direction::Direction;
pub use handle::Queue;
pub use lease::Leased;
pub(super) use shared::Sent;
