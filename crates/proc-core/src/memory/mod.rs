//! Manages memory that several processes map: regions, an arena of blocks, and atomics in them.
//! Also sends open descriptors in messages.

mod arena;
pub(crate) mod atomics;
mod descriptor;
mod family;
mod futex;
#[cfg(all(test, loom))]
pub(crate) mod loom;
mod region;
mod sparse;
mod spin;

pub(crate) use arena::{Arena, Block, Lease, MIN_BLOCK_BYTES, Part, ReturnedBlocks};
pub(crate) use descriptor::{
    Arriving, Descriptor, check, fd_of, receiver_of, sender_of, wait_for_message,
    wait_for_message_or,
};
pub(crate) use family::{Family, PROCESS_ID_BITS, ProcessId};
pub(crate) use futex::{monotonic, now, wake_all, wake_one, wake_some};
pub(crate) use region::{AllAtomic, Placed, Region, shared_struct};
pub(crate) use sparse::{FIRST_EXTENT, SparseMemory};
pub(crate) use spin::Spin;
