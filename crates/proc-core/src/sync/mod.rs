//! Shares data between processes.

pub(crate) mod shared;

pub use shared::Shared;
