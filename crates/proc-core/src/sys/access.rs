//! What others may do with memory that they are given.

/// What others may do with memory that they are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Everybody may write.
    Write,
    /// Nobody can write any more.
    Read,
}
