//! Defines the access that processes have to shared memory.

/// Access that processes have to a piece of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Every process that has the memory may read and write it.
    Write,
    /// Every process, also the one that made the memory, may only read it.
    Read,
}
