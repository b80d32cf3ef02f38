//! Channel ends and shared memory of ipc-channel, in values.

pub(crate) mod crossing;
pub(crate) mod failed_sends;
pub(crate) mod few_descriptors;
pub(crate) mod reexport;
pub(crate) mod release;
