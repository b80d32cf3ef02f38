//! What processes share.

pub(crate) mod shared;

pub use shared::Shared;
