//! The calls of a pool.

pub(crate) mod broadcast;
pub(crate) mod deep_values;
pub(crate) mod described_values;
pub(crate) mod imap;
pub(crate) mod large_values;
pub(crate) mod map;
pub(crate) mod memory_limit;
pub(crate) mod nested;
pub(crate) mod progress_bar;
pub(crate) mod settings;
pub(crate) mod stop_requests;
pub(crate) mod tasks;
pub(crate) mod values_that_cannot_cross;
pub(crate) mod with;
