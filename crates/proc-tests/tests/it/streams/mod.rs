//! Standard streams.

pub(crate) mod closed;
pub(crate) mod output;
pub(crate) mod redirected;
